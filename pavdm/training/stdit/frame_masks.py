"""Open-Sora's frame masks for ordinary training: which frames of a clip are given clean, so that others follow them.

This is what taught Open-Sora v1.2 to see clean and noisy latents side by side, and with it what makes the progressive
sampler work on its weights as they are (arXiv 2410.08151, section 4). Source: opensora/utils/train_utils.py.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from pavdm.errors import InputError
from pavdm.training.chance import integer

# Stage 3 of Open-Sora v1.2: a quarter of the clips, nearly all of them given their first latent.
OPEN_SORA_RATIOS: Mapping[str, float] = {
    "random": 0.01,
    "interpolate": 0.002,
    "quarter_random": 0.002,
    "quarter_head": 0.002,
    "quarter_tail": 0.002,
    "quarter_head_tail": 0.002,
    "image_random": 0.0,
    "image_head": 0.22,
    "image_tail": 0.005,
    "image_head_tail": 0.005,
}

KINDS = ("identity", *OPEN_SORA_RATIOS)


@dataclass(frozen=True)
class FrameMasks:
    """How often each kind of mask is drawn; what is left of 1 goes to "identity", which generates every frame.

    image_*: one latent frame is given, quarter_*: 1 to a quarter of them; head, tail, both, or somewhere.
    interpolate: every other frame (published as "intepolate"). random: each frame with one probability from 0.1 to 0.9.

    Raises InputError for an unknown kind, a ratio outside 0..1, or a sum above 1.
    """

    ratios: Mapping[str, float] = field(default_factory=lambda: dict(OPEN_SORA_RATIOS))

    def __post_init__(self) -> None:
        for kind, ratio in self.ratios.items():
            if kind not in KINDS:
                raise InputError(f"unknown frame mask {kind!r}: expected one of {', '.join(KINDS)}")
            if not 0 <= ratio <= 1:
                raise InputError(f"the ratio of frame mask {kind!r} must lie between 0 and 1: got {ratio}")
        total = sum(self.ratios.values())
        if total > 1 + 1e-6 or ("identity" in self.ratios and not math.isclose(total, 1, abs_tol=1e-6)):
            raise InputError(f"the ratios of the frame masks must add up to 1: got {total}")

    def draw(self, batch: int, num_frames: int, generator: torch.Generator) -> Tensor:
        """(batch, num_frames) bool: True generates a frame, False gives it clean. From a local CPU generator."""
        kinds = list(self.ratios)
        bounds = torch.tensor([self.ratios[kind] for kind in kinds], dtype=torch.float64).cumsum(0)
        masks = []
        for value in torch.rand(batch, generator=generator, dtype=torch.float64):
            index = int(torch.searchsorted(bounds, value, right=True))
            masks.append(frame_mask(kinds[index] if index < len(kinds) else "identity", num_frames, generator))
        return torch.stack(masks)


def frame_mask(kind: str, num_frames: int, generator: torch.Generator) -> Tensor:
    """One mask, (num_frames,) bool. An image is always generated, and of every clip at least one frame.

    The published code fails for quarters of clips below 4 latents, and gives all frames of a clip of 2 clean, which
    makes the loss 0 / 0.
    """
    mask = torch.ones(num_frames, dtype=torch.bool)
    if num_frames == 1 or kind == "identity":
        return mask
    if kind == "interpolate":
        mask[integer(2, generator) :: 2] = False
        return mask
    if kind == "random":
        given = 0.1 + 0.8 * torch.rand(1, generator=generator)
        mask = torch.rand(num_frames, generator=generator) > given
    else:
        extent, _, place = kind.partition("_")
        length = 1 if extent == "image" else 1 + integer(max(1, num_frames // 4), generator)
        if place == "random":
            start = integer(num_frames - length + 1, generator)
            mask[start : start + length] = False
        if place.startswith("head"):
            mask[:length] = False
        if place.endswith("tail"):
            mask[-length:] = False
    if not mask.any():
        mask[-1] = True
    return mask
