"""Randomly initialised sets of networks, in the layout of the published ones: to try every stage without weights."""

from __future__ import annotations

import logging
import math
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pavdm.errors import InputError
from pavdm.files import temporary_beside
from pavdm.models.byte_tokenizer import write_tokenizer
from pavdm.models.checkpoint import ROPE, WEIGHTS, rope_frequencies
from pavdm.models.files import CONFIG, ModelFiles
from pavdm.models.spatial_vae import SpatialConfig
from pavdm.models.stdit3 import STDiT3
from pavdm.models.stdit3_config import STDiT3Config
from pavdm.models.temporal_vae import TemporalConfig
from pavdm.models.vae import VAEConfig, VideoVAE
from pavdm.models.write import Spec, write_json, write_safetensors

logger = logging.getLogger(__name__)

MAX_SEED = 2**64 - 1  # what torch's generators take
PIECE = 2**24  # values drawn and written at a time
SPARE_BYTES = 2**24  # for tokenizer, configurations and the file system's own needs

# With guidance 7 the difference that the text makes counts seven times. Random networks overdo it: their text enters at
# a fraction of what variance-preserving weights would give it, so that latents keep the size that real ones have.
TEXT_GAIN = 0.1


@dataclass(frozen=True)
class TextEncoderConfig:
    """Sizes of a T5 v1.1 encoder, under transformers' names. The defaults are T5-XXL's."""

    d_model: int = 4096
    d_kv: int = 64
    d_ff: int = 10240
    num_layers: int = 24
    num_heads: int = 64
    vocab_size: int = 32128


@dataclass(frozen=True)
class Preset:
    """Sizes of a full set, and the type its weights are stored in."""

    stdit: STDiT3Config
    vae: VAEConfig
    text_encoder: TextEncoderConfig
    dtype: torch.dtype


PRESETS: Mapping[str, Preset] = {
    "tiny": Preset(
        STDiT3Config(hidden_size=64, depth=2, num_heads=4, caption_channels=64),
        VAEConfig(
            spatial=SpatialConfig(block_out_channels=(8, 16, 16, 16), layers_per_block=1, norm_num_groups=8),
            temporal=TemporalConfig(filters=8, num_res_blocks=1, num_groups=8),
        ),
        TextEncoderConfig(d_model=64, d_kv=16, d_ff=128, num_layers=2, num_heads=4, vocab_size=259),
        torch.float32,
    ),
    "small": Preset(
        STDiT3Config(hidden_size=256, depth=8, num_heads=4, caption_channels=256),
        VAEConfig(
            spatial=SpatialConfig(block_out_channels=(16, 32, 64, 64), layers_per_block=1, norm_num_groups=16),
            temporal=TemporalConfig(filters=32, num_res_blocks=1),
        ),
        TextEncoderConfig(d_model=256, d_kv=64, d_ff=512, num_layers=4, num_heads=4, vocab_size=259),
        torch.float32,
    ),
    "xl": Preset(STDiT3Config(), VAEConfig(), TextEncoderConfig(), torch.bfloat16),
}


def create(directory: str | Path, size: str = "tiny", seed: int = 0) -> ModelFiles:
    """Write a full set into `directory`, in the sub-folders stdit, vae and text_encoder (with its tokenizer).

    size: tiny (0.9 M parameters in all), small (25 M) or xl (the published sizes: 6.3 G, 12.5 GB in bf16). Equal sizes
    and seeds give equal files. Memory stays bounded whatever the size. The set gets its name when it is complete.
    Raises InputError for an unknown size, a seed out of range (0 to 2**64 - 1), a directory that holds something, or
    too little disk space.
    """
    if size not in PRESETS:
        raise InputError(f"unknown size '{size}': expected one of {', '.join(PRESETS)}.")
    if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed <= MAX_SEED:
        raise InputError(f"the seed has to be a whole number from 0 to {MAX_SEED}, got {seed!r}. Nothing was written.")
    directory = Path(directory)
    try:
        taken = directory.exists() and (not directory.is_dir() or any(directory.iterdir()))
    except OSError as error:
        raise InputError(f"cannot write {directory}: {error.strerror or error}. Nothing was written.") from error
    if taken:
        raise InputError(f"{directory} exists and is not empty; nothing was written. Give a new directory.")
    preset = PRESETS[size]
    networks = network_specs(preset)
    target = directory.resolve()
    temporary = temporary_beside(target)
    try:
        temporary.mkdir(parents=True)
        _check_space(temporary, networks)
        generator = torch.Generator().manual_seed(seed)
        for name, (config, specs) in networks.items():
            folder = temporary / name
            folder.mkdir()
            write_safetensors(folder / WEIGHTS, specs, _drawer(specs, generator, preset))
            write_json(folder / CONFIG, config)
            logger.info("%s: %.1f M parameters", name, sum(math.prod(shape) for shape, _ in specs.values()) / 1e6)
        write_tokenizer(temporary / "text_encoder")
        if target.exists():  # empty, and perhaps the folder that the user stands in: fill it, do not replace it
            for folder in temporary.iterdir():
                folder.rename(target / folder.name)
        else:
            temporary.rename(target)
    except OSError as error:
        raise InputError(f"cannot write {directory}: {error.strerror or error}. Nothing was kept.") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return ModelFiles(directory / "stdit", directory / "vae", directory / "text_encoder")


def network_specs(preset: Preset) -> dict[str, tuple[dict[str, Any], dict[str, Spec]]]:
    """For each network of a set, by the name of its folder: config.json, and shape and type of every tensor."""
    rope = {ROPE: ((preset.stdit.head_dim // 2,), torch.float32)}
    return {
        "stdit": (preset.stdit.to_dict(), {**_specs(STDiT3(preset.stdit, device="meta", dtype=preset.dtype)), **rope}),
        "vae": (preset.vae.to_dict(), _specs(VideoVAE(preset.vae, device="meta", dtype=preset.dtype))),
        "text_encoder": _text_encoder(preset),
    }


def _specs(network: torch.nn.Module) -> dict[str, Spec]:
    return {name: (tuple(tensor.shape), tensor.dtype) for name, tensor in network.state_dict().items()}


def _text_encoder(preset: Preset) -> tuple[dict[str, Any], dict[str, Spec]]:
    from transformers import T5Config, T5EncoderModel

    config = T5Config(**asdict(preset.text_encoder), feed_forward_proj="gated-gelu", pad_token_id=0, eos_token_id=1)
    with torch.device("meta"):
        network = T5EncoderModel(config)
    specs = {
        name: (shape, preset.dtype)
        for name, (shape, _) in _specs(network).items()
        if name != "encoder.embed_tokens.weight"  # the same table as shared.weight
    }
    return {**config.to_diff_dict(), "architectures": ["T5EncoderModel"]}, specs


def _check_space(place: Path, networks: Mapping[str, tuple[Mapping[str, Any], Mapping[str, Spec]]]) -> None:
    needed = SPARE_BYTES + sum(
        math.prod(shape) * dtype.itemsize for _, specs in networks.values() for shape, dtype in specs.values()
    )
    free = shutil.disk_usage(place).free
    if needed > free:
        raise InputError(
            f"not enough disk space: {needed / 1e9:.1f} GB are needed, {free / 1e9:.1f} GB are free. "
            "Nothing was written."
        )


def _drawer(specs: Mapping[str, Spec], generator: torch.Generator, preset: Preset) -> Callable[[str], Iterator[Tensor]]:
    """Values of a tensor by its name, in pieces, drawn so that activations keep about the size that they come with."""

    def draw(name: str) -> Iterator[Tensor]:
        shape, _ = specs[name]
        if name in ("scale", "shift"):
            yield torch.tensor(getattr(preset.vae, name))
            return
        if name == ROPE:
            yield rope_frequencies(preset.stdit)
            return
        mean, deviation = distribution(name, shape, preset.text_encoder.d_kv)
        count = math.prod(shape)
        for start in range(0, count, PIECE):
            length = min(PIECE, count - start)
            if deviation:
                yield torch.randn(length, generator=generator).mul_(deviation)
            else:
                yield torch.full((length,), mean)

    return draw


def distribution(name: str, shape: tuple[int, ...], d_kv: int) -> tuple[float, float]:
    """Mean and standard deviation of a tensor's values; the mean is 0 where the deviation is not."""
    if len(shape) == 1:  # norms, then biases
        return (1.0 if name.endswith(".weight") else 0.0), 0.0
    if name.endswith(("shared.weight", "relative_attention_bias.weight")):
        return 0.0, 1.0
    deviation = math.prod(shape[1:]) ** -0.5
    if name.endswith("SelfAttention.q.weight"):
        deviation *= d_kv**-0.5  # T5's attention does not divide by the root of the head's size
    if name.endswith("cross_attn.proj.weight"):
        deviation *= TEXT_GAIN
    return 0.0, deviation
