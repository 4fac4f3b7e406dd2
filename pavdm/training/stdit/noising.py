"""From clean clips to what the network is shown: the progressive sampler's windows, or whole clips as Open-Sora trains.

Chance is decided by (seed, number): the length of the window by the optimizer step, which all processes share, so that
they take equally long; levels and noise by the example. So a step is the same however it is divided into batches.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Protocol

import torch
from torch import Tensor

from pavdm.sampling.schedule import timestep_shift
from pavdm.training.chance import generator_for
from pavdm.training.data.source import Clips
from pavdm.training.stdit.frame_masks import FrameMasks
from pavdm.training.stdit.objective import Noised, WholeClipTimesteps, whole_clip
from pavdm.training.stdit.resampling import history_of
from pavdm.training.stdit.windows import TrainingWindows, WindowDraw, WindowPlan


class Noising(Protocol):
    def __call__(self, clips: Clips, seed: int, step: int, numbers: Sequence[int]) -> Noised:
        """Noise the batch of optimizer step `step`; numbers: the example number of each clip."""
        ...

    def frames(self, clips: Clips, seed: int, step: int) -> slice:
        """The latent frames of the clips that the network is shown at this step, those of a history included."""
        ...

    def settings(self) -> dict[str, Any]:
        """What decides the outcome, as JSON values."""
        ...


@dataclass(frozen=True)
class ProgressiveWindows:
    """Windows as `TrainingWindows` draws them. transform: the timestep transform of the full window, by the clip's
    size, also where the window is shorter, as the sampler does."""

    windows: TrainingWindows
    transform: bool = True

    def __call__(self, clips: Clips, seed: int, step: int, numbers: Sequence[int]) -> Noised:
        windows, shape = self.windows, (1, *clips.latents.shape[1:])
        plan = self._plan(clips, seed, step)
        draws = [windows.draw(plan, shape, generator_for(seed, "draw", number)) for number in numbers]
        joined = (torch.cat([getattr(draw, field.name) for draw in draws]) for field in fields(WindowDraw))
        shift = timestep_shift(*clips.size, windows.schedule.window_latents) if self.transform else None
        noised = windows.noised(clips.latents, plan, WindowDraw(*joined), shift)
        if not plan.resampled:
            return noised
        length = windows.schedule.chunk_latents
        chunks = clips.latents[:, :, (plan.start - 1) * length : (plan.start + 1) * length]
        return replace(noised, history=history_of(chunks, seed, numbers, shift))

    def frames(self, clips: Clips, seed: int, step: int) -> slice:
        plan, length = self._plan(clips, seed, step), self.windows.schedule.chunk_latents
        return slice((plan.start - plan.resampled) * length, (plan.start + plan.clean + plan.num_chunks) * length)

    def _plan(self, clips: Clips, seed: int, step: int) -> WindowPlan:
        return self.windows.plan(clips.latents.shape[2], generator_for(seed, "window", step))

    def settings(self) -> dict[str, Any]:
        windows = asdict(self.windows)
        schedule = windows.pop("schedule")
        schedule.pop("shift")  # not read: the ratio belongs to the clip
        return {"objective": "progressive", **windows, "schedule": schedule, "timestep transform": self.transform}


@dataclass(frozen=True)
class WholeClips:
    """One timestep for all frames of a clip, under Open-Sora's frame masks (None: without). transform: by the clip's
    own size and length."""

    timesteps: WholeClipTimesteps
    masks: FrameMasks | None = None
    transform: bool = True

    def __call__(self, clips: Clips, seed: int, step: int, numbers: Sequence[int]) -> Noised:
        length = clips.latents.shape[2]
        timesteps, noise, masks = [], [], []
        for number in numbers:
            generator = generator_for(seed, "draw", number)
            timesteps.append(self.timesteps.draw(1, generator))
            noise.append(torch.randn(clips.latents.shape[1:], generator=generator))
            if self.masks is not None:
                masks.append(self.masks.draw(1, length, generator))
        frame_mask: Tensor | None = torch.cat(masks) if masks else None
        shift = timestep_shift(*clips.size, length) if self.transform else None
        return whole_clip(clips.latents, torch.cat(timesteps), torch.stack(noise), shift=shift, frame_mask=frame_mask)

    def frames(self, clips: Clips, seed: int, step: int) -> slice:
        return slice(clips.latents.shape[2])

    def settings(self) -> dict[str, Any]:
        masks = None if self.masks is None else dict(self.masks.ratios)
        return {
            "objective": "whole-clip",
            **asdict(self.timesteps),
            "frame masks": masks,
            "timestep transform": self.transform,
        }
