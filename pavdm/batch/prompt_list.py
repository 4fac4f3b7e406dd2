"""Lists of videos to make: the published text format, and CSV with settings of its own in every line.

    a calm sea||clips/sea_s0_17f_424x240.mp4                    text_prompt||video_file_path
    a calm sea{"reference_path": "clips/sea.mp4"}               Open-Sora's JSON suffix; also "mask_strategy"
    |0| a calm sea |3| a storm||clips/sea.mp4                   a prompt schedule
    a calm sea                                                  from text alone

A CSV begins with a line of column names: `prompt`, `clip`, and any of `pavdm extend`'s options, such as `seed`.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from pavdm.errors import InputError

SEPARATOR = "||"
_JSON_KEYS = {"reference_path": "clip", "mask_strategy": "mask_strategy"}
VIDEO_SUFFIXES = (".mp4", ".mov", ".mkv", ".webm", ".avi", ".m4v")
NAMED = 20  # problems that an error spells out


@dataclass(frozen=True)
class Line:
    """One line: `index` from 0 in the list, as --start-index counts; `number` from 1 in the file, as an editor does.

    options: what the line says, by the names of `pavdm extend`'s options with "_" for "-".
    """

    index: int
    number: int
    options: dict[str, str]


class Problems:
    """What is wrong with the lines of a list, gathered so that one error can name them all."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._found: list[tuple[int, str]] = []

    def add(self, number: int, reason: str) -> None:
        self._found.append((number, reason))

    def raise_any(self) -> None:
        """Raise InputError with each line's number and what is wrong with it, if anything is."""
        if not self._found:
            return
        told = [f"  line {number}: {reason}" for number, reason in sorted(self._found)[:NAMED]]
        if len(self._found) > NAMED:
            told.append(f"  and {len(self._found) - NAMED} more")
        raise InputError("\n".join([f"{self.path} cannot be used; nothing was begun:", *told]))


def read_list(path: Path, columns: Sequence[str], problems: Problems) -> list[Line]:
    """The lines of a list, without those that are blank.

    columns: which options a CSV may hold. Lines that say nothing sensible go to `problems`.
    Raises InputError if the file cannot be read, or its columns are unknown.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not text in UTF-8"
        raise InputError(f"the list {path} cannot be read: {reason}") from error
    lines = list(_csv_lines(path, text, columns, problems) if path.suffix.lower() == ".csv" else _lines(text, problems))
    problems.raise_any()
    if not lines:
        raise InputError(f"the list {path} is empty: write one video a line, as text_prompt||video_file_path.mp4")
    return lines


def _lines(text: str, problems: Problems) -> Iterator[Line]:
    for index, content in enumerate(text.splitlines()):
        if content.strip():
            try:
                yield Line(index, index + 1, _parse(content.strip()))
            except InputError as error:
                problems.add(index + 1, str(error))


def _parse(line: str) -> dict[str, str]:
    """What one line of the text format says. Raises InputError."""
    if line.endswith("}") and "{" in line:
        prompt, suffix = _json_suffix(line)
        if SEPARATOR in prompt:
            raise InputError(f"a clip stands after {SEPARATOR} or in braces, not both: say it as reference_path")
        options = {"prompt": prompt, **suffix}
    else:
        prompt, *paths = line.split(SEPARATOR)
        if len(paths) > 1:
            raise InputError(f"{SEPARATOR} stands {len(paths)} times in it; expected text_prompt||video_file_path.mp4")
        if paths and not paths[0].strip():
            raise InputError(f"no video file follows {SEPARATOR}; leave {SEPARATOR} out to make it from text alone")
        if not paths and prompt.lower().endswith(VIDEO_SUFFIXES):
            raise InputError(f"it ends like the name of a video, but without {SEPARATOR} between prompt and file")
        options = {"prompt": prompt.strip(), **({"clip": paths[0].strip()} if paths else {})}
    if not options["prompt"]:
        raise InputError("the prompt is empty")
    return options


def _json_suffix(line: str) -> tuple[str, dict[str, str]]:
    start = line.index("{")
    try:
        content = json.loads(line[start:])
    except (ValueError, RecursionError) as error:
        raise InputError(f"what follows the prompt in braces is no JSON ({error})") from error
    unknown = [key for key in content if key not in _JSON_KEYS]
    if unknown:
        raise InputError(f"its JSON may hold {' and '.join(_JSON_KEYS)}: got {', '.join(map(repr, unknown))}")
    if not all(isinstance(value, str) for value in content.values()):
        raise InputError("the values of its JSON must be texts")
    if ";" in content.get("reference_path", ""):
        raise InputError("one clip can be given, not several separated by ';'")
    return line[:start].strip(), {_JSON_KEYS[key]: value for key, value in content.items() if value}


def _csv_lines(path: Path, text: str, columns: Sequence[str], problems: Problems) -> Iterator[Line]:
    reader = csv.reader(text.splitlines(keepends=True), strict=True)
    try:
        header = [name.strip().replace("-", "_") for name in next(reader, [])]
        unknown = [name for name in header if name not in columns]
        if "prompt" not in header or unknown or len(set(header)) < len(header):
            wrong = f"unknown: {', '.join(map(repr, unknown))}" if unknown else f"got {', '.join(header) or 'nothing'}"
            raise InputError(
                f"{path}: its first line must name the columns, `prompt` among them and none twice ({wrong}). "
                f"Columns: {', '.join(columns)}"
            )
        index = 0
        for row in reader:
            number = reader.line_num
            if not any(cell.strip() for cell in row):
                continue
            if len(row) != len(header):
                problems.add(number, f"{len(row)} fields, but {len(header)} columns; put texts with commas in quotes")
            elif not row[header.index("prompt")].strip():
                problems.add(number, "the prompt is empty")
            else:
                yield Line(index, number, {n: c.strip() for n, c in zip(header, row, strict=True) if c.strip()})
            index += 1
    except csv.Error as error:
        problems.add(reader.line_num, str(error))
