"""Clips of the world in which something changes, and their captions.

From changes half-way, and the caption with them, a prompt schedule is learned; from clips that begin otherwise than
their caption says, that what is lost or wrong in the clean chunk comes back as the prompt has it. Every change begins
with a piece of the VAE (17 frames), takes half a second, and stays. The caption of a piece is what is true at its end,
as the prompt of a chunk is the one in force when it enters the window; only a piece that is wrong has that of the next.
Such a piece is meant for the clean chunk of progressive windows, which the loss leaves out.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np

from pavdm.clip import PIECE_FRAMES
from pavdm.training.world import PALETTE, Array, Scene, draw, make_scene
from pavdm.training.world_drawing import SHAPES

FADE_SECONDS = 0.5
CHANGE_SALT = 0x5EED  # keeps the draws of a change apart from those of the scene with the same seed


@dataclass(frozen=True, eq=False)
class CaptionedFrames:
    """frames: uint8 (F, H, W, 3). captions: (first frame, caption) in order, the first from frame 0 on."""

    frames: Array
    captions: tuple[tuple[int, str], ...]


def render_changing(
    seed: int,
    num_frames: int,
    size: tuple[int, int] = (64, 96),
    fps: float = 24.0,
    *,
    changing: float = 0.25,
    mending: float = 0.0,
    start: int = 0,
) -> CaptionedFrames:
    """The clip that begins with frame `start` of the scene of `seed`, in which with probability `changing` something
    changes, and its caption with it: a shape takes another colour, or day becomes night, or night day.

    With probability `mending`, its first piece is not what its caption says: a shape is missing, or has another colour
    or form. With the second piece it becomes so. Equal arguments give equal pixels.
    """
    scene = make_scene(seed, size[1] / size[0])
    chance = np.random.Generator(np.random.PCG64([seed, CHANGE_SALT]))
    happens, where, what = chance.random(3)
    pieces = num_frames // PIECE_FRAMES
    before, after, first = scene, scene, num_frames
    if pieces > 1 and happens < changing:
        after, first = change(scene, what), PIECE_FRAMES * (1 + int(where * (pieces - 1)))
    elif pieces > 1 and happens >= 1 - mending:
        before, first = spoiled(scene, what), PIECE_FRAMES
    frames = draw(before, num_frames, size, fps, start)
    if first < num_frames:
        _fade(frames[first:], draw(after, num_frames - first, size, fps, start + first), fps)
    changes = () if after is scene else ((first, after.caption),)
    return CaptionedFrames(frames, ((0, scene.caption), *changes))


def change(scene: Scene, what: float) -> Scene:
    """`scene` with one thing changed; `what`, in 0..1, chooses: a third of the range goes to the light, if it is
    steady, the rest to the colours of the shapes."""
    if what < 1 / 3 and scene.light in ("day", "night"):
        return replace(scene, light="night" if scene.light == "day" else "day")
    taken = [body.colour for body in scene.bodies]
    free = [name for name in PALETTE if name not in taken]
    choice = int(what * 1e6) % (len(free) * len(taken))
    index, colour = choice % len(taken), free[choice // len(taken)]
    bodies = list(scene.bodies)
    bodies[index] = replace(bodies[index], colour=colour)
    return replace(scene, bodies=tuple(bodies))


def spoiled(scene: Scene, what: float) -> Scene:
    """`scene` with one shape wrong; `what`, in 0..1, chooses: half of the range leaves it out, a quarter gives it
    another colour, which may be that of another shape, and a quarter another form."""
    rest, index = divmod(int(what * 1e6), len(scene.bodies))
    rest, way = divmod(rest, 4)
    bodies = list(scene.bodies)
    body = bodies[index]
    if way == 0:
        bodies[index] = replace(body, colour=_other(PALETTE, body.colour, rest))
    elif way == 1:
        bodies[index] = replace(body, shape=_other(SHAPES, body.shape, rest))
    else:
        del bodies[index]
    return replace(scene, bodies=tuple(bodies))


def _other(names: Iterable[str], than: str, number: int) -> str:
    others = [name for name in names if name != than]
    return others[number % len(others)]


def _fade(frames: Array, new: Array, fps: float) -> None:
    """Make `frames`, in place, become `new` within FADE_SECONDS."""
    amount = np.clip((np.arange(1, len(new) + 1)) / (FADE_SECONDS * fps), 0, 1)[:, None, None, None]
    frames[:] = np.round(frames + amount * (new.astype(np.float32) - frames))
