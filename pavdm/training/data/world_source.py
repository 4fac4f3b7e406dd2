"""The procedural world as a source of clips: a numbered set for pre-computing, and batches without end."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pavdm.clip import PIECE_FRAMES
from pavdm.errors import InputError
from pavdm.training.chance import uniform
from pavdm.training.data.clip_list import Skipped
from pavdm.training.data.raw_clip import RawClip
from pavdm.training.world import HELD_OUT, check_clip
from pavdm.training.world_change import render_changing


@dataclass(frozen=True)
class WorldClips:
    """Clip i is that of seed `first_seed + i`. lengths: in frames; each clip has one of them, chosen by its seed.

    latest_start: clips begin at a moment from 0 to this many seconds into their scene. size: (height, width).
    changing: share of the clips in which something changes, and their caption with it; mending: of those that begin
    otherwise than their caption says (`world_change`).
    """

    count: int
    lengths: tuple[int, ...] = (119,)
    size: tuple[int, int] = (64, 96)
    fps: float = 24.0
    first_seed: int = 0
    latest_start: float = 0.0
    changing: float = 0.0
    mending: float = 0.0
    skipped: Sequence[Skipped] = ()

    def __post_init__(self) -> None:
        for length in self.lengths:
            check_clip(length, self.size, self.fps)
        if self.count < 1 or self.first_seed < 0:
            raise InputError(
                "the world gives at least 1 clip, of seeds from 0 on: got "
                f"{self.count} clips from seed {self.first_seed} on"
            )
        if self.first_seed < HELD_OUT < self.first_seed + self.count:
            raise InputError(
                f"seeds {self.first_seed} to {self.first_seed + self.count - 1} are of both kinds: below {HELD_OUT} "
                "for training, from there on held out"
            )
        if not 0 <= self.latest_start < 1e6:
            raise InputError(f"a clip starts 0 to 1,000,000 seconds into its scene: got {self.latest_start}")
        shares = self.changing, self.mending
        if not (all(share >= 0 for share in shares) and sum(shares) <= 1):
            raise InputError(
                "the shares of changing and mending clips are at least 0 and together at most 1: got "
                f"{self.changing} and {self.mending}"
            )

    @property
    def settings(self) -> Mapping[str, Any]:
        return {
            "kind": "world",
            "clips": self.count,
            "frames": list(self.lengths),
            "size": list(self.size),
            "fps": self.fps,
            "first seed": self.first_seed,
            "latest start": self.latest_start,
            "changing": self.changing,
            "mending": self.mending,
        }

    def name(self, number: int) -> str:
        return f"world/{self.first_seed + number}"

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, number: int) -> RawClip:
        seed = self.first_seed + number
        which, when = uniform(2, seed, 1)
        length = self.lengths[int(which * len(self.lengths))]
        return self.clip(seed, length, when)

    def clip(self, seed: int, num_frames: int, moment: float) -> RawClip:
        """The clip of a seed that begins at `moment` (0..1) of the seconds up to `latest_start`."""
        start = round(moment * self.latest_start * self.fps)
        shares = {"changing": self.changing, "mending": self.mending}
        clip = render_changing(seed, num_frames, self.size, self.fps, start=start, **shares)
        (_, caption), *changes = clip.captions
        return RawClip(clip.frames, caption, f"world/{seed}", self.fps, tuple(changes))


def piece_lengths(shortest: int, longest: int) -> tuple[int, ...]:
    """Lengths in frames from `shortest` to `longest`, in whole pieces of the VAE if they span several."""
    if shortest == longest:
        return (shortest,)
    lengths = tuple(n for n in range(shortest, longest + 1) if n % PIECE_FRAMES == 0)
    if not lengths:
        raise InputError(f"no multiple of {PIECE_FRAMES} frames lies between {shortest} and {longest}")
    return lengths
