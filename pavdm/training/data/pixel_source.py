"""Batches of clips in pixels: video files and images, or the procedural world. A batch is decided by its number."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol

from torch.utils.data import Dataset

from pavdm.errors import InputError
from pavdm.training.chance import uniform
from pavdm.training.data.clip_list import CaptionedClip, Skipped, read_clip_list
from pavdm.training.data.dataset import Batch, Bucket, ClipDataset, Sample, collate
from pavdm.training.data.order import EndlessOrder, never_used
from pavdm.training.data.raw_clip import RawClip
from pavdm.training.data.world_source import WorldClips
from pavdm.training.task import Extent, Share
from pavdm.video_reader import frame_rate

logger = logging.getLogger(__name__)


class PixelSource(Protocol):
    """Clips for training, as pixels. Equal settings give equal clips, whatever was read before.

    skipped: what is in the list and cannot be used.
    """

    @property
    def skipped(self) -> Sequence[Skipped]: ...

    def extents(self) -> Sequence[Extent]:
        """Every form of a batch that occurs."""
        ...

    def check(self, share: Share) -> None:
        """Raise InputError if there are too few clips for one step; warn of those that fill none."""
        ...

    def pixels(self, share: Share) -> Dataset[Batch]:
        """Map-style data set: item m is the batch of micro-step m (see `Share`) for one process.

        In a step all processes have the same sizes, so that none waits for a longer clip.
        """
        ...

    def settings(self) -> Mapping[str, Any]:
        """What decides the clips, their order and the batch size, as JSON values."""
        ...


class FileSource:
    """Video files and images from a list or a folder (see `read_clip_list`), in buckets: a `PixelSource`.

    An image is a clip of one frame; buckets of one frame take it. Every file is looked at once, here: those that do not
    decode or fill no bucket are in `skipped`.
    Raises InputError if no file is left.
    """

    def __init__(self, source: str | Path, buckets: Sequence[Bucket], fps: float = 24.0, seed: int = 0) -> None:
        self.source = Path(source)
        self.buckets = list(buckets)
        self.seed = seed
        frame_rate(fps)  # refuses what is none
        clips, uncaptioned = read_clip_list(source)
        self.dataset, unusable = ClipDataset.survey(clips, buckets, fps)
        self.skipped: Sequence[Skipped] = (*uncaptioned, *unusable)

    def extents(self) -> Sequence[Extent]:
        keys = sorted({entry.key for entry in self.dataset.entries})
        return [Extent(batch_size, (3, num_frames, *size), size) for size, num_frames, batch_size in keys]

    def check(self, share: Share) -> None:
        entries = self.dataset.entries
        unused = never_used([entry.key for entry in entries], [entry.batch_size for entry in entries], share)
        for (size, num_frames, _), count in unused.items():
            where = f"{size[0]}x{size[1]} pixels and {num_frames} frames"
            logger.warning("%d clips of %s are never used: they fill no step", count, where)

    def pixels(self, share: Share) -> Dataset[Batch]:
        """Raises InputError if there are too few clips for one step."""
        return _FileBatches(self.dataset, self.seed, share)

    def settings(self) -> Mapping[str, Any]:
        return {**_content(self), "buckets": [asdict(bucket) for bucket in self.buckets], "seed": self.seed}


def _content(source: FileSource) -> dict[str, Any]:
    """What clips there are: their number, and a digest of their places, captions and lengths."""
    entries = source.dataset.entries
    rows = [
        (_name(source, entry.clip), entry.clip.text, *entry.size, entry.num_frames, entry.available)
        for entry in entries
    ]
    digest = hashlib.sha256(json.dumps(rows).encode()).hexdigest()[:16]
    return {"kind": "files", "fps": source.dataset.fps, "files": len(entries), "digest": digest}


def _name(source: FileSource, clip: CaptionedClip) -> str:
    """A file's place beside its list: the same wherever the two are kept."""
    folder = source.source if source.source.is_dir() else source.source.parent
    return (clip.path.relative_to(folder) if clip.path.is_relative_to(folder) else clip.path).as_posix()


class _FileBatches(Dataset[Batch]):
    def __init__(self, dataset: ClipDataset, seed: int, share: Share) -> None:
        self._dataset, self._seed, self._share = dataset, seed, share
        self._order = EndlessOrder(self._epoch)

    def _epoch(self, epoch: int) -> list[list[tuple[int, int]]]:
        return self._dataset.batches(epoch, seed=self._seed, share=self._share)

    def __getitem__(self, index: int) -> Batch:
        return collate([self._dataset[item] for item in self._order[index]])


class FileClips:
    """All that a `FileSource` holds, by number, for pre-computing: every video cut into clips of its bucket's length,
    one after the other from its beginning. What is left of it at the end is too short. A `RawClips`."""

    def __init__(self, source: FileSource) -> None:
        self._source = source
        self._places = [
            (entry, start)
            for entry in source.dataset.entries
            for start in range(0, entry.available - entry.num_frames + 1, entry.num_frames)
        ]
        self.skipped = source.skipped
        self.settings: Mapping[str, Any] = {**_content(source), "clips": len(self._places)}

    def __len__(self) -> int:
        return len(self._places)

    def name(self, number: int) -> str:
        entry, start = self._places[number]
        name = _name(self._source, entry.clip)
        return name if entry.available < 2 * entry.num_frames else f"{name} from frame {start}"

    def __getitem__(self, number: int) -> RawClip:
        entry, start = self._places[number]
        frames = self._source.dataset.frames(entry, start)
        return RawClip(frames, entry.clip.text, self.name(number), self._source.dataset.told_fps(entry))


class WorldSource:
    """The procedural world, rendered while training: a `PixelSource` that never shows the same scenes twice, unless
    `clips` has few. Scenes and moments are drawn from those of `clips`, one length for all clips of a step."""

    skipped: Sequence[Skipped] = ()

    def __init__(self, clips: WorldClips, batch_size: int, seed: int = 0) -> None:
        if batch_size < 1:
            raise InputError(f"a batch holds at least 1 clip: got {batch_size}")
        if clips.changing or clips.mending:
            raise InputError(
                "clips in which something changes are pre-computed: leave --changing and --mending out, or preprocess"
            )
        self.clips = clips
        self.batch_size = batch_size
        self.seed = seed

    def extents(self) -> Sequence[Extent]:
        size = self.clips.size
        return [Extent(self.batch_size, (3, length, *size), size) for length in self.clips.lengths]

    def check(self, share: Share) -> None:
        """There are always enough."""

    def pixels(self, share: Share) -> Dataset[Batch]:
        return _WorldBatches(self.clips, self.batch_size, self.seed, share)

    def settings(self) -> Mapping[str, Any]:
        return {**self.clips.settings, "batch size": self.batch_size, "seed": self.seed}


class _WorldBatches(Dataset[Batch]):
    def __init__(self, clips: WorldClips, batch_size: int, seed: int, share: Share) -> None:
        self._clips, self._batch_size, self._seed, self._share = clips, batch_size, seed, share

    def __getitem__(self, index: int) -> Batch:
        clips = self._clips
        (which,) = uniform(1, self._seed, self._share.step(index), 0)
        length = clips.lengths[int(which * len(clips.lengths))]
        samples = []
        for example in self._share.examples(index, self._batch_size):
            scene, moment = uniform(2, self._seed, example, 1)
            seed = clips.first_seed + int(scene * clips.count)
            clip = clips.clip(seed, length, moment)
            samples.append(Sample(clip.frames, clip.text, clip.fps))
        return collate(samples)
