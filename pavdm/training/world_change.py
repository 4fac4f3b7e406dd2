"""Clips of the world in which something changes half-way, and their captions: what a prompt schedule is learned from.

A change begins with a piece of the VAE (17 frames), takes half a second, and stays. The caption of a piece is what is
true at its end, as the prompt of a chunk is the one in force when the chunk enters the window.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from pavdm.clip import PIECE_FRAMES
from pavdm.training.world import PALETTE, Array, Scene, draw, make_scene

FADE_SECONDS = 0.5
CHANGE_SALT = 0x5EED  # keeps the draws of a change apart from those of the scene with the same seed


@dataclass(frozen=True, eq=False)
class CaptionedFrames:
    """frames: uint8 (F, H, W, 3). captions: (first frame, caption) in order, the first from frame 0 on."""

    frames: Array
    captions: tuple[tuple[int, str], ...]


def render_changing(
    seed: int, num_frames: int, size: tuple[int, int] = (64, 96), fps: float = 24.0, *, share: float = 0.25
) -> CaptionedFrames:
    """The clip of `render(seed, ...)`, in which with probability `share` something changes.

    A shape takes another colour, or day becomes night, or night day. Equal arguments give equal pixels.
    """
    scene = make_scene(seed, size[1] / size[0])
    before = draw(scene, num_frames, size, fps)
    chance = np.random.Generator(np.random.PCG64([seed, CHANGE_SALT]))
    happens, where, what = chance.random(3)
    pieces = num_frames // PIECE_FRAMES
    if happens >= share or pieces < 2:
        return CaptionedFrames(before, ((0, scene.caption),))
    first = PIECE_FRAMES * (1 + int(where * (pieces - 1)))
    changed = change(scene, what)
    after = draw(changed, num_frames - first, size, fps, first_frame=first)
    amount = np.clip((np.arange(1, num_frames - first + 1)) / (FADE_SECONDS * fps), 0, 1)[:, None, None, None]
    faded = before[first:] + amount * (after.astype(np.float32) - before[first:])
    frames = np.concatenate([before[:first], np.round(faded).astype(np.uint8)])
    return CaptionedFrames(frames, ((0, scene.caption), (first, changed.caption)))


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
