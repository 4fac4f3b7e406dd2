"""Small pictures of a video, evenly spread over it however long it turns out to be."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pavdm.evaluation.pixels import Frame

_WIDTH = 176  # pixels
_MOST = 48  # then every second one is dropped


def shrunk(frame: Frame, width: int) -> Frame:
    """The frame at most `width` pixels wide."""
    from PIL import Image

    height, full = frame.shape[:2]
    if full <= width:
        return frame.copy()
    size = (width, max(1, round(height * width / full)))
    return np.asarray(Image.fromarray(frame).resize(size, Image.Resampling.BOX))


class ContactSheet:
    """Keeps 24 to 48 pictures (all, of a shorter video), evenly spaced in time, whatever the length."""

    def __init__(self) -> None:
        self._every = 1
        self._kept: list[tuple[int, Frame]] = []

    def next(self, number: int, frame: Frame) -> None:
        if number % self._every:
            return
        self._kept.append((number, shrunk(frame, _WIDTH)))
        if len(self._kept) > _MOST:
            self._kept = self._kept[::2]
            self._every *= 2

    @property
    def pictures(self) -> tuple[tuple[int, NDArray[np.uint8]], ...]:
        return tuple(self._kept)
