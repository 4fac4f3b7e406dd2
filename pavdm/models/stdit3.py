"""STDiT3, the video transformer of Open-Sora v1.2, with one timestep per latent frame.

Blocks alternate: a spatial one (tokens of a frame attend to each other) and a temporal one (a token attends to
its place in the other frames). Both attend to the text and are modulated by each frame's timestep (adaLN-single).
Sources: PA-VDM (arXiv 2410.08151) appendix E.1; models/stdit/stdit3.py of desaixie/pa_vdm and Open-Sora v1.2.
Parameter names are those of the published checkpoints.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pavdm.errors import InputError
from pavdm.models.attention import Attention, sdpa
from pavdm.models.embeddings import Positions, rotations, spatial_sinusoid
from pavdm.models.sharing import TokenSharing, Unshared
from pavdm.models.stdit3_blocks import (
    Block,
    FinalLayer,
    PatchEmbedder,
    ScalarEmbedder,
    TextEmbedder,
    slices,
    text_runs,
)
from pavdm.models.stdit3_config import STDiT3Config

__all__ = ["STDiT3", "STDiT3Config", "TextContext", "initialize_weights"]

SLICE_BYTES_CPU = 2**26  # single tensors stay below 32 MiB, which the C library reuses and does not unmap
SLICE_BYTES_DEVICE = 2**30  # few, large kernels


@dataclass(frozen=True, eq=False)
class TextContext:
    """One text of L real tokens, ready for every block's cross-attention.

    keys, values: one (heads, L, head_dim) tensor per block, in the order of `STDiT3.blocks`.
    """

    keys: tuple[Tensor, ...]
    values: tuple[Tensor, ...]

    @property
    def num_tokens(self) -> int:
        return self.keys[0].shape[1]


class STDiT3(nn.Module):
    """The network, its weights not set: load a checkpoint or call `initialize_weights`.

    operations: namespace of the weight layers (Linear, Conv3d, LayerNorm, RMSNorm): torch.nn or one that fits it.
    attention: see `pavdm.models.attention`.
    compute_dtype: dtype of the activations. None means that of the raw parameters, which `.to()` converts with
    the rest; a host whose layers cast their weights at use sets it.
    slice_bytes: bound of a layer's temporaries without autograd, in bytes. None chooses by the device.
    sharing: which of the window's tokens are this process's, where several evaluate it together; they set it.
    """

    def __init__(
        self,
        config: STDiT3Config,
        operations: Any = nn,
        attention: Attention = sdpa,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.config = config
        self.compute_dtype: torch.dtype | None = None
        self.slice_bytes: int | None = None
        self.sharing: TokenSharing = Unshared()
        channels = config.hidden_size
        made_by = (operations, device, dtype)
        self.x_embedder = PatchEmbedder(config, *made_by)
        self.t_embedder = ScalarEmbedder(channels, *made_by)
        self.fps_embedder = ScalarEmbedder(channels, *made_by)
        modulation = operations.Linear(channels, 6 * channels, device=device, dtype=dtype)
        self.t_block = nn.Sequential(nn.SiLU(), modulation)
        self.y_embedder = TextEmbedder(config, *made_by)
        self.spatial_blocks = nn.ModuleList(Block(config, attention, *made_by) for _ in range(config.depth))
        self.temporal_blocks = nn.ModuleList(Block(config, attention, *made_by) for _ in range(config.depth))
        self.final_layer = FinalLayer(config, *made_by)

    @property
    def dtype(self) -> torch.dtype:
        """Dtype of the activations."""
        return self.compute_dtype or self.final_layer.scale_shift_table.dtype

    def blocks(self) -> Iterator[Block]:
        """In the order in which they run."""
        for spatial, temporal in zip(self.spatial_blocks, self.temporal_blocks, strict=True):
            yield from (spatial, temporal)  # type: ignore[misc]

    def project_text(self, embeddings: Sequence[Tensor]) -> list[TextContext]:
        """Text embeddings, each (L, caption_channels), real tokens only -> contexts for `forward`.

        Done once per text: the contexts serve every model call. The embeddings are on the network's device.
        """
        texts = [self.y_embedder.y_proj(embedding.to(self.dtype)) for embedding in embeddings]  # (L, C) each
        pairs = zip(*(block.project_texts(texts) for block in self.blocks()), strict=True)  # of each text, by block
        return [TextContext(tuple(k for k, _ in each), tuple(v for _, v in each)) for each in pairs]

    def null_embedding(self, num_tokens: int) -> Tensor:
        """Learned embedding of no text, cut to the prompt's token count -> (num_tokens, caption_channels)."""
        known = self.y_embedder.get_buffer("y_embedding")
        if not 0 < num_tokens <= len(known):
            raise InputError(
                f"Expected a prompt of 1 to {len(known)} tokens, what the model was made for; got {num_tokens}."
                " Shorten the prompt."
            )
        return known[:num_tokens]

    def positions(
        self,
        latent_size: tuple[int, int],
        size: tuple[int, int],
        device: torch.device | str,
        max_frames: int = 1024,
    ) -> Positions:
        """What `forward` needs to know of the tokens' places; it serves every model call.

        latent_size: (H, W) of the latents. size: (height, width) of the video in pixels.
        max_frames: longest window in latent frames for which rotations are kept ready; `forward` computes those of
        a longer one anew.
        """
        _, patch_height, patch_width = self.config.patch_size
        rows, columns = -(-latent_size[0] // patch_height), -(-latent_size[1] // patch_width)
        scale = math.sqrt(size[0] * size[1]) / self.config.input_sq_size
        return Positions(
            spatial=spatial_sinusoid(rows, columns, self.config.hidden_size, scale, device),
            temporal=rotations(max_frames, self.config.head_dim, device),
        )

    def forward(
        self,
        latents: Tensor,
        timesteps: Tensor,
        contexts: Sequence[TextContext],
        texts: Tensor,
        fps: float,
        size: tuple[int, int],
        frame_mask: Tensor | None = None,
        positions: Positions | None = None,
    ) -> Tensor:
        """Evaluate the network -> (B, out_channels, T, H, W) fp32; the first in_channels are the velocity.

        latents: (B, in_channels, T, H, W). Odd H and W are padded with zeros to the patch, the output is cropped.
        timesteps: (B, T), or (B,) for all frames; 0 (clean) to 1000 (noise). On the CPU they save a
        synchronisation with the device.
        contexts, texts: `texts` (B, T), integers on the CPU, tells which of `contexts` each frame attends to.
        fps: frames per second of the video. size: (height, width) of the video in pixels.
        frame_mask: (B, T) bool; False frames are taken as clean (t = 0), as in Open-Sora's replacement. As
        published, such frames are modulated twice in the final layer: see `FinalLayer`.
        positions: from `self.positions`; None builds them.
        With autograd off, temporaries are bounded and the window is held once.
        """
        length, height, width = latents.shape[2:]
        device, dtype = latents.device, self.dtype
        slice_bytes = self.slice_bytes or (SLICE_BYTES_CPU if device.type == "cpu" else SLICE_BYTES_DEVICE)
        bound = None if torch.is_grad_enabled() else slice_bytes
        if positions is None:
            positions = self.positions((height, width), size, device, max_frames=length)

        timesteps = timesteps.float()
        if timesteps.ndim == 1:
            timesteps = timesteps[:, None].expand(-1, length)
        levels = timesteps[None]
        if frame_mask is not None:
            levels = torch.stack((timesteps.where(frame_mask.to(timesteps.device), 0.0), timesteps))
        distinct, rows = levels.unique(return_inverse=True)
        distinct, rows = distinct.to(device), rows.to(device)  # (U,), (1 or 2, B, T)
        rate = self.fps_embedder(distinct.new_tensor([fps]), dtype)
        embedding = self.t_embedder(distinct, dtype) + rate  # (U, C)
        modulation = self.t_block(embedding).unflatten(1, (6, -1))

        temporal = positions.temporal
        if len(temporal) < length:
            temporal = rotations(length, self.config.head_dim, device)
        num_tokens = [context.num_tokens for context in contexts]
        mine, num_positions = self.sharing.frames(length), len(positions.spatial)
        # what a spatial and what a temporal block sees of the frames: their timesteps and their texts
        seen = (
            (rows[0][:, mine], text_runs(texts[:, mine], num_tokens)),
            (rows[0], text_runs(texts, num_tokens)),
        )
        x = self._embed(latents[:, :, mine].to(dtype), positions.spatial, bound)
        for index, block in enumerate(self.blocks()):
            if index % 2:
                x = self.sharing.to_positions(x, length)
            elif index:
                x = self.sharing.to_frames(x, num_positions)
            rotation = temporal[:length] if index % 2 else None
            frames, runs = seen[index % 2]
            keys = [torch.stack([contexts[i].keys[index] for i in run.texts]) for run in runs]
            values = [torch.stack([contexts[i].values[index] for i in run.texts]) for run in runs]
            text = list(zip(runs, keys, values, strict=True))
            x = block(x, modulation, frames, text, rotation, bound)
        held = None if frame_mask is None else (frame_mask.to(device), rows[0])
        patches = self.final_layer(x, embedding, rows[-1], held, bound)
        patches = self.sharing.all_positions(patches, num_positions)
        return self._unpatchify(patches, height, width).float()

    def _embed(self, latents: Tensor, positions: Tensor, slice_bytes: int | None) -> Tensor:
        """Latents (B, C_in, T, H, W), positions (S, C) -> tokens (B, T, S, C)."""
        _, patch_height, patch_width = self.config.patch_size
        latents = F.pad(latents, (0, -latents.shape[4] % patch_width, 0, -latents.shape[3] % patch_height))
        batch, _, length = latents.shape[:3]
        x = latents.new_empty(batch, length, *positions.shape)
        for part in slices(x, 1, slice_bytes):
            x[:, part] = self.x_embedder(latents[:, :, part]) + positions  # the sum is fp32
        return x

    def _unpatchify(self, patches: Tensor, height: int, width: int) -> Tensor:
        """(B, T, S, patch values) -> (B, out_channels, T, height, width)."""
        _, patch_height, patch_width = self.config.patch_size
        rows = -(-height // patch_height)
        x = patches.unflatten(3, (patch_height, patch_width, -1)).unflatten(2, (rows, -1))
        x = x.permute(0, 6, 1, 2, 4, 3, 5)  # from (B, T, h, w, p, q, C_out) to (B, C_out, T, h, p, w, q)
        x = x.flatten(5).flatten(3, 4)
        return x[..., :height, :width]


def initialize_weights(network: STDiT3, generator: torch.Generator) -> None:
    """Random weights for tests, demonstrations and training from nothing; `generator` is a CPU one.

    Linear and convolution weights are Xavier-uniform, as published. Where the publication starts at zero (biases,
    the last layers of the temporal blocks and of the fps embedder) the values are small and normal: a test of a
    network that ignores half its inputs would prove little.
    """
    temporal_last = re.compile(r"temporal_blocks\..*(attn\.proj|mlp\.fc2)\.weight")

    def draw(name: str, shape: torch.Size) -> Tensor:
        if name.endswith("_norm.weight"):
            return torch.ones(shape)
        if name.endswith(("scale_shift_table", "y_embedding")):
            return torch.randn(shape, generator=generator) / math.sqrt(shape[1])
        if len(shape) == 1 or name.startswith("fps_embedder") or temporal_last.fullmatch(name):
            return 0.02 * torch.randn(shape, generator=generator)
        bound = math.sqrt(6 / (shape[0] + math.prod(shape[1:])))
        return bound * (2 * torch.rand(shape, generator=generator) - 1)

    with torch.no_grad():
        for name, tensor in [*network.named_parameters(), *network.named_buffers()]:
            tensor.copy_(draw(name, tensor.shape))
