"""`pavdm eval`: its options, and what runs behind them."""

from __future__ import annotations

import argparse
import glob
from pathlib import Path
from typing import TYPE_CHECKING

from pavdm.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable

    from pavdm.evaluation.measurement import Measurements

_SHOWN = 12  # videos with a section of their own in the page


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("videos", type=Path, nargs="*", metavar="VIDEO", help="any video that FFmpeg reads")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder for the report")
    parser.add_argument("--overwrite", action="store_true", help="replace a report that is there")
    parser.add_argument(
        "--group",
        action="append",
        default=[],
        metavar="NAME=GLOB",
        help="the videos of one method, such as pavdm='runs/pa/*.mp4'; twice or more compares the methods",
    )
    parser.add_argument(
        "--chunk-frames",
        type=int,
        metavar="N",
        help="frames of a chunk (default: what pavdm recorded in the video, else 17)",
    )
    parser.add_argument(
        "--clip-frames",
        type=int,
        metavar="N",
        help="frames at the start that show the clip which was continued (default: what is recorded, else 0)",
    )
    parser.add_argument("--include-clip", action="store_true", help="count the clip's frames, too")
    parser.add_argument(
        "--latents",
        type=Path,
        action="append",
        default=[],
        metavar="PATH",
        help="latents of the video: a safetensors file or the --state folder of its run; once for every VIDEO",
    )


def run(options: argparse.Namespace, say: Callable[[str], None]) -> int:
    """Measure the videos one after the other and write the report. say: takes lines for the user."""
    from pavdm.evaluation.report import check_folder, write_report

    methods = _methods(options)
    check_folder(options.out, options.overwrite)
    count = sum(len(paths) for paths in methods.values())
    measured: dict[str, list[Measurements]] = {}
    number = 0
    for method, paths in methods.items():
        for path in paths:
            found = _measure(path, options, number)
            measured.setdefault(method, []).append(found)
            number += 1
            say(f"[{number}/{count}] {path}: {_headline(found)}")
    page = write_report(measured, options.out, shown=_SHOWN, overwrite=options.overwrite)
    missing = {reason for videos in measured.values() for video in videos for reason in video.missing.values()}
    for reason in sorted(missing):
        say(f"not measured: {reason}")
    say(f"report: {page}")
    return 0


def _measure(path: Path, options: argparse.Namespace, number: int) -> Measurements:
    from pavdm.evaluation.latents import read_latents
    from pavdm.evaluation.measurement import measure

    return measure(
        path,
        chunk_frames=options.chunk_frames,
        clip_frames=options.clip_frames,
        include_clip=options.include_clip,
        latents=read_latents(options.latents[number]) if options.latents else None,
        pictures=number < _SHOWN,
    )


def _methods(options: argparse.Namespace) -> dict[str, list[Path]]:
    """Method -> its videos. Videos that are named alone are one method each, or all of one if there are groups, too."""
    methods: dict[str, list[Path]] = {}
    for text in options.group:
        name, equals, pattern = text.partition("=")
        if not (name and equals and pattern):
            raise InputError(f"--group needs NAME=GLOB, such as pavdm='runs/*.mp4': got {text!r}")
        found = glob.glob(pattern, recursive=True)  # noqa: PTH207 (Path.glob takes no absolute pattern)
        paths = sorted(Path(path) for path in found)
        if not paths:
            raise InputError(f"--group {text}: no file matches {pattern}")
        methods.setdefault(name, []).extend(paths)
    for path in options.videos:
        methods.setdefault("videos" if options.group else _unused(path.stem, methods), []).append(path)
    if not methods:
        raise InputError("there is nothing to measure: give a VIDEO, or --group NAME=GLOB")
    if options.latents and (options.group or len(options.latents) != len(options.videos)):
        raise InputError(
            f"--latents is given {len(options.latents)} times for {len(options.videos)} videos: give it once for every "
            "VIDEO, in the same order, and no --group"
        )
    return methods


def _unused(name: str, taken: dict[str, list[Path]]) -> str:
    number, found = 1, name
    while found in taken:
        number += 1
        found = f"{name} ({number})"
    return found


def _headline(found: Measurements) -> str:
    parts = [f"{found.num_frames} frames"]
    for key, text in (("seam_ratio", "seam ratio"), ("motion_kept", "motion kept"), ("scenes", "scenes")):
        value = found.summary.get(key)
        if value is not None:
            parts.append(f"{text} {value:.3g}")
    return ", ".join(parts)
