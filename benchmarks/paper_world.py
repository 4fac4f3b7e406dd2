"""The procedural world as the table's data: clips that no training has seen, and how they truly go on."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import numpy as np

from pavdm.clip import PIECE_FRAMES
from pavdm.evaluation.drift import end_length
from pavdm.files import replacing, temporary_beside
from pavdm.settings import Settings
from pavdm.training import world_measure
from pavdm.training.world import HELD_OUT, draw, make_scene
from pavdm.video_writer import VideoWriter

CLIP_FRAMES = 119  # 35 latents: all methods get what the one with the longest beginning takes


def write_world(folder: Path, count: int, size: tuple[int, int], fps: float) -> Path:
    """Clips of the first `count` held-out scenes and the list that names them.

    They are written anew each time, so that a folder of videos that went on from another world's clips is noticed.
    """
    clips = folder / "clips"
    clips.mkdir(parents=True, exist_ok=True)
    lines = []
    for number in range(count):
        scene, path = make_scene(HELD_OUT + number, size[1] / size[0]), clips / f"world_{number:04d}.mp4"
        own = temporary_beside(path).with_suffix(".mp4")  # the other processes of the run write the same clips
        with VideoWriter(own, size, fps, crf=8) as writer:
            writer.write(draw(scene, CLIP_FRAMES, size, fps))
        own.replace(path)
        lines.append(f"{scene.caption}||clips/{path.name}")
    listed = folder / "world.txt"
    with replacing(listed) as temporary:
        temporary.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return listed


def world_frames(number: int, settings: Settings) -> Iterator[np.ndarray]:
    """The scene's own clip and continuation, frame by frame: what a perfect video would show."""
    size, fps = settings.size, settings.fps
    scene = make_scene(HELD_OUT + number, size[1] / size[0])
    count = CLIP_FRAMES + round((settings.seconds or 0) * fps)
    for first in range(0, count, PIECE_FRAMES):
        yield from draw(scene, min(PIECE_FRAMES, count - first), size, fps, first)


def write_pieces(path: Path, frames: Iterator[np.ndarray], settings: Settings) -> None:
    """A video as the engine writes it, a piece for every chunk."""
    with VideoWriter(path, settings.size, settings.fps) as writer:
        while piece := list(islice(frames, PIECE_FRAMES)):
            writer.write(np.stack(piece))


def colours_right(frames: Iterator[np.ndarray], number: int, settings: Settings) -> float:
    """Share of the last 15 % of frames whose shapes have exactly the colours of the scene's: none lost, none new."""
    scene = make_scene(HELD_OUT + number, settings.size[1] / settings.size[0])
    new = round((settings.seconds or 0) * settings.fps)
    first = CLIP_FRAMES + new - max(1, end_length(new))
    return world_measure.colours_right(np.stack(list(islice(frames, first, None))), scene)
