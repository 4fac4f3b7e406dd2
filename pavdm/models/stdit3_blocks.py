"""Layers of STDiT3. Tokens are (B, T, S, C): S tokens in each of T latent frames.

Without autograd the layers work slice by slice and add to the tokens in place, so that temporaries stay small
whatever the window is; `slice_bytes` bounds them. With autograd (`slice_bytes` None) nothing is overwritten.
`operations` is the namespace that the weight layers come from (see `STDiT3`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pavdm.models.attention import Attention
from pavdm.models.embeddings import rotate, timestep_sinusoid
from pavdm.models.stdit3_config import STDiT3Config

SINUSOID_CHANNELS = 256
NORM_EPS = 1e-6
# temporaries of a token, in units of hidden_size: in the MLP (and not more in self-attention), in cross-attention
WIDTH, CROSS_WIDTH = 8, 4
GELU_ROWS = 128


@dataclass(frozen=True)
class TextRun:
    """Frames [start, stop) of batch items [first, last), each item with one text, all of the same token count."""

    first: int
    last: int
    start: int
    stop: int
    texts: tuple[int, ...]


def text_runs(texts: Tensor, num_tokens: Sequence[int]) -> list[TextRun]:
    """Cut texts (B, T), an index per frame, into the fewest batched cross-attentions that need no mask.

    num_tokens[i]: tokens of text i. One text per item and equal counts, the usual case, give a single run; no
    frames give none.
    """
    batch, length = texts.shape
    if not length:
        return []
    rows: list[list[int]] = texts.tolist()
    columns = list(zip(*rows, strict=True))
    starts = [0] + [frame for frame in range(1, length) if columns[frame] != columns[frame - 1]]
    runs = []
    for start, stop in zip(starts, [*starts[1:], length], strict=True):
        here = columns[start]
        if len({num_tokens[text] for text in here}) == 1:
            runs.append(TextRun(0, batch, start, stop, here))
        else:
            runs.extend(TextRun(item, item + 1, start, stop, (here[item],)) for item in range(batch))
    return runs


def slices(x: Tensor, dim: int, slice_bytes: int | None, width: int = WIDTH) -> Iterator[slice]:
    """Cut x along `dim` into slices whose temporaries take at most `slice_bytes` (None: one slice).

    width: temporaries as a multiple of the tokens x. Nothing comes of an empty x.
    """
    if not x.numel():
        return
    count = x.shape[dim]
    step = count if slice_bytes is None else max(1, slice_bytes // (width * x.nbytes // count))
    for start in range(0, count, step):
        yield slice(start, min(start + step, count))


def add_branch(
    x: Tensor,
    norm: nn.Module,
    branch: Callable[[Tensor], Tensor],
    modulation: Tensor,
    slice_bytes: int | None,
) -> Tensor:
    """x + gate * branch(norm(x) * scale + shift), for x (B, G, N, C), slice by slice of G.

    modulation: shift, scale (its 1 added already) and gate, (3, B, G, N, C), expanded where they do not vary.
    x is overwritten unless slice_bytes is None.
    """
    shift, scale, gate = modulation
    out = x.clone() if slice_bytes is None else x
    for part in slices(x, 1, slice_bytes):
        h = torch.addcmul(shift[:, part], norm(x[:, part]), scale[:, part])
        out[:, part].addcmul_(branch(h), gate[:, part])
    return out


def gelu(x: Tensor) -> Tensor:
    """GELU by its tanh approximation; without autograd x may be overwritten.

    On a CPU torch's own takes four times as long as x * sigmoid(2 u), which equals x * (1 + tanh(u)) / 2.
    """
    if torch.is_grad_enabled() or x.device.type != "cpu" or x.dtype != torch.float32:
        return F.gelu(x, approximate="tanh")
    slope = 2 * math.sqrt(2 / math.pi)
    one = x.new_tensor(slope)
    for rows in x.view(-1, x.shape[-1]).split(GELU_ROWS):  # few enough for the processor's cache
        rows.mul_(torch.addcmul(one, rows, rows, value=0.044715 * slope).mul_(rows).sigmoid_())
    return x


class Mlp(nn.Module):
    """Two linear layers with a tanh-approximated GELU between."""

    def __init__(self, channels: int, hidden: int, out: int, operations: Any, device: Any, dtype: Any) -> None:
        super().__init__()
        self.fc1 = operations.Linear(channels, hidden, device=device, dtype=dtype)
        self.fc2 = operations.Linear(hidden, out, device=device, dtype=dtype)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(gelu(self.fc1(x)))


class ScalarEmbedder(nn.Module):
    """Sinusoid of a scalar (a timestep, the fps), then two linear layers."""

    def __init__(self, channels: int, operations: Any, device: Any, dtype: Any) -> None:
        super().__init__()
        self.mlp = nn.Sequential(
            operations.Linear(SINUSOID_CHANNELS, channels, device=device, dtype=dtype),
            nn.SiLU(),
            operations.Linear(channels, channels, device=device, dtype=dtype),
        )

    def forward(self, values: Tensor, dtype: torch.dtype) -> Tensor:
        return self.mlp(timestep_sinusoid(values, SINUSOID_CHANNELS).to(dtype))  # (U,) -> (U, C)


class SelfAttention(nn.Module):
    def __init__(self, config: STDiT3Config, attention: Attention, operations: Any, device: Any, dtype: Any) -> None:
        super().__init__()
        channels, self.head_dim, self.attention = config.hidden_size, config.head_dim, attention
        self.qkv = operations.Linear(channels, 3 * channels, device=device, dtype=dtype)
        self.proj = operations.Linear(channels, channels, device=device, dtype=dtype)
        self.q_norm: nn.Module = nn.Identity()
        self.k_norm: nn.Module = nn.Identity()
        if config.qk_norm:
            self.q_norm = operations.RMSNorm(self.head_dim, eps=NORM_EPS, device=device, dtype=dtype)
            self.k_norm = operations.RMSNorm(self.head_dim, eps=NORM_EPS, device=device, dtype=dtype)

    def forward(self, x: Tensor, rotation: Tensor | None = None) -> Tensor:
        """x (..., N, C), sequences of N tokens. rotation: complex (N, head_dim / 2); None: no rotary embedding."""
        qkv = self.qkv(x).flatten(0, -3).unflatten(-1, (3, -1, self.head_dim))
        q, k, v = qkv.unbind(-3)  # (sequences, N, heads, D)
        q, k = self.q_norm(q), self.k_norm(k)
        if rotation is not None:
            q, k = rotate(q, rotation), rotate(k, rotation)
        out: Tensor = self.proj(self.attention(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)))
        return out.view(x.shape)


class CrossAttention(nn.Module):
    def __init__(self, config: STDiT3Config, attention: Attention, operations: Any, device: Any, dtype: Any) -> None:
        super().__init__()
        channels, self.head_dim, self.attention = config.hidden_size, config.head_dim, attention
        self.q_linear = operations.Linear(channels, channels, device=device, dtype=dtype)
        self.kv_linear = operations.Linear(channels, 2 * channels, device=device, dtype=dtype)
        self.proj = operations.Linear(channels, channels, device=device, dtype=dtype)

    def project_text(self, text: Tensor) -> tuple[Tensor, Tensor]:
        """text (L, C) -> keys and values, each (heads, L, D)."""
        k, v = self.kv_linear(text).unflatten(-1, (2, -1, self.head_dim)).unbind(-3)  # (L, heads, D)
        return k.transpose(0, 1), v.transpose(0, 1)

    def forward(self, x: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """x (B, F, S, C) tokens of F frames; keys and values (B, heads, L, D)."""
        q = self.q_linear(x.flatten(0, 2)).view(x.shape[0], -1, *keys.shape[1::2])  # (B, F * S, heads, D)
        out: Tensor = self.proj(self.attention(q.transpose(1, 2), keys, values))
        return out.view(x.shape)


class Block(nn.Module):
    """Self-attention, cross-attention and MLP, each added to the tokens."""

    def __init__(self, config: STDiT3Config, attention: Attention, operations: Any, device: Any, dtype: Any) -> None:
        super().__init__()
        channels = config.hidden_size
        norm = {"eps": NORM_EPS, "elementwise_affine": False, "device": device, "dtype": dtype}
        self.norm1 = operations.LayerNorm(channels, **norm)
        self.attn = SelfAttention(config, attention, operations, device, dtype)
        self.cross_attn = CrossAttention(config, attention, operations, device, dtype)
        self.norm2 = operations.LayerNorm(channels, **norm)
        self.mlp = Mlp(channels, int(channels * config.mlp_ratio), channels, operations, device, dtype)
        self.scale_shift_table = nn.Parameter(torch.empty(6, channels, device=device, dtype=dtype))

    def project_texts(self, texts: Sequence[Tensor]) -> list[tuple[Tensor, Tensor]]:
        """Texts (L, C) -> keys and values of each, (heads, L, D).

        A method of the block, which is what is sharded where weights are, and all texts in one call: processes gather
        the shards together, and one of them may have more texts than another.
        """
        return [self.cross_attn.project_text(text) for text in texts]

    def forward(
        self,
        x: Tensor,
        modulation: Tensor,
        frames: Tensor,
        text: Sequence[tuple[TextRun, Tensor, Tensor]],
        rotation: Tensor | None,
        slice_bytes: int | None,
    ) -> Tensor:
        """x (B, T, S, C) -> the same shape; x itself is overwritten unless slice_bytes is None.

        modulation: (U, 6, C), one for each distinct timestep. frames: (B, T), the row of it that a frame has.
        text: the runs with their keys and values (items, heads, L, D).
        rotation: complex (T, D / 2) makes the block a temporal one, None a spatial one.
        slice_bytes: bound of the temporaries; None, for autograd: one slice, and nothing overwritten.
        """
        shape = x.shape
        table = self.scale_shift_table.to(modulation) + modulation
        table[:, 1::3] += 1  # rows: shift, scale, gate of the attention, then of the MLP
        by_frame = table[frames].permute(2, 0, 1, 3)[:, :, :, None]  # (6, B, T, 1, C)
        by_frame = by_frame.expand(-1, -1, -1, x.shape[2], -1)  # (6, B, T, S, C)
        in_a_row = by_frame.flatten(1, 2)[:, None]  # (6, 1, B * T, S, C): slices of frames are contiguous

        if rotation is None:
            x = add_branch(x.flatten(0, 1)[None], self.norm1, self.attn, in_a_row[:3], slice_bytes)
        else:
            attend = partial(self.attn, rotation=rotation)
            by_column = by_frame[:3].transpose(2, 3)  # (3, B, S, T, C)
            x = add_branch(x.transpose(1, 2), self.norm1, attend, by_column, slice_bytes).transpose(1, 2)
        x = self._attend_to_text(x.view(shape), text, slice_bytes)
        return add_branch(x.flatten(0, 1)[None], self.norm2, self.mlp, in_a_row[3:], slice_bytes).view(shape)

    def _attend_to_text(
        self, x: Tensor, text: Sequence[tuple[TextRun, Tensor, Tensor]], slice_bytes: int | None
    ) -> Tensor:
        out = x.clone() if slice_bytes is None else x
        for run, keys, values in text:
            items = slice(run.first, run.last)
            frames, target = x[items, run.start : run.stop], out[items, run.start : run.stop]
            for part in slices(frames, 1, slice_bytes, CROSS_WIDTH):
                target[:, part].add_(self.cross_attn(frames[:, part], keys, values))
        return out


class FinalLayer(nn.Module):
    def __init__(self, config: STDiT3Config, operations: Any, device: Any, dtype: Any) -> None:
        super().__init__()
        channels, self.patch_values = config.hidden_size, math.prod(config.patch_size) * config.out_channels
        norm = {"eps": NORM_EPS, "elementwise_affine": False, "device": device, "dtype": dtype}
        self.norm_final = operations.LayerNorm(channels, **norm)
        self.linear = operations.Linear(channels, self.patch_values, device=device, dtype=dtype)
        self.scale_shift_table = nn.Parameter(torch.empty(2, channels, device=device, dtype=dtype))

    def forward(
        self,
        x: Tensor,
        embedding: Tensor,
        frames: Tensor,
        held: tuple[Tensor, Tensor] | None,
        slice_bytes: int | None,
    ) -> Tensor:
        """x (B, T, S, C) -> (B, T, S, patch values).

        embedding: (U, C), one for each distinct timestep. frames: (B, T), the row of it that a frame has.
        held: with a frame mask, that mask (B, T) and the rows (B, T) in which its False frames have t = 0. As
        published, those frames are modulated twice: with the call's own timestep, and the result, normalised
        again, with t = 0.
        """
        table = self.scale_shift_table.to(embedding) + embedding[:, None]
        table[:, 1] += 1
        tokens = x.flatten(0, 1)  # (B * T, S, C)
        out = x.new_empty(*tokens.shape[:2], self.patch_values)
        for part in slices(tokens, 0, slice_bytes):
            h = self._modulate(tokens[part], table, frames.flatten()[part])
            if held is not None:
                mask, clean_frames = held[0].flatten()[part], held[1].flatten()[part]
                h = torch.where(mask[:, None, None], h, self._modulate(h, table, clean_frames))
            out[part] = self.linear(h)
        return out.view(*x.shape[:3], self.patch_values)

    def _modulate(self, x: Tensor, table: Tensor, frames: Tensor) -> Tensor:
        shift, scale = table[frames, :, None].unbind(1)  # each (F, 1, C)
        return torch.addcmul(shift, self.norm_final(x), scale)


class PatchEmbedder(nn.Module):
    def __init__(self, config: STDiT3Config, operations: Any, device: Any, dtype: Any) -> None:
        super().__init__()
        size, channels = config.patch_size, config.hidden_size
        self.proj = operations.Conv3d(
            config.in_channels, channels, kernel_size=size, stride=size, device=device, dtype=dtype
        )

    def forward(self, latents: Tensor) -> Tensor:
        """(B, C_in, T, H, W), H and W multiples of the patch -> (B, T, S, C)."""
        return self.proj(latents).flatten(3).permute(0, 2, 3, 1)


class TextEmbedder(nn.Module):
    """Projection of the text encoder's output, and the learned embedding of no text."""

    def __init__(self, config: STDiT3Config, operations: Any, device: Any, dtype: Any) -> None:
        super().__init__()
        channels = config.hidden_size
        self.y_proj = Mlp(config.caption_channels, channels, channels, operations, device, dtype)
        null = torch.empty(config.model_max_length, config.caption_channels, device=device, dtype=dtype)
        self.register_buffer("y_embedding", null)
