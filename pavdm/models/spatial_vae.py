"""The spatial half of the video VAE: one image at a time, 8 pixels to one latent in height and width.

The architecture and the parameter names are those of diffusers' `AutoencoderKL` as SDXL configures it:
convolutional down and up blocks, one attention in each middle block. Diffusers checkpoints load as they are.
Source: Rombach et al., "High-Resolution Image Synthesis with Latent Diffusion Models" (arXiv 2112.10752).
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pavdm.errors import InputError
from pavdm.models.config_checks import as_mapping, as_tuple, check_whole, check_wholes

logger = logging.getLogger(__name__)

NORM_EPS = 1e-6
LEGACY_ATTENTION_NAMES = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}

T = TypeVar("T")


@dataclass(frozen=True)
class SpatialConfig:
    """Sizes of the spatial VAE, under diffusers' names. The defaults are the SDXL VAE's."""

    in_channels: int = 3
    out_channels: int = 3
    latent_channels: int = 4
    block_out_channels: tuple[int, ...] = (128, 256, 512, 512)
    layers_per_block: int = 2
    norm_num_groups: int = 32

    def __post_init__(self) -> None:
        for name in ("in_channels", "out_channels", "latent_channels", "layers_per_block", "norm_num_groups"):
            check_whole("spatial VAE", name, getattr(self, name))
        check_wholes("spatial VAE", "block_out_channels", self.block_out_channels)
        check_groups("spatial VAE", self.norm_num_groups, self.block_out_channels)

    @property
    def factor(self) -> int:
        """Pixels per latent, in height and in width."""
        return 2 ** (len(self.block_out_channels) - 1)

    @classmethod
    def from_dict(cls, config: Mapping[str, Any]) -> SpatialConfig:
        """Read a diffusers `AutoencoderKL` config.json; what it leaves out is as in SDXL.

        Raises InputError for block types or an activation that this network does not have, and for impossible sizes.
        """
        config = as_mapping("spatial VAE", "its configuration", config)
        blocks = [
            block
            for name in ("down_block_types", "up_block_types")
            for block in as_tuple("spatial VAE", name, config.get(name, ()))
        ]
        foreign = [block for block in blocks if block not in ("DownEncoderBlock2D", "UpDecoderBlock2D")]
        if foreign or config.get("act_fn", "silu") not in ("silu", "swish"):
            raise InputError(
                "spatial VAE: expected an AutoencoderKL of DownEncoderBlock2D, UpDecoderBlock2D and SiLU, "
                f"got blocks {foreign or blocks} and act_fn {config.get('act_fn')!r}; use an SDXL-style VAE"
            )
        known = {name: config[name] for name in cls.__dataclass_fields__ if name in config}
        if "block_out_channels" in known:
            known["block_out_channels"] = as_tuple("spatial VAE", "block_out_channels", known["block_out_channels"])
        return cls(**known)

    @classmethod
    def from_state_dict(cls, state_dict: Mapping[str, Any], norm_num_groups: int = 32) -> SpatialConfig:
        """Infer the sizes from key -> tensor (or shape). Norm groups leave no trace there: they are given.

        Raises InputError if the keys are not those of an `AutoencoderKL`.
        """
        channels = tuple(
            key_shape(state_dict, f"encoder.down_blocks.{i}.resnets.0.conv1.weight")[0]
            for i in range(count_children(state_dict, "encoder.down_blocks"))
        )
        return cls(
            in_channels=key_shape(state_dict, "encoder.conv_in.weight")[1],
            out_channels=key_shape(state_dict, "decoder.conv_out.weight")[0],
            latent_channels=key_shape(state_dict, "decoder.conv_in.weight")[1],
            block_out_channels=channels,
            layers_per_block=count_children(state_dict, "encoder.down_blocks.0.resnets"),
            norm_num_groups=fitting_groups("spatial VAE", norm_num_groups, channels),
        )


def check_groups(network: str, groups: int, channels: tuple[int, ...]) -> None:
    """Raise InputError unless every channel count is a multiple of the number of norm groups."""
    if not channels or any(count % groups for count in channels):
        raise InputError(
            f"{network}: expected channel counts that are multiples of {groups} norm groups, "
            f"got {list(channels)}; correct the number of groups in its config.json"
        )


def fitting_groups(network: str, groups: int, channels: tuple[int, ...]) -> int:
    """`groups` if it divides all channel counts, else its largest divisor that does, with a warning."""
    fitting = math.gcd(groups, *channels)
    if fitting != groups:
        logger.warning(
            "%s: %d norm groups do not divide channels %s; assuming %d (give a config.json if that is wrong)",
            network,
            groups,
            list(channels),
            fitting,
        )
    return fitting


def key_shape(state_dict: Mapping[str, Any], key: str) -> tuple[int, ...]:
    """Shape behind a key of a mapping of tensors or of shapes. Raises InputError if the key is missing."""
    if key not in state_dict:
        raise InputError(
            f"VAE checkpoint: expected the key '{key}', found none; use an Open-Sora v1.2 or diffusers VAE"
        )
    value = state_dict[key]
    return tuple(getattr(value, "shape", value))


def count_children(state_dict: Mapping[str, Any], prefix: str) -> int:
    """Number of modules in the list called `prefix`, by the highest index in use."""
    start = len(prefix) + 1
    indices = {key[start:].split(".", 1)[0] for key in state_dict if key.startswith(f"{prefix}.")}
    return 1 + max((int(index) for index in indices if index.isdigit()), default=-1)


def rename_legacy_keys(state_dict: Mapping[str, T]) -> dict[str, T]:
    """Rename the attention weights of older diffusers checkpoints (query, key, value, proj_attn).

    Other keys pass through. Works with or without a prefix in front of the spatial VAE's own names.
    """
    renamed: dict[str, T] = {}
    for key, value in state_dict.items():
        stem, dot, leaf = key.rpartition(".")
        head, _, name = stem.rpartition(".")
        if name in LEGACY_ATTENTION_NAMES and "mid_block.attentions." in head:
            key = f"{head}.{LEGACY_ATTENTION_NAMES[name]}{dot}{leaf}"
        renamed[key] = value
    return renamed


class ResnetBlock(nn.Module):
    """Two 3x3 convolutions, each after norm and SiLU, around a skip: (N, in, H, W) -> (N, out, H, W)."""

    def __init__(self, in_channels: int, out_channels: int, groups: int, operations: Any, **where: Any) -> None:
        super().__init__()
        self.norm1 = operations.GroupNorm(groups, in_channels, eps=NORM_EPS, **where)
        self.conv1 = operations.Conv2d(in_channels, out_channels, 3, padding=1, **where)
        self.norm2 = operations.GroupNorm(groups, out_channels, eps=NORM_EPS, **where)
        self.conv2 = operations.Conv2d(out_channels, out_channels, 3, padding=1, **where)
        self.conv_shortcut = (
            operations.Conv2d(in_channels, out_channels, 1, **where) if in_channels != out_channels else None
        )

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv1(F.silu(self.norm1(x)))
        h = F.silu(self.norm2(h))
        h = self.conv2(h)
        return (x if self.conv_shortcut is None else self.conv_shortcut(x)) + h


class PixelAttention(nn.Module):
    """Single-head attention of every position to every other one of the same image, around a skip."""

    def __init__(self, channels: int, groups: int, operations: Any, **where: Any) -> None:
        super().__init__()
        self.group_norm = operations.GroupNorm(groups, channels, eps=NORM_EPS, **where)
        self.to_q = operations.Linear(channels, channels, **where)
        self.to_k = operations.Linear(channels, channels, **where)
        self.to_v = operations.Linear(channels, channels, **where)
        self.to_out = nn.ModuleList([operations.Linear(channels, channels, **where)])

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.group_norm(x).flatten(2).transpose(1, 2).unsqueeze(1)  # (N, 1 head, H*W, C)
        mixed = F.scaled_dot_product_attention(self.to_q(tokens), self.to_k(tokens), self.to_v(tokens))
        return x + self.to_out[0](mixed).squeeze(1).transpose(1, 2).unflatten(2, x.shape[2:])


class MidBlock(nn.Module):
    """ResNet, attention, ResNet at the lowest resolution."""

    def __init__(self, channels: int, groups: int, operations: Any, **where: Any) -> None:
        super().__init__()
        self.resnets = nn.ModuleList([ResnetBlock(channels, channels, groups, operations, **where) for _ in range(2)])
        self.attentions = nn.ModuleList([PixelAttention(channels, groups, operations, **where)])

    def forward(self, x: Tensor) -> Tensor:
        return self.resnets[1](self.attentions[0](self.resnets[0](x)))


class Downsample(nn.Module):
    """Strided 3x3 convolution, padded below and to the right only: n -> n // 2 in height and width."""

    def __init__(self, channels: int, operations: Any, **where: Any) -> None:
        super().__init__()
        self.conv = operations.Conv2d(channels, channels, 3, stride=2, **where)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.pad(x, (0, 1, 0, 1)))


class Upsample(nn.Module):
    """Nearest-neighbour doubling and a 3x3 convolution: n -> 2n in height and width."""

    def __init__(self, channels: int, operations: Any, **where: Any) -> None:
        super().__init__()
        self.conv = operations.Conv2d(channels, channels, 3, padding=1, **where)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))


def _resnets(
    in_channels: int, out_channels: int, layers: int, groups: int, operations: Any, **where: Any
) -> nn.Sequential:
    return nn.Sequential(
        *(
            ResnetBlock(in_channels if i == 0 else out_channels, out_channels, groups, operations, **where)
            for i in range(layers)
        )
    )


class DownBlock(nn.Module):
    """ResNets of one resolution, then down to the next one, if this is not the last."""

    def __init__(self, resnets: nn.Sequential, downsample: Downsample | None) -> None:
        super().__init__()
        self.resnets = resnets
        self.downsamplers = nn.Sequential(*([] if downsample is None else [downsample]))

    def forward(self, x: Tensor) -> Tensor:
        return self.downsamplers(self.resnets(x))


class UpBlock(nn.Module):
    """ResNets of one resolution, then up to the next one, if this is not the last."""

    def __init__(self, resnets: nn.Sequential, upsample: Upsample | None) -> None:
        super().__init__()
        self.resnets = resnets
        self.upsamplers = nn.Sequential(*([] if upsample is None else [upsample]))

    def forward(self, x: Tensor) -> Tensor:
        return self.upsamplers(self.resnets(x))


class Encoder(nn.Module):
    """(N, 3, H, W) -> (N, 2 * latent channels, H // 8, W // 8)."""

    def __init__(self, config: SpatialConfig, operations: Any, **where: Any) -> None:
        super().__init__()
        channels, groups = config.block_out_channels, config.norm_num_groups
        self.conv_in = operations.Conv2d(config.in_channels, channels[0], 3, padding=1, **where)
        self.down_blocks = nn.Sequential()
        for i, width in enumerate(channels):
            before, last = channels[max(i - 1, 0)], i == len(channels) - 1
            resnets = _resnets(before, width, config.layers_per_block, groups, operations, **where)
            self.down_blocks.append(DownBlock(resnets, None if last else Downsample(width, operations, **where)))
        self.mid_block = MidBlock(channels[-1], groups, operations, **where)
        self.conv_norm_out = operations.GroupNorm(groups, channels[-1], eps=NORM_EPS, **where)
        self.conv_out = operations.Conv2d(channels[-1], 2 * config.latent_channels, 3, padding=1, **where)

    def forward(self, x: Tensor) -> Tensor:
        x = self.mid_block(self.down_blocks(self.conv_in(x)))
        return self.conv_out(F.silu(self.conv_norm_out(x)))


class Decoder(nn.Module):
    """(N, latent channels, h, w) -> (N, 3, 8h, 8w). Each block has one ResNet more than the encoder's."""

    def __init__(self, config: SpatialConfig, operations: Any, **where: Any) -> None:
        super().__init__()
        channels, groups = config.block_out_channels[::-1], config.norm_num_groups
        self.conv_in = operations.Conv2d(config.latent_channels, channels[0], 3, padding=1, **where)
        self.mid_block = MidBlock(channels[0], groups, operations, **where)
        self.up_blocks = nn.Sequential()
        for i, width in enumerate(channels):
            before, last = channels[max(i - 1, 0)], i == len(channels) - 1
            resnets = _resnets(before, width, config.layers_per_block + 1, groups, operations, **where)
            self.up_blocks.append(UpBlock(resnets, None if last else Upsample(width, operations, **where)))
        self.conv_norm_out = operations.GroupNorm(groups, channels[-1], eps=NORM_EPS, **where)
        self.conv_out = operations.Conv2d(channels[-1], config.out_channels, 3, padding=1, **where)

    def forward(self, x: Tensor) -> Tensor:
        x = self.up_blocks(self.mid_block(self.conv_in(x)))
        return self.conv_out(F.silu(self.conv_norm_out(x)))


class SpatialVAE(nn.Module):
    """Images to Gaussian posteriors and back. `operations` supplies Conv2d, GroupNorm and Linear."""

    def __init__(
        self,
        config: SpatialConfig,
        operations: Any = nn,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        where = {"device": device, "dtype": dtype}
        latent = config.latent_channels
        self.encoder = Encoder(config, operations, **where)
        self.decoder = Decoder(config, operations, **where)
        self.quant_conv = operations.Conv2d(2 * latent, 2 * latent, 1, **where)
        self.post_quant_conv = operations.Conv2d(latent, latent, 1, **where)

    def encode(self, images: Tensor) -> Tensor:
        """(N, 3, H, W) in [-1, 1] -> mean and log variance, one after the other: (N, 2C, H // 8, W // 8)."""
        return self.quant_conv(self.encoder(images))

    def decode(self, latents: Tensor) -> Tensor:
        """(N, C, h, w), not scaled -> images (N, 3, 8h, 8w)."""
        return self.decoder(self.post_quant_conv(latents))
