"""The host's guider as the velocity that the samplers read, and the prompt that comes with it."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pavdm.errors import InputError
from pavdm.prompts import PromptSchedule
from pavdm.sampling.state import Texts

from .host import check_interrupted
from .model import PAVDM, PerFrameFlow, over_frames
from .network import CLOCK, DEFAULT_FPS, FrameClock

PROMPT = "pavdm_prompt"


@dataclass(frozen=True, eq=False)
class Prompt:
    """A prompt schedule, the embedding (tokens, width) of each of its texts, and the video's frames per second."""

    schedule: PromptSchedule
    embeddings: Mapping[str, Tensor]
    fps: float = DEFAULT_FPS


def prompt_of(guider: Any) -> Prompt:
    """The prompt that a guider's positive conditioning holds.

    A conditioning of a stock node is one nameless text. Raises InputError for several prompts of Encode Prompt.
    """
    positive = guider.conds["positive"]
    fps = float(positive[0].get("frame_rate", DEFAULT_FPS))
    prompts = [cond[PROMPT] for cond in positive if PROMPT in cond]
    if len(prompts) > 1 or (prompts and len(positive) > 1):
        raise InputError(
            "the positive conditioning combines several, one of them of Encode Prompt: its prompt schedule has to "
            "stand alone. Write all texts into one Encode Prompt, or combine stock CLIP Text Encode nodes"
        )
    if prompts:
        return prompts[0]
    embedding: Tensor = positive[0]["cross_attn"][0]
    name = f"stock conditioning {hashlib.sha256(embedding.float().cpu().numpy().tobytes()).hexdigest()[:16]}"
    return Prompt(PromptSchedule((name,)), {name: embedding}, fps)


def require_model(model: Any, latents: Tensor) -> None:
    """Raise InputError unless `model` (the host's BaseModel) is one of this pack, and latents are such as it makes."""
    if not isinstance(model, PAVDM) or not isinstance(model.model_sampling, PerFrameFlow):
        raise InputError(
            "this sampler needs the model of Load PA-VDM Model, without a node that changes its sampling "
            f"(ModelSampling...): got {type(model).__name__} with {type(model.model_sampling).__name__}"
        )
    channels = model.latent_format.latent_channels
    if latents.ndim != 5 or latents.shape[1] != channels:
        raise InputError(
            f"expected video latents with the model's {channels} channels, (B, {channels}, T, h, w), got "
            f"{tuple(latents.shape)}: connect the latent of Encode Clip, with the VAE that belongs to the model, or of "
            "Empty Video"
        )


class GuiderVelocity:
    """velocity(latents, timesteps, texts) by the host: its guidance, its batching of conditionings, its patches.

    Every model call goes through the guider with one time, the window's noisiest; the time of each frame goes along as
    a FrameClock. What comes back is the denoised window, x0 = x + sigma * velocity.

    guider, extra_args: as a host's sampler gets them, the model checked by `require_model`.
    embeddings: of every text that can be asked for. fps: of the video.
    """

    def __init__(self, guider: Any, extra_args: dict[str, Any], embeddings: Mapping[str, Tensor], fps: float) -> None:
        self._guider = guider
        self._extra_args = extra_args
        self._embeddings = embeddings
        self._fps = fps
        self.denoised: Tensor | None = None  # of the last call, noisy frames only: for previews

    def __call__(self, latents: Tensor, timesteps: Tensor, texts: Texts, frame_mask: Tensor | None = None) -> Tensor:
        check_interrupted()
        clock = FrameClock(timesteps, texts, self._embeddings, self._fps, frame_mask)
        sigmas = clock.sigmas(latents.shape[0])
        options: dict[str, Any] = self._extra_args["model_options"].setdefault("transformer_options", {})
        options[CLOCK] = clock
        try:
            denoised = self._guider(latents, sigmas.amax(dim=1), **self._extra_args)
        finally:
            del options[CLOCK]
        noisy = int((sigmas[0] > 0).sum())
        self.denoised = denoised[:, :, latents.shape[2] - noisy :]
        divisor = over_frames(sigmas)
        return torch.where(divisor > 0, (denoised - latents) / divisor, 0.0)
