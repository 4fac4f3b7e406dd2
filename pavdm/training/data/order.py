"""Which example belongs to which step: decided by (seed, epoch or step, process) alone, so nothing of it is saved."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from typing import TypeVar

import torch

from pavdm.errors import InputError
from pavdm.training.task import Share

Key = TypeVar("Key", bound=Hashable)
Order = list[list[tuple[int, int]]]


def epoch_order(
    keys: Sequence[Hashable], batch_sizes: Sequence[int], *, seed: int, epoch: int, share: Share | None = None
) -> Order:
    """The micro-steps of an epoch for one process: batches of (example, seed for its own draws).

    keys: of each example; only those with equal keys share a batch. batch_sizes: of each example, equal for equal keys.
    Shuffled. All batches of an optimizer step, in all processes, have the same key, so that none waits for a longer
    clip, and the step sees the same examples however it is divided; all processes have as many steps. Examples left
    over for the last one sit out this epoch. Raises InputError if there are too few for one step.
    """
    share = share or Share()
    generator = torch.Generator().manual_seed((seed * 1_000_003 + epoch) % 2**63)
    groups: dict[Hashable, list[int]] = {}
    for index in torch.randperm(len(keys), generator=generator).tolist():
        groups.setdefault(keys[index], []).append(index)
    steps = []
    for indices in groups.values():
        length = batch_sizes[indices[0]] * share.world_size * share.accumulation
        steps += [indices[begin : begin + length] for begin in range(0, len(indices) - length + 1, length)]
    if not steps:
        raise _too_few(len(keys), share)
    starts = torch.randint(2**62, (len(keys),), generator=generator).tolist()
    order = []
    for number in torch.randperm(len(steps), generator=generator).tolist():
        step = [(index, starts[index]) for index in steps[number]]
        size = batch_sizes[step[0][0]]
        for micro_step in range(share.accumulation):
            mine = share.examples(micro_step, size)
            order.append(step[mine.start : mine.stop])
    return order


def never_used(keys: Sequence[Key], batch_sizes: Sequence[int], share: Share) -> dict[Key, int]:
    """Keys with too few examples for even one step, and how many they have: these are in no epoch at all.

    Raises InputError if that is so of every key.
    """
    counts, sizes = Counter(keys), dict(zip(keys, batch_sizes, strict=True))
    needed = share.world_size * share.accumulation
    found = {key: count for key, count in counts.items() if count < sizes[key] * needed}
    if len(found) == len(counts):
        raise _too_few(len(keys), share)
    return found


def _too_few(count: int, share: Share) -> InputError:
    return InputError(
        f"{count} clips fill no batch on {share.world_size} processes with {share.accumulation} batches a step: give "
        "more clips, or smaller batches"
    )


class EndlessOrder:
    """Epoch after epoch as one row of micro-steps: `order[index]` for any, at once. All epochs are equally long."""

    def __init__(self, epoch: Callable[[int], Order]) -> None:
        self._epoch = epoch
        self._at, self._batches = 0, epoch(0)

    def __getitem__(self, index: int) -> list[tuple[int, int]]:
        number, place = divmod(index, len(self._batches))
        if number != self._at:
            self._at, self._batches = number, self._epoch(number)
        return self._batches[place]
