"""States kept while a video is made, so that the same work queued again goes on from where it was stopped.

The file's name holds a digest of everything that the numbers come from, so only the same work finds it: another prompt,
guidance, LoRA or seed begins anew and keeps a file of its own.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import folder_paths

from pavdm.errors import InputError
from pavdm.sampling.video_state import VideoState, load_video_state, save_video_state

from .digest import digest

logger = logging.getLogger(__name__)

SUFFIX = ".safetensors"


class Autosave:
    """The newest state of one piece of work, a numbered file under `prefix` in the output folder.

    work: all that its numbers come from.
    Raises InputError if the prefix leads out of the output folder.
    """

    def __init__(self, prefix: str, *work: Any) -> None:
        self.prefix = f"{prefix}-{digest(*work)[:12]}"
        self._written = saved_files(self.prefix)
        self._kept_latents = 0

    def last(self) -> VideoState | None:
        """What was kept last, None if nothing was."""
        if not self._written:
            return None
        video = load_video_state(self._written[-1])
        logger.info("going on from %s: %d latents are finished", self._written[-1], video.finished.shape[2])
        return video

    def keep(self, video: VideoState) -> None:
        """Write the next file, and remove the ones before it once that is on the disk.

        A file holds the whole video so far, so a long one has to have grown by a 32nd: all that is written stays below
        33 times the last file.
        """
        length = video.finished.shape[2]
        if length < self._kept_latents * 33 / 32:
            return
        self._kept_latents = length
        path = next_file(self.prefix)
        save_video_state(video, path)
        for older in self._written:
            older.unlink(missing_ok=True)
        self._written = [path]


def saved_files(prefix: str, number: int = 0) -> list[Path]:
    """The state files under a prefix in the output folder, oldest first; number: that one alone.

    Raises InputError if the prefix leads out of the output folder.
    """
    output = Path(folder_paths.get_output_directory()).resolve()
    place = (output / prefix).resolve()
    if not place.is_relative_to(output) or place == output:
        raise InputError(f"{prefix!r} leads out of the output folder: name a file in it")
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
