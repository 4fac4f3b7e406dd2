"""Sinusoids of STDiT3: timesteps, token positions, temporal rotations. All in fp32, whatever the weights are."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

PERIOD = 10000.0


def timestep_sinusoid(timesteps: Tensor, channels: int) -> Tensor:
    """(U,) values, fractional ones too -> (U, channels) fp32: cosines, then sines."""
    half = channels // 2
    exponents = torch.arange(half, dtype=torch.float32, device=timesteps.device) / half
    angles = timesteps.float()[:, None] * torch.exp(-math.log(PERIOD) * exponents)
    return torch.cat((angles.cos(), angles.sin()), dim=1)


def spatial_sinusoid(rows: int, columns: int, channels: int, scale: float, device: torch.device | str) -> Tensor:
    """2D positions of a grid of tokens -> (rows * columns, channels) fp32.

    Coordinates are stretched as if the grid were a square of the same number of tokens, and divided by `scale`,
    the size of the picture relative to the training size. The column fills the first half of the channels, the
    row the second; each half holds sines, then cosines.
    """
    side = round(math.sqrt(rows * columns))
    half = channels // 2
    frequencies = PERIOD ** -(torch.arange(0, half, 2, dtype=torch.float32, device=device) / half)

    def axis(length: int) -> Tensor:
        places = torch.arange(length, dtype=torch.float32, device=device) / scale * (side / length)
        angles = places[:, None] * frequencies
        return torch.cat((angles.sin(), angles.cos()), dim=1)  # (length, channels / 2)

    by_column = axis(columns).expand(rows, -1, -1)
    by_row = axis(rows)[:, None].expand(-1, columns, -1)
    return torch.cat((by_column, by_row), dim=2).flatten(0, 1)


def rotations(length: int, head_dim: int, device: torch.device | str) -> Tensor:
    """Rotary embedding of positions 0 .. length - 1 -> complex64 (length, head_dim / 2)."""
    exponents = torch.arange(0, head_dim, 2, dtype=torch.float32, device=device) / head_dim
    angles = torch.arange(length, dtype=torch.float32, device=device)[:, None] * PERIOD**-exponents
    return torch.polar(torch.ones_like(angles), angles)


def rotate(x: Tensor, by: Tensor) -> Tensor:
    """Rotate neighbouring channel pairs of x (..., N, heads, D) by complex `by` (N, D / 2); fp32 inside."""
    pairs = torch.view_as_complex(x.float().unflatten(-1, (-1, 2)))
    return torch.view_as_real(pairs * by[:, None]).flatten(-2).to(x.dtype)


@dataclass(frozen=True, eq=False)
class Positions:
    """What depends on the latents' size only: built once per clip, used by every model call.

    spatial: (S, hidden) fp32, S tokens per latent frame. temporal: complex64 (frames kept ready, head_dim / 2).
    """

    spatial: Tensor
    temporal: Tensor
