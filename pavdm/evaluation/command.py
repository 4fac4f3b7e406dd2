"""`pavdm eval`: its options, and what runs behind them."""

from __future__ import annotations

import argparse
import glob
import logging
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

from pavdm.devices import usable_device
from pavdm.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable

    from pavdm.evaluation.measurement import Measurements

logger = logging.getLogger(__name__)

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
    networks = parser.add_argument_group(
        "networks", "More measures, with networks that are on this machine already. Nothing is fetched."
    )
    networks.add_argument("--clip", type=Path, metavar="DIR", help="a CLIP model in transformers' form")
    networks.add_argument("--dino", type=Path, metavar="DIR", help="a DINO or DINOv2 model in transformers' form")
    networks.add_argument("--prompt", metavar="TEXT", help="of the videos (default: what pavdm recorded in each)")
    networks.add_argument("--vbench", action="store_true", help="the dimensions of the paper's table 1, by vbench")
    networks.add_argument("--i3d", type=Path, metavar="FILE", help="a TorchScript I3D, for FVD against --real")
    networks.add_argument("--real", metavar="GLOB", help="real videos to compare with")
    networks.add_argument("--device", default="cpu", help="for the networks: cpu (default), cuda, cuda:1")


def run(options: argparse.Namespace, say: Callable[[str], None]) -> int:
    """Measure the videos one after the other and write the report. say: takes lines for the user.

    The exit status: 0, or 1 if something could not be measured that was asked for; the report then names it.
    Raises InputError before anything is measured, or if nothing could be.
    """
    from pavdm.evaluation import registry
    from pavdm.evaluation.report import check_folder, write_report

    methods, real = _methods(options), _real(options)
    _check(options, methods)
    add, fvd_of = _networks(options), _fvd(options, real)
    check_folder(options.out, options.overwrite)
    measured, failed = _measured(options, methods, add, say)
    if not measured:
        raise InputError("\n  ".join(["no video could be measured:", *failed.values()]))
    fvd, without_fvd = fvd_of(measured)
    failed |= without_fvd
    found = {method: [video for video, _ in videos] for method, videos in measured.items()}
    page = write_report(found, options.out, fvd=fvd, shown=_SHOWN, overwrite=options.overwrite, failed=failed)
    missing = {key: why for videos in found.values() for video in videos for key, why in video.missing.items()}
    if fvd:
        del missing["fvd"]
    for why, names in registry.by_reason(missing).items():
        say(f"not measured: {', '.join(names)}: {why}")
    for what, why in failed.items():
        say(f"failed: {what}: {why}")
    say(f"report: {page}")
    return 1 if failed else 0


Measured = dict[str, list[tuple["Measurements", Path]]]  # by method
Failed = dict[str, str]  # what could not be measured -> why


def _check(options: argparse.Namespace, methods: dict[str, list[Path]]) -> None:
    """Raise InputError for what would fail for every video, or is plainly not there."""
    from pavdm.evaluation.layout import find_layout

    find_layout({}, options.chunk_frames, options.clip_frames)
    if options.prompt is not None and options.clip is None:
        raise InputError("--prompt is what --clip compares the pictures with: give --clip DIR, or leave it out")
    if options.device != "cpu" and not (options.clip or options.dino or options.vbench or options.i3d):
        raise InputError("--device is for networks, and there is none: give --clip, --dino, --vbench or --i3d")
    for path in (*chain.from_iterable(methods.values()), *options.latents):
        if not path.exists():
            raise InputError(f"{path}: no such file")


def _measured(
    options: argparse.Namespace,
    methods: dict[str, list[Path]],
    add: Callable[[Measurements, Path], Measurements],
    say: Callable[[str], None],
) -> tuple[Measured, Failed]:
    """The measurements of every video that can be read. One that cannot must not cost those of the others."""
    from pavdm.evaluation.comparison import by_turns

    measured: Measured = {method: [] for method in methods}
    failed: Failed = {}
    every = by_turns(methods)
    for number, (method, path) in enumerate(every):
        place = f"[{number + 1}/{len(every)}]"
        try:
            found = _measure(path, options, number, pictures=sum(map(len, measured.values())) < _SHOWN)
        except Exception as error:  # whatever it is, it must not cost the measurements of the others
            logger.info("%s failed", path, exc_info=True)
            failed[str(path)] = _told(error)
            say(f"{place} {path}: failed: {_told(error)}")
            continue
        try:
            found = add(found, path)
        except Exception as error:  # networks and packages from elsewhere raise what they like
            logger.info("the networks' measures of %s failed", path, exc_info=True)
            failed[f"the networks' measures of {path}"] = _told(error)
        measured[method].append((found, path))
        say(f"{place} {path}: {_headline(found)}")
    return {method: videos for method, videos in measured.items() if videos}, failed


def _measure(path: Path, options: argparse.Namespace, number: int, pictures: bool) -> Measurements:
    from pavdm.evaluation.latents import read_latents
    from pavdm.evaluation.measurement import measure

    return measure(
        path,
        chunk_frames=options.chunk_frames,
        clip_frames=options.clip_frames,
        include_clip=options.include_clip,
        latents=read_latents(options.latents[number]) if options.latents else None,
        pictures=pictures,
    )


def _methods(options: argparse.Namespace) -> dict[str, list[Path]]:
    """Method -> its videos. Videos that are named alone are one method each, or all of one if there are groups, too."""
    methods: dict[str, list[Path]] = {}
    for text in options.group:
        name, equals, pattern = text.partition("=")
        if not (name and equals and pattern):
            raise InputError(f"--group needs NAME=GLOB, such as pavdm='runs/*.mp4': got {text!r}")
        methods.setdefault(name, []).extend(_matching(pattern, f"--group {text}"))
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


def _matching(pattern: str, option: str) -> list[Path]:
    found = glob.glob(pattern, recursive=True)  # noqa: PTH207 (Path.glob takes no absolute pattern)
    if not found:
        raise InputError(f"{option}: no file matches {pattern}")
    return sorted(Path(path) for path in found)


def _real(options: argparse.Namespace) -> list[Path]:
    if (options.i3d is None) != (options.real is None):
        raise InputError("FVD needs both: --i3d FILE and --real GLOB")
    return [] if options.real is None else _matching(options.real, "--real")


def _networks(options: argparse.Namespace) -> Callable[[Measurements, Path], Measurements]:
    """What adds the networks' measures to those of a video; the networks are loaded once."""
    if not (options.clip or options.dino or options.vbench):
        return lambda found, path: found
    from pavdm.evaluation.networks import load_clip, load_dino, with_networks
    from pavdm.evaluation.vbench import check_installed, with_vbench

    device = usable_device(options.device)
    if options.vbench:
        check_installed()
    clip = load_clip(options.clip, device) if options.clip else None
    dino = load_dino(options.dino, device) if options.dino else None

    def add(found: Measurements, path: Path) -> Measurements:
        found = with_networks(found, path, clip, dino, options.prompt)
        return with_vbench(found, path, options.device) if options.vbench else found

    return add


def _fvd(options: argparse.Namespace, real: list[Path]) -> Callable[[Measured], tuple[dict[str, float], Failed]]:
    """What computes every method's distance from the real videos; the network is loaded, and these are read, now."""
    if not real:
        return lambda measured: ({}, {})
    from pavdm.evaluation.fvd import frechet_distance, load_i3d, video_features

    device = usable_device(options.device)
    model = load_i3d(options.i3d, device)
    expected = video_features(model, ((path, 0) for path in real), device)

    def of(measured: Measured) -> tuple[dict[str, float], Failed]:
        distances: dict[str, float] = {}
        failed: Failed = {}
        for method, videos in measured.items():
            starts = ((path, found.scored[0].start if found.scored else 0) for found, path in videos)
            try:
                distances[method] = frechet_distance(video_features(model, starts, device), expected)
            except Exception as error:  # after hours of measuring, which it must not cost
                logger.info("FVD of %s failed", method, exc_info=True)
                failed[f"FVD of {method}"] = _told(error)
        return distances, failed

    return of


def _told(error: Exception) -> str:
    return str(error) or type(error).__name__


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
