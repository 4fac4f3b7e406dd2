"""Batches of pre-computed clips: what `pavdm preprocess` wrote, in a fixed order, read by memory mapping."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import Dataset

from pavdm.clip import PIECE_FRAMES, PIECE_LATENTS
from pavdm.errors import InputError
from pavdm.training.data.clip_list import Skipped
from pavdm.training.data.latent_shards import ShardFolder
from pavdm.training.data.order import EndlessOrder, Order, epoch_order, never_used
from pavdm.training.data.source import Clips
from pavdm.training.task import Extent, Share

logger = logging.getLogger(__name__)


class LatentSource:
    """A folder of pre-computed clips, a `source.Source`. batch_size: clips of a micro-step in one process.

    Raises InputError if the folder is not complete.
    """

    skipped: Sequence[Skipped] = ()  # the folder has a list of its own

    def __init__(self, folder: Path, batch_size: int, seed: int) -> None:
        self.shards = ShardFolder(folder)
        self.batch_size = batch_size
        self.seed = seed
        if not self.shards.clips:
            raise InputError(f"{folder} holds no clip: all were skipped, see its skipped.csv")

    @property
    def channels(self) -> int:
        """Of the latents."""
        return self.shards.clips[0][1].latents[0]

    @property
    def text_width(self) -> int:
        """Of the embeddings."""
        return self.shards.embeddings(0)[0].shape[1]

    def extents(self) -> Sequence[Extent]:
        forms = sorted({(clip.latents, clip.size) for _, clip in self.shards.clips})
        return [Extent(self.batch_size, latents, size) for latents, size in forms]

    def check(self, share: Share) -> None:
        keys, sizes = _keys(self.shards), [self.batch_size] * len(self.shards)
        for key, count in never_used(keys, sizes, share).items():
            logger.warning("%d clips with latents, size and fps %s are never used: they fill no step", count, key)

    def clips(self, share: Share) -> Dataset[Clips]:
        """Raises InputError if there are too few clips for one step."""
        return _Batches(self.shards, self.batch_size, self.seed, share)

    def settings(self) -> Mapping[str, Any]:
        return {
            "latents": self.shards.settings,
            "clips": len(self.shards),
            "batch size": self.batch_size,
            "seed": self.seed,
        }


def _keys(shards: ShardFolder) -> list[tuple[Any, ...]]:
    """What clips have to share to stand in one batch."""
    return [(clip.latents, clip.size, clip.fps) for _, clip in shards.clips]


class _Batches(Dataset[Clips]):
    def __init__(self, shards: ShardFolder, batch_size: int, seed: int, share: Share) -> None:
        self._shards = shards
        self._keys = _keys(shards)
        self._sizes = [batch_size] * len(self._keys)
        self._seed, self._share = seed, share
        self._order = EndlessOrder(self._epoch)

    def _epoch(self, epoch: int) -> Order:
        return epoch_order(self._keys, self._sizes, seed=self._seed, epoch=epoch, share=self._share)

    def __getitem__(self, index: int) -> Clips:
        numbers = [number for number, _ in self._order[index]]
        clips = [self._shards.clips[number][1] for number in numbers]
        latents = torch.stack([self._shards.latents(number) for number in numbers]).float()
        stored = [self._shards.embeddings(number) for number in numbers]
        embeddings = [each[0] for each in stored]
        texts = torch.arange(len(numbers))[:, None].repeat(1, latents.shape[2])
        for row, clip, each in zip(texts, clips, stored, strict=True):
            for (first, _, _), embedding in zip(clip.captions[1:], each[1:], strict=True):
                row[first // PIECE_FRAMES * PIECE_LATENTS :] = len(embeddings)
                embeddings.append(embedding)
        return Clips(
            latents,
            tuple(embedding.to(torch.float32, copy=True) for embedding in embeddings),
            clips[0].fps,
            clips[0].size,
            texts if len(embeddings) > len(numbers) else None,
        )
