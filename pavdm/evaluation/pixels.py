"""What one frame looks like, in numbers: light, colour, sharpness. Definitions are in `registry.SERIES`."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Frame = NDArray[np.uint8]  # (H, W, 3) RGB
Plane = NDArray[np.float32]  # (H, W)

_BT709 = np.array((0.2126, 0.7152, 0.0722), np.float32)
_CUT_OFF = 0.25  # cycles per pixel
THUMBNAIL = 16  # pixels a side, of what `Repetition` compares


def luma(frame: Frame) -> Plane:
    """(H, W, 3) uint8 -> (H, W) float32, 0 to 255."""
    return frame.astype(np.float32) @ _BT709


def colourfulness(frame: Frame) -> float:
    red, green, blue = np.moveaxis(frame.astype(np.float32), -1, 0)
    red_green, yellow_blue = red - green, (red + green) / 2 - blue
    spread = np.hypot(red_green.std(), yellow_blue.std())
    return float(spread + 0.3 * np.hypot(red_green.mean(), yellow_blue.mean()))


def saturation(frame: Frame) -> float:
    red, green, blue = np.moveaxis(frame, -1, 0)  # several times faster than max and min over the last axis
    most = np.maximum(np.maximum(red, green), blue).astype(np.float32)
    least = np.minimum(np.minimum(red, green), blue).astype(np.float32)
    return float(((most - least) / np.maximum(most, 1)).mean())


def sharpness(plane: Plane) -> float:
    centre = plane[1:-1, 1:-1]
    laplacian = plane[:-2, 1:-1] + plane[2:, 1:-1] + plane[1:-1, :-2] + plane[1:-1, 2:] - 4 * centre
    return float(laplacian.var())


def high_frequency(plane: Plane) -> float:
    """Share of power above the cut-off; 0 for a flat picture."""
    height, width = plane.shape
    window = np.hanning(height)[:, None] * np.hanning(width)
    power = np.abs(np.fft.rfft2((plane - plane.mean()) * window)) ** 2
    power[:, 1 : (width + 1) // 2] *= 2  # the half of the spectrum that rfft2 leaves out
    radius = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width))
    total = power.sum()
    # A flat picture leaves rounding errors only, which no ratio should be taken of.
    return float(power[radius > _CUT_OFF].sum() / total) if total > 1e-3 * plane.size else 0.0


def difference(before: Frame, frame: Frame) -> float:
    return float(np.abs(frame.astype(np.int16) - before).mean())


def thumbnail(frame: Frame) -> NDArray[np.float32]:
    """Means over a grid of 16 x 16 cells, (16, 16, 3) float32; smaller pictures have fewer cells."""
    rows, columns = (np.linspace(0, n, min(n, THUMBNAIL) + 1).astype(int) for n in frame.shape[:2])
    sums = np.add.reduceat(np.add.reduceat(frame.astype(np.float32), rows[:-1], axis=0), columns[:-1], axis=1)
    return sums / (np.diff(rows)[:, None, None] * np.diff(columns)[None, :, None])


def of_frame(frame: Frame, plane: Plane) -> dict[str, float]:
    """Every series of `registry.SERIES` that one frame decides; plane: its luma."""
    return {
        "luma": float(plane.mean()),
        "contrast": float(plane.std()),
        "colourfulness": colourfulness(frame),
        "saturation": saturation(frame),
        "sharpness": sharpness(plane),
        "high_frequency": high_frequency(plane),
    }
