"""Where training starts: a checkpoint, or random weights, for STDiT3 as the published training has them."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from pavdm.errors import InputError
from pavdm.models.checkpoint import read_stdit3
from pavdm.models.stdit3 import STDiT3, STDiT3Config
from pavdm.models.weights import fingerprint
from pavdm.new_model import PRESETS, Preset
from pavdm.training.chance import generator_for

Config = TypeVar("Config")
# what begins at zero, so that every temporal block is at first an identity, and the fps without effect
_ZERO = re.compile(r"temporal_blocks\.\d+\.(attn\.proj|cross_attn\.proj|mlp\.fc2)\.weight|fps_embedder\.mlp\.2\.weight")


def from_checkpoint(path: Path, dtype: torch.dtype = torch.float32) -> tuple[STDiT3, dict[str, Any]]:
    """The network of a published or trained checkpoint, to train; and what identifies it, for the run's settings.

    dtype: of all its weights; those that are trained have to be fp32. Raises InputError as `load_stdit3`.
    """
    config, tensors = read_stdit3(path, dtype=dtype)
    network = STDiT3(config, dtype=dtype)
    network.load_state_dict(tensors)  # copies: the file's own memory must not be trained
    return network.train(), {"start": fingerprint(path)[:16]}


def from_scratch(config: STDiT3Config, seed: int) -> tuple[STDiT3, dict[str, Any]]:
    """A network with random weights that only `seed` decides; and what identifies it, for the run's settings."""
    network = STDiT3(config)
    initialize(network, generator_for(seed, "weights"))
    return network.train(), {"start": config.to_dict()}


def initialize(network: STDiT3, generator: torch.Generator) -> None:
    """Random weights as published (opensora/models/stdit/stdit3.py): linear layers Xavier-uniform, biases zero, what
    `_ZERO` names zero, tables normal with deviation 1 / sqrt(width), the patches' convolution uniform within
    1 / sqrt(inputs). generator: a CPU one.

    Unlike `pavdm.models.stdit3.initialize_weights`, which leaves nothing at zero, so that tests see every layer.
    """

    patch = 1 / math.sqrt(network.config.in_channels * math.prod(network.config.patch_size))

    def draw(name: str, shape: torch.Size) -> Tensor:
        if name.startswith("x_embedder"):
            return patch * (2 * torch.rand(shape, generator=generator) - 1)
        if name.endswith("_norm.weight"):
            return torch.ones(shape)
        if len(shape) == 1 or _ZERO.fullmatch(name):
            return torch.zeros(shape)
        if name.endswith(("scale_shift_table", "y_embedding")):
            return torch.randn(shape, generator=generator) / math.sqrt(shape[1])
        if name == "fps_embedder.mlp.0.weight":
            return 0.02 * torch.randn(shape, generator=generator)
        bound = math.sqrt(6 / (shape[0] + math.prod(shape[1:])))
        return bound * (2 * torch.rand(shape, generator=generator) - 1)

    with torch.no_grad():
        for name, tensor in [*network.named_parameters(), *network.named_buffers()]:
            tensor.copy_(draw(name, tensor.shape))


def read_json(path: Path) -> Mapping[str, Any]:
    """The object in a config.json. Raises InputError if it is unreadable or holds none."""
    try:
        content = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path} is not readable JSON ({error})") from error
    if not isinstance(content, Mapping):
        raise InputError(f"{path}: expected the JSON object of a config.json, got {type(content).__name__}")
    return content


def chosen_config(
    file: Path | None, like: str | None, parse: Callable[[Mapping[str, Any]], Config], of: Callable[[Preset], Config]
) -> Config:
    """The shape of a network that starts from nothing: that of a config.json, or `of` a set of `pavdm new-model`.

    Raises InputError without either, and if the file is unreadable or gives no shape.
    """
    if file is not None:
        content = read_json(file)
        try:
            return parse(content)
        except InputError as error:
            raise InputError(f"{file}: {error}") from error
    if like is not None:
        return of(PRESETS[like])
    raise InputError("say where training starts: --from PATH, --config FILE or --like tiny, small or xl")
