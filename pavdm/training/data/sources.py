"""What a training run reads, chosen by what `--data` names: the world, video files, or pre-computed clips."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from pavdm.buckets import parse_size
from pavdm.errors import InputError
from pavdm.training.data.coding import Coder, Coding, EncodedSource
from pavdm.training.data.dataset import Bucket
from pavdm.training.data.latent_shards import INDEX, SETTINGS
from pavdm.training.data.latent_source import LatentSource
from pavdm.training.data.pixel_source import FileClips, FileSource, PixelSource, WorldSource
from pavdm.training.data.raw_clip import RawClips
from pavdm.training.data.source import Source
from pavdm.training.data.world_source import WorldClips, piece_lengths
from pavdm.training.world import HELD_OUT

WORLD = "world"


@dataclass(frozen=True)
class Data:
    """Which clips, and in which form. name: "world", a .csv or .jsonl list, a folder of clips, or one of latents.

    frames: shortest and longest clip, in frames at `fps`. size: (height, width). buckets: of files, as typed
    (`parse_bucket`); without, clips of `size` and `frames` are made. clips, first_seed, latest_start, changing,
    mending: of the world, see `WorldClips`; without `clips` every seed for training, or held-out one, from `first_seed`
    on. Raises InputError if there is nothing of that name.
    """

    name: str
    frames: tuple[int, int] = (119, 119)
    size: tuple[int, int] | None = None
    fps: float = 24.0
    buckets: Sequence[str] = ()
    clips: int | None = None
    first_seed: int = 0
    latest_start: float = 0.0
    changing: float = 0.0
    mending: float = 0.0

    def __post_init__(self) -> None:
        if self.name != WORLD and not Path(self.name).exists():
            raise InputError(
                f"there is nothing at {self.name}: name a .csv or .jsonl list, a folder of clips, or one of "
                f"pre-computed clips, or say {WORLD}"
            )

    @property
    def is_latents(self) -> bool:
        return any((Path(self.name) / file).is_file() for file in (INDEX, SETTINGS))


def raw_clips(data: Data) -> RawClips:
    """Clips by number, for pre-computing."""
    if data.is_latents:
        raise InputError(f"{data.name} holds pre-computed clips already")
    if data.name != WORLD:
        return FileClips(_files(data, 1, 0))
    if data.clips is None:
        raise InputError("the world has no end: say how many --clips")
    return world_clips(data)


def pixel_source(data: Data, batch_size: int, seed: int) -> PixelSource:
    """Batches of pixels: to train a VAE."""
    if data.is_latents:
        raise InputError(f"{data.name} holds pre-computed latents, and this training needs the clips themselves")
    if data.name == WORLD:
        return WorldSource(world_clips(data), batch_size, seed)
    return _files(data, batch_size, seed)


def clip_source(data: Data, batch_size: int, seed: int, coding: Coding, load: Callable[[], Coder]) -> Source:
    """Batches of latents and text embeddings: to train the video transformer. load: called if clips are to be coded."""
    if data.is_latents:
        return LatentSource(Path(data.name), batch_size, seed)
    return EncodedSource(pixel_source(data, batch_size, seed), load(), coding)


def world_clips(data: Data) -> WorldClips:
    """Clips of the procedural world. Raises InputError for what it does not render."""
    if data.buckets:
        raise InputError("the world is rendered at any size: give --size and --frames, and leave --bucket out")
    end = HELD_OUT if data.first_seed < HELD_OUT else 2 * HELD_OUT
    count = end - data.first_seed if data.clips is None else data.clips
    lengths = piece_lengths(*data.frames)
    return WorldClips(
        count,
        lengths,
        data.size or (64, 96),
        data.fps,
        data.first_seed,
        data.latest_start,
        data.changing,
        data.mending,
    )


def _files(data: Data, batch_size: int, seed: int) -> FileSource:
    if data.clips is not None or data.first_seed or data.latest_start or data.changing or data.mending:
        raise InputError(
            f"--clips, --first-seed, --latest-start, --changing and --mending belong to the world, not to {data.name}"
        )
    if data.buckets and data.size:
        raise InputError("give either --bucket or --size and --frames")
    if data.buckets:
        buckets = [parse_bucket(text, batch_size) for text in data.buckets]
    elif data.size:
        name = f"{data.size[0]}x{data.size[1]}"
        buckets = [Bucket(name, frames, batch_size) for frames in piece_lengths(*data.frames)]
    else:
        raise InputError(
            f"say in which form the clips of {data.name} are wanted: --bucket 240p:51 (and more of them; :1 takes "
            "images), or --size HxW and --frames N"
        )
    return FileSource(data.name, buckets, data.fps, seed)


def parse_bucket(text: str, batch_size: int) -> Bucket:
    """ "240p:51" or "64x96:119:4": resolution, frames, clips of a batch (default `batch_size`).

    Raises InputError for another form.
    """
    resolution, *numbers = text.split(":")
    if not 1 <= len(numbers) <= 2 or not all(number.isdigit() for number in numbers):
        raise InputError(f"a bucket is RESOLUTION:FRAMES or RESOLUTION:FRAMES:BATCH, such as 240p:51:4: got {text!r}")
    if "x" in resolution:
        parse_size(resolution)
    return Bucket(resolution, int(numbers[0]), int(numbers[1]) if numbers[1:] else batch_size)
