"""How much moves between two frames, and what that motion leaves unexplained: dense optical flow by OpenCV."""

from __future__ import annotations

from types import ModuleType

import numpy as np
from numpy.typing import NDArray

from pavdm.evaluation.pixels import Plane

_LONGEST_SHORT_SIDE = 240  # pixels; the flow of larger pictures is taken on smaller copies
_FASTEST = 0.05  # share of pixels
STATIC_BELOW = 2.0  # % of the shorter side per second, of the fastest 5 %


def opencv() -> ModuleType | None:
    """OpenCV, or None where it is not installed."""
    try:
        import cv2
    except ImportError:
        return None
    return cv2


class Motion:
    """Compares every frame with the one before it. Holds one small luma picture."""

    def __init__(self, cv2: ModuleType, fps: float) -> None:
        self._cv2 = cv2
        self._fps = fps
        self._before: NDArray[np.uint8] | None = None

    def next(self, plane: Plane) -> dict[str, float]:
        """Motion, fast motion and warp error (see `registry.SERIES`) of luma (H, W) against the luma before it.

        Nothing for the first frame.
        """
        small = self._shrunk(plane)
        before, self._before = self._before, small
        if before is None:
            return {}
        flow = self._cv2.calcOpticalFlowFarneback(before, small, None, 0.5, 3, 15, 3, 5, 1.2, 0)
        length = np.hypot(flow[..., 0], flow[..., 1])
        fastest = max(1, round(length.size * _FASTEST))
        per_second = 100 * self._fps / min(small.shape)
        return {
            "motion": float(length.mean()) * per_second,
            "fast_motion": float(np.partition(length, -fastest, axis=None)[-fastest:].mean()) * per_second,
            "warp_error": self._unexplained(before, small, flow),
        }

    def _unexplained(self, before: NDArray[np.uint8], after: NDArray[np.uint8], flow: NDArray[np.float32]) -> float:
        height, width = before.shape
        x = flow[..., 0] + np.arange(width, dtype=np.float32)
        y = flow[..., 1] + np.arange(height, dtype=np.float32)[:, None]
        moved = self._cv2.remap(after, x, y, self._cv2.INTER_LINEAR, borderMode=self._cv2.BORDER_REPLICATE)
        inside = (x >= 0) & (x <= width - 1) & (y >= 0) & (y <= height - 1)
        error = np.abs(moved.astype(np.float32) - before)
        return float(error[inside].mean()) if inside.any() else float(error.mean())

    def _shrunk(self, plane: Plane) -> NDArray[np.uint8]:
        height, width = plane.shape
        scale = _LONGEST_SHORT_SIDE / min(height, width)
        if scale < 1:
            size = (round(width * scale), round(height * scale))
            plane = self._cv2.resize(plane, size, interpolation=self._cv2.INTER_AREA)
        return plane.round().clip(0, 255).astype(np.uint8)
