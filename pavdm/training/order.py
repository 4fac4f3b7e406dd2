"""Which example belongs to which step: decided by (seed, epoch or step, rank) alone, so nothing of it is saved."""

from __future__ import annotations

import logging
from collections.abc import Callable, Hashable, Sequence

import numpy as np
import torch

from pavdm.errors import InputError

logger = logging.getLogger(__name__)

Order = list[list[tuple[int, int]]]


def epoch_order(
    keys: Sequence[Hashable], batch_sizes: Sequence[int], *, seed: int, epoch: int, rank: int = 0, world_size: int = 1
) -> Order:
    """The batches of an epoch for process `rank` of `world_size`: (example, seed for its own draws) each.

    keys: of each example; only those with equal keys share a batch. batch_sizes: of each example; equal for equal keys.
    Shuffled. In a step all processes have the same key, so that none waits for a longer clip, and all have as many
    steps; examples left over for the last one sit out this epoch.
    Raises InputError if there are too few examples for one step.
    """
    generator = torch.Generator().manual_seed((seed * 1_000_003 + epoch) % 2**63)
    groups: dict[Hashable, list[int]] = {}
    for index in torch.randperm(len(keys), generator=generator).tolist():
        groups.setdefault(keys[index], []).append(index)
    steps = []
    for indices in groups.values():
        size = batch_sizes[indices[0]]
        for begin in range(0, len(indices) - size * world_size + 1, size * world_size):
            steps.append(indices[begin + rank * size : begin + (rank + 1) * size])
    if not steps:
        raise InputError(f"{len(keys)} clips fill no batch on {world_size} processes: give more, or smaller batches")
    shuffled = [steps[i] for i in torch.randperm(len(steps), generator=generator)]
    starts = torch.randint(2**62, (len(keys),), generator=generator).tolist()
    return [[(index, starts[index]) for index in step] for step in shuffled]


def left_out(keys: Sequence[Hashable], batch_sizes: Sequence[int], world_size: int) -> dict[Hashable, int]:
    """Keys that have too few examples for even one step, and how many: these are in no epoch at all."""
    counts: dict[Hashable, int] = {}
    sizes = dict(zip(keys, batch_sizes, strict=True))
    for key in keys:
        counts[key] = counts.get(key, 0) + 1
    return {key: count for key, count in counts.items() if count < sizes[key] * world_size}


class EndlessOrder:
    """Epoch after epoch as one row of steps: `order[step]` for any step, at once. Every epoch has as many steps."""

    def __init__(self, epoch: Callable[[int], Order]) -> None:
        self._epoch = epoch
        self._at, self._batches = 0, epoch(0)

    def __getitem__(self, step: int) -> list[tuple[int, int]]:
        number, place = divmod(step, len(self._batches))
        if number != self._at:
            self._at, self._batches = number, self._epoch(number)
        return self._batches[place]


def uniform(count: int, *key: int) -> np.ndarray:
    """`count` numbers in 0..1 that only `key` (whole numbers, at least 0) decides."""
    return np.random.Generator(np.random.PCG64(key)).random(count)
