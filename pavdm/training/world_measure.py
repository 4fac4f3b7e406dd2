"""What is to be seen in frames of the procedural world, rendered or generated: which of its colours, and how much.

A pixel belongs to the colour of the palette whose hue is nearest, if it is saturated at all. Day, dusk, night and
shading change brightness and little else, and backgrounds stay below the saturation that shapes have.
"""

from __future__ import annotations

import numpy as np

from pavdm.training.world import PALETTE, Scene

Array = np.ndarray

COLOURS = tuple(PALETTE)
MIN_SATURATION = 0.47
MIN_BRIGHTNESS = 24
MIN_SHARE = 0.0018  # of the picture: a quarter of what the smallest shape shows, half hidden


def colour_labels(frames: Array) -> Array:
    """Label every pixel of frames uint8 (..., H, W, 3) -> int8 (..., H, W): an index of COLOURS, -1 for background."""
    hue, saturated = _hue(frames)
    known, _ = _hue(np.array(list(PALETTE.values()), np.uint8))
    distance = np.abs(hue[..., None] - known)
    nearest = np.minimum(distance, 6 - distance).argmin(axis=-1)
    return np.where(saturated, nearest, -1).astype(np.int8)


def colour_areas(frames: Array) -> Array:
    """Share of the picture that each colour covers, frames uint8 (F, H, W, 3) -> (F, len(COLOURS)).

    Lines a pixel wide are left out: where two shapes meet, the blend of their colours is a third one.
    """
    labels = colour_labels(frames)
    padded = np.pad(labels, ((0, 0), (1, 1), (1, 1)), constant_values=-1)
    around = (padded[:, :-2, 1:-1], padded[:, 2:, 1:-1], padded[:, 1:-1, :-2], padded[:, 1:-1, 2:])
    solid = sum((neighbour == labels).astype(np.int8) for neighbour in around) >= 3
    return np.stack([((labels == index) & solid).mean(axis=(1, 2)) for index in range(len(COLOURS))], axis=1)


def visible_colours(frames: Array) -> list[tuple[str, ...]]:
    """Names of the colours in each frame. No two shapes of a scene share one, so this also counts the shapes."""
    return [
        tuple(name for name, area in zip(COLOURS, areas, strict=True) if area >= MIN_SHARE)
        for areas in colour_areas(frames)
    ]


def colours_right(frames: Array, scene: Scene) -> float:
    """Share of the frames uint8 (F, H, W, 3) that show exactly the colours of the scene's shapes: none lost, none new.

    No two shapes share a colour, so their number is right, too. Of the scene's own frames it is a little below 1, where
    one shape hides another.
    """
    wanted = {body.colour for body in scene.bodies}
    return sum(set(colours) == wanted for colours in visible_colours(frames)) / len(frames)


def _hue(pixels: Array) -> tuple[Array, Array]:
    """Hue (0 red, 2 green, 4 blue, 6 red again), and whether there is enough colour for it to mean something."""
    rgb = pixels.astype(np.float32)
    red, green, blue = rgb[..., 0], rgb[..., 1], rgb[..., 2]
    high, low = rgb.max(axis=-1), rgb.min(axis=-1)
    spread = np.maximum(high - low, 1e-6)
    hue = np.where(high == red, (green - blue) / spread, (blue - red) / spread + 2)
    hue = np.where((high == blue) & (high != red), (red - green) / spread + 4, hue) % 6
    return hue, (high - low > MIN_SATURATION * high) & (high > MIN_BRIGHTNESS)
