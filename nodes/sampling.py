"""Samplers for the host's Sampler Custom Advanced."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import comfy.samplers
import numpy as np
import torch
from comfy_api.latest import io
from torch import Tensor

from pavdm.buckets import size_of_latents
from pavdm.errors import InputError
from pavdm.sampling.fill import fill, fill_by_replacement, num_replacement_loops, placed_noise
from pavdm.sampling.rectified_flow import ReplacementLoop
from pavdm.sampling.schedule import Schedule, timestep_shift
from pavdm.sampling.state import PromptSwitch, WindowState
from pavdm.sampling.video_state import VideoState
from pavdm.schedule_plot import draw

from .autosave import DEFAULT, KEPT_WORKS, autosave_of, work_of
from .host import schema
from .layout import latent_seconds
from .model import make_room
from .velocity import GuiderVelocity, Prompt, prompt_of, require_model


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


def autosave_input() -> Any:
    return io.String.Input(
        "autosave",
        default=DEFAULT,
        tooltip="Folder and name in the output folder: the state is kept there after every chunk (beyond 32 chunks: "
        "after every 3 % more), and the same work queued again after Cancel or a crash goes on from it. Files of the "
        f"last {KEPT_WORKS} runs that differ stay. Delete them to make the same video anew. Empty keeps nothing.",
        optional=True,
    )


def noise_levels(steps: int) -> Tensor:
    """SIGMAS (steps + 1,), 1 to 0, that say to the host how many steps a frame takes."""
    return torch.linspace(1.0, 0.0, steps + 1)


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


@dataclass(frozen=True)
class Job:
    """What a sampler works on. latents, noise: (B, C, T, H, W), the first num_known latents are a clip's.

    guider: the host's.
    progress: called with the number of model calls so far, that of all, and how many latents in front are at work.
    """

    latents: Tensor
    num_known: int
    noise: Tensor
    seeds: tuple[int, ...]
    prompt: Prompt
    velocity: GuiderVelocity
    guider: Any
    progress: Callable[[int, int, int], None]

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) in pixels, as the model is told it."""
        return size_of_latents(*self.noise.shape[-2:])


class WholeVideoSampler(comfy.samplers.Sampler, ABC):
    """A host's sampler that gets noise and latents of the whole video and gives the whole video's latents.

    The host's sigmas have to be the node's own: they say how many steps a frame takes, and nothing else.
    """

    steps: int

    @property
    @abstractmethod
    def num_window_latents(self) -> int:
        """The most latents that the network sees at once."""

    @abstractmethod
    def make(self, job: Job) -> Tensor:
        """The whole video's latents, (B, C, T, H, W)."""

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
        own = noise_levels(self.steps).to(sigmas)
        if sigmas.shape != own.shape or not torch.allclose(sigmas, own, atol=1e-4):
            raise InputError(
                f"expected the sigmas of the node that the sampler is from ({len(own)} values from 1 to 0), got "
                f"{len(sigmas)} others: connect its sigmas output"
            )
        require_model(model_wrap.inner_model, noise)
        make_room(model_wrap.model_patcher, (*noise.shape[:2], self.num_window_latents, *noise.shape[3:]))
        num_known = 0 if denoise_mask is None else num_known_latents(denoise_mask)
        if num_known == noise.shape[2]:
            raise InputError(
                "the latent holds nothing that is to be made new: set new_seconds in Encode Clip, or connect "
                "Empty Video"
            )
        prompt = prompt_of(model_wrap)
        velocity = GuiderVelocity(model_wrap, extra_args, prompt.embeddings, prompt.fps)
        calls = [0, 1]

        def progress(call: int, num_calls: int, front_latents: int) -> None:
            calls[:] = [call, num_calls]
            if callback is not None and call < num_calls and velocity.denoised is not None:
                callback(call - 1, velocity.denoised[:, :, :front_latents], noise, num_calls)

        seeds = tuple((extra_args.get("seed") or 0) + item for item in range(noise.shape[0]))
        known = torch.zeros_like(noise) if latent_image is None else latent_image
        video = self.make(Job(known, num_known, noise, seeds, prompt, velocity, model_wrap, progress))
        if callback is not None:  # the host takes what comes last for the denoised output
            callback(calls[1] - 1, video, video, calls[1])
        return video


class ProgressiveSampler(WholeVideoSampler):
    """PA-VDM. Each chunk takes the noise that lies at its place."""

    def __init__(
        self, schedule: Schedule, timestep_transform: bool, prompt_switch: PromptSwitch, autosave: str = ""
    ) -> None:
        self.schedule = schedule
        self.steps = schedule.steps
        self.timestep_transform = timestep_transform
        self.prompt_switch = prompt_switch
        self.autosave = autosave

    @property
    def num_window_latents(self) -> int:
        return self.schedule.window_latents

    def schedule_for(self, latents: Tensor) -> Schedule:
        """The schedule with the timestep transform of latents (B, C, T, H, W)."""
        if not self.timestep_transform:
            return self.schedule
        height, width = size_of_latents(*latents.shape[-2:])
        return replace(self.schedule, shift=timestep_shift(height, width, self.schedule.window_latents))

    def make(self, job: Job) -> Tensor:
        schedule = self.schedule_for(job.noise)
        n = schedule.chunk_latents
        begun = on_chunk = None
        work = (work_of(job.guider), schedule, self.prompt_switch, job.latents, job.num_known, job.noise)
        if (kept := autosave_of(self.autosave, *work)) is not None:
            if (last := kept.last()) is not None and last.window is not None:
                begun = last.window, last.finished

            def on_chunk(num_latents: int, done: Callable[[], tuple[WindowState, Tensor]]) -> None:
                def video() -> VideoState:
                    window, finished = done()
                    known = job.latents[:, :, : job.num_known].cpu()
                    embeddings = {text: embedding.cpu() for text, embedding in job.prompt.embeddings.items()}
                    window, finished = window.to("cpu"), finished.cpu()
                    return VideoState(schedule, known, job.seeds[0], self.prompt_switch, window, finished, embeddings)

                kept.keep(num_latents, video)

        return fill(
            schedule,
            job.latents,
            job.num_known,
            job.velocity,
            noise=placed_noise(job.noise, job.num_known, n, job.seeds),
            seeds=job.seeds,
            prompts=(job.prompt.schedule,) * len(job.seeds),
            chunk_seconds=latent_seconds(n, job.prompt.fps),
            prompt_switch=self.prompt_switch,
            progress=lambda done: job.progress(done.call, done.calls or done.call, n),
            begun=begun,
            on_chunk=on_chunk,
        )


class ReplacementSampler(WholeVideoSampler):
    """Open-Sora v1.2's naive loop, the baseline that PA-VDM is compared with."""

    def __init__(self, loop: ReplacementLoop, timestep_transform: bool) -> None:
        self.loop = loop
        self.steps = loop.steps
        self.timestep_transform = timestep_transform

    @property
    def num_window_latents(self) -> int:
        return self.loop.clip_latents

    def make(self, job: Job) -> Tensor:
        shift = timestep_shift(*job.size, self.loop.clip_latents) if self.timestep_transform else None
        loop = replace(self.loop, shift=shift)
        seconds = latent_seconds(loop.new_latents, job.prompt.fps)
        num_calls = loop.steps * num_replacement_loops(loop, job.noise.shape[2], job.num_known)

        def texts_for(position: float) -> tuple[str, ...]:
            schedule = job.prompt.schedule
            return (schedule.texts[schedule.index(position, seconds)],) * len(job.seeds)

        def on_step(index: int, step: int) -> None:
            if index or step:
                job.progress(index * loop.steps + step, num_calls, loop.clip_latents)

        job.progress(0, num_calls, loop.clip_latents)
        return fill_by_replacement(
            loop,
            job.latents,
            job.num_known,
            job.velocity,
            noise=job.noise,
            seeds=job.seeds,
            texts_for=texts_for,
            on_step=on_step,
        )


class ProgressiveSamplerNode(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="PAVDM_ProgressiveSampler",
            display_name="Progressive Sampler",
            description="PA-VDM as a sampler: connect both outputs to Sampler Custom Advanced, with CFG Guider, Random "
            "Noise and the latent of Encode Clip or Empty Video. Makes the whole video in one go, however long.",
            search_aliases=["pa-vdm", "autoregressive", "long video", "extend video"],
            inputs=[*schedule_inputs(), autosave_input()],
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
        autosave: str = DEFAULT,
    ) -> io.NodeOutput:
        schedule = Schedule(window_chunks, chunk_latents, steps, overlap, variable_length)
        sampler = ProgressiveSampler(schedule, timestep_transform, prompt_switch, autosave.strip())
        return io.NodeOutput(sampler, noise_levels(steps))


class ReplacementSamplerNode(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="PAVDM_ReplacementSampler",
            display_name="Replacement Sampler",
            description="Open-Sora's own way to a longer video, the baseline: clip after clip, each begun with the "
            "last latents of the one before. Connect it as Progressive Sampler, to compare the two.",
            inputs=[
                io.Int.Input(
                    "steps", default=30, min=1, max=1000, tooltip="Denoising steps, and model calls, of every clip."
                ),
                io.Int.Input(
                    "clip_latents", default=15, min=2, max=320, tooltip="Latents of each clip; 5 are 17 frames."
                ),
                io.Int.Input(
                    "condition_latents",
                    default=5,
                    min=1,
                    max=319,
                    tooltip="Latents kept from clip to clip; fewer than clip_latents, a multiple of 5.",
                ),
                io.Boolean.Input(
                    "timestep_transform",
                    default=True,
                    tooltip="Spend more steps on high noise the larger picture and clip are, as Open-Sora was trained.",
                ),
            ],
            outputs=[
                io.Sampler.Output(display_name="sampler", tooltip="For Sampler Custom Advanced."),
                io.Sigmas.Output(display_name="sigmas", tooltip="For Sampler Custom Advanced: steps + 1 levels."),
            ],
        )

    @classmethod
    def execute(cls, steps: int, clip_latents: int, condition_latents: int, timestep_transform: bool) -> io.NodeOutput:
        loop = ReplacementLoop(clip_latents, condition_latents, steps)
        return io.NodeOutput(ReplacementSampler(loop, timestep_transform), noise_levels(steps))


class SchedulePlot(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="PAVDM_SchedulePlot",
            display_name="Schedule Plot",
            description="A picture of the noise table: which chunk is how noisy at which model call.",
            inputs=[
                io.Sampler.Input("sampler", tooltip="Of Progressive Sampler, whose settings are drawn."),
                io.Latent.Input("latent", tooltip="What is to be made: its size decides the timestep transform."),
                io.Int.Input("num_chunks", default=8, min=1, max=200, tooltip="New chunks to draw."),
            ],
            outputs=[io.Image.Output(display_name="image", tooltip="For Preview Image.")],
        )

    @classmethod
    def execute(cls, sampler: Any, latent: dict[str, Tensor], num_chunks: int) -> io.NodeOutput:
        require_progressive(sampler)
        picture = np.asarray(draw(sampler.schedule_for(latent["samples"]), num_chunks), dtype=np.float32) / 255
        return io.NodeOutput(torch.from_numpy(picture)[None])


def require_progressive(sampler: Any) -> None:
    if not isinstance(sampler, ProgressiveSampler):
        raise InputError(f"expected the sampler of Progressive Sampler, got {type(sampler).__name__}")
