"""Which clips there are to train on, and their captions: CSV, JSON lines, or a folder of clips with .txt beside."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pavdm.errors import InputError
from pavdm.files import replacing

SKIPPED = "skipped.csv"


@dataclass(frozen=True)
class CaptionedClip:
    """A video file and its caption."""

    path: Path
    text: str


@dataclass(frozen=True)
class Skipped:
    """A clip that is not trained on, and why."""

    path: Path
    reason: str


def read_clip_list(source: str | Path) -> tuple[list[CaptionedClip], list[Skipped]]:
    """All clips that `source` names, in its order (a folder's, by name), and those left out for want of a caption.

    source: a .csv with the columns `path` and `text` (more are allowed), as Open-Sora's; a .jsonl with these keys; or a
        folder, searched to any depth, where NAME.txt holds the caption of NAME.mp4 (or any other ending).
    Relative paths start at the list's folder; if nothing is there, at the current one, as Open-Sora's do.

    Raises InputError, with the line, for a list that cannot be read or names nothing.
    """
    source = Path(source)
    skipped: list[Skipped] = []
    try:
        if source.is_dir():
            clips = list(_from_folder(source, skipped))
        elif source.suffix.lower() == ".csv":
            clips = list(_from_rows(source, _csv_rows(source)))
        elif source.suffix.lower() in (".jsonl", ".ndjson"):
            clips = list(_from_rows(source, _json_rows(source)))
        else:
            raise InputError(f"{source}: expected a .csv or .jsonl file, or a folder of clips with .txt files beside")
    except OSError as error:
        raise InputError(f"{source} cannot be read: {error.strerror or error}") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{source} is not text in UTF-8 of the expected form: {error}") from error
    if not clips:
        raise InputError(f"{source} names no clip with a caption that can be read; {len(skipped)} files have none")
    return clips, skipped


def write_skipped(path: Path, skipped: Iterable[Skipped]) -> None:
    """List what is not trained on, with the columns `path` and `reason`. Raises InputError if it cannot be written."""
    with replacing(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(("path", "reason"))
        rows.writerows((item.path, item.reason) for item in skipped)


def add_skipped(path: Path, skipped: Iterable[Skipped]) -> list[Skipped]:
    """Append to such a list the files that it does not name yet; these. Raises InputError if it cannot be written.

    Processes that come upon a file at the same moment may both name it.
    """
    try:
        with path.open("a+", encoding="utf-8", errors="surrogateescape", newline="") as file:
            file.seek(0)
            named = {row[0] for row in csv.reader(file) if row}
            added = [item for item in {item.path: item for item in skipped}.values() if str(item.path) not in named]
            rows = csv.writer(file)
            if not named:
                rows.writerow(("path", "reason"))
            rows.writerows((item.path, item.reason) for item in added)
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror or error}") from error
    return added


def _csv_rows(source: Path) -> Iterator[tuple[int, Mapping[str, Any]]]:
    with source.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file)
        header = reader.fieldnames or []
        if not {"path", "text"} <= set(header):
            found = ", ".join(map(repr, header)) if header else "nothing"
            raise InputError(
                f"{source}: its first line must name the columns, path and text among them: got {found:.100}"
            )
        for row in reader:
            yield reader.line_num, row


def _json_rows(source: Path) -> Iterator[tuple[int, Mapping[str, Any]]]:
    with source.open(encoding="utf-8-sig") as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except json.JSONDecodeError as error:
                raise InputError(f"{source}, line {number}: not JSON ({error.msg})") from error
            yield number, row if isinstance(row, dict) else {}


def _from_rows(source: Path, rows: Iterator[tuple[int, Mapping[str, Any]]]) -> Iterator[CaptionedClip]:
    for number, row in rows:
        path, text = row.get("path"), row.get("text")
        if not isinstance(path, str) or not path or not isinstance(text, str):
            raise InputError(f"{source}, line {number}: expected the fields path and text, got {dict(row)!r:.100}")
        beside = source.parent / path
        yield CaptionedClip(beside if _exists(beside) or not _exists(Path(path)) else Path(path), text.strip())


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:  # such as a name that is too long for one: a caption in the place of a path
        return False


def _from_folder(folder: Path, skipped: list[Skipped]) -> Iterator[CaptionedClip]:
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() == ".txt" or path.name.startswith(".") or not path.is_file():
            continue
        caption = path.with_suffix(".txt")
        if not caption.is_file():
            skipped.append(Skipped(path, f"no caption: {caption.name} is not beside it"))
            continue
        try:
            text = caption.read_text(encoding="utf-8-sig")
        except UnicodeDecodeError:
            skipped.append(Skipped(path, f"its caption {caption.name} is not text in UTF-8"))
        except OSError as error:
            skipped.append(Skipped(path, f"its caption {caption.name} cannot be read: {error.strerror or error}"))
        else:
            yield CaptionedClip(path, text.strip())
