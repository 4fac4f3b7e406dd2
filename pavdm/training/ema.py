"""The running average of the weights (EMA), which samples better than the weights of the last step."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class WeightAverage:
    """average = decay * average + (1 - decay) * weights, in fp32, of the weights that `parameters` hold at the start.

    Sharded parameters (FSDP) are averaged shard by shard: every process keeps the part that it holds.
    """

    def __init__(self, parameters: Iterable[nn.Parameter]) -> None:
        self._parameters = list(parameters)
        self._averages = [_local(parameter).float().clone() for parameter in self._parameters]

    @torch.no_grad()
    def update(self, decay: float) -> None:
        for average, parameter in zip(self._averages, self._parameters, strict=True):
            average.lerp_(_local(parameter).float(), 1 - decay)

    @torch.no_grad()
    def assign(self) -> None:
        """Take what the parameters hold now as the average."""
        for average, parameter in zip(self._averages, self._parameters, strict=True):
            average.copy_(_local(parameter))

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Within, the parameters hold the average; after it, bit for bit what they held before."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    @torch.no_grad()
    def _swap(self) -> None:
        for average, parameter in zip(self._averages, self._parameters, strict=True):
            weights = _local(parameter)
            held = weights.clone()
            weights.copy_(average)
            average.copy_(held)


def _local(parameter: nn.Parameter) -> Tensor:
    """The part of a parameter that this process holds, sharing its memory."""
    to_local = getattr(parameter, "to_local", None)  # of DTensor
    return parameter.detach() if to_local is None else to_local().detach()
