"""The noise schedule as a table: the timestep of every chunk at every model call, known before any model runs.

A chunk enters the window as pure noise, moves one level down at every call and leaves, clean, after `steps` calls; a
new chunk enters every `steps / window_chunks` calls. The growing window, the steady window and the shrinking window of
PA-VDM (arXiv 2410.08151, sections 3.1 to 3.4) are the beginning, the middle and the end of that one rule. The published
code reaches the same numbers by three cases that hold only for 30 steps and a 35-latent window.

Timesteps are on the 0..1000 scale: 0 is clean, 1000 is pure noise.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from pavdm.errors import InputError

NUM_TIMESTEPS = 1000
BASE_PIXELS = 512 * 512


def timestep_shift(height: int, width: int, latent_frames: int) -> float:
    """Ratio r of Open-Sora's timestep transform t' = r t / (1 + (r - 1) t).

    `height` and `width` are in pixels, `latent_frames` counts the latents of the full window, the clean chunk
    included. r is fixed for the whole run, also while the window is shorter. Computed in fp32, as published.
    """
    space = (torch.tensor(float(height)) * torch.tensor(float(width)) / BASE_PIXELS).sqrt()
    time = torch.tensor(float(latent_frames)).sqrt()
    return float(space * time)


def warp(timesteps: Tensor, shift: float | Tensor) -> Tensor:
    """Timestep transform of `timesteps` (any shape, 0..1000) with ratio `shift`; 1.0 leaves them as they are."""
    t = timesteps / NUM_TIMESTEPS
    return shift * t / (1 + (shift - 1) * t) * NUM_TIMESTEPS


@dataclass(frozen=True)
class Row:
    """One model call: the noisy chunks in the window, front first, and their levels (0 clean .. steps noise)."""

    call: int
    first: int  # the table's number of the front chunk
    levels: tuple[int, ...]

    @property
    def chunks(self) -> range:
        return range(self.first, self.first + len(self.levels))

    @property
    def finishes(self) -> bool:
        """Whether this call makes the front chunk clean."""
        return self.levels[0] == 1


@dataclass(frozen=True)
class Schedule:
    """Progressive schedule. The defaults are the paper's for Open-Sora: 6 noisy chunks of 5 latents, 30 steps.

    overlap: overlapped conditioning (`keep_x0`): one clean chunk stays in front of the noisy ones.
    variable_length: the window grows at the start and shrinks at the end. Off: it starts full, with the clip's last
        chunks noised to their place in the ramp, and its end is never brought to rest (what is half done is dropped).
    shift: ratio of the timestep transform (`timestep_shift`), or None for evenly spaced timesteps.

    Raises InputError for values that no table exists for.
    """

    window_chunks: int = 6
    chunk_latents: int = 5
    steps: int = 30
    overlap: bool = True
    variable_length: bool = True
    shift: float | None = None

    def __post_init__(self) -> None:
        if self.window_chunks < 1 or self.chunk_latents < 1 or self.steps < 1:
            raise InputError(
                "window chunks, latents per chunk and steps must each be at least 1: got "
                f"{self.window_chunks}, {self.chunk_latents} and {self.steps}"
            )
        if self.steps % self.window_chunks:
            below = self.steps // self.window_chunks * self.window_chunks
            valid = [str(n) for n in (below, below + self.window_chunks) if n > 0]
            raise InputError(
                f"steps must be a multiple of the {self.window_chunks} noisy chunks in the window: got {self.steps}; "
                f"the nearest valid value is {' or '.join(valid)}"
            )
        if self.shift is not None and not self.shift > 0:
            raise InputError(f"the timestep shift must be above 0: got {self.shift}")

    @property
    def calls_per_chunk(self) -> int:
        """Model calls between two chunks that enter (the published `num_stages`)."""
        return self.steps // self.window_chunks

    @property
    def window_latents(self) -> int:
        """Latents of the full window, clean chunk included."""
        return (self.window_chunks + self.overlap) * self.chunk_latents

    @cached_property
    def timesteps(self) -> Tensor:
        """Timestep of every level, (steps + 1,) fp32, rising from 0 to 1000."""
        t = torch.linspace(0, 1, self.steps + 1) * NUM_TIMESTEPS
        return t if self.shift is None else warp(t, self.shift)

    def row(self, call: int, total: int | None = None) -> Row | None:
        """The table's row for model call `call`, if `total` chunks enter (None: no end); None past the last row."""
        newest = call // self.calls_per_chunk
        if total is not None:
            newest = min(newest, total - 1)
        oldest = max(0, (call - self.steps) // self.calls_per_chunk + 1)
        if oldest > newest:
            return None
        levels = tuple(self.steps - call + chunk * self.calls_per_chunk for chunk in range(oldest, newest + 1))
        return Row(call, oldest, levels)

    def rows(self, total: int) -> Iterator[Row]:
        """All rows until `total` chunks are clean."""
        for call in range(self.num_calls(total)):
            row = self.row(call, total)
            assert row is not None
            yield row

    def num_calls(self, total: int) -> int:
        """Model calls until `total` chunks are clean (0 for none)."""
        return 0 if total == 0 else (total - 1) * self.calls_per_chunk + self.steps

    def full_window_call(self) -> int:
        """The first call with a full window: where a run without variable length starts."""
        return (self.window_chunks - 1) * self.calls_per_chunk

    def row_timesteps(self, row: Row) -> Tensor:
        """Timesteps of the row's noisy latents, (latents,) fp32; the clean chunk, at 0, is not included."""
        return self.timesteps[list(row.levels)].repeat_interleave(self.chunk_latents)

    def row_step(self, row: Row) -> Tensor:
        """How far this call moves each noisy latent towards clean, (latents,) fp32 in 0..1: dt of the Euler step."""
        after = [level - 1 for level in row.levels]
        dt = self.timesteps[list(row.levels)] - self.timesteps[after]
        return (dt / NUM_TIMESTEPS).repeat_interleave(self.chunk_latents)
