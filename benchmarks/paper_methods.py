"""The methods of the paper's table at equal network evaluations, and what each spends.

Every method may put as many latent frames through the network for each new one as PA-VDM does (35 with the defaults:
5 calls of 35 latents for 5 new ones), in a window of as many latents; only the replacement loop keeps its published 15.
So a method that saves evaluations gets more denoising steps for them. The loop comes twice: carrying its latents from
clip to clip, and decoding and encoding them again, as published.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from pavdm.clip import PIECE_FRAMES, PIECE_LATENTS, Conditioning
from pavdm.errors import InputError
from pavdm.plan import plan_output
from pavdm.prompts import PromptSchedule
from pavdm.sampling import progressive
from pavdm.sampling.rectified_flow import ReplacementLoop
from pavdm.sampling.schedule import Schedule
from pavdm.settings import Settings

OURS = "PA-VDM"
LARGEST_RATIO = 1.1  # of the dearest method's cost to the cheapest one's: calls are whole


def arms(settings: Settings) -> dict[str, Settings]:
    """The methods, each at the cost and with the window of `settings`, PA-VDM in full.

    The cost is in latents through the network for each new one, in the steady state. Raises InputError if `settings`
    are anything but PA-VDM in full, or if whole steps leave the methods' costs more than LARGEST_RATIO apart.
    """
    ours = settings.schedule
    if settings.method != "progressive" or not (ours.overlap and ours.variable_length):
        raise InputError("the table starts from PA-VDM in full: leave --method, --no-overlap and the like out")
    window = ours.window_latents
    cost = _cost(settings)
    chunks = ours.window_chunks + 1
    loop = ReplacementLoop(condition_latents=settings.loop.condition_latents)
    per_frame = Schedule(window - 1, 1, (window - 1) * max(1, round(cost / window)))
    no_overlap = Schedule(chunks, ours.chunk_latents, chunks * max(1, round(cost / chunks)), overlap=False)
    loop_steps = max(1, round(cost * loop.new_latents / loop.clip_latents))
    baseline = replace(settings, method="replacement", schedule=Schedule(1, steps=loop_steps))
    found = {
        OURS: settings,
        "no chunking": replace(settings, schedule=per_frame),
        "no overlapped conditioning": replace(settings, schedule=no_overlap),
        "no variable length": replace(settings, schedule=replace(ours, variable_length=False)),
        "replacement loop": baseline,
        "replacement loop, re-encoded": replace(baseline, loop=replace(settings.loop, reencode=True)),
    }
    costs = {name: _cost(arm) for name, arm in found.items()}
    if max(costs.values()) > LARGEST_RATIO * min(costs.values()):
        told = ", ".join(f"{name} {cost:.1f}" for name, cost in costs.items())
        raise InputError(f"in so few steps the methods cannot cost the same (latents for each new one: {told})")
    return found


def frames_needed(arms: Iterable[Settings]) -> int:
    """Frames of a clip with which every method fills its window."""
    latents = max(
        arm.loop.condition_latents
        if arm.method == "replacement"
        else progressive.num_conditioning_latents(arm.schedule, arm.schedule.window_latents)
        for arm in arms
    )
    return math.ceil(latents / PIECE_LATENTS) * PIECE_FRAMES


def _cost(arm: Settings) -> float:
    """Latents through the network for each new one, in the steady state."""
    if arm.method == "replacement":
        loop = ReplacementLoop(condition_latents=arm.loop.condition_latents)
        return arm.schedule.steps * loop.clip_latents / loop.new_latents
    return arm.schedule.calls_per_chunk * arm.schedule.window_latents / arm.schedule.chunk_latents


def evaluations(settings: Settings, clip_frames: int) -> tuple[int, int]:
    """(model calls, latents through the network) of one video: the sampler itself, run on empty pictures."""
    latents = clip_frames // PIECE_FRAMES * PIECE_LATENTS
    schedule, loop = settings.schedule, None
    if settings.method == "replacement":
        loop = ReplacementLoop(condition_latents=settings.loop.condition_latents, steps=schedule.steps)
        schedule = Schedule(1, loop.new_latents, loop.steps)
    frames = np.zeros((latents // PIECE_LATENTS * PIECE_FRAMES, 1, 1, 3), np.uint8)
    plan = plan_output(settings, schedule, loop, Conditioning(frames, clip_frames, ""))
    if loop is not None:
        return plan.num_chunks * loop.steps, plan.num_chunks * loop.steps * loop.clip_latents
    lengths = []

    def velocity(latents: torch.Tensor, timesteps: Any, texts: Any, frame_mask: Any = None) -> torch.Tensor:
        lengths.append(latents.shape[2])
        return torch.zeros_like(latents)

    state = progressive.start(
        schedule,
        torch.zeros(1, 1, latents, 1, 1),
        seeds=(0,),
        prompts=(PromptSchedule.parse("none"),),
        chunk_seconds=1.0,
        total=plan.num_chunks if schedule.variable_length else None,
    )
    for _ in progressive.sample(state, velocity, num_chunks=plan.num_chunks):
        pass
    return len(lengths), sum(lengths)
