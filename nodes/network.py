"""STDiT3 as the host's diffusion model: its operations and attention, one time per latent frame, texts per frame.

The host hands a model one time per call. What PA-VDM needs beyond it (a time and a text for every frame of the window)
comes along in `transformer_options` as a FrameClock, which the sampler puts there for the length of one call; without
one the network is an ordinary flow model of whole clips.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import comfy.conds
import comfy.ldm.modules.attention
import torch
from comfy.patcher_extension import WrapperExecutor, WrappersMP, get_all_wrappers
from torch import Tensor, nn

from pavdm.buckets import size_of_latents
from pavdm.errors import InputError
from pavdm.models.stdit3 import STDiT3, STDiT3Config
from pavdm.sampling.schedule import NUM_TIMESTEPS
from pavdm.sampling.state import Texts

CLOCK = "pavdm_clock"
DEFAULT_FPS = 24.0


@dataclass(frozen=True, eq=False)
class FrameClock:
    """What one call of the model needs to know of the window.

    timesteps: (B, T), 0 clean to 1000 noise. texts: B tuples of T names. embeddings: name -> (tokens, width). fps: the
    video's frames per second, for every conditioning, whatever it says itself.
    frame_mask: (B, T) bool, False for frames that Open-Sora's own conditioning keeps.
    """

    timesteps: Tensor
    texts: Texts
    embeddings: Mapping[str, Tensor]
    fps: float
    frame_mask: Tensor | None = None

    def sigmas(self, batch: int) -> Tensor:
        """(batch, T) in 0..1; the host puts several conditionings of the B items into one batch."""
        return _repeated(self.timesteps / NUM_TIMESTEPS, batch)

    def of_item(self, index: int) -> FrameClock:
        """The clock of item `index` of the host's batch alone."""
        i = index % len(self.texts)
        mask = None if self.frame_mask is None else self.frame_mask[i : i + 1]
        return replace(self, timesteps=self.timesteps[i : i + 1], texts=self.texts[i : i + 1], frame_mask=mask)


@dataclass(frozen=True, eq=False)
class Text:
    """What one batch item reads.

    embedding: (tokens, width). role: "own" reads it in every frame; "prompt" reads what the clock says for each frame,
    and the embedding without a clock; "null" reads the learned embedding of no text, as long as what the prompt reads.
    """

    embedding: Tensor
    role: Literal["own", "prompt", "null"]


class CONDTexts(comfy.conds.CONDRegular):
    """Texts of the batch items. Unlike tensors, those of different lengths go into one batch."""

    def process_cond(self, batch_size: int, **kwargs: Any) -> CONDTexts:
        return self._copy_with([self.cond[i % len(self.cond)] for i in range(batch_size)])

    def can_concat(self, other: CONDTexts) -> bool:
        return True

    def concat(self, others: Sequence[CONDTexts]) -> list[Text]:
        return [text for cond in (self, *others) for text in cond.cond]

    def size(self) -> list[int]:
        return [len(self.cond), *self.cond[0].embedding.shape]


class HostAttention:
    """The host's attention in the library's form. Knows the options of the call that is under way, and no other."""

    def __init__(self) -> None:
        self.options: dict[str, Any] = {}

    def __call__(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """q (B, heads, N, D), k and v (B, heads, M, D) -> (B, N, heads * D)."""
        attend = comfy.ldm.modules.attention.optimized_attention
        return attend(q, k, v, q.shape[1], skip_reshape=True, transformer_options=self.options)


class HostSTDiT3(STDiT3):
    """STDiT3 with the host's signature. Parameters have the published names, so LoRA loaders find them.

    dtype: of the weights. compute_dtype: of the activations, and of the few parameters that are no layer's: these
    would lose too much in fp8.
    """

    def __init__(
        self,
        config: STDiT3Config,
        compute_dtype: torch.dtype,
        operations: Any,
        device: Any = None,
        dtype: torch.dtype | None = None,
        **_: Any,
    ) -> None:
        attention = HostAttention()
        super().__init__(config, operations=operations, attention=attention, device=device, dtype=dtype)
        self.host_attention = attention
        self.compute_dtype = compute_dtype
        for module in self.modules():
            if isinstance(getattr(module, "scale_shift_table", None), nn.Parameter):
                module.scale_shift_table = nn.Parameter(module.scale_shift_table.to(compute_dtype), requires_grad=False)
        self.y_embedder.y_embedding = self.y_embedder.y_embedding.to(compute_dtype)

    def forward(  # type: ignore[override]
        self,
        x: Tensor,
        timestep: Tensor,
        context: Tensor | None = None,
        transformer_options: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> Tensor:
        """x (B, C, T, H, W), timestep (B,) or (B, T), `texts` one Text per batch item -> velocity like x, fp32."""
        options = transformer_options or {}
        wrappers = get_all_wrappers(WrappersMP.DIFFUSION_MODEL, options)
        executor = WrapperExecutor.new_class_executor(self._window_forward, self, wrappers)
        return executor.execute(x, timestep, context, options, **kwargs)

    def _window_forward(
        self,
        x: Tensor,
        timestep: Tensor,
        context: Tensor | None,
        transformer_options: dict[str, Any],
        texts: Sequence[Text] = (),
        fps: float = DEFAULT_FPS,
        **kwargs: Any,
    ) -> Tensor:
        clock: FrameClock | None = transformer_options.get(CLOCK)
        batch, channels, length, height, width = x.shape
        frame_mask = None
        if clock is not None:
            timestep, fps = _repeated(clock.timesteps, batch), clock.fps
            frame_mask = None if clock.frame_mask is None else _repeated(clock.frame_mask, batch)
        embeddings: dict[tuple[bool, int], Tensor] = {}
        rows = []
        for item, text in enumerate(texts):
            read = [text.embedding] * length
            if clock is not None and text.role != "own":
                names = clock.texts[item % len(clock.texts)]
                read = [clock.embeddings[name] for name in names]
            rows.append([self._index(embeddings, embedding, text.role == "null") for embedding in read])
        self.host_attention.options = transformer_options
        try:
            contexts = self.project_text([embedding.to(x.device) for embedding in embeddings.values()])
            size = size_of_latents(height, width)
            out = super().forward(x, timestep, contexts, torch.tensor(rows), fps, size, frame_mask=frame_mask)
        finally:
            self.host_attention.options = {}
        return out[:, :channels]

    def _index(self, embeddings: dict[tuple[bool, int], Tensor], embedding: Tensor, null: bool) -> int:
        """Position of `embedding`, or of the null embedding of its length, in `embeddings`; entered if it is new."""
        key = (null, len(embedding) if null else id(embedding))
        if key not in embeddings:
            if not null and embedding.shape[1] != self.config.caption_channels:
                raise InputError(
                    f"the model reads text of width {self.config.caption_channels}, the conditioning has width "
                    f"{embedding.shape[1]}: connect the text encoder that belongs to the model (T5 v1.1 XXL for the "
                    "published weights)"
                )
            embeddings[key] = self.null_embedding(len(embedding)) if null else embedding
        return list(embeddings).index(key)


def _repeated(values: Tensor, batch: int) -> Tensor:
    """(B, T) -> (batch, T), batch a multiple of B."""
    return values.repeat(batch // values.shape[0], 1)
