"""The velocity that the samplers see: a STDiT3 with its texts prepared once, under classifier-free guidance."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from pavdm.errors import InputError
from pavdm.models.embeddings import Positions
from pavdm.models.stdit3 import STDiT3, TextContext
from pavdm.sampling.state import Texts

CONDITIONAL, UNCONDITIONAL = 0, 1  # the halves of the guidance pair


class GuidedVelocity:
    """velocity = uncond + guidance_scale * (cond - uncond), both halves in one batch.

    The unconditional half reads the learned null embedding, cut to the token count of the prompt it stands against
    (Open-Sora v1.2). A scale of 1 needs no unconditional half, and none is computed.

    embeddings: text -> T5 features (tokens, caption_channels) of every text the run will use. Their projections and
    cross-attention keys and values are computed here, once.
    size: (height, width) in pixels that the model is told, fps: frames per second that it is told.
    """

    def __init__(
        self,
        network: STDiT3,
        embeddings: Mapping[str, Tensor],
        *,
        guidance_scale: float,
        size: tuple[int, int],
        fps: float,
    ) -> None:
        self.network = network
        self.guidance_scale = guidance_scale
        self.size = size
        self.fps = fps
        self._contexts: list[TextContext] = []
        self._index: dict[str, tuple[int, int]] = {}  # text -> (its context, its null context)
        nulls: dict[int, int] = {}
        for text, embedding in embeddings.items():
            tokens = embedding.shape[0]
            if tokens not in nulls:
                nulls[tokens] = self._add(network.null_embedding(tokens))
            self._index[text] = (self._add(embedding), nulls[tokens])
        self._positions: Positions | None = None

    def _add(self, embedding: Tensor) -> int:
        self._contexts += self.network.project_text([embedding])
        return len(self._contexts) - 1

    @property
    def device(self) -> torch.device:
        return self._contexts[0].keys[0].device

    @property
    def halves(self) -> tuple[int, ...]:
        """What one velocity needs: CONDITIONAL and, but for a scale of 1, UNCONDITIONAL."""
        return (CONDITIONAL,) if self.guidance_scale == 1 else (CONDITIONAL, UNCONDITIONAL)

    def __call__(self, latents: Tensor, timesteps: Tensor, texts: Texts, frame_mask: Tensor | None = None) -> Tensor:
        predicted = self.predict(latents, timesteps, texts, frame_mask, self.halves)
        return predicted if self.guidance_scale == 1 else self.combine(*predicted.chunk(2))

    def combine(self, conditional: Tensor, unconditional: Tensor) -> Tensor:
        return unconditional + self.guidance_scale * (conditional - unconditional)

    @torch.inference_mode()
    def predict(
        self,
        latents: Tensor,
        timesteps: Tensor,
        texts: Texts,
        frame_mask: Tensor | None,
        halves: Sequence[int],
    ) -> Tensor:
        """The network's own predictions for these halves, in one batch: (len(halves) * B, C, T, H, W)."""
        missing = {text for row in texts for text in row} - self._index.keys()
        if missing:
            raise InputError(f"no embedding was prepared for the text {sorted(missing)[0]!r}")
        index = torch.tensor([[[self._index[text][half] for text in row] for row in texts] for half in halves])
        times = len(halves)
        return self._forward(
            torch.cat([latents] * times),
            torch.cat([timesteps] * times),
            index.flatten(0, 1),  # (halves * B, T)
            None if frame_mask is None else torch.cat([frame_mask] * times),
        )

    def _forward(self, latents: Tensor, timesteps: Tensor, texts: Tensor, frame_mask: Tensor | None) -> Tensor:
        if self._positions is None:
            height, width = latents.shape[-2:]
            self._positions = self.network.positions((height, width), self.size, latents.device)
        out = self.network(
            latents,
            timesteps,
            self._contexts,
            texts,
            fps=self.fps,
            size=self.size,
            frame_mask=frame_mask,
            positions=self._positions,
        )
        return out[:, : latents.shape[1]]
