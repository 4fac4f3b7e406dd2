"""Open-Sora's video VAE v1.2: 17 frames <-> 5 latent frames, 8 x 8 pixels <-> 1 latent position.

A spatial VAE codes each frame, a causal temporal VAE codes the frames' latents in pieces of 17, and the
result is normalised per channel. Each piece is coded on its own, so decoding piece by piece, while latents
come, gives what decoding the whole would, in memory that does not grow with the length.
Source: Open-Sora report 1.2 (docs/report_03.md), PA-VDM (arXiv 2410.08151) section 3.3.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from pavdm.errors import InputError
from pavdm.models.config_checks import check_numbers, check_positive, check_whole
from pavdm.models.spatial_vae import SpatialConfig, SpatialVAE
from pavdm.models.temporal_vae import TemporalConfig, TemporalVAE

MODEL_TYPE = "VideoAutoencoderPipeline"
SPATIAL_PREFIX = "spatial_vae.module."
TEMPORAL_PREFIX = "temporal_vae."
MIN_TILE = 4
# At its widest the temporal VAE holds 20 x 256 numbers per latent pixel, the spatial one 4 x 64 x 256: tiles
# three times as wide take no more memory, and most sizes need no temporal seams at all.
TEMPORAL_TILE = 3

Noise = Callable[[tuple[int, ...]], Tensor]


@dataclass(frozen=True)
class VAEConfig:
    """Everything that changes the numbers of a VideoVAE. The defaults are hpcai-tech/OpenSora-VAE-v1.2.

    micro_frame_size: frames that the temporal VAE codes together.
    spatial_micro_batch: frames per draw of spatial posterior noise, and at first per pass of the spatial VAE.
    scale, shift: per latent channel; normalised latents are (z - shift) / scale.
    """

    spatial: SpatialConfig = field(default_factory=SpatialConfig)
    temporal: TemporalConfig = field(default_factory=TemporalConfig)
    micro_frame_size: int = 17
    spatial_micro_batch: int = 4
    spatial_scaling_factor: float = 0.18215
    scale: tuple[float, ...] = (3.85, 2.32, 2.33, 3.06)
    shift: tuple[float, ...] = (-0.10, 0.34, 0.27, 0.98)

    def __post_init__(self) -> None:
        check_whole("VAE", "micro_frame_size", self.micro_frame_size)
        check_whole("VAE", "spatial micro batch", self.spatial_micro_batch)
        check_positive("VAE", "spatial_scaling_factor", self.spatial_scaling_factor)
        check_numbers("VAE", "scale", self.scale, zero=False)
        check_numbers("VAE", "shift", self.shift)
        if not len(self.scale) == len(self.shift) == self.temporal.embed_dim:
            raise InputError(
                f"VAE: expected scale and shift with {self.temporal.embed_dim} numbers each, one a channel, "
                f"got {list(self.scale)} and {list(self.shift)}; correct its config.json"
            )
        if self.spatial.latent_channels != self.temporal.in_out_channels:
            raise InputError(
                f"VAE: expected a temporal VAE of {self.spatial.latent_channels} channels, as the spatial "
                f"VAE's latents have, got {self.temporal.in_out_channels}; take both parts from one model"
            )

    @property
    def micro_latent_frames(self) -> int:
        """Latent frames of one full piece: 5."""
        return math.ceil(self.micro_frame_size / self.temporal.factor)

    @classmethod
    def from_dict(cls, config: Mapping[str, Any]) -> VAEConfig:
        """Read a config.json: `to_dict`'s layout, or Open-Sora's own, which names its networks without sizes.

        Raises InputError if it is neither, and for impossible values.
        """
        numbers = {name: config[name] for name in ("micro_frame_size", "spatial_scaling_factor") if name in config}
        for name in ("scale", "shift"):
            if name in config:
                value = config[name]
                numbers[name] = tuple(value) if isinstance(value, (list, tuple)) else (value,)
        if "spatial_config" in config and "temporal_config" in config:
            if config.get("spatial_micro_batch") is not None:
                numbers["spatial_micro_batch"] = config["spatial_micro_batch"]
            return cls(
                spatial=SpatialConfig.from_dict(config["spatial_config"]),
                temporal=TemporalConfig.from_dict(config["temporal_config"]),
                **numbers,
            )
        parts = [config.get(name) for name in ("vae_2d", "vae_temporal")]
        networks = [part.get("type") if isinstance(part, Mapping) else None for part in parts]
        if networks != ["VideoAutoencoderKL", "VAE_Temporal_SD"]:
            raise InputError(
                "VAE config.json: expected Open-Sora v1.2's (vae_2d VideoAutoencoderKL, vae_temporal "
                "VAE_Temporal_SD) or one with spatial_config and temporal_config, got types "
                f"{networks} and keys {sorted(config)}; use the config.json of hpcai-tech/OpenSora-VAE-v1.2"
            )
        if config["vae_2d"].get("micro_batch_size") is not None:
            numbers["spatial_micro_batch"] = config["vae_2d"]["micro_batch_size"]
        return cls(temporal=TemporalConfig.from_dict(config["vae_temporal"]), **numbers)

    @classmethod
    def from_state_dict(cls, state_dict: Mapping[str, Any], base: VAEConfig | None = None) -> VAEConfig:
        """Infer the sizes from key -> tensor (or shape); the rest is from `base` (default: v1.2).

        Tensors under `scale` and `shift` are read. Raises InputError if the keys are not a video VAE's.
        """
        base = base or cls()
        return replace(
            base,
            spatial=SpatialConfig.from_state_dict(_part(state_dict, SPATIAL_PREFIX), base.spatial.norm_num_groups),
            temporal=TemporalConfig.from_state_dict(_part(state_dict, TEMPORAL_PREFIX), base.temporal.num_groups),
            scale=_values(state_dict, "scale", base.scale),
            shift=_values(state_dict, "shift", base.shift),
        )

    def to_dict(self) -> dict[str, Any]:
        """The config.json of a VAE saved by pavdm; `from_dict` reads it back."""
        plain = asdict(self)
        return {
            "model_type": MODEL_TYPE,
            "spatial_config": plain.pop("spatial"),
            "temporal_config": plain.pop("temporal"),
            **plain,
        }


def _part(state_dict: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    part = {key[len(prefix) :]: value for key, value in state_dict.items() if key.startswith(prefix)}
    if not part:
        raise InputError(
            f"VAE checkpoint: expected keys that begin with '{prefix}', found none; "
            "use the weights of hpcai-tech/OpenSora-VAE-v1.2"
        )
    return part


def _values(state_dict: Mapping[str, Any], key: str, default: tuple[float, ...]) -> tuple[float, ...]:
    value = state_dict.get(key)
    if not isinstance(value, Tensor) or value.is_meta:
        return default
    # Seven digits undo the rounding to float32, so that 3.85 is read back as 3.85.
    return tuple(float(f"{number:.7g}") for number in value.flatten().tolist())


def latent_frames(num_frames: int, config: VAEConfig | None = None) -> int:
    """Latent frames that code `num_frames` frames: 5 for each full 17, a quarter (rounded up) of the rest."""
    config = config or VAEConfig()
    pieces, rest = divmod(num_frames, config.micro_frame_size)
    return pieces * config.micro_latent_frames + math.ceil(rest / config.temporal.factor)


def pixel_frames(num_latents: int, config: VAEConfig | None = None) -> int:
    """Most frames that `num_latents` latent frames decode to: 17 for each full 5, 4 for each one after."""
    config = config or VAEConfig()
    pieces, rest = divmod(num_latents, config.micro_latent_frames)
    return pieces * config.micro_frame_size + rest * config.temporal.factor


class _Wrapper(nn.Module):
    """Puts `module.` in front of parameter names: in published checkpoints the spatial VAE has a wrapper."""

    def __init__(self, module: SpatialVAE) -> None:
        super().__init__()
        self.module = module


class VideoVAE(nn.Module):
    """Video to normalised latents and back. Inputs are cast to the weights' dtype, outputs are float32.

    tile: longest side, in latent pixels, that the spatial VAE works on in one go; longer ones are cut into
        overlapping tiles, blended linearly. None: never cut. Bounds memory; where it cuts it changes the
        numbers, as norms and attention see one tile only: the larger the tile, the closer. The temporal VAE,
        which needs less, is cut at three times this.
    micro_batch: frames per pass of the spatial VAE. Bounds memory; changes nothing else.
    operations: namespace with Conv2d, Conv3d, GroupNorm and Linear. Weights are left as it makes them: load a
        checkpoint or call `initialize_weights`.
    """

    scale: Tensor
    shift: Tensor

    def __init__(
        self,
        config: VAEConfig,
        operations: Any = nn,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.config = config
        self.tile: int | None = None
        self.micro_batch = config.spatial_micro_batch
        spatial = SpatialVAE(config.spatial, operations, device, dtype)
        self.spatial_vae = _Wrapper(spatial)
        self.temporal_vae = TemporalVAE(config.temporal, operations, device, dtype)
        for name in ("scale", "shift"):
            values = torch.tensor(getattr(config, name), dtype=torch.float32, device=device)
            self.register_buffer(name, values.view(1, -1, 1, 1, 1))

    @property
    def dtype(self) -> torch.dtype:
        """The weights' dtype."""
        return next(self.parameters()).dtype

    @property
    def _temporal_tile(self) -> int | None:
        return None if self.tile is None else TEMPORAL_TILE * self.tile

    def encode(self, pixels: Tensor, noise: Noise | None = None) -> Tensor:
        """(B, 3, F, H, W) in [-1, 1] -> normalised latents (B, 4, latent_frames(F), H // 8, W // 8), float32.

        noise: shape -> standard normal tensor; both posteriors are sampled with it, in the published order:
        for the spatial VAE once per 4 frames, batch and time in one row, then for the temporal VAE once per
        17 frames. None takes the posteriors' modes.
        """
        images = pixels.transpose(1, 2).flatten(0, 1)  # (B*F, 3, H, W)
        moments = torch.cat([self._encode_images(part) for part in images.split(self.micro_batch)])
        z = torch.cat([_sample(part, noise) for part in moments.split(self.config.spatial_micro_batch)])
        z = z.unflatten(0, (pixels.shape[0], -1)).transpose(1, 2) * self.config.spatial_scaling_factor
        pieces = z.split(self.config.micro_frame_size, dim=2)
        latents = torch.cat([_sample(self._encode_piece(piece), noise) for piece in pieces], dim=2)
        return (latents - self.shift.to(latents)) / self.scale.to(latents)

    def decode(self, latents: Tensor, num_frames: int | None = None) -> Tensor:
        """Normalised latents (B, 4, T, h, w) -> pixels (B, 3, F, 8h, 8w), float32, not clipped to [-1, 1].

        num_frames: F, as it was encoded; None decodes every frame the latents hold, pixel_frames(T).
        Raises InputError if latent_frames(num_frames) is not T.
        """
        return torch.cat(list(self.decode_pieces([latents], num_frames)), dim=2)

    def decode_pieces(self, chunks: Iterable[Tensor], num_frames: int | None = None) -> Iterator[Tensor]:
        """`decode` piece by piece: yields (B, 3, 17, 8h, 8w) as soon as 5 more latents have come.

        chunks: normalised latents (B, 4, any, h, w) in order. The last piece is what is left, as in `decode`.
        Raises InputError if more or fewer latents come than num_frames frames need; what was yielded stands.
        """
        config = self.config
        length = config.micro_latent_frames
        expected = None if num_frames is None else latent_frames(num_frames, config)
        waiting: list[Tensor] = []
        received = yielded = 0
        for chunk in chunks:
            received += chunk.shape[2]
            if expected is not None and received > expected:
                raise _wrong_count(num_frames, expected, received)
            pieces = torch.cat([*waiting, chunk], dim=2).split(length, dim=2)
            waiting = [piece for piece in pieces if piece.shape[2] < length]
            for piece in pieces[: len(pieces) - len(waiting)]:
                yield self._decode_piece(piece, config.micro_frame_size)
                yielded += config.micro_frame_size
        if expected is not None and received != expected:
            raise _wrong_count(num_frames, expected, received)
        if received % length:
            rest = (pixel_frames(received, config) if num_frames is None else num_frames) - yielded
            yield self._decode_piece(waiting[0], rest)

    def _encode_images(self, images: Tensor) -> Tensor:
        factor = self.config.spatial.factor
        return tiled(self.spatial_vae.module.encode, images.to(self.dtype), self.tile, per_latent_in=factor)

    def _decode_images(self, latents: Tensor) -> Tensor:
        factor = self.config.spatial.factor
        return tiled(self.spatial_vae.module.decode, latents.to(self.dtype), self.tile, per_latent_out=factor)

    def _encode_piece(self, piece: Tensor) -> Tensor:
        return tiled(self.temporal_vae.encode, piece.to(self.dtype), self._temporal_tile)

    def _decode_piece(self, piece: Tensor, num_frames: int) -> Tensor:
        z = piece.float()
        z = z * self.scale.to(z) + self.shift.to(z)
        z = tiled(lambda part: self.temporal_vae.decode(part, num_frames), z.to(self.dtype), self._temporal_tile)
        images = z.transpose(1, 2).flatten(0, 1) / self.config.spatial_scaling_factor  # (B*F, 4, h, w)
        pixels = torch.cat([self._decode_images(part) for part in images.split(self.micro_batch)])
        return pixels.unflatten(0, (piece.shape[0], -1)).transpose(1, 2)


def _wrong_count(num_frames: int | None, expected: int, received: int) -> InputError:
    return InputError(
        f"VAE decode: expected {expected} latent frames for {num_frames} frames, got {received}; "
        "pass the number of frames that was encoded, or None for all that the latents hold"
    )


def _sample(moments: Tensor, noise: Noise | None) -> Tensor:
    """Draw from the Gaussian whose mean and log variance are stacked in the channels, or take its mode."""
    mean, log_variance = moments.chunk(2, dim=1)
    if noise is None:
        return mean
    std = torch.exp(0.5 * log_variance.clamp(-30.0, 20.0))
    return mean + std * noise(tuple(mean.shape)).to(mean)


def tiled(
    function: Callable[[Tensor], Tensor],
    x: Tensor,
    tile: int | None,
    per_latent_in: int = 1,
    per_latent_out: int = 1,
) -> Tensor:
    """Apply `function` to overlapping tiles of x (..., H, W) and blend the results linearly, in float32.

    tile: side of a tile in latent pixels, overlapping its neighbours by a quarter or more; None, or an image
    that fits into one tile: one plain call. per_latent_in, per_latent_out: pixels of x and of the result per
    latent pixel.
    Raises InputError for a tile below 4 latent pixels.
    """
    height, width = x.shape[-2] // per_latent_in, x.shape[-1] // per_latent_in
    if tile is not None and tile < MIN_TILE:
        raise InputError(f"VAE tile: expected at least {MIN_TILE} latent pixels, got {tile}; 32 or more hides seams")
    if tile is None or max(height, width) <= tile:
        return function(x).float()
    rows = _tile_weights(height, tile, per_latent_out, x.device)
    columns = _tile_weights(width, tile, per_latent_out, x.device)
    result: Tensor | None = None
    for top, bottom, row_weights in rows:
        # The last tile takes the pixels too few for a latent of their own, as the untiled network does.
        strip = x[..., top * per_latent_in : None if bottom == height else bottom * per_latent_in, :]
        for left, right, column_weights in columns:
            end = None if right == width else right * per_latent_in
            part = function(strip[..., left * per_latent_in : end]).float()
            if result is None:
                result = part.new_zeros(*part.shape[:-2], height * per_latent_out, width * per_latent_out)
            spot = result[..., top * per_latent_out : bottom * per_latent_out, :]
            spot[..., left * per_latent_out : right * per_latent_out] += part * (row_weights[:, None] * column_weights)
    assert result is not None
    return result


def _tile_weights(size: int, tile: int, factor: int, device: torch.device) -> list[tuple[int, int, Tensor]]:
    """Evenly spread tiles over `size` latent pixels: (start, stop, weight of each of its output pixels).

    Weights rise linearly from both ends of a tile and sum to 1 over the tiles that cover an output pixel.
    """
    length = min(size, tile)
    count = max(1, math.ceil((size - tile // 4) / (tile - tile // 4)))
    starts = [0] if count == 1 else [i * (size - length) // (count - 1) for i in range(count)]
    ramp = torch.arange(length * factor, dtype=torch.float32, device=device) + 0.5
    tent = torch.minimum(ramp, ramp.flip(0))
    total = tent.new_zeros(size * factor)
    for start in starts:
        total[start * factor : (start + length) * factor] += tent
    return [(start, start + length, tent / total[start * factor : (start + length) * factor]) for start in starts]


@torch.no_grad()
def initialize_weights(vae: VideoVAE, generator: torch.Generator) -> None:
    """Fill a VAE with random weights that keep activations near unit variance; scale and shift as configured.

    Draws are made on the generator's device in float32, so a seed gives the same weights for every dtype.
    """
    for module in vae.modules():
        if isinstance(module, nn.GroupNorm):
            module.weight.fill_(1.0)
            module.bias.zero_()
        elif isinstance(module, (nn.Conv2d, nn.Conv3d, nn.Linear)):
            weight = module.weight
            draw = torch.randn(weight.shape, generator=generator, device=generator.device)
            weight.copy_(draw * weight[0].numel() ** -0.5)
            if module.bias is not None:
                module.bias.zero_()
    vae.scale.copy_(torch.tensor(vae.config.scale).view_as(vae.scale))
    vae.shift.copy_(torch.tensor(vae.config.shift).view_as(vae.shift))
