"""Clips of the procedural world as video files with their captions beside, as `--data FOLDER` reads them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from pavdm.errors import InputError
from pavdm.files import replacing
from pavdm.training.world import check_clip, draw, make_scene
from pavdm.video_writer import VideoWriter

MAX_SECONDS = 24 * 3600
SECTION = 240  # frames that are rendered at a time


def write_clips(
    folder: Path,
    count: int,
    seconds: float,
    size: tuple[int, int] = (64, 96),
    fps: float = 24.0,
    first_seed: int = 0,
    overwrite: bool = False,
) -> Iterator[tuple[Path, str]]:
    """Write world-SEED.mp4 and world-SEED.txt for `count` seeds from `first_seed` on; yields path and caption of each.

    size: (height, width) in pixels, both even. Raises InputError for what cannot be rendered or written.
    """
    if not 0 <= seconds <= MAX_SECONDS:
        raise InputError(f"clips of the world last up to {MAX_SECONDS} seconds: got {seconds}")
    check_clip(1, size, fps)
    num_frames = round(seconds * fps)
    check_clip(num_frames, size, fps)
    if count < 1 or first_seed < 0:
        raise InputError(f"expected at least 1 clip, of seeds from 0 on: got {count} from seed {first_seed} on")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"the folder {folder} cannot be made: {error.strerror or error}") from error
    for seed in range(first_seed, first_seed + count):
        scene = make_scene(seed, size[1] / size[0])
        path = folder / f"world-{seed:09d}.mp4"
        with VideoWriter(path, size, fps, {"comment": scene.caption}, overwrite=overwrite) as writer:
            with replacing(path.with_suffix(".txt")) as temporary:
                temporary.write_text(scene.caption + "\n", "utf-8")
            for first in range(0, num_frames, SECTION):
                writer.write(draw(scene, min(SECTION, num_frames - first), size, fps, first))
        yield path, scene.caption
