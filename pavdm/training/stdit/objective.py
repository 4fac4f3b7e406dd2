"""The training objective: rectified flow with a timestep per latent frame, and Open-Sora's own for whole clips.

    x_t = (1 - t) x0 + t noise,    target velocity v = x0 - noise,    loss = mean of (v_predicted - v)^2

Clean frames (the chunk of overlapped conditioning, the frames that a mask holds) are shown to the network and left out
of the mean. `windows.py` makes the progressive batches of PA-VDM, `whole_clip` here the ordinary ones.
Sources: arXiv 2410.08151, section 3; opensora/schedulers/rf/rectified_flow.py of desaixie/pa_vdm.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from pavdm.errors import InputError
from pavdm.models.stdit3 import STDiT3
from pavdm.sampling.schedule import NUM_TIMESTEPS, warp


@dataclass(frozen=True, eq=False)
class Noised:
    """A batch as the network sees it, and what it should answer.

    latents: (B, C, T, H, W) fp32, clean frames included. timesteps: (B, T) fp32, 0 clean .. 1000 noise.
    target: the velocity x0 - noise, of the shape of `latents`; what it holds where `counted` is False does not matter.
    counted: (B, T) bool, the frames that the loss counts. frame_mask: the same for Open-Sora's frame mask, which the
        network is told of (it holds the other frames at t = 0 itself), None without one.
    history: from `resampling.py`, what the network makes the clean chunk of; None for a real one.
    """

    latents: Tensor
    timesteps: Tensor
    target: Tensor
    counted: Tensor
    frame_mask: Tensor | None = None
    history: Noised | None = None

    def loss(self, velocity: Tensor) -> Tensor:
        """Mean squared error of `velocity` (B, C, T, H, W) over the counted frames of each item, (B,) fp32."""
        squares = (velocity.float() - self.target).square().mean(dim=(1, 3, 4))  # (B, T)
        return squares.where(self.counted, 0.0).sum(1) / self.counted.sum(1)

    def to(self, device: torch.device | str) -> Noised:
        """On `device`, but for the timesteps: the network reads them on the CPU, without a wait."""
        mask = None if self.frame_mask is None else self.frame_mask.to(device)
        history = None if self.history is None else self.history.to(device)
        latents, target, counted = (t.to(device) for t in (self.latents, self.target, self.counted))
        return Noised(latents, self.timesteps, target, counted, mask, history)


def add_noise(latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
    """x_t of `latents` x0 (B, C, T, H, W) at `timesteps` (B, T): exactly x0 at 0, exactly the noise at 1000."""
    kept = (1 - timesteps.float() / NUM_TIMESTEPS)[:, None, :, None, None]
    return kept * latents + (1 - kept) * noise


def transformed(timesteps: Tensor, shift: float | Tensor | None) -> Tensor:
    """Timestep transform of `timesteps` (B, T) or (B,), each item with its own ratio.

    shift: `pavdm.sampling.schedule.timestep_shift` of each clip, (B,), or of all, or None for no transform. The
    published code multiplies (B,) by (B, T) and so applies the ratio of item i to frame i, or fails.

    Raises InputError for another number of ratios.
    """
    if shift is None:
        return timesteps
    if isinstance(shift, Tensor) and shift.ndim:
        if shift.shape != timesteps.shape[:1]:
            raise InputError(
                f"expected one timestep shift for each of {timesteps.shape[0]} clips, got shape {tuple(shift.shape)}"
            )
        shift = shift.to(timesteps).reshape(-1, *(1,) * (timesteps.ndim - 1))
    return warp(timesteps, shift)


@dataclass(frozen=True)
class WholeClipTimesteps:
    """One timestep for all frames of a clip: Open-Sora's ordinary training.

    logit-normal: t = sigmoid(mean + deviation * normal). uniform: t in [0, 1). Both times 1000.
    """

    distribution: Literal["logit-normal", "uniform"] = "logit-normal"
    mean: float = 0.0
    deviation: float = 1.0

    def __post_init__(self) -> None:
        if self.distribution not in ("logit-normal", "uniform"):
            raise InputError(f"timesteps are drawn logit-normal or uniform: got {self.distribution!r}")

    def draw(self, batch: int, generator: torch.Generator) -> Tensor:
        """(batch,) fp32, not transformed, from a local CPU generator."""
        if self.distribution == "uniform":
            return torch.rand(batch, generator=generator) * NUM_TIMESTEPS
        normal = torch.randn(batch, generator=generator)
        return torch.sigmoid(self.mean + self.deviation * normal) * NUM_TIMESTEPS


def whole_clip(
    latents: Tensor,
    timesteps: Tensor,
    noise: Tensor,
    *,
    shift: float | Tensor | None = None,
    frame_mask: Tensor | None = None,
) -> Noised:
    """Noise whole clips (B, C, T, H, W) to one timestep (B,) each, before the transform.

    frame_mask: (B, T) bool from `frame_masks.py`; frames where it is False stay clean and are not counted.
    As published, the timesteps stay those of the clip and the network holds the clean frames at 0 by the mask.
    """
    latents, noise = latents.float(), noise.to(latents.device, torch.float32)
    t = transformed(timesteps.to(latents.device), shift)[:, None].expand(-1, latents.shape[2])
    if frame_mask is None:
        counted = torch.ones_like(t, dtype=torch.bool)
        return Noised(add_noise(latents, noise, t), t, latents - noise, counted)
    frame_mask = frame_mask.to(latents.device).bool()
    x_t = add_noise(latents, noise, t.where(frame_mask, 0.0))
    return Noised(x_t, t, latents - noise, frame_mask, frame_mask)


def dropped_texts(batch: int, probability: float, generator: torch.Generator) -> Tensor:
    """Which items read the null embedding instead of their text, (batch,) bool: 0.1 in Open-Sora."""
    return torch.rand(batch, generator=generator) < probability


class TrainedVelocity(nn.Module):
    """The velocity of a batch, with a text per item or latent frame: STDiT3 and its text projection in one `forward`.

    Data-parallel wrappers see the use of a parameter only where it happens inside the module that they wrap; so they
    wrap this one. `network` holds the weights to save.
    """

    def __init__(self, network: STDiT3) -> None:
        super().__init__()
        self.network = network

    def forward(
        self,
        noised: Noised,
        embeddings: Sequence[Tensor],
        *,
        fps: float,
        size: tuple[int, int],
        texts: Tensor | None = None,
        dropped: Tensor | None = None,
    ) -> Tensor:
        """Velocity (B, C, T, H, W) fp32.

        embeddings: T5 features (tokens, caption_channels) of texts, real tokens only. texts: (B, T), on the CPU, which
        of them each latent frame reads; None: item i reads the i-th throughout. dropped: from `dropped_texts`; such an
        item reads the learned null embedding, cut to its own texts' token counts (what the sampler puts on the other
        side of the guidance). fps, size (height, width in pixels): as for STDiT3.
        """
        batch, channels, length = noised.latents.shape[:3]
        read = list(embeddings)
        if texts is None:
            texts = torch.arange(batch)[:, None].expand(batch, length)
        if dropped is not None and dropped.any():
            nulls = [self.network.null_embedding(len(text)) for text in embeddings]
            texts = texts + len(read) * dropped.cpu().long()[:, None]
            read += nulls
        out = self.network(
            noised.latents,
            noised.timesteps,
            self.network.project_text(read),
            texts,
            fps=fps,
            size=size,
            frame_mask=noised.frame_mask,
        )
        return out[:, :channels]
