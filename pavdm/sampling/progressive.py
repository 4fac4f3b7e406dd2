"""The progressive sampler: a loop that reads the schedule's table and carries the window from row to row.

It knows a velocity function, not a network, and draws no noise itself: both come from outside. Latents are
(B, C, T, H, W), fp32; the Euler step is z += v * dt with v = x0 - noise (arXiv 2410.08151, algorithm 1).

    state = start(schedule, ...)
    for state, chunk in sample(state, velocity):    # chunk (B, C, chunk_latents, H, W), clean
        ...                                         # decode, write, save the state
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import count
from typing import Any, Protocol

import torch
from torch import Tensor

from pavdm.errors import InputError
from pavdm.prompts import PromptSchedule
from pavdm.sampling.schedule import NUM_TIMESTEPS, Schedule
from pavdm.sampling.state import PromptSwitch, Texts, WindowState


class Velocity(Protocol):
    """velocity(latents (B, C, T, H, W), timesteps (B, T), texts) -> (B, C, T, H, W), for any window length T.

    texts: B tuples of T texts: what each latent frame reads. frame_mask, (B, T) bool: Open-Sora's own frame
    conditioning, used by the baseline only; frames where it is False are taken as clean.
    """

    def __call__(
        self, latents: Tensor, timesteps: Tensor, texts: Texts, frame_mask: Tensor | None = None
    ) -> Tensor: ...


# noise(chunk, shape) -> unit Gaussian noise (B, C, T, H, W) of the video's chunk number `chunk`
Noise = Callable[[int, tuple[int, ...]], Tensor]


@dataclass(frozen=True)
class Progress:
    """Reported after every model call: `call` of `calls` (None: no end in sight), working on chunk `chunk`."""

    call: int
    calls: int | None
    chunk: int


class Interrupted(Exception):
    """The caller asked to stop; `state` is where to go on from, None if nothing was begun."""

    def __init__(self, state: WindowState | None = None) -> None:
        super().__init__("sampling was interrupted")
        self.state = state


def seeded_noise(seeds: tuple[int, ...]) -> Noise:
    """Noise that belongs to (seed, chunk): the same however far a run came, on any device, in any batch."""

    def noise(chunk: int, shape: tuple[int, ...]) -> Tensor:
        return torch.stack([named_noise(f"{seed}/{chunk}", shape[1:]) for seed in seeds])

    return noise


def named_noise(name: str, shape: tuple[int, ...]) -> Tensor:
    """Unit Gaussian noise that only its name decides: drawn on the CPU, whatever ran before."""
    digest = hashlib.sha256(name.encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)
    return torch.randn(shape, generator=generator)


def posterior_noise(name: str) -> Callable[[tuple[int, ...]], Tensor]:
    """Noise for one encoding of a clip, draw by draw: only `name` and the number of the draw decide it."""
    draws = count()
    return lambda shape: named_noise(f"{name}/posterior/{next(draws)}", shape)


def start(
    schedule: Schedule,
    conditioning: Tensor | None = None,
    *,
    shape: tuple[int, int, int, int] | None = None,
    seeds: tuple[int, ...],
    prompts: tuple[PromptSchedule, ...],
    chunk_seconds: float,
    total: int | None = None,
    prompt_switch: PromptSwitch = "chunk",
    settings: Mapping[str, Any] | None = None,
    noise: Noise | None = None,
) -> WindowState:
    """The state before the first model call.

    conditioning: latents of the clip to go on from, (B, C, T, H, W), or None to start from text alone; then `shape`
        (B, C, H, W) says what to make. The last `schedule.chunk_latents` become the clean chunk if the schedule has
        overlapped conditioning. If the window does not grow (no variable length), or has no clean chunk to carry the
        clip, the chunks before (or at the end) are noised to their place in the ramp, as published for the full window.
    total: new chunks to make; None leaves the end open (see `finish`), as a schedule without variable length does.

    Raises InputError if the clip is too short for the schedule, or the batch sizes disagree.
    """
    if conditioning is None:
        if shape is None:
            raise InputError("a start without a clip needs the latent shape (B, C, H, W)")
        batch, channels, height, width = shape
        conditioning = torch.zeros(batch, channels, 0, height, width)
    batch = conditioning.shape[0]
    if not len(seeds) == len(prompts) == batch:
        raise InputError(f"batch of {batch}, but {len(seeds)} seeds and {len(prompts)} prompts")
    latents = conditioning.shape[2]
    warm = num_warm_chunks(schedule, latents)
    used = num_conditioning_latents(schedule, latents)
    if used > latents:
        raise InputError(f"this schedule starts from {used} latents of the clip, but only {latents} came")

    clip = conditioning[:, :, latents - used :].float()
    clean = clip[:, :, : schedule.chunk_latents] if schedule.overlap and latents else None
    state = WindowState(
        schedule=schedule,
        window=clip[:, :, used - warm * schedule.chunk_latents :],
        clean=clean,
        call=warm * schedule.calls_per_chunk,
        total=total + warm if total is not None and schedule.variable_length else None,
        first_chunk=-warm,
        seeds=seeds,
        prompts=prompts,
        chunk_seconds=chunk_seconds,
        prompt_switch=prompt_switch,
        settings=settings or {},
    )
    texts = [state.texts_for(chunk) for chunk in range(-warm, 0)]
    state = replace(
        state,
        window_texts=tuple(tuple(chunk[b] for chunk in texts) for b in range(batch)),
        clean_texts=None if clean is None else state.texts_for(-warm - 1),
    )
    return _noised_to_ramp(state, noise or seeded_noise(seeds)) if warm else state


def num_warm_chunks(schedule: Schedule, clip_latents: int) -> int:
    """How many chunks of a clip of `clip_latents` start in the window, noised to their place in the ramp."""
    full = schedule.window_chunks - 1
    if clip_latents == 0:
        return 0
    if not schedule.variable_length:
        return full
    return 0 if schedule.overlap else max(1, min(full, clip_latents // schedule.chunk_latents))


def num_conditioning_latents(schedule: Schedule, clip_latents: int) -> int:
    """How many latents of a clip of `clip_latents` the schedule starts from; more than it has if it is too short."""
    if clip_latents == 0:
        return 0
    return (num_warm_chunks(schedule, clip_latents) + schedule.overlap) * schedule.chunk_latents


def _noised_to_ramp(state: WindowState, noise: Noise) -> WindowState:
    schedule, n = state.schedule, state.schedule.chunk_latents
    row = schedule.row(state.call)
    assert row is not None
    chunks = []
    for i, level in enumerate(row.levels[: state.num_window_chunks]):
        x0 = state.window[:, :, i * n : (i + 1) * n]
        t = schedule.timesteps[level] / NUM_TIMESTEPS
        eps = noise(state.first_chunk + i, tuple(x0.shape)).to(x0)
        chunks.append((1 - t) * x0 + t * eps)
    return replace(state, window=torch.cat(chunks, dim=2))


def step(state: WindowState, velocity: Velocity, noise: Noise | None = None) -> tuple[WindowState, Tensor | None]:
    """One model call: the next state, and the chunk that became clean with it, (B, C, chunk_latents, H, W), if any.

    Raises InputError if the state has no row left.
    """
    row = state.row
    if row is None:
        raise InputError(f"the window is empty: all {state.total} chunks of this state are finished")
    state = _with_entering_chunks(state, len(row.levels), noise or seeded_noise(state.seeds))
    schedule, n = state.schedule, state.schedule.chunk_latents
    batch = state.window.shape[0]

    timesteps = schedule.row_timesteps(row).to(state.window.device)
    latents = state.window
    if state.clean is not None:
        latents = torch.cat([state.clean, latents], dim=2)
        timesteps = torch.cat([timesteps.new_zeros(n), timesteps])
    predicted = velocity(latents, timesteps.expand(batch, -1), _frame_texts(state))
    predicted = predicted[:, :, latents.shape[2] - state.window.shape[2] :].float()
    dt = schedule.row_step(row).to(state.window.device)
    window = state.window + predicted * dt[:, None, None]

    state = replace(state, window=window, call=state.call + 1)
    if not row.finishes:
        return state, None
    finished = window[:, :, :n].contiguous()
    return replace(
        state,
        window=window[:, :, n:].contiguous(),
        window_texts=tuple(texts[1:] for texts in state.window_texts),
        clean=finished if schedule.overlap else None,
        clean_texts=tuple(texts[0] for texts in state.window_texts) if schedule.overlap else None,
    ), finished


def _with_entering_chunks(state: WindowState, num_chunks: int, noise: Noise) -> WindowState:
    n = state.schedule.chunk_latents
    batch, channels, _, height, width = state.window.shape
    while state.num_window_chunks < num_chunks:
        chunk = state.next_chunk + state.num_window_chunks
        new = noise(chunk, (batch, channels, n, height, width)).to(state.window)
        texts = state.texts_for(chunk)
        state = replace(
            state,
            window=torch.cat([state.window, new], dim=2),
            window_texts=tuple((*state.window_texts[b], texts[b]) for b in range(batch)),
        )
    return state


def _frame_texts(state: WindowState) -> Texts:
    n = state.schedule.chunk_latents
    frames = []
    for b, chunks in enumerate(state.window_texts):
        if state.clean_texts is not None:
            chunks = (state.clean_texts[b], *chunks)
        if state.prompt_switch == "window":
            chunks = (chunks[-1],) * len(chunks)
        frames.append(tuple(text for text in chunks for _ in range(n)))
    return tuple(frames)


def sample(
    state: WindowState,
    velocity: Velocity,
    *,
    num_chunks: int | None = None,
    noise: Noise | None = None,
    progress: Callable[[Progress], None] | None = None,
    should_stop: Callable[[], bool] | None = None,
) -> Iterator[tuple[WindowState, Tensor]]:
    """Yield (state, finished chunk) until `num_chunks` came, or the state's own end.

    Lazy: between two chunks nothing runs, so the caller can decode, write and save. With an open end (`total` None)
    and no `num_chunks` it never ends. `progress` and `should_stop` are called around every model call; when
    `should_stop` answers True, Interrupted is raised with the state to go on from.

    Raises InputError for a chunk or a window with infinities or values that are no numbers: neither is handed on, so
    no state with them is ever kept.
    """
    calls = _last_call(state, num_chunks)
    yielded = 0
    while state.row is not None and (num_chunks is None or yielded < num_chunks):
        if should_stop is not None and should_stop():
            require_finite(state.window, state.next_chunk)
            raise Interrupted(state)
        chunk = state.next_chunk
        state, finished = step(state, velocity, noise)
        if progress is not None:
            progress(Progress(state.call, calls, chunk))
        if finished is not None:
            require_finite(finished, chunk)
            require_finite(state.window, chunk + 1)
            yielded += 1
            yield state, finished


def require_finite(latents: Tensor, chunk: int) -> None:
    """Raise InputError if latents of chunk number `chunk` and on hold infinities or values that are no numbers."""
    if not latents.isfinite().all():
        raise InputError(
            f"chunk {chunk} came out with values that are no numbers: the guidance scale is too large, the number "
            "format too narrow (take bf16 or fp32), or the weights are damaged"
        )


def _last_call(state: WindowState, num_chunks: int | None) -> int | None:
    ends = [] if state.total is None else [state.total]
    if num_chunks is not None:
        ends.append(state.next_chunk - state.first_chunk + num_chunks)
    return state.schedule.num_calls(min(ends)) if ends else None


def finish(state: WindowState) -> WindowState:
    """The same state with its end fixed: no further chunk enters, the window shrinks and all in it get clean."""
    row = state.schedule.row(state.call)
    assert row is not None
    return replace(state, total=row.first + state.num_window_chunks)
