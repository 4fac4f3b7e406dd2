"""Low-rank adaptation (LoRA, arXiv 2106.09685) of STDiT3: y = W x + (alpha / rank) B A x, with W frozen.

The files hold `diffusion_model.<layer>.lora_A.weight`, `.lora_B.weight` and `.alpha`: what ComfyUI's own LoRA loader
reads for a model that it does not know by name.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from pavdm.errors import InputError
from pavdm.models.stdit3 import STDiT3
from pavdm.models.write import write_state_dict

FILE_PREFIX = "diffusion_model."
_A, _B = ".lora_A.weight", ".lora_B.weight"


class LoraLinear(nn.Linear):
    """A linear layer and, beside its weights, a low-rank change of them, in fp32. It starts as the layer itself."""

    def __init__(self, layer: nn.Linear, rank: int, alpha: float, generator: torch.Generator) -> None:
        super().__init__(layer.in_features, layer.out_features, layer.bias is not None, device="meta")
        self.weight, self.bias = layer.weight, layer.bias
        self.scale = alpha / rank
        device = layer.weight.device
        self.lora_A = nn.Linear(layer.in_features, rank, bias=False, device=device)
        self.lora_B = nn.Linear(rank, layer.out_features, bias=False, device=device)
        with torch.no_grad():
            bound = 1 / math.sqrt(layer.in_features)
            drawn = (2 * torch.rand(rank, layer.in_features, generator=generator) - 1) * bound
            self.lora_A.weight.copy_(drawn)
            self.lora_B.weight.zero_()

    def forward(self, x: Tensor) -> Tensor:
        out = super().forward(x)
        change: Tensor = self.lora_B(self.lora_A(x.to(self.lora_A.weight.dtype)))
        return out + (self.scale * change).to(out.dtype)


def add_lora(network: STDiT3, rank: int, alpha: float, generator: torch.Generator) -> None:
    """Freeze `network` and put LoRA layers in the place of the linear layers of its blocks (attention and MLP).

    The names of the network's own tensors stay as they are. generator: a CPU one, draws A; B begins at 0.
    Raises InputError for a rank that is none.
    """
    smallest = network.config.hidden_size
    if not 1 <= rank <= smallest:
        raise InputError(f"the rank of a LoRA for this network lies between 1 and {smallest}: got {rank}")
    if not (math.isfinite(alpha) and alpha > 0):
        raise InputError(f"the alpha of a LoRA must be above 0: got {alpha}")
    network.requires_grad_(False)
    for block in network.blocks():
        layers = [(name, module) for name, module in block.named_modules() if type(module) is nn.Linear]
        for name, layer in layers:
            parent, _, last = name.rpartition(".")
            setattr(block.get_submodule(parent), last, LoraLinear(layer, rank, alpha, generator))


def save_lora(path: Path, weights: Mapping[str, Tensor], alpha: float) -> None:
    """Write the LoRA among `weights`, named as in the state of a network with `add_lora`, as one safetensors file."""
    changes = {FILE_PREFIX + name: tensor for name, tensor in weights.items() if name.endswith((_A, _B))}
    layers = [name.removesuffix(_A) for name in changes if name.endswith(_A)]
    write_state_dict(path, changes | {f"{layer}.alpha": torch.tensor(alpha) for layer in layers})


def merged(weights: Mapping[str, Tensor], alpha: float) -> dict[str, Tensor]:
    """The same network without LoRA layers: their change is in the weights, which keep their type."""
    own = {name: tensor for name, tensor in weights.items() if not name.endswith((_A, _B))}
    for name, down in weights.items():
        if name.endswith(_A):
            layer = name.removesuffix(_A)
            weight = own[f"{layer}.weight"]
            change = (alpha / down.shape[0]) * (weights[layer + _B].float() @ down.float())
            own[f"{layer}.weight"] = (weight.float() + change).to(weight.dtype)
    return own
