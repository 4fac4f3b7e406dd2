"""Muon: momentum whose matrices are made orthogonal before a step. Small networks learn in far fewer steps by it.

Each matrix of weights (of a convolution: output channels x all else) moves by the orthogonal matrix nearest to its
momentum, so that all directions are learned alike; vectors and scalars are left to AdamW. The step is scaled to the
size of AdamW's, so that one learning rate serves both.
Sources: Jordan et al., "Muon: an optimizer for hidden layers in neural networks" (2024); the scale from Liu et al.,
"Muon is scalable for LLM training" (arXiv 2502.16982), section 2.2.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

MOMENTUM = 0.95
ADAMW_RMS = 0.2  # of AdamW's usual step, in units of the learning rate
# Five steps of this quintic bring all singular values from (0, 1] near to 1, none of them exactly: that is enough.
COEFFICIENTS = (3.4445, -4.7750, 2.0315)
ITERATIONS = 5


class Muon(torch.optim.AdamW):
    """AdamW for vectors and scalars, Muon for everything with two dimensions or more.

    learning_rate, betas, epsilon, weight_decay: AdamW's; decay is applied to matrices alone.
    """

    def __init__(
        self,
        parameters: Iterable[nn.Parameter],
        learning_rate: float,
        betas: tuple[float, float] = (0.9, 0.99),
        epsilon: float = 1e-8,
        weight_decay: float = 0.0,
    ) -> None:
        given = list(parameters)
        groups: list[dict[str, Any]] = [
            {"params": [p for p in given if p.ndim >= 2], "momentum": MOMENTUM, "weight_decay": weight_decay},
            {"params": [p for p in given if p.ndim < 2], "momentum": None, "weight_decay": 0.0},
        ]
        super().__init__([group for group in groups if group["params"]], learning_rate, betas, epsilon)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One step on the gradients that are there; the gradients of matrices are used up."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            if group["momentum"] is not None:
                self._move([weight for weight in group["params"] if weight.grad is not None], group)
        super().step()
        return loss

    def _move(self, weights: list[nn.Parameter], group: dict[str, Any]) -> None:
        directions = orthogonal_together([self._ahead(weight, group["momentum"]) for weight in weights])
        for weight, direction in zip(weights, directions, strict=True):
            size = ADAMW_RMS * max(direction.shape) ** 0.5
            weight.mul_(1 - group["lr"] * group["weight_decay"])
            weight.add_(direction.view_as(weight), alpha=-group["lr"] * size)
            weight.grad = None  # AdamW passes over it

    def _ahead(self, weight: Tensor, rate: float) -> Tensor:
        """The momentum after this gradient, and a step further, as a matrix."""
        state, gradient = self.state[weight], weight.grad
        assert gradient is not None
        if "momentum" not in state:
            state["momentum"] = torch.zeros_like(weight)
            state["step"] = torch.zeros(())  # not counted here, but AdamW looks for it in any state that it loads
        momentum: Tensor = state["momentum"].lerp_(gradient, 1 - rate)
        return gradient.lerp(momentum, rate).flatten(1)  # Nesterov's


def orthogonal_together(matrices: list[Tensor]) -> list[Tensor]:
    """`orthogonal` of each. Processes that train together have the same matrices: each works on a share of them."""
    processes = dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1
    if processes == 1:
        return [orthogonal(matrix) for matrix in matrices]
    owners = shares([max(matrix.shape) * min(matrix.shape) ** 2 for matrix in matrices], processes)
    found = list(matrices)
    for owner in range(processes):
        owned = [index for index, of in enumerate(owners) if of == owner]
        if not owned:
            continue
        if owner == dist.get_rank():
            parts = [orthogonal(matrices[index]) for index in owned]
        else:
            parts = [torch.empty_like(matrices[index]) for index in owned]
        row = torch.cat([part.flatten() for part in parts])
        dist.broadcast(row, owner)
        for index, part in zip(owned, row.split([part.numel() for part in parts]), strict=True):
            found[index] = part.view_as(matrices[index])
    return found


def shares(costs: list[int], processes: int) -> list[int]:
    """Who does which: the process for each cost, so that all have about as much to do."""
    owners, load = [0] * len(costs), [0] * processes
    for index in sorted(range(len(costs)), key=lambda index: -costs[index]):
        owners[index] = load.index(min(load))
        load[owners[index]] += costs[index]
    return owners


def orthogonal(matrix: Tensor) -> Tensor:
    """About the nearest matrix (M, N) with orthonormal rows or columns, by Newton and Schulz's iteration, fp32."""
    a, b, c = COEFFICIENTS
    x = matrix.float()
    x = x.T if x.shape[0] > x.shape[1] else x
    x = x / (x.norm() + 1e-7)
    for _ in range(ITERATIONS):
        square = x @ x.T
        x = a * x + (b * square + c * square @ square) @ x
    return (x.T if matrix.shape[0] > matrix.shape[1] else x).to(matrix.dtype)
