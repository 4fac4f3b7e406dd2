"""The procedural world: captioned clips of coloured shapes, without limit and without a download.

A seed decides a `Scene`: up to three shapes that move over a background, under a camera and a light, and the caption
that names all of it. Each shape has a part of the picture for itself, side by side, unless the caption says that one
passes behind another. Everything is a formula of time: a scene goes on for ever, a longer clip begins with the shorter
one, and nothing ever leaves the picture, so that colours and count can be measured on any frame (`world_measure`).

    frames, caption, scene = render(seed=7, num_frames=119)    # uint8 (119, 64, 96, 3), RGB

Lengths are in picture heights (x to the right, y down), times in seconds, angles in turns. Seeds below HELD_OUT are for
training; those from HELD_OUT on are never trained on, and measure and show what was learned.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TypeVar

import numpy as np

from pavdm.errors import InputError
from pavdm.training.world_drawing import SHAPES, draw_background, draw_bodies, light

Array = np.ndarray
T = TypeVar("T")

HELD_OUT = 1_000_000_000

# Strong colours belong to shapes alone, muted ones to backgrounds: their hues and saturations never meet. Five hues are
# far enough apart that a picture coded to latents and back, by night as by day, leaves no doubt which one it shows.
PALETTE: Mapping[str, tuple[int, int, int]] = {
    "red": (228, 46, 52),
    "yellow": (248, 214, 48),
    "green": (66, 178, 84),
    "blue": (50, 106, 226),
    "purple": (196, 72, 216),
}
MUTED: Mapping[str, tuple[int, int, int]] = {
    "cream": (240, 232, 214),
    "sand": (216, 202, 178),
    "mist": (204, 213, 219),
    "sage": (182, 194, 176),
    "rose": (216, 194, 192),
    "lilac": (198, 194, 212),
    "slate": (100, 106, 118),
    "charcoal": (62, 64, 70),
}
TURNING_SHAPES = ("square", "triangle", "star", "cross", "heart", "crescent")
SIZES = {"small": (0.18, 0.195), "": (0.215, 0.235), "large": (0.26, 0.28)}  # radius
SPEEDS = {"slowly ": 0.18, "": 0.28, "quickly ": 0.42}  # a chunk of 17 frames shows where things are going
BACKGROUNDS = ("plain", "gradient", "dots", "stripes", "checks", "hills")
TEXTURES = ("dots", "stripes", "checks")
MARGIN = 0.02
PEEPING = 0.7  # radii of the front shape that one which passes behind it lies above or below, so that it is always seen
NARROWEST = 0.5  # part of a picture that a shape can have for itself
MIN_CONTRAST = 80  # of the two colours of a background: difference of red + green + blue
TEXTURE_STRENGTH = 0.5  # how far a texture goes from its first colour to its second


@dataclass(frozen=True)
class Body:
    """One shape. `radius` is about that of the circle around it; `motion` is the verb of the caption.

    center, reach: middle of its path and how far it goes from there. rate: cycles per second in x and y, and the phase
    of both. turn: turns per second, clockwise.
    """

    shape: str
    colour: str
    size: str
    radius: float
    motion: str
    speed: str
    center: tuple[float, float]
    reach: tuple[float, float]
    rate: tuple[float, float]
    phase: tuple[float, float]
    turn: float = 0.0

    def positions(self, seconds: Array) -> Array:
        """Centre at each of the times (T,) -> (T, 2), x and y."""
        cycles = np.asarray(seconds)[:, None] * self.rate + self.phase  # (T, 2)
        if self.motion == "bouncing around":
            wave = _triangle(cycles)
        elif self.motion == "hopping":
            hop = 4 * (cycles[:, 1] % 1) * (1 - cycles[:, 1] % 1)  # a parabola from floor to floor
            wave = np.stack([_triangle(cycles[:, 0]), 1 - 2 * hop], axis=1)
        elif self.motion == "circling":
            wave = np.stack([np.cos(2 * np.pi * cycles[:, 0]), np.sin(2 * np.pi * cycles[:, 0])], axis=1)
        else:
            wave = np.sin(2 * np.pi * cycles)
        return np.asarray(self.center) + wave * self.reach

    def angles(self, seconds: Array) -> Array:
        """Turns at each of the times (T,) -> (T,)."""
        return np.asarray(seconds) * self.turn

    @property
    def phrase(self) -> str:
        """ "a small red star quickly turning in place"."""
        noun = " ".join(word for word in (self.size, self.colour, self.shape) if word)
        verb = self.motion
        if self.turn and verb != "turning in place":
            verb += " and turning"
        return f"{_article(noun)} {noun} {self.speed}{verb}"


@dataclass(frozen=True)
class Background:
    """kind: one of BACKGROUNDS; colours: names in MUTED. pan: heights a second that the camera moves to the right."""

    kind: str
    colours: tuple[str, ...]
    pan: float = 0.0
    offset: float = 0.0

    @property
    def phrase(self) -> str:
        first, second = self.colours[0], self.colours[-1]
        return {
            "plain": f"a plain {first} background",
            "gradient": f"a gradient from {first} to {second}",
            "dots": f"{second} dots on {first}",
            "stripes": f"{first} and {second} stripes",
            "checks": f"{first} and {second} checks",
            "hills": f"{second} hills under {_article(first)} {first} sky",
        }[self.kind]


@dataclass(frozen=True)
class Scene:
    """All that is to be seen. bodies: from back to front. light: "day", "night", "day to night" or "night to day";
    the last two turn within `turning_seconds` from the beginning, and stay. aspect: width over height."""

    seed: int
    aspect: float
    bodies: tuple[Body, ...]
    background: Background
    light: str = "day"
    turning_seconds: float = 6.0

    @property
    def caption(self) -> str:
        phrases = [body.phrase for body in reversed(self.bodies)]  # front to back
        text = phrases[0] if len(phrases) == 1 else f"{', '.join(phrases[:-1])} and {phrases[-1]}"
        text += f" over {self.background.phrase}"
        if self.background.pan:
            text += f", the camera pans {'right' if self.background.pan > 0 else 'left'}"
        text += {
            "day": "",
            "night": ", at night",
            "day to night": ", day turns to night",
            "night to day": ", night turns to day",
        }[self.light]
        return text[0].upper() + text[1:] + "."


def render(
    seed: int, num_frames: int = 119, size: tuple[int, int] = (64, 96), fps: float = 24.0
) -> tuple[Array, str, Scene]:
    """A clip of the world: frames uint8 (F, H, W, 3) RGB, its caption, and the scene it shows.

    size: (height, width) in pixels. Equal arguments give equal pixels. Raises InputError for sizes that show nothing.
    """
    check_clip(num_frames, size, fps)
    scene = make_scene(seed, size[1] / size[0])
    return draw(scene, num_frames, size, fps), scene.caption, scene


def check_clip(num_frames: int, size: tuple[int, int], fps: float) -> None:
    """Raise InputError for clips that show nothing."""
    height, width = size
    if num_frames < 1 or min(size) < 16 or not 0.75 <= width / height <= 4 or not 0 < fps <= 1000:
        raise InputError(
            "a clip of the world has at least 1 frame, at least 16 x 16 pixels, 0.75 to 4 times as wide as high, and a "
            f"frame rate above 0 and up to 1000: got {num_frames} frames of {height}x{width} at {fps} fps"
        )


def draw(scene: Scene, num_frames: int, size: tuple[int, int], fps: float = 24.0, first_frame: int = 0) -> Array:
    """Frames `first_frame` and on of a scene, uint8 (F, H, W, 3). `size` has the scene's aspect."""
    frames = np.empty((num_frames, *size, 3), np.uint8)
    background = scene.background
    muted = [np.array(MUTED[name], np.float32) for name in background.colours]
    if background.kind in TEXTURES:
        muted[1] = muted[0] + TEXTURE_STRENGTH * (muted[1] - muted[0])
    for start in range(0, num_frames, 32):  # bounds memory, and fits the processor's cache
        stop = min(start + 32, num_frames)
        seconds = (first_frame + np.arange(start, stop)) / fps
        shown = draw_background(background.kind, muted, background.offset + background.pan * seconds, size)
        paths = [
            (body.shape, body.radius, PALETTE[body.colour], body.positions(seconds), body.angles(seconds))
            for body in scene.bodies
        ]
        pixels = draw_bodies(shown, paths)
        if scene.light != "day":  # all 1
            pixels *= light(scene.light, seconds, scene.turning_seconds)[:, None, None]
        pixels += 0.5
        np.minimum(pixels, 255, out=frames[start:stop], casting="unsafe")
    return frames


def make_scene(seed: int, aspect: float = 1.5) -> Scene:
    """The scene that a seed stands for, in pictures `aspect` times as wide as high."""
    chance = _Chance(seed)
    count = min(chance.pick((1, 1, 2, 2, 2, 3)), max(1, int(aspect / NARROWEST)))
    colours = chance.shuffled(list(PALETTE))[:count]
    kinds = list(zip(chance.shuffled(list(SHAPES))[:count], colours, strict=True))
    if count == 2 and aspect >= 3 * NARROWEST and chance.below(0.4):
        back, front = (_make_body(chance, *names, (0, aspect)) for names in kinds)
        bodies = _passing_behind(chance, back, front, aspect)
    else:
        edges = [aspect * number / count for number in range(count + 1)]
        bodies = [_make_body(chance, *names, span) for names, span in zip(kinds, pairwise(edges), strict=True)]
    kind = chance.pick(BACKGROUNDS)
    muted = chance.shuffled(list(MUTED))
    contrasting = [name for name in muted[1:] if abs(sum(MUTED[name]) - sum(MUTED[muted[0]])) > MIN_CONTRAST]
    colours_used = muted[:1] if kind == "plain" else [muted[0], contrasting[0]]
    pan = 0.0
    if kind not in ("plain", "gradient") and chance.below(0.5):
        pan = chance.pick((-1, 1)) * chance.between(0.06, 0.15)
    background = Background(kind, tuple(colours_used), pan, chance.between(0, 10))
    light = chance.pick(("day", "day", "day", "day", "night", "night", "day to night", "night to day"))
    return Scene(seed, aspect, tuple(bodies), background, light, chance.between(7, 10))


def _make_body(chance: _Chance, shape: str, colour: str, span: tuple[float, float]) -> Body:
    """span: the part of the picture that is the body's own, from x to x. Where that is narrow, the body is small and
    goes up and down."""
    width = span[1] - span[0]
    wide = width > 1.3 * NARROWEST
    size = chance.pick(("small", "", "", "large")) if wide else "small"
    radius = chance.between(*SIZES[size])
    motions = ["floating up and down", "hopping"]
    if wide:
        motions += ["bouncing around", "sliding from side to side", "circling"]
    if shape in TURNING_SHAPES:
        motions.append("turning in place")
    motion, speed = chance.pick(motions), chance.pick(tuple(SPEEDS))
    pace = SPEEDS[speed] * chance.between(0.9, 1.1)
    edge = radius + MARGIN
    low, high = np.array([span[0] + edge, edge]), np.array([span[1] - edge, 1 - edge])
    middle, room = (low + high) / 2, (high - low) / 2
    way = np.maximum(room, 0.12)  # a short one is not run to and fro in no time
    place = low + (high - low) * [chance.between(0, 1), chance.between(0, 1)]
    center, reach, rate = place, np.zeros(2), np.zeros(2)
    if motion == "bouncing around":
        center, reach = middle, room
        heading = chance.between(0.1, 0.2) * 2 * np.pi
        rate = 0.45 * pace * np.array([np.cos(heading), np.sin(heading)]) / (4 * way)
    elif motion == "hopping":
        reach = np.array([room[0], chance.between(0.5, 0.9) * room[1]])
        center = np.array([middle[0], high[1] - reach[1]])
        rate = pace * np.array([0.2 / (4 * way[0]), 0.75])
    elif motion == "circling":
        reach = np.full(2, chance.between(0.7, 1) * min(room))
        center = middle + (room - reach) * [chance.between(-1, 1), chance.between(-1, 1)]
        rate = 0.25 * pace * chance.pick((-1, 1)) * np.ones(2)
    elif motion == "sliding from side to side":
        center, reach = np.array([middle[0], place[1]]), np.array([room[0], 0.0])
        rate = np.array([0.24 * pace / width, 0.0])
    elif motion == "floating up and down":
        center, reach, rate = np.array([place[0], middle[1]]), np.array([0.0, room[1]]), np.array([0.0, 0.22 * pace])
    turns = motion == "turning in place" or (shape in TURNING_SHAPES and chance.below(0.3))
    return Body(
        shape=shape,
        colour=colour,
        size=size,
        radius=radius,
        motion=motion,
        speed=speed,
        center=(float(center[0]), float(center[1])),
        reach=(float(reach[0]), float(reach[1])),
        rate=(float(rate[0]), float(rate[1])),
        phase=(chance.between(0, 1), chance.between(0, 1)),
        turn=0.3 * pace * chance.pick((-1, 1)) if turns else 0.0,
    )


def _passing_behind(chance: _Chance, back: Body, front: Body, aspect: float) -> list[Body]:
    """The same two: the front one stays, or turns, and the other slides from side to side behind it, and nearly always
    comes clear. Large shapes would not: they are made smaller.
    """
    back, front = (
        replace(body, size="", radius=0.8 * body.radius) if body.size == "large" else body for body in (back, front)
    )
    edge = max(back.radius, front.radius) + MARGIN
    y = chance.between(edge, 1 - edge)
    above_or_below = PEEPING * front.radius * (1 if y < 0.5 else -1)
    x = aspect * chance.between(0.45, 0.55)
    pace = SPEEDS[back.speed] * chance.between(0.9, 1.1)
    reach = min(x, aspect - x) - back.radius - MARGIN
    turns = front.shape in TURNING_SHAPES
    speed = front.speed if turns else ""
    turn = 0.3 * SPEEDS[speed] * chance.pick((-1, 1)) if turns else 0.0
    rate = (0.16 * pace * 1.5 / aspect, 0.0)
    still, moving = (0.0, 0.0), (reach, 0.0)
    return [
        replace(back, motion="passing behind it", center=(x, y + above_or_below), reach=moving, rate=rate),
        replace(
            front,
            motion="turning in place" if turns else "staying in place",
            speed=speed,
            turn=turn,
            center=(x, y),
            reach=still,
            rate=still,
        ),
    ]


def _triangle(cycles: Array) -> Array:
    """A wave of straight lines between -1 and 1."""
    return 1 - 4 * np.abs(cycles % 1 - 0.5)


def _article(noun: str) -> str:
    return "an" if noun[0] in "aeiou" else "a"


class _Chance:
    """Draws from a seed. Only uniform numbers are asked of numpy: their stream is the most settled part of it."""

    def __init__(self, seed: int) -> None:
        self._generator = np.random.Generator(np.random.PCG64(seed))

    def between(self, low: float, high: float) -> float:
        return low + (high - low) * self._generator.random()

    def below(self, probability: float) -> bool:
        return self._generator.random() < probability

    def pick(self, choices: Sequence[T]) -> T:
        return choices[int(self._generator.random() * len(choices))]

    def shuffled(self, items: list[T]) -> list[T]:
        return [items[i] for i in np.argsort(self._generator.random(len(items)), kind="stable")]
