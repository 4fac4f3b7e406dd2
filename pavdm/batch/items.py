"""From the lines of a list to the videos to make: settings of each, all checked before anything is loaded."""

from __future__ import annotations

import argparse
import copy
import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from pathlib import Path
from typing import Any, NoReturn

from pavdm.batch.clip_names import ClipName
from pavdm.batch.prompt_list import Line, Problems, read_list
from pavdm.clip import PIECE_FRAMES
from pavdm.errors import InputError
from pavdm.options import add_clip_options, add_making_options, settings_from
from pavdm.settings import Settings

FLAGS = ("pad", "no_overlap", "no_variable_length", "no_timestep_transform", "reencode")
# Options that a line of a CSV may set: all of `pavdm extend`'s but those of the machine and of the output.
COLUMNS = (
    *("prompt", "clip", "start", "end", "condition", "posterior", "seconds", "total_seconds", "seed"),
    *("resolution", "aspect", "size", "fps", "method", "guidance", "steps", "window_chunks", "chunk"),
    *("prompt_switch", "aesthetic", "motion", "camera", "condition_length", "edit_ratio", "mask_strategy", "align"),
    *FLAGS,
)
_YES, _NO = ("1", "yes", "true", "on"), ("0", "no", "false", "off")
# Of Settings: what does not change the video, and what `described` says in a way of its own.
_LEFT_OUT = ("out", "state_directory", "override_state", "overwrite", "prompt", "clip")


@dataclass(frozen=True)
class Item:
    """One video to make. `line` is its line's number in the list, `sample` counts the videos of a line from 0.

    settings: where it is written (`out`, `state_directory`) is for whoever makes it to say.
    """

    name: str
    line: int
    sample: int
    settings: Settings


def read_items(options: argparse.Namespace, check: Callable[[Settings], None]) -> list[Item]:
    """Every video of the list that `pavdm batch` was given. Raises InputError that names each line it cannot use.

    check: raises InputError for settings that whoever makes the videos cannot follow.
    """
    name = options.sample_name
    if not name or Path(name).name != name:
        raise InputError(f"--sample-name is the beginning of file names, not a path: got {name!r}")
    problems = Problems(options.list)
    lines = choose(read_list(options.list, COLUMNS, problems), options.start_index, options.end_index)
    items: list[Item] = []
    for line in lines:
        try:
            settings = _settings(line, options)
            check(settings)
        except InputError as error:
            problems.add(line.number, str(error))
            continue
        for sample in range(options.num_sample):
            suffix = "" if options.num_sample == 1 else f"-{sample}"
            own = replace(settings, seed=settings.seed + sample)
            items.append(Item(f"{name}_{line.index:04d}{suffix}", line.number, sample, own))
    problems.raise_any()
    return items


def choose(lines: Sequence[Line], start: int, end: int | None) -> list[Line]:
    """The lines with start <= index < end. Raises InputError if there are none."""
    chosen = [line for line in lines if start <= line.index and (end is None or line.index < end)]
    if not chosen:
        raise InputError(f"no line lies from --start-index {start} to --end-index {end}: the list has {len(lines)}")
    return chosen


def described(settings: Settings) -> dict[str, str]:
    """What makes the video what it is, flat and readable; the clip by name, size and beginning, wherever it lies."""
    clip = settings.clip
    identity = None
    if clip is not None:
        with clip.open("rb") as file:  # its first MiB: lists have thousands, and they may lie on slow disks
            beginning = hashlib.sha256(file.read(2**20)).hexdigest()[:12]
        identity = f"{clip.name}, {clip.stat().st_size} bytes, {beginning}"
    return {**dict(_flat(settings)), "prompt": str(settings.prompt), "clip": str(identity)}


def find_clip(path: str, list_folder: Path, clips: Path | None) -> Path:
    """The file that a list means: from the current folder, from the list's own, or by the end of its path in `clips`.

    Raises InputError if it is in none of them.
    """
    given = Path(path)
    places = [given, list_folder / given]
    if clips is not None and not given.is_absolute():
        places += [clips.joinpath(*given.parts[skip:]) for skip in range(len(given.parts))]
    for place in places:
        if place.is_file():
            return place
    raise InputError(f"no such clip: {path}" + ("" if clips else "; --clips DIR says where the clips of a list are"))


class _LineParser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise InputError(message)


def _settings(line: Line, options: argparse.Namespace) -> Settings:
    given = dict(line.options)
    own = copy.copy(options)
    own.prompt, clip = given.pop("prompt"), given.pop("clip", None)
    own.clip = None if clip is None else find_clip(clip, options.list.parent, options.clips)
    if own.clip is None and (unread := [name for name in ("start", "end", "pad", "condition") if name in given]):
        raise InputError(f"{', '.join(unread)} belong to a clip, and the line names none")
    if {"seconds", "total_seconds"} & given.keys():
        own.seconds = own.total_seconds = None
    if {"resolution", "aspect"} & given.keys():
        own.size = None
    parser = _LineParser(add_help=False, allow_abbrev=False)
    add_clip_options(parser)
    add_making_options(parser, length_required=False)
    own = parser.parse_args(list(_arguments(given)), own)
    own.out, own.state, own.override_state, own.overwrite = Path("video.mp4"), None, False, True
    settings = settings_from(own)
    named = None if own.clip is None else ClipName.parse(own.clip)
    if named is not None and named.num_frames < PIECE_FRAMES and not own.pad:
        raise InputError(
            f"{own.clip.name} has {named.num_frames} frames, as its name says, and {PIECE_FRAMES} are needed: cut "
            "longer clips with `pavdm cut`, or repeat the first frame with --pad"
        )
    return settings


def _arguments(given: dict[str, str]) -> Iterator[str]:
    for name, value in given.items():
        option = f"--{name.replace('_', '-')}"
        if name not in FLAGS:
            yield f"{option}={value}"
        elif value.lower() in _YES:
            yield option
        elif value.lower() not in _NO:
            raise InputError(f"{name}: expected yes or no, got {value!r}")


def _flat(value: Any, name: str = "") -> Iterator[tuple[str, str]]:
    if is_dataclass(value) and not isinstance(value, type):
        for field in fields(value):
            if name or field.name not in _LEFT_OUT:
                yield from _flat(getattr(value, field.name), f"{name} {field.name}".strip().replace("_", " "))
    else:
        yield name, str(value)
