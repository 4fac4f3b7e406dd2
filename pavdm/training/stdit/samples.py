"""A short video made while STDiT3 trains: how the first training clip goes on, under its own caption."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from pavdm.clip import PIECE_FRAMES, PIECE_LATENTS
from pavdm.frames import to_frames
from pavdm.models.stdit3 import STDiT3
from pavdm.models.vae import VideoVAE
from pavdm.prompts import PromptSchedule
from pavdm.sampling import progressive
from pavdm.sampling.guidance import GuidedVelocity
from pavdm.sampling.schedule import Schedule, timestep_shift
from pavdm.training.data.source import Clips
from pavdm.training.run_directory import step_name
from pavdm.video_writer import VideoWriter

TEXT = "the clip's caption"
FRAMES_PER_LATENT = PIECE_FRAMES / PIECE_LATENTS
LATENT_PIXELS = 8
PICTURE_FPS = 24.0  # of the sample where the clips have none of their own


@dataclass(frozen=True, eq=False)
class Sampler:
    """schedule: as it is sampled, the timestep transform excepted: of the clip's size if `transform`. num_chunks: new
    chunks behind those that the schedule takes of the clip (one, as published). vae: decodes; without one,
    the first three channels of the latents are shown as colours.
    """

    schedule: Schedule
    num_chunks: int
    guidance_scale: float
    transform: bool = True
    seed: int = 0
    vae: VideoVAE | None = None

    def sample(self, network: STDiT3, clips: Clips, directory: Path, step: int) -> None:
        """Write `directory`/step-000123.mp4 from the first of `clips`, in the network's state after `step` steps."""
        latents = self.latents(network, clips)
        if self.vae is None:
            frames, fps = _false_colours(latents), _fps(clips) / FRAMES_PER_LATENT
        else:
            frames, fps = self._decoded(self.vae, latents), _fps(clips)
        path = directory / f"{step_name(step)}.mp4"
        with VideoWriter(path, (frames.shape[1], frames.shape[2]), fps, overwrite=True) as writer:
            writer.write(frames)

    @torch.inference_mode()
    def latents(self, network: STDiT3, clips: Clips) -> Tensor:
        """What the first clip gives of its beginning and the chunks that follow it, (1, C, T, H, W) fp32.

        A clip that is shorter than what the schedule starts from, such as a picture, gives its caption alone.
        """
        device = next(network.parameters()).device
        shift = timestep_shift(*clips.size, self.schedule.window_latents) if self.transform else None
        schedule = replace(self.schedule, shift=shift)
        clip = clips.latents[:1].to(device)
        used = progressive.num_conditioning_latents(schedule, clip.shape[2])
        if used > clip.shape[2]:
            schedule, used = replace(schedule, variable_length=True), 0
        clip = clip[:, :, :used]
        warm = progressive.num_warm_chunks(schedule, clip.shape[2])
        state = progressive.start(
            schedule,
            clip,
            seeds=(self.seed,),
            prompts=(PromptSchedule((TEXT,)),),
            chunk_seconds=schedule.chunk_latents * FRAMES_PER_LATENT / _fps(clips),
            total=self.num_chunks,
        )
        velocity = GuidedVelocity(
            network,
            {TEXT: clips.embeddings[0].to(device)},
            guidance_scale=self.guidance_scale,
            size=clips.size,
            fps=_fps(clips),
        )
        chunks = [chunk for _, chunk in progressive.sample(state, velocity, num_chunks=self.num_chunks + warm)]
        return torch.cat(chunks if state.clean is None else [state.clean, *chunks], dim=2)

    @torch.inference_mode()
    def _decoded(self, vae: VideoVAE, latents: Tensor) -> NDArray[np.uint8]:
        device = next(vae.parameters()).device
        return to_frames(vae.decode(latents.to(device, vae.dtype))[0])


def _fps(clips: Clips) -> float:
    """Of the sample: a video, also where the clips are pictures."""
    return clips.fps if clips.latents.shape[2] > 1 else PICTURE_FPS


def _false_colours(latents: Tensor) -> NDArray[np.uint8]:
    """(T, H, W, 3), every latent pixel as large as the pixels that it stands for."""
    shown = latents[0, :3]
    shown = F.pad(shown, (0, 0, 0, 0, 0, 0, 0, 3 - len(shown)))
    shown = shown.repeat_interleave(LATENT_PIXELS, dim=2).repeat_interleave(LATENT_PIXELS, dim=3)
    return to_frames(shown / 3)
