"""Checkpoints of the networks: verified against what the network expects, loaded without a second copy, and saved."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from pavdm.errors import InputError
from pavdm.models.attention import Attention, sdpa
from pavdm.models.embeddings import PERIOD
from pavdm.models.files import CONFIG, PARTS, Part, config_type, read_config
from pavdm.models.kinds import Kind, identify
from pavdm.models.spatial_vae import SpatialConfig, rename_legacy_keys
from pavdm.models.stdit3 import STDiT3
from pavdm.models.stdit3_config import STDiT3Config
from pavdm.models.vae import SPATIAL_PREFIX, TEMPORAL_PREFIX, VAEConfig, VideoVAE
from pavdm.models.weights import Weights, fingerprint, load_state_dict
from pavdm.models.write import write_json, write_state_dict

__all__ = [
    "check_stdit3",
    "check_vae",
    "fingerprint",
    "load_state_dict",
    "load_stdit3",
    "load_vae",
    "read_stdit3",
    "read_vae",
    "save_stdit3",
    "save_vae",
    "stdit3_config",
]

logger = logging.getLogger(__name__)

C = TypeVar("C")

WEIGHTS = "model.safetensors"
ROPE = "rope.freqs"
NORMALISATION = ("scale", "shift")
STDIT, VAE, SPATIAL_VAE = (next(part for part in PARTS if part.name == n) for n in ("stdit", "vae", "spatial_vae"))
NAMED = 4  # keys of each sort that an error spells out

# Fields that shapes tell (num_heads only where the per-head norms of q and k are there).
SHAPE_FIELDS = (
    "in_channels",
    "hidden_size",
    "depth",
    "num_heads",
    "patch_size",
    "mlp_ratio",
    "pred_sigma",
    "caption_channels",
    "model_max_length",
    "qk_norm",
)


def load_stdit3(
    path: str | Path,
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
    operations: Any = nn,
    attention: Attention = sdpa,
) -> STDiT3:
    """Load an STDiT3 for inference: in eval mode, without gradients.

    `path`: folder with config.json and weights, or one weight file. Tensors are converted one by one, so the peak is
    the network and one tensor; on the CPU, in the type they are stored in, they stay memory-mapped.
    Raises InputError for what is no STDiT3 checkpoint, disagrees with the config.json beside it, or is incomplete.
    """
    config, tensors = read_stdit3(path, device, dtype)
    network = STDiT3(config, operations=operations, attention=attention, device="meta", dtype=dtype)
    _fill(network, tensors)
    return network


def read_stdit3(
    path: str | Path, device: str | torch.device = "cpu", dtype: torch.dtype | None = None
) -> tuple[STDiT3Config, dict[str, Tensor]]:
    """What `load_stdit3` loads, for whoever builds the network: its configuration and all of its tensors, verified.

    dtype: None leaves the tensors in the types that they are stored in. Raises InputError as `load_stdit3`.
    """
    weights = Weights(path)
    config = stdit3_config(weights)
    wanted = _verify_stdit3(STDiT3(config, device="meta"), weights)
    dtypes = None if dtype is None else dict.fromkeys(wanted, dtype)
    tensors = {key: tensor for key, tensor in weights.read(device, dtypes) if key in wanted}
    logger.info("loaded STDiT3 from %s: %.1f M parameters", path, weights.num_parameters / 1e6)
    return config, tensors


def check_stdit3(path: str | Path) -> None:
    """Raise the InputError that `load_stdit3` would raise, without reading the weights."""
    weights = Weights(path)
    _verify_stdit3(STDiT3(stdit3_config(weights), device="meta"), weights)


def load_vae(
    path: str | Path,
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
    spatial_path: str | Path | None = None,
    operations: Any = nn,
) -> VideoVAE:
    """Load the video VAE for inference: in eval mode, without gradients.

    `path`: folder or file in the layout of hpcai-tech/OpenSora-VAE-v1.2 (spatial_vae.module.*, temporal_vae.*, scale,
    shift), or its temporal half only. `spatial_path`: an image VAE in diffusers layout; needed with a temporal half,
    otherwise it replaces the spatial half. Where scale and shift are absent, config.json or else v1.2 gives them.
    Raises InputError for what is no such checkpoint, or is incomplete.
    """
    config, tensors = read_vae(path, device, dtype, spatial_path)
    network = VideoVAE(config, operations=operations, device="meta", dtype=dtype)
    _fill(network, tensors)
    return network


def read_vae(
    path: str | Path,
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
    spatial_path: str | Path | None = None,
) -> tuple[VAEConfig, dict[str, Tensor]]:
    """What `load_vae` loads, for whoever builds the network: its configuration and all of its tensors, verified.

    scale and shift are fp32 whatever `dtype` is. Raises InputError as `load_vae`.
    """
    network, parts, normalisation = _verified_vae(path, spatial_path, dtype)
    wanted = network.state_dict()
    tensors = {name: tensor.to(device) for name, tensor in normalisation.items()}
    for weights, names in parts:
        key_of = {stored: key for key, stored in names.items() if key not in NORMALISATION}
        for stored_key, tensor in weights.read(device, {stored: wanted[key].dtype for stored, key in key_of.items()}):
            tensors[key_of[stored_key]] = tensor
    logger.info("loaded the VAE from %s", path)
    return network.config, tensors


def check_vae(path: str | Path, spatial_path: str | Path | None = None) -> None:
    """Raise the InputError that `load_vae` would raise, without reading more of the weights than scale and shift."""
    _verified_vae(path, spatial_path)


def _verified_vae(
    path: str | Path, spatial_path: str | Path | None, dtype: torch.dtype = torch.float32
) -> tuple[VideoVAE, list[tuple[Weights, dict[str, str]]], dict[str, Tensor]]:
    """The network on the meta device, the checkpoints that fill it (see `_vae_parts`), and its scale and shift."""
    parts = _vae_parts(path, spatial_path)
    shapes = {key: weights.shapes[stored] for weights, names in parts for key, stored in names.items()}
    normalisation: dict[str, Tensor] = {}
    for weights, names in parts:
        stored = {names[key]: torch.float32 for key in NORMALISATION if key in names}
        normalisation |= dict(weights.read("cpu", stored))
    config = _vae_config(Path(path), spatial_path, shapes, normalisation)
    network = VideoVAE(config, device="meta", dtype=dtype)
    wanted = network.state_dict()
    for name in NORMALISATION:
        if name not in normalisation:
            shapes[name] = tuple(wanted[name].shape)
            normalisation[name] = torch.tensor(getattr(config, name)).view(wanted[name].shape)
    _verify(wanted, shapes, Path(path), VAE)
    return network, parts, normalisation


def save_stdit3(network: STDiT3, directory: str | Path) -> None:
    """Write config.json and model.safetensors as hpcai-tech/OpenSora-STDiT-v3 has them; replaces existing ones.

    Raises InputError if the disk is full or the place cannot be written; then neither file is half written.
    """
    _save({**network.state_dict(), ROPE: rope_frequencies(network.config)}, network.config.to_dict(), Path(directory))


def rope_frequencies(config: STDiT3Config) -> Tensor:
    """Rotary frequencies (head_dim / 2,), which published files hold and the published loader expects.

    The network computes its own, in fp32, whatever a file says.
    """
    return PERIOD ** -(torch.arange(0, config.head_dim, 2) / config.head_dim)


def save_vae(vae: VideoVAE, directory: str | Path) -> None:
    """Write config.json and model.safetensors with the keys of hpcai-tech/OpenSora-VAE-v1.2; replaces existing ones.

    Raises InputError if the disk is full or the place cannot be written; then neither file is half written.
    """
    _save(vae.state_dict(), vae.config.to_dict(), Path(directory))


def stdit3_config(weights: Weights) -> STDiT3Config:
    """Configuration of an STDiT3 checkpoint: the config.json beside it, else inferred from the shapes.

    Raises InputError if it is another network, or if the two disagree.
    """
    _require(weights, (Kind.STDIT3,), STDIT)
    file = weights.files[0].parent / CONFIG
    content = read_config(file.parent)
    if config_type(content) != "STDiT3":
        return _inferred(weights)
    config = _named(file, STDiT3Config.from_dict, content)
    try:
        inferred = _inferred(weights)
    except InputError:
        return config  # keys are missing: the verification that follows names them all
    fields = [name for name in SHAPE_FIELDS if name != "num_heads" or inferred.qk_norm]
    differing = [name for name in fields if getattr(config, name) != getattr(inferred, name)]
    if differing:
        listed = "; ".join(f"{n} {getattr(config, n)} against {getattr(inferred, n)}" for n in differing)
        raise InputError(
            f"{file} does not describe {weights.files[0].name} beside it: {listed} in the weights. "
            f"Put the config.json that came with these weights there, or remove it to have it inferred."
        )
    return config


def _inferred(weights: Weights) -> STDiT3Config:
    try:
        return STDiT3Config.from_state_dict(weights.shapes)
    except InputError as error:
        raise InputError(f"{weights.path}: {error}") from error
    except (ValueError, IndexError, ZeroDivisionError) as error:
        raise InputError(f"{weights.path}: the shapes of its tensors are not those of an STDiT3.") from error


def _save(tensors: Mapping[str, Tensor], config: Mapping[str, Any], directory: Path) -> None:
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot make the folder {directory}: {error.strerror}.") from error
    write_state_dict(directory / WEIGHTS, tensors)
    write_json(directory / CONFIG, config)


def _vae_parts(path: str | Path, spatial_path: str | Path | None) -> list[tuple[Weights, dict[str, str]]]:
    """The one or two checkpoints of a VAE, each with the network's keys -> the checkpoint's keys."""
    weights = Weights(path)
    kind = _require(weights, (Kind.VIDEO_VAE, Kind.TEMPORAL_VAE), VAE)
    names = rename_legacy_keys({key: key for key in weights.stored})
    if kind is Kind.TEMPORAL_VAE:
        own = (TEMPORAL_PREFIX, *NORMALISATION)
        names = {key if key.startswith(own) else TEMPORAL_PREFIX + key: key for key in weights.stored}
        if spatial_path is None:
            raise InputError(
                f"{path} holds the temporal half of the VAE only. It needs the image VAE beside it: "
                f"{SPATIAL_VAE.source}; point to it with {SPATIAL_VAE.option} PATH."
            )
    if spatial_path is None:
        return [(weights, names)]
    spatial = Weights(spatial_path)
    _require(spatial, (Kind.SPATIAL_VAE,), SPATIAL_VAE)
    temporal_names = {key: stored for key, stored in names.items() if not key.startswith(SPATIAL_PREFIX)}
    spatial_names = rename_legacy_keys({SPATIAL_PREFIX + key: key for key in spatial.stored})
    return [(weights, temporal_names), (spatial, spatial_names)]


def _vae_config(
    path: Path,
    spatial_path: str | Path | None,
    shapes: Mapping[str, tuple[int, ...]],
    normalisation: Mapping[str, Tensor],
) -> VAEConfig:
    """Sizes from the shapes; what shapes do not tell from the config.json beside the weights, else as in v1.2."""
    folder = path if path.is_dir() else path.parent
    content = read_config(folder)
    base = VAEConfig()
    if config_type(content) in VAE.config_types:
        base = _named(folder / CONFIG, VAEConfig.from_dict, content)
    sized = "spatial_config" in content
    if spatial_path is not None:
        place = Path(spatial_path)
        place = place if place.is_dir() else place.parent
        image_config = read_config(place)
        if config_type(image_config) in SPATIAL_VAE.config_types:
            base = replace(base, spatial=_named(place / CONFIG, SpatialConfig.from_dict, image_config))
    inferred = VAEConfig.from_state_dict({**shapes, **normalisation}, base)
    if sized and (inferred.temporal != base.temporal or (inferred.spatial != base.spatial and spatial_path is None)):
        raise InputError(
            f"{folder / CONFIG} does not describe the weights beside it: {base.spatial} and {base.temporal} against "
            f"{inferred.spatial} and {inferred.temporal} in the weights. Put the config.json that came with them there."
        )
    return inferred


def _named(file: Path, read: Callable[[Mapping[str, Any]], C], content: Mapping[str, Any]) -> C:
    """What `read` makes of a config.json; its errors name the file."""
    try:
        return read(content)
    except InputError as error:
        raise InputError(f"{file}: {error}") from error


def _require(weights: Weights, kinds: Collection[Kind], part: Part) -> Kind:
    kind = identify(weights.stored)
    if kind not in kinds:
        raise InputError(
            f"{weights.path} is not {part.title}: the network in it is: {kind.value}. Expected a checkpoint like "
            f"{part.source} on Hugging Face, or one fine-tuned from it. "
            f"First keys: {', '.join(list(weights.stored)[:3])}"
        )
    return kind


def _verify(wanted: Mapping[str, Tensor], shapes: Mapping[str, tuple[int, ...]], path: Path, part: Part) -> None:
    missing = [key for key in wanted if key not in shapes]
    unexpected = [key for key in shapes if key not in wanted]
    misshaped = [
        f"{key} {list(shapes[key])} instead of {list(tensor.shape)}"
        for key, tensor in wanted.items()
        if key in shapes and tuple(tensor.shape) != tuple(shapes[key])
    ]
    problems = (("missing", missing), ("unexpected", unexpected), ("of another shape", misshaped))
    if not any(keys for _, keys in problems):
        return
    listed = "\n".join(
        f"  {len(keys)} {what}: {', '.join(keys[:NAMED])}{', ...' if len(keys) > NAMED else ''}"
        for what, keys in problems
        if keys
    )
    raise InputError(
        f"{path} does not fit {part.title} ({len(wanted)} tensors):\n{listed}\n"
        f"Expected all tensors of {part.source}, or of a checkpoint fine-tuned from it."
    )


def _verify_stdit3(network: STDiT3, weights: Weights) -> dict[str, Tensor]:
    """The network's tensors by name, after the check that the checkpoint has exactly these."""
    wanted: dict[str, Tensor] = network.state_dict()
    _verify(wanted, {key: shape for key, shape in weights.shapes.items() if not _recomputed(key)}, weights.path, STDIT)
    return wanted


def _recomputed(key: str) -> bool:
    """Tables that some checkpoints carry and the network computes: rotary frequencies and sinusoidal positions."""
    return key == ROPE or key == "pos_embed" or key.startswith(("pos_embed.", "pos_embed_"))


def _fill(network: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Make the tensors themselves the parameters of a network built on the meta device: nothing is copied."""
    network.load_state_dict(dict(tensors), strict=True, assign=True)
    network.requires_grad_(False).eval()
