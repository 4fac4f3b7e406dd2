"""A whole video in one go: latents whose beginning is known, the rest made by the progressive window."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from pavdm.prompts import PromptSchedule
from pavdm.sampling import progressive, rectified_flow
from pavdm.sampling.progressive import Noise, Progress, Velocity
from pavdm.sampling.rectified_flow import ReplacementLoop
from pavdm.sampling.schedule import Schedule
from pavdm.sampling.state import PromptSwitch, WindowState


def fill(
    schedule: Schedule,
    latents: Tensor,
    num_known: int,
    velocity: Velocity,
    *,
    noise: Noise,
    seeds: tuple[int, ...],
    prompts: tuple[PromptSchedule, ...],
    chunk_seconds: float,
    prompt_switch: PromptSwitch = "chunk",
    progress: Callable[[Progress], None] | None = None,
    begun: tuple[WindowState, Tensor] | None = None,
    on_chunk: Callable[[int, Callable[[], tuple[WindowState, Tensor]]], None] | None = None,
) -> Tensor:
    """latents (B, C, T, H, W), the first `num_known` of them a clip's -> the same with all after them made new.

    What the other arguments mean is said at `progressive.start` and `progressive.sample`. Where the schedule re-noises
    the end of the clip (see `start`), that comes back changed. The last chunk is cut to T.
    on_chunk: gets, after every chunk, the number of finished latents, and a function that gives the window and all
    finished chunks, (B, C, chunks * chunk_latents, H, W): they are put together only when it is called. begun: such a
    pair, of a run with the same arguments that was stopped, to go on from.
    Raises InputError if the clip is too short for the schedule.
    """
    length, n = latents.shape[2], schedule.chunk_latents
    known = latents[:, :, :num_known].float()
    new_chunks = math.ceil((length - num_known) / n)
    state = progressive.start(
        schedule,
        known if num_known else None,
        shape=(*latents.shape[:2], *latents.shape[3:]),
        seeds=seeds,
        prompts=prompts,
        chunk_seconds=chunk_seconds,
        total=new_chunks,
        prompt_switch=prompt_switch,
        noise=noise,
    )
    lead = known[:, :, : num_known + state.first_chunk * n]
    chunks = [known[:, :, :0]]

    def done(window: WindowState) -> tuple[WindowState, Tensor]:
        return window, torch.cat(chunks, dim=2)

    if begun is not None:
        state, chunks = begun[0].to(known.device), [begun[1].to(known)]
    sampled = progressive.sample(
        state,
        velocity,
        num_chunks=new_chunks - state.next_chunk,
        noise=noise,
        progress=progress,
    )
    for after, chunk in sampled:
        chunks.append(chunk)
        if on_chunk is not None:
            on_chunk(sum(part.shape[2] for part in chunks), partial(done, after))
    return torch.cat([lead, *chunks], dim=2)[:, :, :length]


def placed_noise(noise: Tensor, num_known: int, chunk_latents: int, seeds: tuple[int, ...]) -> Noise:
    """Noise that belongs to its place in the video: `noise` (B, C, T, H, W) cut into chunks, chunk 0 at `num_known`.

    What a last chunk needs beyond T comes from the seeds.
    """
    seeded = progressive.seeded_noise(seeds)

    def of_chunk(chunk: int, shape: tuple[int, ...]) -> Tensor:
        begin = num_known + chunk * chunk_latents
        own = noise[:, :, begin : begin + chunk_latents]
        missing = chunk_latents - own.shape[2]
        return own if missing == 0 else torch.cat([own, seeded(chunk, shape)[:, :, :missing].to(own)], dim=2)

    return of_chunk


def fill_by_replacement(
    loop: ReplacementLoop,
    latents: Tensor,
    num_known: int,
    velocity: Velocity,
    *,
    noise: Tensor,
    seeds: tuple[int, ...],
    texts_for: Callable[[float], tuple[str, ...]],
    on_step: Callable[[int, int], None] | None = None,
) -> Tensor:
    """`fill` by Open-Sora's naive loop, the baseline; what the arguments mean is said at `rectified_flow.extend`.

    noise: (B, C, T, H, W), used at its place in the video; what lies beyond T comes from the seeds.
    Raises InputError if there is a clip and it is shorter than what the loop keeps.
    """
    length = latents.shape[2]
    known = latents[:, :, :num_known].float()

    def drawn(index: int, step: int | None, shape: tuple[int, ...]) -> Tensor:
        name = f"{index}" if step is None else f"{index}/{step}"
        extra = torch.stack([progressive.named_noise(f"{seed}/{name}", shape[1:]) for seed in seeds]).to(noise)
        if step is not None:
            return extra
        begin = index * loop.new_latents + (num_known - loop.condition_latents if num_known else 0)
        own = noise[:, :, max(begin, 0) : max(begin, 0) + shape[2]]
        return torch.cat([own, extra[:, :, own.shape[2] :]], dim=2)

    clips = rectified_flow.extend(
        loop,
        velocity,
        known if num_known else None,
        shape=(*latents.shape[:2], *latents.shape[3:]),
        texts_for=texts_for,
        noise=drawn,
        on_step=on_step,
    )
    pieces, made = [known], num_known
    while made < length:
        pieces.append(next(clips))
        made += pieces[-1].shape[2]
    return torch.cat(pieces, dim=2)[:, :, :length]


def num_replacement_loops(loop: ReplacementLoop, length: int, num_known: int) -> int:
    """How many loops `fill_by_replacement` takes; without a clip the first one makes a whole clip."""
    missing = length - num_known
    return math.ceil(
        (missing if num_known else max(loop.new_latents, missing - loop.condition_latents)) / loop.new_latents
    )
