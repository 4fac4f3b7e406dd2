"""Whether a video comes back to what it has shown: loops, and going back and forth."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pavdm.evaluation.pixels import Frame, thumbnail

_SAMPLES_PER_SECOND = 4
_MOST_SAMPLES = 1024  # then every second one is dropped: the table of their distances stays small
_LEAST_SECONDS = 2.0  # sooner than this, coming back is ordinary motion
_HARDLY_CHANGED = 4.0  # levels of root-mean-square distance


@dataclass(frozen=True)
class SelfSimilarity:
    """score: see `registry.SCALARS`. distances: between moments, (N, N), in levels. seconds: from one to the next."""

    score: float | None
    distances: NDArray[np.float32]
    seconds: float


class Repetition:
    """Collects small thumbnails while frames go by."""

    def __init__(self, fps: float) -> None:
        self._fps = fps
        self._every = max(1, round(fps / _SAMPLES_PER_SECOND))
        self._thumbnails: list[NDArray[np.float32]] = []

    def next(self, number: int, frame: Frame) -> None:
        if number % self._every:
            return
        self._thumbnails.append(thumbnail(frame).ravel())
        if len(self._thumbnails) > _MOST_SAMPLES:
            self._thumbnails = self._thumbnails[::2]
            self._every *= 2

    def finish(self, first_frame: int = 0) -> SelfSimilarity:
        """The score of the video from `first_frame` on, and the distances of all moments."""
        seconds = self._every / self._fps
        if not self._thumbnails:
            return SelfSimilarity(None, np.zeros((0, 0), np.float32), seconds)
        samples = np.stack(self._thumbnails)
        squares = (samples**2).sum(1)
        squared = squares[:, None] + squares - 2 * samples @ samples.T
        distances = np.sqrt(np.maximum(squared, 0) / samples.shape[1]).astype(np.float32)
        np.fill_diagonal(distances, 0)
        first = -(-first_frame // self._every)
        return SelfSimilarity(_score(distances[first:, first:], seconds), distances, seconds)


def _score(distances: NDArray[np.float32], seconds: float) -> float | None:
    lag = max(2, round(_LEAST_SECONDS / seconds))
    returned = []
    for now in range(lag, len(distances)):
        to_earlier = distances[now, :now][::-1]  # the one before first
        farthest = np.maximum.accumulate(to_earlier)
        back, left = to_earlier[lag - 1 :], farthest[lag - 1 :]
        away = left > _HARDLY_CHANGED
        returned.append(float((1 - back[away] / left[away]).max()) if away.any() else 0.0)
    return float(np.mean(returned)) if returned else None
