"""Pixels of the procedural world: antialiased shapes from signed distances, backgrounds, light. numpy alone.

A signed distance says how far a point lies outside a shape (inside: below 0); one pixel's width of it, faded, is an
antialiased edge. Shapes are drawn in a patch around them only. Lengths are in picture heights, y points down.
Pixels are fp32 in 0..255.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

Array = np.ndarray
Path = tuple[str, float, tuple[int, int, int], Array, Array]

SHADOW_OFFSET = (0.018, 0.03)  # x, y
SHADOW_SOFTNESS = 0.035
SHADOW_STRENGTH = 0.34

DUSK = (0.84, 0.73, 0.68)
NIGHT = (0.58, 0.63, 0.72)


def _polygon(x: Array, y: Array, corners: int, outer: float, inner: float, rounding: float) -> Array:
    """A star of `corners` points, one of them up, between two radii; with inner = outer * cos(pi / n) a polygon.

    All edges are mirror images: fold the plane into half a corner's wedge and measure to one edge.
    """
    outer, inner = outer - rounding, inner * (1 - rounding / outer)
    wedge = np.pi / corners
    angle = np.arctan2(x, -y)  # 0 is up
    angle = np.abs((angle + wedge) % (2 * wedge) - wedge)
    length = np.hypot(x, y)
    px, py = length * np.cos(angle), length * np.sin(angle)
    ex, ey = inner * np.cos(wedge) - outer, inner * np.sin(wedge)  # from the corner (outer, 0) to the notch
    qx, qy = px - outer, py
    along = np.clip((qx * ex + qy * ey) / (ex * ex + ey * ey), 0, 1)
    distance = np.hypot(qx - along * ex, qy - along * ey)
    outside = qx * ey - qy * ex > 0
    return np.where(outside, distance, -distance) - rounding


def _box(x: Array, y: Array, half_width: float, half_height: float) -> Array:
    dx, dy = np.abs(x) - half_width, np.abs(y) - half_height
    return np.hypot(np.maximum(dx, 0), np.maximum(dy, 0)) + np.minimum(np.maximum(dx, dy), 0)


def _circle(x: Array, y: Array) -> Array:
    return np.hypot(x, y) - 0.94


def _square(x: Array, y: Array) -> Array:
    return _box(x, y, 0.64, 0.64) - 0.14


def _triangle(x: Array, y: Array) -> Array:
    return _polygon(x, y, 3, 1.04, 0.52, 0.1)


def _star(x: Array, y: Array) -> Array:
    return _polygon(x, y, 5, 1.08, 0.52, 0.07)


def _ring(x: Array, y: Array) -> Array:
    return np.abs(np.hypot(x, y) - 0.66) - 0.29


def _cross(x: Array, y: Array) -> Array:
    return np.minimum(_box(x, y, 0.88, 0.22), _box(x, y, 0.22, 0.88)) - 0.08


def _heart(x: Array, y: Array) -> Array:
    """A square on its corner, and a circle on each of its upper sides."""
    half = 0.49
    y = y + 0.08
    u, v = (x + y) * np.sqrt(0.5), (x - y) * np.sqrt(0.5)  # along the square's sides
    lower = _box(u - 0.12, v + 0.12, half, half)
    return np.minimum(
        lower, np.minimum(np.hypot(u - 0.12, v - half + 0.12), np.hypot(u + half - 0.12, v + 0.12)) - half
    )


def _crescent(x: Array, y: Array) -> Array:
    x = x + 0.1
    return np.maximum(np.hypot(x, y) - 0.94, 0.72 - np.hypot(x - 0.46, y + 0.16))


# Signed distance at (x, y) of the shape with radius 1.
SHAPES: Mapping[str, Callable[[Array, Array], Array]] = {
    "circle": _circle,
    "square": _square,
    "triangle": _triangle,
    "star": _star,
    "ring": _ring,
    "cross": _cross,
    "heart": _heart,
    "crescent": _crescent,
}


def draw_bodies(background: Array, bodies: Sequence[Path]) -> Array:
    """Draw bodies, back to front, over (T, H, W, 3) -> a new array of that shape.

    Each body: name in SHAPES, radius, RGB, centres (T, 2) as x and y, and angles (T,) in turns.
    """
    num_frames, height, width = background.shape[:3]
    patches = [_patch(body, height) for body in bodies]
    margin = 0  # as far as patches stick out of the picture; those that lie outside need no room
    for corners, mask, _, _ in patches:
        side = mask.shape[1]
        beyond = max(-corners.min(), (corners + side - (width, height)).max())
        margin = max(margin, min(int(beyond), side))
    canvas = np.zeros((num_frames, height + 2 * margin, width + 2 * margin, 3), np.float32)
    inner = canvas[:, margin : margin + height, margin : margin + width]
    inner[:] = background
    for corners, mask, shadow, colour in patches:
        side = mask.shape[1]
        shadow, mask = shadow[..., None], mask[..., None]
        for frame, (left, top) in enumerate((corners + margin).tolist()):
            if not (0 <= left <= canvas.shape[2] - side and 0 <= top <= canvas.shape[1] - side):
                continue  # far outside the picture
            region = canvas[frame, top : top + side, left : left + side]
            region *= shadow[frame]
            covering = colour[frame]
            covering -= region
            covering *= mask[frame]
            region += covering
    return inner


def _patch(body: Path, height: int) -> tuple[Array, Array, Array, Array]:
    """Upper left pixel (T, 2) as x and y, coverage (T, P, P), shadow factor (T, P, P), colour (T, P, P, 3)."""
    shape, radius, rgb, centers, angles = body
    reach = radius * 1.1 + max(SHADOW_OFFSET) + SHADOW_SOFTNESS
    side = 2 * int(np.ceil(reach * height)) + 2
    corners = np.floor(centers * height).astype(int) - side // 2  # (T, 2)
    grid = np.arange(side) + 0.5
    x = ((corners[:, :1] + grid) / height - centers[:, :1]).astype(np.float32)[:, None, :]  # (T, 1, P)
    y = ((corners[:, 1:] + grid) / height - centers[:, 1:]).astype(np.float32)[:, :, None]  # (T, P, 1)

    def distance(x: Array, y: Array) -> Array:
        cosine, sine = (f(2 * np.pi * angles).astype(np.float32)[:, None, None] for f in (np.cos, np.sin))
        u, v = (x * cosine + y * sine) / radius, (y * cosine - x * sine) / radius
        return SHAPES[shape](u, v) * radius

    outside = distance(x, y)
    mask = np.clip(0.5 - outside * height, 0, 1)
    depth = distance(x - SHADOW_OFFSET[0], y - SHADOW_OFFSET[1]) / SHADOW_SOFTNESS
    shadow = 1 - SHADOW_STRENGTH * _smooth(0.5 - 0.5 * depth)
    rim = _smooth(1 + outside / (0.3 * radius))  # 0 inside, 1 at the edge
    shade = 1.02 - 0.16 * (0.5 * x + y) / radius - 0.1 * rim
    colour = np.minimum(shade[..., None] * np.array(rgb, np.float32), 255)
    return corners, mask, shadow, colour


def draw_background(kind: str, colours: Sequence[Array], offsets: Array, size: tuple[int, int]) -> Array:
    """Background (T, H, W, 3) for a camera moved right by `offsets` (T,); `kind` is one of `world.BACKGROUNDS`."""
    height, width = size
    num_frames = len(offsets)
    offsets = offsets if np.ptp(offsets) else offsets[:1]
    x = ((np.arange(width) + 0.5) / height).astype(np.float32)[None, None, :]  # (1, 1, W)
    y = ((np.arange(height) + 0.5) / height).astype(np.float32)[None, :, None]  # (1, H, 1)
    moved = (x + offsets[:, None, None]).astype(np.float32)  # (T, 1, W)
    first, second = colours[0], colours[-1]
    vignette = 1.03 - 0.07 * ((x / (width / height) - 0.5) ** 2 + (y - 0.5) ** 2) * 2
    if kind == "plain":
        pixels = first * np.ones_like(x + y)[..., None]
    elif kind == "gradient":
        pixels = first + (second - first) * _smooth(y + 0 * x)[..., None]
    elif kind == "hills":
        pixels = _hills(moved, x, y, height, first, second)
    else:
        amount = {"dots": _dots, "stripes": _stripes, "checks": _checks}[kind](moved, y, height)
        pixels = first + (second - first) * amount[..., None]
    pixels = pixels * vignette[..., None]
    return np.broadcast_to(pixels, (num_frames, height, width, 3))


def _dots(x: Array, y: Array, height: int) -> Array:
    step, radius = 0.2, 0.05
    row = np.floor(y / step)
    u = (x / step + 0.5 * (row % 2)) % 1 - 0.5
    v = (y / step) % 1 - 0.5
    return np.clip(0.5 - (np.hypot(u, v) * step - radius) * height, 0, 1)


def _stripes(x: Array, y: Array, height: int) -> Array:
    step = 0.28
    across = ((x + 0.5 * y) / step) % 1
    return np.clip(0.5 + (0.25 - np.abs(across - 0.5)) * step * height * 0.9, 0, 1)


def _checks(x: Array, y: Array, height: int) -> Array:
    step = 0.4
    waves = [np.clip((0.25 - np.abs((z / step) % 1 - 0.5)) * step * height, -0.5, 0.5) for z in (x, y)]
    return 0.5 + 2 * waves[0] * waves[1]


def _hills(moved: Array, x: Array, y: Array, height: int, sky: Array, ground: Array) -> Array:
    """Three ridges, the nearer the lower, the darker and the faster past the camera."""
    pixels = sky * (1.02 - 0.1 * y + 0 * x)[..., None]
    pixels = np.broadcast_to(pixels, (len(moved), *pixels.shape[1:])).astype(np.float32)
    for layer, speed in enumerate((0.3, 0.6, 1.0)):
        along = (moved - x) * speed + x + 3.1 * layer
        ridge = 0.5 + 0.15 * layer - 0.07 * np.sin(3.3 * along) - 0.035 * np.sin(7.1 * along + layer)  # (T, 1, W)
        share = (0.35, 0.65, 0.95)[layer]
        colour = sky + (ground - sky) * share
        coverage = np.clip(0.5 + (y - ridge) * height, 0, 1)[..., None]
        pixels = pixels + (colour * (1.0 - 0.05 * layer) - pixels) * coverage
    return pixels


def light(kind: str, seconds: Array, turning_seconds: float) -> Array:
    """Factors on red, green and blue at each of the times (T,) -> (T, 3) fp32; see `world.Scene`."""
    turned = 0.5 - 0.5 * np.cos(np.pi * np.clip(seconds / turning_seconds, 0, 1))  # 0 to 1
    brightness = {
        "day": np.ones_like(seconds),
        "night": np.zeros_like(seconds),
        "day to night": 1 - turned,
        "night to day": turned,
    }[kind]
    stops = np.array([NIGHT, DUSK, (1.0, 1.0, 1.0)])
    channels = [np.interp(brightness, (0.0, 0.5, 1.0), stops[:, channel]) for channel in range(3)]
    return np.stack(channels, axis=1).astype(np.float32)


def _smooth(values: Array) -> Array:
    """0 below 0, 1 above 1, and smoothly between."""
    values = np.clip(values, 0, 1)
    return values * values * (3 - 2 * values)
