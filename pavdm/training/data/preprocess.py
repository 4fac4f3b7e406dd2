"""Encode clips once, for many epochs: any numbered clips -> shards of latents and text embeddings.

Several processes share the work by shards. What is in a shard depends on the clips and the settings alone, not on who
made it or when: a run that was killed and goes on gives the same bytes.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from pavdm.errors import InputError
from pavdm.models.write import write_json
from pavdm.training.data.clip_list import Skipped
from pavdm.training.data.coding import Coder, Coding
from pavdm.training.data.latent_shards import (
    SETTINGS,
    Shard,
    StoredClip,
    read_shard,
    remove_half_written,
    shard_name,
    stored_dtype,
    write_index,
    write_shard,
)
from pavdm.training.data.loading import items
from pavdm.training.data.raw_clip import RawClip, RawClips
from pavdm.training.run_directory import check_settings

logger = logging.getLogger(__name__)


class Stopped(Exception):
    """The caller asked to stop; what is finished is on disk."""


@dataclass(frozen=True)
class Job:
    """Where clips go, how they are coded, and in which number format (fp16, bf16, fp32) they are stored."""

    out: Path
    coding: Coding = field(default_factory=Coding)
    store: str = "fp16"
    shard_clips: int = 128

    def __post_init__(self) -> None:
        stored_dtype(self.store)
        if self.shard_clips < 1:
            raise InputError(f"a shard holds at least 1 clip: got {self.shard_clips}")

    def settings(self, clips: RawClips) -> dict[str, Any]:
        return {
            "source": dict(clips.settings),
            "store": self.store,
            "shard clips": self.shard_clips,
            **self.coding.settings(),
        }


@dataclass(frozen=True)
class Progress:
    """Clips of this process: `done` of `total`, `found` of them were there already; `skipped` could not be read."""

    done: int
    total: int
    found: int
    skipped: int


@dataclass(frozen=True)
class Outcome:
    """Clips that this process encoded, found finished, and could not read. complete: all shards of all processes are
    there. unusable: files that were left out from the start."""

    encoded: int
    found: int
    skipped: int
    complete: bool
    unusable: int


def preprocess(
    clips: RawClips,
    job: Job,
    load: Callable[[], Coder],
    *,
    rank: int = 0,
    world_size: int = 1,
    workers: int = 0,
    progress: Callable[[Progress], None] = lambda _: None,
    should_stop: Callable[[], bool] = lambda: False,
) -> Outcome:
    """Make the shards that are missing and belong to process `rank` of `world_size`; whoever sees all writes the index.

    load: called if there is something to encode. workers: processes that read clips while this one encodes.
    Raises InputError for a folder of other settings and for a full disk; Stopped if `should_stop` answered True.
    """
    if workers < 0:
        raise InputError(f"the number of reading processes must be at least 0: got {workers}")
    settings = job.settings(clips)
    _check(job.out, settings)
    shards = [range(begin, min(begin + job.shard_clips, len(clips))) for begin in range(0, len(clips), job.shard_clips)]
    mine = range(rank, len(shards), world_size)
    there = {number: read_shard(path, settings) for number in mine if (path := _path(job.out, number)).exists()}
    missing = [number for number in mine if number not in there]
    found = sum(len(shard.clips) for shard in there.values())
    skipped = sum(len(shard.skipped) for shard in there.values())
    total = sum(len(shards[number]) for number in mine)
    before = done = found + skipped
    encoded = 0
    if missing:
        coder = load()
        reading = _read(clips, [clip for number in missing for clip in shards[number]], workers)
        for number in missing:
            building = _Building(job, coder)
            for clip in shards[number]:
                if should_stop():
                    raise Stopped
                building.add(next(reading), clip)
                done += 1
                skipped_now = skipped + len(building.skipped)
                progress(Progress(done, total, before, skipped_now))
            _record(job.out, settings)
            building.write(_path(job.out, number), settings)
            encoded += len(building.clips)
            skipped += len(building.skipped)
    complete = all(_path(job.out, number).exists() for number in range(len(shards)))
    if complete:
        everything = [read_shard(_path(job.out, number), settings) for number in range(len(shards))]
        write_index(job.out, settings, everything, clips.skipped)
        remove_half_written(job.out)
    return Outcome(encoded, found, skipped, complete, len(clips.skipped))


class _Building:
    """A shard in the making."""

    def __init__(self, job: Job, coder: Coder) -> None:
        self._job = job
        self._coder = coder
        self._dtype = stored_dtype(job.store)
        self._latents: list[Tensor] = []
        self._captions: dict[str, Tensor] = {}
        self.clips: list[StoredClip] = []
        self.skipped: list[Skipped] = []

    def add(self, raw: RawClip | Skipped, number: int) -> None:
        if isinstance(raw, Skipped):
            self.skipped.append(raw)
            return
        coding = self._job.coding
        latents = self._coder.latents(raw.pixels(), coding.noise_name(number)).to(self._dtype)
        if not bool(torch.isfinite(latents).all()):
            raise InputError(
                f"clip {number} ({raw.name}) has latents that are no numbers in {self._job.store}: try --store fp32, "
                "or --dtype fp32"
            )
        captions = tuple(self._caption(first, text) for first, text in ((0, raw.text), *raw.changes))
        frames, height, width, _ = raw.frames.shape
        shape = (latents.shape[0], latents.shape[1], latents.shape[2], latents.shape[3])
        self.clips.append(StoredClip(raw.name, len(self._latents), captions, (height, width), frames, raw.fps, shape))
        self._latents.append(latents)

    def _caption(self, first: int, text: str) -> tuple[int, int, str]:
        read = self._job.coding.caption(text)
        if read not in self._captions:
            self._captions[read] = self._coder.embedding(read).to(self._dtype)
        return first, list(self._captions).index(read), read

    def write(self, path: Path, settings: Mapping[str, Any]) -> None:
        shard = Shard(tuple(self.clips), tuple(self.skipped))
        write_shard(path, shard, self._latents, list(self._captions.values()), settings)


class _Readable(Dataset[RawClip | Skipped]):
    """What cannot be read becomes a reason instead of an exception."""

    def __init__(self, clips: RawClips) -> None:
        self._clips = clips

    def __getitem__(self, number: int) -> RawClip | Skipped:
        try:
            return self._clips[number]
        except InputError as error:
            return Skipped(Path(self._clips.name(number)), str(error))


def _read(clips: RawClips, numbers: Sequence[int], workers: int) -> Iterator[RawClip | Skipped]:
    """Clips in this order, read by worker processes if there are any."""
    return items(_Readable(clips), numbers, workers)


def _path(folder: Path, number: int) -> Path:
    return folder / shard_name(number)


def _check(folder: Path, settings: Mapping[str, Any]) -> None:
    """Make `folder`; hold the settings against those that its shards were made with, if there are any."""
    path = folder / SETTINGS
    try:
        folder.mkdir(parents=True, exist_ok=True)
        recorded = json.loads(path.read_text("utf-8")) if path.exists() else None
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be written or read: {error}") from error
    if recorded is not None:
        check_settings(recorded, settings, folder)


def _record(folder: Path, settings: Mapping[str, Any]) -> None:
    """Write the settings down before the first shard is there: what came to nothing binds nobody."""
    path = folder / SETTINGS
    if not path.exists():
        write_json(path, settings)  # several processes may do so at once: they write the same
    _check(folder, settings)
