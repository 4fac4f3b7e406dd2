"""Frames as bytes, and as the VAE codes them: numbers from -1 to 1."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


def to_pixels(frames: NDArray[np.uint8]) -> Tensor:
    """(F, H, W, 3) -> (1, 3, F, H, W) fp32 in [-1, 1]."""
    return torch.from_numpy(frames).permute(3, 0, 1, 2)[None].float() / 127.5 - 1


def to_frames(pixels: Tensor) -> NDArray[np.uint8]:
    """(3, F, H, W), what is outside [-1, 1] cut off -> (F, H, W, 3)."""
    scaled = ((pixels + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
    return scaled.permute(1, 2, 3, 0).contiguous().cpu().numpy()
