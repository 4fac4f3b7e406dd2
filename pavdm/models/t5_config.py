"""Shape of a T5 text encoder, read from its weights: for hosts that build the network themselves."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from pavdm.errors import InputError
from pavdm.models.kinds import Kind, identify
from pavdm.models.weights import INDEX, Weights


@dataclass(frozen=True)
class T5Shape:
    """Sizes of a T5 encoder under transformers' names. gated: v1.1's two-armed feed-forward with GELU; else ReLU."""

    d_model: int
    d_kv: int
    d_ff: int
    num_layers: int
    num_heads: int
    vocab_size: int
    gated: bool


def read_t5(path: str | Path) -> tuple[T5Shape, dict[str, Tensor]]:
    """Shape and tensors, as stored, of the T5 encoder in a file; a shard stands for the whole set it belongs to.

    A decoder in the file is left out. Raises InputError for a file that is no complete T5 encoder.
    """
    path = Path(path)
    weights = Weights(_index_of(path) or path)
    kind = identify(weights.stored)
    if kind is not Kind.TEXT_ENCODER:
        raise InputError(
            f"{path} is not a T5 text encoder: the network in it is: {kind.value}. Expected DeepFloyd/t5-v1_1-xxl on "
            "Hugging Face, or another T5 encoder"
        )
    shapes = {key: shape for key, shape in weights.shapes.items() if not key.startswith(("decoder.", "lm_head."))}
    shape = _shape(shapes, path)
    expected = _keys(shape)
    missing = [key for key in expected if key not in shapes]
    if missing:
        raise InputError(f"{path} is incomplete: {len(missing)} tensors are missing, such as {', '.join(missing[:3])}")
    return shape, {key: tensor for key, tensor in weights.read() if key in expected}


def _index_of(file: Path) -> Path | None:
    """The index of the set that a shard (NAME-00001-of-00002) belongs to."""
    name, _, count = file.stem.rpartition("-of-")
    index = file.with_name(name.rpartition("-")[0] + file.suffix + INDEX)
    return index if count and index.is_file() else None


def _shape(shapes: Mapping[str, tuple[int, ...]], path: Path) -> T5Shape:
    def of(key: str) -> tuple[int, ...]:
        if key not in shapes:
            raise InputError(f"{path} is no complete T5 text encoder: it has no {key!r}")
        return shapes[key]

    layer = "encoder.block.0.layer."
    vocab_size, d_model = of("shared.weight")
    gated = f"{layer}1.DenseReluDense.wi_0.weight" in shapes
    num_heads = of(f"{layer}0.SelfAttention.relative_attention_bias.weight")[1]
    return T5Shape(
        d_model=d_model,
        d_kv=of(f"{layer}0.SelfAttention.q.weight")[0] // num_heads,
        d_ff=of(f"{layer}1.DenseReluDense.{'wi_0' if gated else 'wi'}.weight")[0],
        num_layers=1 + max(int(key.split(".")[2]) for key in shapes if key.startswith("encoder.block.")),
        num_heads=num_heads,
        vocab_size=vocab_size,
        gated=gated,
    )


def _keys(shape: T5Shape) -> set[str]:
    keys = {"shared.weight", "encoder.final_layer_norm.weight"}
    keys.add("encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight")
    arms = ("wi_0", "wi_1", "wo") if shape.gated else ("wi", "wo")
    for number in range(shape.num_layers):
        block = f"encoder.block.{number}.layer."
        keys |= {f"{block}0.SelfAttention.{name}.weight" for name in "qkvo"}
        keys |= {f"{block}1.DenseReluDense.{name}.weight" for name in arms}
        keys |= {f"{block}{half}.layer_norm.weight" for half in (0, 1)}
    return keys
