"""LoRAs of an STDiT3 in whatever names they were saved: read as changes of the network's own layers.

Names known: kohya's (`lora_unet_spatial_blocks_0_attn_qkv.lora_down.weight`), the generic ones
(`diffusion_model.spatial_blocks.0.attn.qkv.lora_A.weight`) and PEFT's and diffusers' (`base_model.model.`,
`transformer.`, an adapter's name before `.weight`). Layers that were trained as separate q, k and v are joined to the
one that the network has.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping

import torch
from torch import Tensor

from pavdm.errors import InputError

PREFIXES = ("base_model.model.", "diffusion_model.", "transformer.", "model.", "unet.", "module.")
KOHYA_PREFIXES = ("lora_unet_", "lora_transformer_", "lycoris_")
# a LoRA's parts, under the names that they have in one format or another
_PART = re.compile(
    r"\.(?P<part>lora_down|lora_up|lora_A|lora_B|lora\.down|lora\.up|alpha|dora_scale|diff_b|diff)"
    r"(\.(?!weight$)[^.]+)?(\.weight)?$"
)
OF_TEXT_ENCODERS = ("lora_te", "text_encoder")
DOWN, UP = ("lora_down", "lora_A", "lora.down"), ("lora_up", "lora_B", "lora.up")
# the network's layer -> the names that its parts have where they are separate
FUSED = {"attn.qkv": ("q", "k", "v"), "cross_attn.kv_linear": ("k", "v")}
SEPARATE = ("{}", "to_{}", "{}_proj", "{}_linear")


def generic_lora(lora: Mapping[str, Tensor], layers: Mapping[str, tuple[int, ...]]) -> dict[str, Tensor]:
    """The same LoRA under the generic names, `diffusion_model.LAYER.lora_down.weight` and so on.

    layers: shape of every weight of the network, by its layer's name ("spatial_blocks.0.attn.qkv"). Parts for text
    encoders are left out.
    Raises InputError, naming keys, for a LoRA of another network, or parts of a kind that is not known.
    """
    names = _names_of(layers)
    parts: dict[str, dict[str, Tensor]] = {}
    unknown = []
    for key, tensor in lora.items():
        if key.startswith(OF_TEXT_ENCODERS):
            continue
        match = _PART.search(key)
        layer = match and names.get(_stripped(key[: match.start()]))
        if match is None or layer is None:
            unknown.append(key)
            continue
        part = match["part"]
        part = "lora_down" if part in DOWN else "lora_up" if part in UP else part
        parts.setdefault(layer, {})[part] = tensor
    if unknown:
        raise InputError(
            f"{len(unknown)} of the {len(lora)} tensors of this LoRA belong to no layer of the model, such as "
            f"{', '.join(sorted(unknown)[:3])}: it was made for another model, or another size of this one"
        )
    return {
        f"diffusion_model.{layer}.{part}{'.weight' if part in ('lora_down', 'lora_up') else ''}": tensor
        for layer, found in _joined(parts, layers).items()
        for part, tensor in found.items()
    }


def _stripped(name: str) -> str:
    for prefix in KOHYA_PREFIXES:
        if name.startswith(prefix):
            return name.removeprefix(prefix).lstrip("_")
    while prefix := next((p for p in PREFIXES if name.startswith(p)), ""):
        name = name.removeprefix(prefix)
    return name.removesuffix(".base_layer")


def _names_of(layers: Collection[str]) -> dict[str, str]:
    """Every name that a layer, or a separate part of one, can have -> the layer, or "LAYER:part"."""
    names = {}
    for layer in layers:
        names[layer] = names[layer.replace(".", "_")] = layer
        for fused, own in FUSED.items():
            if layer.endswith(fused):
                stem = layer.removesuffix(fused.rpartition(".")[2])
                for index, letter in enumerate(own):
                    for pattern in SEPARATE:
                        separate = stem + pattern.format(letter)
                        if separate not in layers:
                            names[separate] = names[separate.replace(".", "_")] = f"{layer}:{index}"
    return names


def _joined(
    parts: Mapping[str, dict[str, Tensor]], layers: Mapping[str, tuple[int, ...]]
) -> dict[str, dict[str, Tensor]]:
    whole = {layer: found for layer, found in parts.items() if ":" not in layer}
    for layer in dict.fromkeys(name.partition(":")[0] for name in parts if ":" in name):
        if layer in whole:
            raise InputError(f"this LoRA changes {layer} both as a whole and in parts: one of the two is too much")
        fused = next(name for name in FUSED if layer.endswith(name))
        separate = {i: parts[f"{layer}:{i}"] for i in range(len(FUSED[fused])) if f"{layer}:{i}" in parts}
        whole[layer] = _fused(layer, separate, len(FUSED[fused]), layers[layer])
    for layer, found in whole.items():
        _check(layer, found, layers[layer])
    return whole


def _fused(layer: str, parts: Mapping[int, dict[str, Tensor]], count: int, shape: tuple[int, ...]) -> dict[str, Tensor]:
    """LoRAs of `count` equal parts of a layer, one above the other in its rows, as one of all: ranks add up."""
    rows = shape[0] // count
    downs, ups = [], []
    for index, found in sorted(parts.items()):
        if set(found) - {"lora_down", "lora_up", "alpha"} or not {"lora_down", "lora_up"} <= set(found):
            raise InputError(f"this LoRA has {', '.join(sorted(found))} for a part of {layer}: only plain ones fit")
        down, up = found["lora_down"].float(), found["lora_up"].float()
        if up.shape[0] != rows:
            raise InputError(f"this LoRA has {up.shape[0]} rows for a part of {layer}, which has {rows}")
        scale = float(found["alpha"]) / len(down) if "alpha" in found else 1.0
        downs.append(down)
        placed = up.new_zeros(shape[0], up.shape[1])
        placed[index * rows : (index + 1) * rows] = up * scale
        ups.append(placed)
    return {"lora_down": torch.cat(downs), "lora_up": torch.cat(ups, dim=1)}


def _check(layer: str, found: Mapping[str, Tensor], shape: tuple[int, ...]) -> None:
    down, up = found.get("lora_down"), found.get("lora_up")
    if (down is None) != (up is None):
        raise InputError(f"this LoRA has one half of {layer} only: the file is not complete")
    if down is None or up is None:
        return
    if up.shape[0] != shape[0] or tuple(down.shape[1:]) != tuple(shape[1:]):
        raise InputError(
            f"this LoRA's {layer} is for a layer of {up.shape[0]} x {down.shape[1]}, the model's is "
            f"{shape[0]} x {shape[1]}: it was made for another size of model"
        )
