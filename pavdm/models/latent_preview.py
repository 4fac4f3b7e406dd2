"""Small pictures of latents without the VAE: one linear map from a latent position's channels to its mean colour.

The map belongs to a VAE and is fitted to it by least squares. It is kept under `latent_rgb_factors` and
`latent_rgb_bias` in a config.json, of the VAE or of a network that makes its latents.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from pavdm.errors import InputError

FACTORS, BIAS = "latent_rgb_factors", "latent_rgb_bias"


@dataclass(frozen=True)
class LatentPreview:
    """red, green, blue = factors.T @ channels + bias, in [-1, 1]. factors: three numbers for each latent channel."""

    factors: tuple[tuple[float, float, float], ...]
    bias: tuple[float, float, float]

    @classmethod
    def from_config(cls, config: Mapping[str, Any], channels: int) -> LatentPreview | None:
        """What a config.json says, None if it says nothing. Raises InputError unless it fits `channels`."""
        if FACTORS not in config:
            return None
        factors, bias = config[FACTORS], config.get(BIAS, [0.0, 0.0, 0.0])
        rows = [*factors, bias] if isinstance(factors, list) else []
        if len(rows) != channels + 1 or not all(_is_colour(row) for row in rows):
            raise InputError(
                f"config.json: expected {FACTORS} to be a list of three numbers for each of {channels} latent "
                f"channels, and {BIAS} three numbers; remove them, or fit them again with scripts/fit_preview.py"
            )
        *colours, offset = ((float(r), float(g), float(b)) for r, g, b in rows)
        return cls(tuple(colours), offset)

    def to_config(self) -> dict[str, Any]:
        """The two entries of a config.json; `from_config` reads them back."""
        return {FACTORS: [list(row) for row in self.factors], BIAS: list(self.bias)}

    def pictures(self, latents: Tensor) -> Tensor:
        """latents (B, C, T, h, w) -> (B, 3, T, h, w) in about [-1, 1]."""
        factors = torch.tensor(self.factors).to(latents)
        bias = torch.tensor(self.bias).to(latents)
        return torch.einsum("bcthw,cr->brthw", latents, factors) + bias.view(1, 3, 1, 1, 1)


def fit_preview(latents: Tensor, pixels: Tensor) -> LatentPreview:
    """The map that comes nearest to the pixels' mean colours.

    latents: (B, C, T, h, w). pixels: (B, 3, F, H, W) in [-1, 1], what they are of; a latent stands for F / T frames and
    (H / h) x (W / w) pixels. Raises InputError if there are fewer positions than numbers to be found.
    """
    channels, length, height, width = latents.shape[1:]
    colours = F.adaptive_avg_pool3d(pixels.float(), (length, height, width)).movedim(1, -1).reshape(-1, 3)
    values = latents.float().movedim(1, -1).reshape(-1, channels)
    if len(values) <= channels:
        raise InputError(f"{len(values)} latent positions are too few to fit a preview of {channels} channels to")
    solution = torch.linalg.lstsq(F.pad(values, (0, 1), value=1.0).cpu(), colours.cpu()).solution  # (C + 1, 3)
    *factors, bias = ((round(r, 4), round(g, 4), round(b, 4)) for r, g, b in solution.tolist())
    return LatentPreview(tuple(factors), bias)


def colour_fields(num_frames: int, size: tuple[int, int]) -> Tensor:
    """Made-up frames to fit to where there are no clips: soft fields of all colours, (1, 3, num_frames, H, W).

    Always the same ones. They stand still: what moves has no mean colour of its own.
    """
    generator = torch.Generator().manual_seed(0)
    cells = [max(2, math.ceil(side / 24)) for side in size]
    field = torch.rand(1, 3, *cells, generator=generator) * 2 - 1
    frame = F.interpolate(field, size=size, mode="bicubic", align_corners=True).clamp(-1, 1)
    return frame[:, :, None].repeat(1, 1, num_frames, 1, 1)


def _is_colour(row: Any) -> bool:
    return (
        isinstance(row, (list, tuple))
        and len(row) == 3
        and all(isinstance(n, (int, float)) and not isinstance(n, bool) and math.isfinite(n) for n in row)
    )
