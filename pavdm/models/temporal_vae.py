"""The temporal half of the video VAE: causal 3-D convolutions over spatial latents, 4 frames to one.

Parameter names are those of the published Open-Sora v1.2 checkpoint (`temporal_vae.*`).
Source: Open-Sora report 1.2 (docs/report_03.md); the network follows MAGVIT-v2 (arXiv 2310.05737), without
its spatial down-sampling.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pavdm.errors import InputError
from pavdm.models.config_checks import as_mapping, as_tuple, check_flag, check_whole, check_wholes
from pavdm.models.spatial_vae import check_groups, count_children, fitting_groups, key_shape


@dataclass(frozen=True)
class TemporalConfig:
    """Sizes of the temporal VAE, under Open-Sora's names. The defaults are v1.2's (`VAE_Temporal_SD`)."""

    in_out_channels: int = 4
    latent_embed_dim: int = 4
    embed_dim: int = 4
    filters: int = 128
    num_res_blocks: int = 4
    channel_multipliers: tuple[int, ...] = (1, 2, 2, 4)
    temporal_downsample: tuple[bool, ...] = (False, True, True)
    num_groups: int = 32

    def __post_init__(self) -> None:
        for name in ("in_out_channels", "latent_embed_dim", "embed_dim", "filters", "num_res_blocks", "num_groups"):
            check_whole("temporal VAE", name, getattr(self, name))
        check_wholes("temporal VAE", "channel_multipliers", self.channel_multipliers)
        for flag in as_tuple("temporal VAE", "temporal_downsample", self.temporal_downsample):
            check_flag("temporal VAE", "each of temporal_downsample", flag)
        check_groups("temporal VAE", self.num_groups, (self.filters, *self.widths))
        if len(self.temporal_downsample) != len(self.channel_multipliers) - 1:
            raise InputError(
                f"temporal VAE: expected {len(self.channel_multipliers) - 1} temporal_downsample, one "
                f"less than channel_multipliers, got {list(self.temporal_downsample)}; mend its config.json"
            )

    @property
    def factor(self) -> int:
        """Frames per latent."""
        return 2 ** sum(self.temporal_downsample)

    @property
    def widths(self) -> tuple[int, ...]:
        """Channels of each level, finest in time first."""
        return tuple(self.filters * multiplier for multiplier in self.channel_multipliers)

    @classmethod
    def from_dict(cls, config: Mapping[str, Any]) -> TemporalConfig:
        """Read Open-Sora's constructor arguments; what is left out is as in v1.2.

        Raises InputError for impossible sizes.
        """
        config = as_mapping("temporal VAE", "its configuration", config)
        known = {name: config[name] for name in cls.__dataclass_fields__ if name in config}
        for name in ("channel_multipliers", "temporal_downsample"):
            if name in known:
                known[name] = as_tuple("temporal VAE", name, known[name])
        return cls(**known)

    @classmethod
    def from_state_dict(cls, state_dict: Mapping[str, Any], num_groups: int = 32) -> TemporalConfig:
        """Infer the sizes from key -> tensor (or shape). Norm groups leave no trace there: they are given.

        Raises InputError if the keys are not those of Open-Sora's temporal VAE.
        """
        filters, in_out_channels = key_shape(state_dict, "encoder.conv_in.conv.weight")[:2]
        levels = count_children(state_dict, "encoder.block_res_blocks")
        widths = tuple(
            key_shape(state_dict, f"encoder.block_res_blocks.{i}.0.conv1.conv.weight")[0] for i in range(levels)
        )
        return cls(
            in_out_channels=in_out_channels,
            latent_embed_dim=key_shape(state_dict, "decoder.conv1.conv.weight")[1],
            embed_dim=key_shape(state_dict, "post_quant_conv.conv.weight")[1],
            filters=filters,
            num_res_blocks=count_children(state_dict, "encoder.block_res_blocks.0"),
            channel_multipliers=tuple(width // filters for width in widths),
            temporal_downsample=tuple(f"encoder.conv_blocks.{i}.conv.weight" in state_dict for i in range(levels - 1)),
            num_groups=fitting_groups("temporal VAE", num_groups, (filters, *widths)),
        )


class CausalConv3d(nn.Module):
    """3-D convolution that sees no later frame: zeros go in front in time, evenly around in height and width.

    (B, in, T, H, W) -> (B, out, T / time_stride, H, W).
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        operations: Any,
        time_stride: int = 1,
        bias: bool = True,
        **where: Any,
    ) -> None:
        super().__init__()
        self.front = kernel_size - time_stride
        around = kernel_size // 2
        self.conv = operations.Conv3d(
            in_channels,
            out_channels,
            kernel_size,
            stride=(time_stride, 1, 1),
            padding=(0, around, around),
            bias=bias,
            **where,
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.pad(x, (0, 0, 0, 0, self.front, 0)))


class ResBlock(nn.Module):
    """Two causal convolutions, each after norm and SiLU, around a skip."""

    def __init__(self, in_channels: int, out_channels: int, groups: int, operations: Any, **where: Any) -> None:
        super().__init__()
        self.norm1 = operations.GroupNorm(groups, in_channels, **where)
        self.conv1 = CausalConv3d(in_channels, out_channels, 3, operations, bias=False, **where)
        self.norm2 = operations.GroupNorm(groups, out_channels, **where)
        self.conv2 = CausalConv3d(out_channels, out_channels, 3, operations, bias=False, **where)
        self.conv3 = (
            CausalConv3d(in_channels, out_channels, 1, operations, bias=False, **where)
            if in_channels != out_channels
            else None
        )

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv1(F.silu(self.norm1(x)))
        h = F.silu(self.norm2(h))
        h = self.conv2(h)
        return (x if self.conv3 is None else self.conv3(x)) + h


def _res_blocks(
    in_channels: int, out_channels: int, config: TemporalConfig, operations: Any, **where: Any
) -> nn.Sequential:
    return nn.Sequential(
        *(
            ResBlock(in_channels if i == 0 else out_channels, out_channels, config.num_groups, operations, **where)
            for i in range(config.num_res_blocks)
        )
    )


class Encoder(nn.Module):
    """(B, channels, T, h, w) -> (B, 2 * latent_embed_dim, T / 4, h, w), T a multiple of 4."""

    def __init__(self, config: TemporalConfig, operations: Any, **where: Any) -> None:
        super().__init__()
        widths = config.widths
        self.conv_in = CausalConv3d(config.in_out_channels, config.filters, 3, operations, bias=False, **where)
        self.block_res_blocks = nn.ModuleList(
            _res_blocks(before, width, config, operations, **where)
            for before, width in pairwise((config.filters, *widths))
        )
        self.conv_blocks = nn.ModuleList(
            CausalConv3d(width, width, 3, operations, time_stride=2, **where) if halve else nn.Identity()
            for width, halve in zip(widths[:-1], config.temporal_downsample, strict=True)
        )
        self.res_blocks = _res_blocks(widths[-1], widths[-1], config, operations, **where)
        self.norm1 = operations.GroupNorm(config.num_groups, widths[-1], **where)
        self.conv2 = CausalConv3d(widths[-1], 2 * config.latent_embed_dim, 1, operations, **where)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv_in(x)
        for level, blocks in enumerate(self.block_res_blocks):
            x = blocks(x)
            if level < len(self.conv_blocks):
                x = self.conv_blocks[level](x)
        x = self.res_blocks(x)
        return self.conv2(F.silu(self.norm1(x)))


class Decoder(nn.Module):
    """(B, latent_embed_dim, T, h, w) -> (B, channels, 4T, h, w). Lists run by level, as the encoder's do."""

    def __init__(self, config: TemporalConfig, operations: Any, **where: Any) -> None:
        super().__init__()
        widths = config.widths
        self.doubles = config.temporal_downsample
        self.conv1 = CausalConv3d(config.latent_embed_dim, widths[-1], 3, operations, **where)
        self.res_blocks = _res_blocks(widths[-1], widths[-1], config, operations, **where)
        self.block_res_blocks = nn.ModuleList(
            _res_blocks(before, width, config, operations, **where) for width, before in pairwise((*widths, widths[-1]))
        )
        # conv_blocks[i] leads from level i + 1 to level i: twice the channels, half of them new frames.
        self.conv_blocks = nn.ModuleList(
            CausalConv3d(width, 2 * width, 3, operations, **where) if double else nn.Identity()
            for width, double in zip(widths[1:], self.doubles, strict=True)
        )
        self.norm1 = operations.GroupNorm(config.num_groups, widths[0], **where)
        self.conv_out = CausalConv3d(widths[0], config.in_out_channels, 3, operations, **where)

    def forward(self, x: Tensor) -> Tensor:
        x = self.res_blocks(self.conv1(x))
        for level in reversed(range(len(self.block_res_blocks))):
            x = self.block_res_blocks[level](x)
            if level > 0 and self.doubles[level - 1]:
                x = _channels_to_time(self.conv_blocks[level - 1](x))
        return self.conv_out(F.silu(self.norm1(x)))


def _channels_to_time(x: Tensor) -> Tensor:
    """(B, 2C, T, H, W) -> (B, C, 2T, H, W): neighbouring channels become neighbouring frames."""
    return x.unflatten(1, (-1, 2)).movedim(2, 3).flatten(2, 3)


class TemporalVAE(nn.Module):
    """Latent frames to Gaussian posteriors and back. `operations` supplies Conv3d and GroupNorm."""

    def __init__(
        self,
        config: TemporalConfig,
        operations: Any = nn,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        where: dict[str, Any] = {"device": device, "dtype": dtype}
        self.factor = config.factor
        self.encoder = Encoder(config, operations, **where)
        self.decoder = Decoder(config, operations, **where)
        self.quant_conv = CausalConv3d(2 * config.latent_embed_dim, 2 * config.embed_dim, 1, operations, **where)
        self.post_quant_conv = CausalConv3d(config.embed_dim, config.latent_embed_dim, 1, operations, **where)

    def encode(self, frames: Tensor) -> Tensor:
        """(B, C, F, h, w) -> mean and log variance, one after the other: (B, 2C, ceil(F / 4), h, w).

        Empty frames go in front to make F a multiple of 4.
        """
        front = -frames.shape[2] % self.factor
        return self.quant_conv(self.encoder(F.pad(frames, (0, 0, 0, 0, front, 0))))

    def decode(self, latents: Tensor, num_frames: int) -> Tensor:
        """(B, C, T, h, w) -> (B, C, num_frames, h, w), without the empty frames put in front by `encode`."""
        return self.decoder(self.post_quant_conv(latents))[:, :, -num_frames % self.factor :]
