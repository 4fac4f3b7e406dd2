"""What a LATENT of this pack says of its video beyond its samples, and how long it lasts."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pavdm.clip import PIECE_FRAMES, PIECE_LATENTS

LAYOUT = "pavdm_layout"
ROUNDING = 1e-3  # between latents that are the same: a host may keep them in 16 bits


def latent_seconds(latents: int, fps: float) -> float:
    """How long `latents` latents are on the screen."""
    return latents * PIECE_FRAMES / PIECE_LATENTS / fps


@dataclass(frozen=True, eq=False)
class Layout:
    """What a LATENT of this pack says of its video, under LAYOUT: Decode to Video needs it, all others carry it along.

    It holds while there are `latents` of them. frames: those that were asked for. clip: the latents (1, C, T, h, w) at
    the beginning as the end of a clip was encoded to them, None where they are of no clip or of its start.
    """

    latents: int
    frames: int
    clip: Tensor | None = None

    def kept_latents(self, samples: Tensor) -> int:
        """How many at the beginning of samples (1, C, T, h, w) are the clip's as they were: samplers re-make its end
        where their window does not grow, or has no clean chunk in front.
        """
        if self.clip is None or self.clip.shape[3:] != samples.shape[3:]:  # scaled to another size since
            return 0
        theirs = self.clip.to(samples)
        close = torch.isclose(samples[:, :, : theirs.shape[2]], theirs, rtol=ROUNDING, atol=ROUNDING)
        same = close.transpose(0, 2).flatten(1).all(dim=1)
        return int(same.int().cumprod(dim=0).sum())


def layout_of(latent: Mapping[str, Any]) -> Layout | None:
    """The Layout of a LATENT; None if there is none, or it was cut or joined to others since."""
    layout: Layout | None = latent.get(LAYOUT)
    return layout if layout is not None and layout.latents == latent["samples"].shape[2] else None


def with_new_latents(known: Tensor, new_seconds: float, fps: float) -> dict[str, Any]:
    """LATENT of the known latents (1, C, T, h, w), room for `new_seconds` after them, and a mask of what is new."""
    frames = round(new_seconds * fps)
    new = known.new_zeros(*known.shape[:2], math.ceil(frames / PIECE_FRAMES) * PIECE_LATENTS, *known.shape[3:])
    mask = torch.cat([torch.zeros_like(known[:, :1]), torch.ones_like(new[:, :1])], dim=2)
    samples = torch.cat([known, new], dim=2)
    length = known.shape[2]
    layout = Layout(samples.shape[2], length // PIECE_LATENTS * PIECE_FRAMES + frames, known if length else None)
    return {"samples": samples, "noise_mask": mask, LAYOUT: layout}
