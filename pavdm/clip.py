"""The clip that a video continues: which of its frames the model sees, and which go into the output as they are."""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from pavdm.errors import InputError
from pavdm.frames import to_pixels
from pavdm.video_reader import read_frames

PIECE_FRAMES = 17  # the VAE codes 17 frames as 5 latents, independently of the others
PIECE_LATENTS = 5

Condition = Literal["last", "first"]


@dataclass(frozen=True)
class ClipSource:
    """A part of a video file, resampled to `fps` frames per second and cropped to `size` (height, width)."""

    path: Path
    fps: float
    size: tuple[int, int]
    start: float = 0.0  # seconds
    end: float | None = None

    def frames(self) -> Iterator[NDArray[np.uint8]]:
        """Frames (H, W, 3), one by one."""
        return read_frames(self.path, fps=self.fps, size=self.size, start=self.start, end=self.end)


@dataclass(frozen=True)
class Conditioning:
    """What was read of a clip: `frames` (F, H, W, 3) uint8 that condition the model, F a multiple of 17.

    num_frames: the whole clip. digest: identity of what was read, for comparing with a saved state.
    """

    frames: NDArray[np.uint8]
    num_frames: int
    digest: str

    def pixels(self) -> Tensor:
        """(1, 3, F, H, W) fp32 in [-1, 1]."""
        return to_pixels(self.frames)


def resampled(num_frames: int, source_fps: float, fps: float) -> list[int]:
    """For each frame at `fps` the frame of a clip of `num_frames` at `source_fps` that is shown at its time."""
    count = max(1, round(num_frames * fps / source_fps)) if num_frames else 0
    return [min(num_frames - 1, int(index * source_fps / fps + 1e-6)) for index in range(count)]


def read_conditioning(
    source: ClipSource, min_frames: int, max_frames: int, condition: Condition = "last", pad: bool = False
) -> Conditioning:
    """Read the frames that condition the model: the clip's last (or first) 17, 34, ... frames, at most `max_frames`.

    pad: repeat the first frame in front of a clip that is too short. Memory holds `max_frames` frames at most.
    Raises InputError if the clip has fewer than `min_frames` frames.
    """
    kept: deque[NDArray[np.uint8]] = deque(maxlen=max_frames)
    num_frames = 0
    for frame in source.frames():
        num_frames += 1
        if condition == "last" or len(kept) < max_frames:
            kept.append(frame)
    missing = min_frames - len(kept)
    if missing > 0 and not (pad and kept):
        raise InputError(
            f"{source.path} has {num_frames} frames at {source.fps:g} fps between the chosen start and end; "
            f"{min_frames} are needed to go on from ({min_frames / source.fps:.2f} s). Give a longer clip, or --pad to "
            "repeat its first frame in front"
        )
    kept.extendleft([kept[0]] * missing)
    used = len(kept) // PIECE_FRAMES * PIECE_FRAMES
    frames = list(kept)[len(kept) - used :] if condition == "last" else list(kept)[:used]
    stacked = np.stack(frames)
    digest = hashlib.sha256(stacked.tobytes()).hexdigest()[:16]
    return Conditioning(stacked, num_frames, f"{num_frames} frames, {digest}")
