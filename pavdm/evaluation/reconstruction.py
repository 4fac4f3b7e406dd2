"""How much of a picture a VAE keeps."""

from __future__ import annotations

import math

import numpy as np
import torch

from pavdm.clip import PIECE_FRAMES
from pavdm.errors import InputError
from pavdm.evaluation.pixels import Frame
from pavdm.frames import to_pixels
from pavdm.models.vae import VideoVAE


@torch.inference_mode()
def reconstruction_psnr(vae: VideoVAE, frames: Frame) -> float:
    """Peak signal-to-noise ratio in dB of frames uint8 (F, H, W, 3), encoded to the posterior's mode and decoded.

    Whole pieces of 17 frames are compared, on the VAE's device. Raises InputError if there is none.
    """
    count = len(frames) // PIECE_FRAMES * PIECE_FRAMES
    if not count:
        raise InputError(f"a VAE codes {PIECE_FRAMES} frames together: got {len(frames)}")
    weight = next(vae.parameters())
    errors = []
    for piece in np.split(frames[:count], count // PIECE_FRAMES):
        pixels = to_pixels(piece).to(weight)
        errors.append((vae.decode(vae.encode(pixels)).clamp(-1, 1) - pixels).square().mean().item())
    return 10 * math.log10(4 / np.mean(errors))
