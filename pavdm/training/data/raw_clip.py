"""A clip before any network has seen it, and what can be asked for clips by number."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from torch import Tensor

from pavdm.frames import to_pixels
from pavdm.training.data.clip_list import Skipped

IMAGE_FPS = 120.0  # what Open-Sora tells the network of a picture (opensora/datasets/datasets.py)


@dataclass(frozen=True, eq=False)
class RawClip:
    """frames: uint8 (F, H, W, 3) RGB. name: where it comes from. changes: later captions, in order, each with the frame
    from which it holds."""

    frames: np.ndarray
    text: str
    name: str
    fps: float
    changes: tuple[tuple[int, str], ...] = ()

    def pixels(self) -> Tensor:
        """(1, 3, F, H, W) fp32 in [-1, 1]."""
        return to_pixels(self.frames)


class RawClips(Protocol):
    """Clips by number, 0 .. len - 1. An item raises InputError if it cannot be read.

    settings: what decides their content, as JSON. skipped: what is in the list and not among them.
    """

    @property
    def settings(self) -> Mapping[str, Any]: ...

    @property
    def skipped(self) -> Sequence[Skipped]: ...

    def name(self, number: int) -> str: ...

    def __len__(self) -> int: ...

    def __getitem__(self, number: int) -> RawClip: ...
