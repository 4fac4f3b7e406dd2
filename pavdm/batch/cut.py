"""Clips for a list, cut from the raw videos: of any size and length, from the frame at which the list's clips begin."""

from __future__ import annotations

import argparse
import csv
import io
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import islice
from pathlib import Path, PurePosixPath

import numpy as np

from pavdm.batch.clip_names import ClipName
from pavdm.batch.items import COLUMNS, choose
from pavdm.batch.prompt_list import SEPARATOR, VIDEO_SUFFIXES, Line, Problems, read_list
from pavdm.buckets import parse_size
from pavdm.errors import InputError
from pavdm.files import replacing
from pavdm.video_reader import frame_rate, probe, read_frames
from pavdm.video_writer import VideoWriter

# Within 1 dB of x264's lossless mode, and unlike that of a profile that any player shows.
CRF = 1.0


@dataclass(frozen=True)
class Cut:
    """One clip to cut: frame `name.start_frame` of `raw`, and what follows. line: of the list, by number."""

    line: int
    raw: Path
    name: ClipName


@dataclass(frozen=True)
class CutOutcome:
    """The new list, how many clips were cut for it, and how many were there already."""

    list: Path
    cut: int
    found: int


def run_cut(options: argparse.Namespace) -> CutOutcome:
    """Cut what `pavdm cut` was asked for. Raises InputError that names each line of the list that cannot be cut."""
    problems = Problems(options.list)
    lines = choose(read_list(options.list, COLUMNS, problems), options.start_index, options.end_index)
    size = parse_size(options.size)
    cuts = _plan(lines, options.raw, size, options.frames, problems)
    problems.raise_any()
    try:
        options.out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot make the folder {options.out}: {error.strerror or error}") from error
    made = 0
    for cut in dict.fromkeys(cuts.values()):
        try:
            made += cut_clip(cut.raw, cut.name, options.out / f"{cut.name}.mp4", options.fps)
        except InputError as error:
            problems.add(cut.line, str(error))
    problems.raise_any()
    new = [replace(line, options=_with_clip(line, cuts.get(line.index))) for line in lines]
    path = _write_list(new, options.out, options.list.suffix.lower() == ".csv")
    return CutOutcome(path, made, len(set(cuts.values())) - made)


def cut_clip(raw: Path, name: ClipName, path: Path, fps: float | None) -> bool:
    """Write the clip that `name` describes, at `fps`, or with the raw video's own frames and rate (None).

    False, and nothing, if it is there already. Raises InputError if the raw video ends before it, or another clip has
    its place.
    """
    own = probe(raw).fps
    rate = own if fps is None else frame_rate(fps)
    if path.exists():
        there = probe(path)
        if (there.num_frames, there.fps) != (name.num_frames, rate):
            raise InputError(f"{path} is there already, with {there.num_frames} frames at {float(there.fps):g} fps")
        return False
    size = (name.height, name.width)
    frames = list(islice(_frames(raw, name.start_frame, own, None if fps is None else rate, size), name.num_frames))
    if len(frames) < name.num_frames:
        raise InputError(
            f"{raw} ends {len(frames)} frames after frame {name.start_frame}, but {name.num_frames} are wanted: take "
            "fewer --frames"
        )
    with VideoWriter(path, size, rate, crf=CRF) as writer:
        writer.write(np.stack(frames))
    return True


def _frames(
    raw: Path, start_frame: int, own: Fraction, rate: Fraction | None, size: tuple[int, int]
) -> Iterator[np.ndarray]:
    """Frames from the raw video's frame number `start_frame` on."""
    if rate is None:
        yield from islice(read_frames(raw, size=size), start_frame, None)
    else:
        yield from read_frames(raw, fps=rate, size=size, start=float(start_frame / own))


def _plan(
    lines: Sequence[Line], raw: Path, size: tuple[int, int], num_frames: int, problems: Problems
) -> dict[int, Cut]:
    """The cut of every line that names a clip, by the line's index."""
    videos: dict[str, list[Path]] = {}
    for file in sorted(raw.rglob("*")):
        if file.suffix.lower() in VIDEO_SUFFIXES and ClipName.parse(file) is None:
            videos.setdefault(file.stem, []).append(file)
    cuts: dict[int, Cut] = {}
    taken: dict[ClipName, Path] = {}
    for line in lines:
        if "clip" not in line.options:
            continue
        try:
            source, name = _source(line.options["clip"], videos, raw)
            name = ClipName(name.source, name.start_frame, num_frames, width=size[1], height=size[0])
            if taken.setdefault(name, source) != source:
                raise InputError(f"{name} would be cut from both {taken[name]} and {source}")
            cuts[line.index] = Cut(line.number, source, name)
        except InputError as error:
            problems.add(line.number, str(error))
    return cuts


def _source(clip: str, videos: dict[str, list[Path]], raw: Path) -> tuple[Path, ClipName]:
    """The raw video of a clip, and what the clip's name says. Of several the one in a folder of the clip's own set."""
    path = PurePosixPath(clip)
    name = ClipName.parse(path.name)
    if name is None:
        raise InputError(f"{path.name} is not named like artgallery_s0_16f_320x176.mp4: its start frame is unknown")
    found = videos.get(name.source, [])
    # The published sets hold their clips in SET/clipped_16_176_320 and the raw videos in SET/raw.
    same_set = [video for video in found if path.parent.parent.name in video.relative_to(raw).parts[:-1]]
    chosen = same_set or found
    if not chosen:
        raise InputError(f"no raw video {name.source} ({', '.join(VIDEO_SUFFIXES)}) is in {raw}")
    if len(chosen) > 1:
        raise InputError(f"{raw} holds {name.source} more than once: {chosen[0]} and {chosen[1]}")
    return chosen[0], name


def _with_clip(line: Line, cut: Cut | None) -> dict[str, str]:
    return line.options if cut is None else {**line.options, "clip": f"{cut.name}.mp4"}


def _write_list(lines: Sequence[Line], folder: Path, as_csv: bool) -> Path:
    """The list of the same form with the new clips; they are found because they lie beside it."""
    path = folder / ("list.csv" if as_csv else "list.txt")
    if as_csv:
        text = io.StringIO()
        writer = csv.DictWriter(text, [name for name in COLUMNS if any(name in line.options for line in lines)])
        writer.writeheader()
        writer.writerows(line.options for line in lines)
        content = text.getvalue()
    else:
        content = "".join(f"{_as_text(line.options)}\n" for line in lines)
    with replacing(path) as temporary:
        temporary.write_text(content, encoding="utf-8", newline="")
    return path


def _as_text(options: dict[str, str]) -> str:
    prompt, clip = options["prompt"], options.get("clip")
    if "mask_strategy" in options:
        suffix = {"mask_strategy": options["mask_strategy"], **({"reference_path": clip} if clip else {})}
        return prompt + json.dumps(suffix, ensure_ascii=False)
    return prompt if clip is None else f"{prompt}{SEPARATOR}{clip}"
