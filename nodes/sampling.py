"""Samplers for the host's Sampler Custom Advanced."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import comfy.samplers
import torch
from comfy_api.latest import io
from torch import Tensor

from pavdm.errors import InputError
from pavdm.sampling.fill import fill, placed_noise
from pavdm.sampling.progressive import Progress
from pavdm.sampling.schedule import Schedule, timestep_shift
from pavdm.sampling.state import PromptSwitch

from .conditioning import SPATIAL_FACTOR, chunk_seconds
from .host import schema
from .velocity import GuiderVelocity, prompt_of


def schedule_inputs() -> list[Any]:
    return [
        io.Int.Input(
            "steps",
            default=30,
            min=1,
            max=1000,
            tooltip="Denoising steps of every frame; a multiple of window_chunks. A chunk costs steps / window_chunks "
            "model calls.",
        ),
        io.Int.Input(
            "window_chunks",
            default=6,
            min=1,
            max=64,
            tooltip="Noisy chunks that are in the attention window together. More look further ahead and need more "
            "memory and time per call.",
        ),
        io.Int.Input(
            "chunk_latents",
            default=5,
            min=1,
            max=64,
            tooltip="Latent frames that share a noise level and leave the window together; 5 are 17 frames, a piece of "
            "the VAE. 1 turns chunking off.",
        ),
        io.Boolean.Input(
            "overlap",
            default=True,
            tooltip="Keep one clean chunk in front of the noisy ones (overlapped conditioning). Off: the ablation.",
        ),
        io.Boolean.Input(
            "variable_length",
            default=True,
            tooltip="Let the window grow at the start and shrink at the end. Off: it starts full, and needs a clip of "
            "(window_chunks - 1 + overlap) * chunk_latents latents to start from.",
        ),
        io.Boolean.Input(
            "timestep_transform",
            default=True,
            tooltip="Spend more steps on high noise the larger picture and window are, as Open-Sora was trained.",
        ),
        io.Combo.Input(
            "prompt_switch",
            options=["chunk", "window"],
            default="chunk",
            tooltip="What a text of a prompt schedule holds for: the chunks that enter from then on (chunk), or the "
            "whole window at once (window).",
        ),
    ]


def noise_levels(schedule: Schedule) -> Tensor:
    """SIGMAS (steps + 1,), 1 to 0, that say to the host how many steps a frame takes."""
    return torch.linspace(1.0, 0.0, schedule.steps + 1)


def num_known_latents(mask: Tensor) -> int:
    """How many latents at the beginning the mask (B, C, T, H, W) keeps: 0 keeps, 1 makes new.

    Raises InputError for a mask that keeps parts of frames, or frames behind new ones.
    """
    made = mask.amax(dim=(0, 1, 3, 4)) > 0.5
    made_whole = mask.amin(dim=(0, 1, 3, 4)) > 0.5
    num_known = int((~made).sum())
    if not torch.equal(made, made_whole) or bool(made[:num_known].any()):
        raise InputError(
            "the latent's noise mask has to keep whole frames at the beginning and make all others new: connect the "
            "latent of Encode Clip or Empty Video"
        )
    return num_known


class ProgressiveSampler(comfy.samplers.Sampler):
    """PA-VDM as a host's sampler: noise and latents of the whole video in, the whole video's latents out.

    The window takes the noise that lies at its place. The host's sigmas are the node's own; the schedule's timestep
    transform, which depends on the size of the picture, comes on top.
    """

    def __init__(self, schedule: Schedule, timestep_transform: bool, prompt_switch: PromptSwitch) -> None:
        self.schedule = schedule
        self.timestep_transform = timestep_transform
        self.prompt_switch = prompt_switch

    def schedule_for(self, latents: Tensor) -> Schedule:
        """The schedule with the timestep transform of latents (B, C, T, H, W)."""
        if not self.timestep_transform:
            return self.schedule
        height, width = (SPATIAL_FACTOR * n for n in latents.shape[-2:])
        return replace(self.schedule, shift=timestep_shift(height, width, self.schedule.window_latents))

    def sample(
        self,
        model_wrap: Any,
        sigmas: Tensor,
        extra_args: dict[str, Any],
        callback: Any,
        noise: Tensor,
        latent_image: Tensor | None = None,
        denoise_mask: Tensor | None = None,
        disable_pbar: bool = False,
    ) -> Tensor:
        """Called by the host's guider, `model_wrap`; noise and latents (B, C, T, H, W) are on its device."""
        own = noise_levels(self.schedule).to(sigmas)
        if sigmas.shape != own.shape or not torch.allclose(sigmas, own, atol=1e-4):
            raise InputError(
                f"expected the sigmas of Progressive Sampler itself ({len(own)} values from 1 to 0), got {len(sigmas)} "
                "others: connect its sigmas output to the sampler node"
            )
        if latent_image is None:
            latent_image = torch.zeros_like(noise)
        num_known = 0 if denoise_mask is None else num_known_latents(denoise_mask)
        if num_known == noise.shape[2]:
            raise InputError(
                "the latent holds nothing that is to be made new: set new_seconds in Encode Clip, or connect "
                "Empty Video"
            )
        prompt = prompt_of(model_wrap)
        seeds = tuple((extra_args.get("seed") or 0) + item for item in range(noise.shape[0]))
        schedule = self.schedule_for(noise)
        velocity = GuiderVelocity(model_wrap, extra_args, prompt.embeddings)
        last: list[Progress] = []

        def progress(done: Progress) -> None:
            last[:] = [done]
            if callback is not None and done.call != done.calls and velocity.denoised is not None:
                callback(done.call - 1, velocity.denoised[:, :, : schedule.chunk_latents], noise, done.calls)

        video = fill(
            schedule,
            latent_image,
            num_known,
            velocity,
            noise=placed_noise(noise, num_known, schedule.chunk_latents, seeds),
            seeds=seeds,
            prompts=(prompt.schedule,) * noise.shape[0],
            chunk_seconds=chunk_seconds(schedule, prompt.fps),
            prompt_switch=self.prompt_switch,
            progress=progress,
        )
        if callback is not None:
            callback(last[0].call - 1, video, video, last[0].call)
        return video


class ProgressiveSamplerNode(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="PAVDM_ProgressiveSampler",
            display_name="Progressive Sampler",
            description="PA-VDM as a sampler: connect both outputs to Sampler Custom Advanced, with CFG Guider, Random "
            "Noise and the latent of Encode Clip or Empty Video. Makes the whole video in one go, however long.",
            search_aliases=["pa-vdm", "autoregressive", "long video", "extend video"],
            inputs=schedule_inputs(),
            outputs=[
                io.Sampler.Output(display_name="sampler", tooltip="For Sampler Custom Advanced, or Start."),
                io.Sigmas.Output(display_name="sigmas", tooltip="For Sampler Custom Advanced: steps + 1 levels."),
            ],
        )

    @classmethod
    def execute(
        cls,
        steps: int,
        window_chunks: int,
        chunk_latents: int,
        overlap: bool,
        variable_length: bool,
        timestep_transform: bool,
        prompt_switch: PromptSwitch,
    ) -> io.NodeOutput:
        schedule = Schedule(window_chunks, chunk_latents, steps, overlap, variable_length)
        return io.NodeOutput(ProgressiveSampler(schedule, timestep_transform, prompt_switch), noise_levels(schedule))
