"""Made-up videos whose measures are known by how they are made: uint8 RGB frames (F, H, W, 3)."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

Frames = NDArray[np.uint8]

HEIGHT, WIDTH = 64, 96


def texture(seed: int, height: int = HEIGHT, width: int = WIDTH) -> NDArray[np.float64]:
    """A smooth colour pattern (H, W, 3), 40 to 215, that wraps around at its edges."""
    noise = np.random.default_rng(seed).standard_normal((height, width, 3))
    rows, columns = np.fft.fftfreq(height)[:, None], np.fft.fftfreq(width)
    keep = np.exp(-((rows**2 + columns**2) / (2 * 0.05**2)))[..., None]
    smooth = np.fft.ifft2(np.fft.fft2(noise, axes=(0, 1)) * keep, axes=(0, 1)).real
    return 40 + 175 * (smooth - smooth.min()) / np.ptp(smooth)


@pytest.fixture
def still() -> Callable[..., Frames]:
    """One picture for `frames` frames."""

    def make(frames: int, seed: int = 0, size: tuple[int, int] = (HEIGHT, WIDTH)) -> Frames:
        return np.repeat(texture(seed, *size).round().astype(np.uint8)[None], frames, axis=0)

    return make


@pytest.fixture
def moving() -> Callable[..., Frames]:
    """A picture that moves to the right by `speed` whole pixels per frame, and comes in again on the left."""

    def make(frames: int, speed: int = 2, seed: int = 0) -> Frames:
        picture = texture(seed).round().astype(np.uint8)
        return np.stack([np.roll(picture, speed * number, axis=1) for number in range(frames)])

    return make


@pytest.fixture
def noisy() -> Callable[..., Frames]:
    """The frames with fresh noise of `spread` levels in every one."""

    def make(frames: Frames, spread: float = 2.0) -> Frames:
        noise = np.random.default_rng(7).standard_normal(frames.shape) * spread
        return (frames + noise).round().clip(0, 255).astype(np.uint8)

    return make
