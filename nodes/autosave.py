"""States kept while a video is made, so that the same work queued again goes on from where it was stopped.

The file's name holds a digest of everything that the numbers come from, so only the same work finds it: another prompt,
guidance, LoRA or seed begins anew and keeps a file of its own.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import folder_paths

from pavdm.errors import InputError
from pavdm.sampling.video_state import VideoState, finished_latents, load_video_state, save_video_state

from .digest import digest

logger = logging.getLogger(__name__)

SUFFIX = ".safetensors"
DEFAULT = "pavdm/autosave"
KEPT_WORKS = 8  # pieces of work whose states stay on the disk
REPLACED = re.compile(r"%[^%]+%")  # what hosts put a date, a time or a size in for


class Autosave:
    """The newest state of one piece of work, a numbered file under `prefix` in the output folder.

    A longer state of the same work stays beside it: less was asked for this time, and it may be asked for again.
    work: all that its numbers come from.
    Raises InputError if the prefix leads out of the output folder.
    """

    def __init__(self, prefix: str, *work: Any) -> None:
        self._all = prefix
        self.prefix = f"{prefix}-{digest(*work)[:12]}"
        self._written = {file: finished_latents(file) for file in saved_files(self.prefix)}
        self._kept_latents = 0

    def last(self, at_most: int | None = None) -> VideoState | None:
        """The longest that was kept, of at most so many finished latents; None if there is none."""
        fitting = [file for file, length in self._written.items() if at_most is None or length <= at_most]
        if not fitting:
            return None
        file = max(fitting, key=lambda file: self._written[file])
        logger.info("going on from %s: %d latents are finished", file, self._written[file])
        return load_video_state(file)

    def keep(self, num_latents: int, video: Callable[[], VideoState]) -> None:
        """Write the next file, and remove the shorter ones once that is on the disk.

        A file holds the whole video so far, so a long one has to have grown by a 32nd: all that is written stays below
        33 times the last file. A file that cannot be written is no reason to stop the run: it is logged.

        num_latents: how many are finished in `video`.
        """
        if num_latents < self._kept_latents * 33 / 32:
            return
        try:
            path = next_file(self.prefix)
            save_video_state(video(), path)
        except (InputError, OSError) as error:
            logger.warning("the state is not kept: %s", error)
            return
        if not self._kept_latents:
            forget_all_but(self._all, KEPT_WORKS)
        self._kept_latents = num_latents
        for older in [file for file, length in self._written.items() if length <= num_latents]:
            older.unlink(missing_ok=True)
            del self._written[older]
        self._written[path] = num_latents


def autosave_of(prefix: str, *work: Any) -> Autosave | None:
    """An Autosave; None for an empty prefix and, with a line in the log, for work that cannot be told from other."""
    if not prefix:
        return None
    try:
        return Autosave(prefix, *work)
    except (RuntimeError, TypeError) as error:  # of objects of other packs, somewhere in the model's options
        logger.warning("what this video is made of cannot be told from other work (%s): no state is kept", error)
        return None


def forget_all_but(prefix: str, number: int) -> None:
    """Remove the autosaves under a prefix that are not of the last `number` pieces of work."""
    place = _place(prefix)
    name = re.compile(rf"{re.escape(place.name)}-([0-9a-f]{{12}})_\d+_{re.escape(SUFFIX)}")
    found = [(file, match[1]) for file in place.parent.iterdir() if (match := name.fullmatch(file.name))]
    found.sort(key=lambda pair: pair[0].stat().st_mtime_ns, reverse=True)
    stay = list(dict.fromkeys(work for _, work in found))[:number]
    for file, work in found:
        if work not in stay:
            file.unlink(missing_ok=True)


def _place(prefix: str) -> Path:
    """Where files under a prefix in the output folder begin. Raises InputError if that is not in it, or not certain."""
    output = Path(folder_paths.get_output_directory()).resolve()
    place = (output / prefix).resolve()
    if not place.is_relative_to(output) or place == output:
        raise InputError(f"{prefix!r} leads out of the output folder: name a file in it")
    if REPLACED.search(prefix):
        raise InputError(
            f"{prefix!r}: what stands between % signs becomes a date, a time or a size, and a saved state has to be "
            "found again under the same name. Write the name out"
        )
    return place


def saved_files(prefix: str, number: int = 0) -> list[Path]:
    """The state files under a prefix in the output folder, oldest first; number: that one alone.

    Raises InputError if the prefix leads out of the output folder, or holds what hosts replace.
    """
    place = _place(prefix)
    if not place.parent.is_dir():
        return []
    begin = f"{place.name}_"
    numbers = {
        int(digits): file
        for file in place.parent.iterdir()
        if file.name.startswith(begin) and file.name.endswith(f"_{SUFFIX}")
        if (digits := file.name[len(begin) : -len(SUFFIX) - 1]).isdecimal()
    }
    return [numbers[n] for n in sorted(numbers) if number in (0, n)]


def next_file(prefix: str) -> Path:
    """Where the next state under a prefix goes; its folder is made. Raises InputError as `saved_files`."""
    saved_files(prefix)
    folder, name, counter, _, _ = folder_paths.get_save_image_path(prefix, folder_paths.get_output_directory())
    return Path(folder) / f"{name}_{counter:05}_{SUFFIX}"


def work_of(guider: Any) -> tuple[Any, ...]:
    """What a guider's numbers come from: model file, number format, patches, conditionings and guidance."""
    patcher = guider.model_patcher
    return (
        type(guider).__qualname__,
        {name: value for name, value in vars(guider).items() if isinstance(value, (bool, int, float, str))},
        getattr(patcher.model, "source", None),
        patcher.patches,
        patcher.model_options,
        guider.original_conds,
    )
