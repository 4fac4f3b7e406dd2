"""A clean chunk as the network itself would have made it: training then sees what generation will show it.

In training the clean chunk in front of a window is real. In generation it is the network's own work, and what is wrong
with it is carried on from chunk to chunk. Resampling noises the real chunk to a level drawn at random and lets the
network bring it back, the chunk before it in front; the loss still asks for the true chunks behind it, so that errors
are mended instead of carried on. PA-VDM does not have it; it is Guo et al., "End-to-End Training for Autoregressive
Video Diffusion via Self-Resampling", arXiv 2512.15702, in small: they resample the whole history at once under a causal
mask, here it is the one chunk that PA-VDM keeps, in a few Euler steps.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from pavdm.sampling.schedule import NUM_TIMESTEPS, warp
from pavdm.training.chance import generator_for
from pavdm.training.stdit.objective import Noised, add_noise, transformed

STEPS = 2  # of the network, from the level drawn to clean
LOW = 0.3  # ratio of a timestep transform that makes most levels low: errors as small as one chunk makes them


def history_of(latents: Tensor, seed: int, numbers: Sequence[int], shift: float | None = None) -> Noised:
    """Two chunks for `resampled`: the real one before, and the clean one noised to a level of its own. No loss is taken
    of them: their target is empty.

    latents: (B, C, 2 n, H, W), the two chunks of the clips. numbers: the example number of each clip, which with
    `seed` decides level and noise. shift: of the timestep transform.
    """
    before, clean = latents.float().chunk(2, dim=2)
    generators = [generator_for(seed, "history", number) for number in numbers]
    levels = torch.cat([torch.rand(1, generator=generator) for generator in generators])
    noise = torch.stack([torch.randn(clean.shape[1:], generator=generator) for generator in generators])
    t = transformed(warp(levels * NUM_TIMESTEPS, LOW), shift)[:, None].expand(-1, clean.shape[2])
    timesteps = torch.cat([torch.zeros_like(t), t], dim=1)
    nothing = torch.zeros_like(timesteps, dtype=torch.bool)
    return Noised(torch.cat([before, add_noise(clean, noise, t)], dim=2), timesteps, torch.empty(0), nothing)


@torch.no_grad()
def resampled(window: Noised, history: Noised, velocity: Callable[[Noised], Tensor]) -> Noised:
    """`window` with the clean chunk that `velocity` makes of `history`."""
    step = history.timesteps / STEPS
    for _ in range(STEPS):
        moved = (step / NUM_TIMESTEPS).to(history.latents.device)[:, None, :, None, None] * velocity(history).float()
        history = replace(history, latents=history.latents + moved, timesteps=history.timesteps - step)
    chunk = history.latents.shape[2] // 2
    torch.clear_autocast_cache()  # an older torch uses what was cast here, without gradients, again
    latents = torch.cat([history.latents[:, :, chunk:], window.latents[:, :, chunk:]], dim=2)
    return replace(window, latents=latents, history=None)
