"""Whether chunks join without a seam: the jump across each boundary against the ordinary change between frames."""

from __future__ import annotations

import statistics
from dataclasses import dataclass

from pavdm.evaluation.layout import Layout
from pavdm.evaluation.pixels import Frame

# Levels: below this mean difference two frames are the same to 8-bit video; a ratio to less says nothing.
_STILL = 0.1


@dataclass(frozen=True)
class Seam:
    """One chunk boundary. frame: the first after it. ratio: None where nothing changes on either side, nor across."""

    frame: int
    difference: float  # across the boundary, levels
    inside: float  # median inside the two chunks, levels
    ratio: float | None


@dataclass(frozen=True)
class SeamPictures:
    """A seam with the frames on its two sides, (H, W, 3) uint8."""

    seam: Seam
    before: Frame
    after: Frame


class Seams:
    """Collects seams while frames go by, and keeps the pictures of the worst. Memory does not grow but by the seams."""

    def __init__(self, layout: Layout, keep: int = 0) -> None:
        """keep: of how many seams the pictures are kept."""
        self.found: list[Seam] = []
        self.worst: list[SeamPictures] = []  # worst first
        self._layout = layout
        self._keep = keep
        self._inside_before: list[float] = []
        self._inside: list[float] = []
        self._open: tuple[int, float, Frame, Frame] | None = None  # a boundary whose second chunk is still going by

    def next(self, number: int, before: Frame, frame: Frame, difference: float) -> None:
        """The pair of frames `number - 1` and `number`, whose mean absolute difference is `difference` levels."""
        if not self._layout.begins_chunk(number):
            self._inside.append(difference)
            return
        self._close()
        self._inside_before, self._inside = self._inside, []
        self._open = number, difference, before, frame

    def finish(self) -> None:
        self._close()
        self._open = None

    def _close(self) -> None:
        inside = self._inside_before + self._inside
        if self._open is None or not inside:
            return
        number, difference, before, after = self._open
        seam = Seam(number, difference, usual := statistics.median(inside), _ratio(difference, usual))
        self.found.append(seam)
        # The clip's own frames were filmed: what jumps there is no seam.
        if self._keep and seam.ratio is not None and number >= max(1, self._layout.clip_frames):
            self.worst.append(SeamPictures(seam, before, after))
            self.worst.sort(key=lambda kept: -(kept.seam.ratio or 0))
            del self.worst[self._keep :]


def _ratio(difference: float, inside: float) -> float | None:
    if max(difference, inside) < _STILL:
        return None
    return difference / max(inside, _STILL)
