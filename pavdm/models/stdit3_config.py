"""Shape of an STDiT3 network, and where it can be read from: config.json or the checkpoint itself."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pavdm.errors import InputError
from pavdm.models.config_checks import as_tuple, check_flag, check_fraction, check_positive, check_whole, check_wholes

COUNTS = ("in_channels", "hidden_size", "depth", "num_heads", "caption_channels", "model_max_length", "input_sq_size")


@dataclass(frozen=True)
class STDiT3Config:
    """Shape of the network; names and defaults are those of the config.json of hpcai-tech/OpenSora-STDiT-v3.

    Raises InputError for a value of another type, out of range, or that does not go with the others.
    """

    in_channels: int = 4
    hidden_size: int = 1152
    depth: int = 28
    num_heads: int = 16
    patch_size: tuple[int, int, int] = (1, 2, 2)
    mlp_ratio: float = 4.0
    pred_sigma: bool = True
    caption_channels: int = 4096
    model_max_length: int = 300
    qk_norm: bool = True
    input_sq_size: int = 512
    class_dropout_prob: float = 0.1

    def __post_init__(self) -> None:
        for name in COUNTS:
            check_whole("STDiT3", name, getattr(self, name))
        check_wholes("STDiT3", "patch_size", self.patch_size)
        check_positive("STDiT3", "mlp_ratio", self.mlp_ratio)
        check_flag("STDiT3", "pred_sigma", self.pred_sigma)
        check_flag("STDiT3", "qk_norm", self.qk_norm)
        check_fraction("STDiT3", "class_dropout_prob", self.class_dropout_prob)
        if self.hidden_size % (2 * self.num_heads) or self.hidden_size % 4:
            raise InputError(
                f"STDiT3 needs a hidden_size that is a multiple of 4 and of 2 * num_heads; got hidden_size"
                f" {self.hidden_size} and num_heads {self.num_heads}. Correct the model's configuration."
            )
        if len(self.patch_size) != 3 or self.patch_size[0] != 1:
            raise InputError(
                f"STDiT3 with one timestep per latent frame needs a patch_size of (1, height, width); got"
                f" {self.patch_size}. Use a checkpoint whose patches are one frame long."
            )

    @property
    def head_dim(self) -> int:
        return self.hidden_size // self.num_heads

    @property
    def out_channels(self) -> int:
        return self.in_channels * (2 if self.pred_sigma else 1)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> STDiT3Config:
        """From the content of a config.json; keys that do not shape the network are ignored."""
        known = {field.name for field in dataclasses.fields(cls)}
        chosen = {name: value for name, value in values.items() if name in known}
        if "patch_size" in chosen:
            chosen["patch_size"] = as_tuple("STDiT3", "patch_size", chosen["patch_size"])
        return cls(**chosen)

    @classmethod
    def from_state_dict(cls, state: Mapping[str, Any]) -> STDiT3Config:
        """From a checkpoint's keys and shapes (values: tensors, or shapes).

        What leaves no trace in the shapes (input_sq_size, class_dropout_prob) keeps its default.
        Raises InputError naming the key without which the shape cannot be known.
        """

        def shape(key: str) -> tuple[int, ...]:
            if key not in state:
                raise InputError(
                    f"Expected an STDiT3 checkpoint, whose keys tell the shape of the network; this one has no"
                    f" {key!r}. Give the checkpoint's own config.json, or another file."
                )
            return tuple(getattr(state[key], "shape", state[key]))

        hidden, in_channels, *patch = shape("x_embedder.proj.weight")
        tokens, caption_channels = shape("y_embedder.y_embedding")
        qk_norm = "spatial_blocks.0.attn.q_norm.weight" in state
        head_dim = shape("spatial_blocks.0.attn.q_norm.weight")[0] if qk_norm else 2 * shape("rope.freqs")[0]
        return cls(
            in_channels=in_channels,
            hidden_size=hidden,
            depth=len({key.split(".")[1] for key in state if key.startswith("spatial_blocks.")}),
            num_heads=hidden // head_dim,
            patch_size=(patch[0], patch[1], patch[2]),
            mlp_ratio=shape("spatial_blocks.0.mlp.fc1.weight")[0] / hidden,
            pred_sigma=shape("final_layer.linear.weight")[0] == 2 * in_channels * math.prod(patch),
            caption_channels=caption_channels,
            model_max_length=tokens,
            qk_norm=qk_norm,
        )

    def to_dict(self) -> dict[str, Any]:
        """The content of a config.json."""
        return {"model_type": "STDiT3", **dataclasses.asdict(self), "patch_size": list(self.patch_size)}
