"""How much memory a training step will take, before it is tried.

Weights, optimizer and average are counted. For activations and gradients the step itself is run on torch's meta device,
where tensors have shapes and no values, and the bytes that live at a time are added up: forward, backward, and what
checkpointing computes again. That is quick and exact for what torch is asked for; what its kernels and allocator take
besides is not in it.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only

GIB = 2**30


@dataclass(frozen=True)
class MemoryEstimate:
    """Bytes of one process that holds the network whole (FSDP divides all but the activations).

    weights: of the network. copies: of fp32 weights, in the type that mixed precision computes in. optimizer: the two
    moments of AdamW. average: the EMA. step: activations and gradients at their peak, counted in fp32 whatever the
    precision.
    """

    weights: int
    copies: int
    optimizer: int
    average: int
    step: int

    @property
    def total(self) -> int:
        return self.weights + self.copies + self.optimizer + self.average + self.step

    def lines(self) -> list[str]:
        rows = {
            "weights": self.weights,
            "their copies in half precision": self.copies,
            "optimizer": self.optimizer,
            "averaged weights": self.average,
            "activations and gradients, at most": self.step,
            "in all": self.total,
        }
        return [f"{name:36s}{size / GIB:8.2f} GiB" for name, size in rows.items() if size]


def estimate(network: nn.Module, peak: int, *, ema: bool, mixed: bool) -> MemoryEstimate:
    """The estimate for `network` (it may be on the meta device), `peak` from `peak_bytes` of a step.

    mixed: whether it computes in half precision.
    """
    parameters = list(network.parameters())
    trained = sum(parameter.numel() for parameter in parameters if parameter.requires_grad)
    whole = sum(parameter.numel() for parameter in parameters if parameter.dtype == torch.float32)
    return MemoryEstimate(
        weights=sum(tensor.nbytes for tensor in [*parameters, *network.buffers()]),
        copies=2 * whole if mixed else 0,
        optimizer=8 * trained,
        average=4 * trained if ema else 0,
        step=peak,
    )


def peak_bytes(step: Callable[[], object]) -> int:
    """The most bytes that tensors made in `step` take at a time."""
    counter = _LiveBytes()
    with counter:
        step()
    return counter.peak


def attention_without_matrix(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """`pavdm.models.attention.sdpa` as its fused kernels keep memory; on the meta device torch would choose the one
    that makes the whole matrix."""
    out, _ = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(q, k, v)
    return out.transpose(1, 2).flatten(2)


class _LiveBytes(TorchDispatchMode):
    """Counts the storages made while it is active, until they are freed."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._known: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        before = {id(tensor.untyped_storage()) for tensor in _tensors((args, kwargs))}
        out = func(*args, **(kwargs or {}))
        for tensor in _tensors(out):
            storage = tensor.untyped_storage()
            key = id(storage)
            if key not in before and key not in self._known:
                self._known.add(key)
                size = storage.nbytes()
                self.now += size
                self.peak = max(self.peak, self.now)
                weakref.finalize(storage, self._freed, key, size)
        return out

    def _freed(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.now -= size


def _tensors(tree: Any) -> list[Tensor]:
    found: list[Tensor] = []
    tree_map_only(Tensor, found.append, tree)
    return found
