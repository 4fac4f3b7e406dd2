"""Batches of pre-computed clips: what `pavdm preprocess` wrote, in a fixed order, read by memory mapping."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import Dataset

from pavdm.training.latent_shards import ShardFolder
from pavdm.training.order import EndlessOrder, Order, epoch_order, left_out

logger = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class LatentBatch:
    """latents: (B, C, T, H, W) fp32. embeddings: per item (tokens, width) fp32. texts: what was embedded.

    size: (height, width) in pixels; frames, fps: of the clips.
    """

    latents: Tensor
    embeddings: tuple[Tensor, ...]
    texts: tuple[str, ...]
    size: tuple[int, int]
    frames: int
    fps: float


class LatentSource:
    """A folder of pre-computed clips. Raises InputError if it is not complete."""

    def __init__(self, folder: Path) -> None:
        self.shards = ShardFolder(folder)
        self.settings = self.shards.settings

    def __len__(self) -> int:
        return len(self.shards)

    @property
    def channels(self) -> int:
        """Of the latents."""
        return self.shards.clips[0][1].latents[0]

    @property
    def text_width(self) -> int:
        """Of the embeddings."""
        return self.shards.embedding(0).shape[1]

    def examples(self, *, batch_size: int, seed: int, rank: int = 0, world_size: int = 1) -> Dataset[LatentBatch]:
        """Batch number `index` for process `rank`: decided by (seed, index, rank) alone. Never ends.

        Raises InputError if there are too few clips for one step.
        """
        return _LatentBatches(self.shards, batch_size, seed, rank, world_size)


class _LatentBatches(Dataset[LatentBatch]):
    def __init__(self, shards: ShardFolder, batch_size: int, seed: int, rank: int, world_size: int) -> None:
        self._shards = shards
        self._keys = [(clip.latents, clip.size, clip.frames, clip.fps) for _, clip in shards.clips]
        self._sizes = [batch_size] * len(self._keys)
        self._seed, self._rank, self._world_size = seed, rank, world_size
        self._order = EndlessOrder(self._epoch)
        for key, count in left_out(self._keys, self._sizes, world_size).items():
            logger.warning("%d clips with latents %s are never used: they fill no batch", count, key)

    def _epoch(self, epoch: int) -> Order:
        return epoch_order(
            self._keys, self._sizes, seed=self._seed, epoch=epoch, rank=self._rank, world_size=self._world_size
        )

    def __getitem__(self, index: int) -> LatentBatch:
        numbers = [number for number, _ in self._order[index]]
        clips = [self._shards.clips[number][1] for number in numbers]
        return LatentBatch(
            torch.stack([self._shards.latents(number) for number in numbers]).float(),
            tuple(self._shards.embedding(number).to(torch.float32, copy=True) for number in numbers),
            tuple(clip.text for clip in clips),
            clips[0].size,
            clips[0].frames,
            clips[0].fps,
        )
