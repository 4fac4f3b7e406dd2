"""Batches of clips from video files: sorted into buckets of one size and length, decoded in workers, in a fixed order.

    clips, uncaptioned = read_clip_list("clips.csv")
    dataset, skipped = ClipDataset.survey(clips, [Bucket("240p", 119, 2)])
    order = dataset.batches(epoch, seed=0, share=share)[done_before:]
    loader = DataLoader(dataset, batch_sampler=order, collate_fn=collate, num_workers=4)

Which clips, in which order, from which moment on, is decided by (seed, epoch) and nothing else: a run that starts again
in the middle of an epoch goes on with the same batches. What does not decode is skipped and listed, and ends no run.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from pavdm.buckets import ASPECTS, RESOLUTIONS, bucket_size, parse_size
from pavdm.errors import InputError
from pavdm.training.chance import integer
from pavdm.training.data.clip_list import CaptionedClip, Skipped
from pavdm.training.data.image_file import image_size, is_image, read_image
from pavdm.training.data.order import Order, epoch_order
from pavdm.training.data.raw_clip import IMAGE_FPS
from pavdm.training.task import Share
from pavdm.video_reader import probe, read_frames

Array = np.ndarray
SURVEYING_THREADS = 4
MIN_AREA = 0.8  # of a bucket's: smaller clips are not blown up (Open-Sora's own bound)


@dataclass(frozen=True)
class Bucket:
    """Clips of one resolution and length. resolution: a name of `pavdm.buckets`, whose 17 aspects are all used, or
    HEIGHTxWIDTH. num_frames: after resampling; multiples of 17 suit the VAE. batch_size: clips of a batch."""

    resolution: str
    num_frames: int
    batch_size: int = 1

    def __post_init__(self) -> None:
        if self.num_frames < 1 or self.batch_size < 1:
            raise InputError(
                f"a bucket has at least 1 frame and 1 clip a batch: got {self.num_frames} and {self.batch_size}"
            )
        self.size(1.0)

    def size(self, aspect: float) -> tuple[int, int]:
        """(height, width) for clips `aspect` times as high as wide: that of the nearest aspect."""
        if self.resolution not in RESOLUTIONS:
            return parse_size(self.resolution)
        sizes = (bucket_size(self.resolution, name) for name in ASPECTS)
        return min(sizes, key=lambda size: abs(np.log(size[0] / size[1] / aspect)))


@dataclass(frozen=True)
class Entry:
    """A clip in its place: decoded at `size` (height, width), `num_frames` of the `available` at the dataset's rate."""

    clip: CaptionedClip
    size: tuple[int, int]
    num_frames: int
    available: int
    batch_size: int

    @property
    def key(self) -> tuple[tuple[int, int], int, int]:
        """Clips with equal keys fit one batch."""
        return self.size, self.num_frames, self.batch_size


@dataclass(frozen=True, eq=False)
class Sample:
    """frames: uint8 (F, H, W, 3), RGB. fps: as the network is told. skipped: tried first, did not decode."""

    frames: Array
    text: str
    fps: float
    skipped: tuple[Skipped, ...] = ()


@dataclass(frozen=True, eq=False)
class Batch:
    """pixels: (B, 3, F, H, W) fp32 in [-1, 1]. texts: B captions. fps: as the network is told."""

    pixels: Tensor
    texts: tuple[str, ...]
    fps: float
    skipped: tuple[Skipped, ...] = ()


class ClipDataset(Dataset[Sample]):
    """Clips by (index, seed): the seed chooses the moment at which the sample starts."""

    def __init__(self, entries: Sequence[Entry], fps: float) -> None:
        self.entries = list(entries)
        self.fps = fps

    @classmethod
    def survey(
        cls, clips: Sequence[CaptionedClip], buckets: Sequence[Bucket], fps: float = 24.0
    ) -> tuple[ClipDataset, list[Skipped]]:
        """Look at every file, decode its first frame (an image has no other), and give it the largest bucket that it
        fills, of these the one nearest to its aspect, of these the longest.

        fps: all clips are resampled to this rate, so that the model is told the true one.
        Raises InputError if no clip is left.
        """
        entries, skipped = [], []
        with ThreadPoolExecutor(SURVEYING_THREADS) as pool:
            for clip, found in zip(
                clips, pool.map(partial(_probed, fps=fps), [clip.path for clip in clips]), strict=True
            ):
                entry = _placed(clip, found, buckets, fps) if isinstance(found, _Found) else found
                if isinstance(entry, Entry):
                    entries.append(entry)
                else:
                    skipped.append(Skipped(clip.path, entry))
        if not entries:
            first = f"; the first: {skipped[0].path}: {skipped[0].reason}" if skipped else ""
            raise InputError(f"none of {len(clips)} clips can be trained on{first}")
        return cls(entries, fps), skipped

    def __len__(self) -> int:
        return len(self.entries)

    def __getitem__(self, item: tuple[int, int]) -> Sample:
        """Sample (index, seed). A clip that does not decode is replaced by the next that fits the batch.

        Raises InputError if none of these decodes.
        """
        index, seed = item
        key = self.entries[index].key
        skipped: list[Skipped] = []
        for step in range(len(self.entries)):
            entry = self.entries[(index + step) % len(self.entries)]
            if entry.key != key:
                continue
            try:
                return Sample(self._drawn(entry, seed), entry.clip.text, self.told_fps(entry), tuple(skipped))
            except InputError as error:
                skipped.append(Skipped(entry.clip.path, str(error)))
        raise InputError(f"not one of {len(skipped)} clips decodes; the first: {skipped[0].path}: {skipped[0].reason}")

    def told_fps(self, entry: Entry) -> float:
        """What the network is told of a clip's frame rate."""
        return self.fps if entry.num_frames > 1 else IMAGE_FPS

    def frames(self, entry: Entry, start: int) -> Array:
        """The frames of a clip from frame number `start` (at the dataset's rate) on, uint8 (F, H, W, 3).

        Raises InputError if not all of them decode.
        """
        if is_image(entry.clip.path):
            return read_image(entry.clip.path, entry.size)[None]
        read = read_frames(entry.clip.path, fps=self.fps, size=entry.size, start=start / self.fps)
        taken = list(islice(read, entry.num_frames))
        if len(taken) < entry.num_frames:
            raise InputError(f"{entry.clip.path}: {entry.num_frames} frames were expected, only {len(taken)} decode")
        return np.stack(taken)

    def _drawn(self, entry: Entry, seed: int) -> Array:
        generator = torch.Generator().manual_seed(seed)
        drawn = integer(entry.available - entry.num_frames + 1, generator)
        try:
            return self.frames(entry, drawn)
        except InputError:
            return self.frames(entry, 0)  # from the beginning if the container promised more than decodes

    def batches(self, epoch: int, *, seed: int, share: Share | None = None) -> Order:
        """The batches of an epoch for one process, as a `batch_sampler`; see `order.epoch_order`.

        Each step holds one bucket's clips. Raises InputError if there are too few clips for one step.
        """
        keys, sizes = [entry.key for entry in self.entries], [entry.batch_size for entry in self.entries]
        return epoch_order(keys, sizes, seed=seed, epoch=epoch, share=share)


@dataclass(frozen=True)
class _Found:
    """What a file holds: (height, width), and frames at the dataset's rate."""

    size: tuple[int, int]
    available: int


def _probed(path: Path, fps: float) -> _Found | str:
    try:
        if is_image(path):
            return _Found(image_size(path), 1)
        info = probe(path)
        return _Found((info.height, info.width), max(1, int(info.duration_seconds * fps + 1e-3)))
    except InputError as error:
        return str(error)


def _placed(clip: CaptionedClip, found: _Found, buckets: Sequence[Bucket], fps: float) -> Entry | str:
    available, aspect = found.available, found.size[0] / found.size[1]
    fitting = []
    for bucket in buckets:
        height, width = bucket.size(aspect)
        if available >= bucket.num_frames and found.size[0] * found.size[1] >= MIN_AREA * height * width:
            area = round(np.log2(height * width), 1)  # sizes of one resolution count as equal
            rank = (-area, abs(np.log(height / width / aspect)), -bucket.num_frames)
            fitting.append((rank, Entry(clip, (height, width), bucket.num_frames, available, bucket.batch_size)))
    if fitting:
        return min(fitting, key=lambda pair: pair[0])[1]
    return f"it fills no bucket: {found.size[0]}x{found.size[1]} pixels, {available} frames at {fps:g} fps"


def collate(samples: Sequence[Sample]) -> Batch:
    """Samples of one bucket -> a batch."""
    frames = torch.from_numpy(np.stack([sample.frames for sample in samples]))
    pixels = frames.permute(0, 4, 1, 2, 3).float() / 127.5 - 1  # (B, F, H, W, 3) -> (B, 3, F, H, W)
    skipped = tuple(reason for sample in samples for reason in sample.skipped)
    return Batch(pixels, tuple(sample.text for sample in samples), samples[0].fps, skipped)
