"""A run's tensors in full, whatever wraps the model: plain, DDP, FSDP in both versions.

Names are those of the unwrapped objective. Gathering and restoring are collective: every process calls them. What is
gathered lies on the CPU, in the main process alone; the others get nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)

from pavdm.errors import InputError
from pavdm.training.ema import WeightAverage

WEIGHTS, AVERAGE, OPTIMIZER = "weights.", "average.", "optimizer."


def weights_in_full(model: nn.Module, trained_only: bool = False) -> dict[str, Tensor]:
    """All parameters and buffers of `model`, or without the frozen parameters."""
    options = StateDictOptions(full_state_dict=True, cpu_offload=True, ignore_frozen_params=trained_only)
    return get_model_state_dict(model, options=options)  # type: ignore[return-value]


def gathered(model: nn.Module, optimizer: torch.optim.Optimizer, average: WeightAverage | None) -> dict[str, Tensor]:
    """What a run needs to go on: trained weights and buffers, their average, the optimizer's state."""
    state = {WEIGHTS + name: tensor for name, tensor in weights_in_full(model, trained_only=True).items()}
    if average is not None:
        with average.in_place():
            averages = weights_in_full(model, trained_only=True)
            # on the CPU they are the parameters themselves, which are about to change back
            state |= {AVERAGE + name: tensor.clone() for name, tensor in averages.items()}
    options = StateDictOptions(full_state_dict=True, cpu_offload=True)
    moments: Any = get_optimizer_state_dict(model, optimizer, options=options).get("state", {})
    for name, values in moments.items():
        state |= {f"{OPTIMIZER}{name}.{key}": torch.as_tensor(value) for key, value in values.items()}
    return state


def restore(
    state: Mapping[str, Tensor], model: nn.Module, optimizer: torch.optim.Optimizer, average: WeightAverage | None
) -> None:
    """The opposite of `gathered`; every process gives all of `state`. Raises InputError if it is of another model."""
    if average is not None:
        _set_trained(model, part(state, AVERAGE))
        average.assign()
    _set_trained(model, part(state, WEIGHTS))
    moments: dict[str, dict[str, Tensor]] = {}
    for name, tensor in part(state, OPTIMIZER).items():
        parameter, _, key = name.rpartition(".")
        moments.setdefault(parameter, {})[key] = tensor
    groups = get_optimizer_state_dict(model, optimizer)["param_groups"]
    whole: Any = {"state": moments, "param_groups": groups}
    set_optimizer_state_dict(model, optimizer, whole, options=StateDictOptions(full_state_dict=True))


def _set_trained(model: nn.Module, tensors: dict[str, Any]) -> None:
    expected = get_model_state_dict(model, options=StateDictOptions(ignore_frozen_params=True)).keys()
    if differing := sorted(expected ^ tensors.keys()):
        raise InputError(
            f"the checkpoint is of another network: {len(differing)} tensors are in one of the two alone, such as "
            f"{differing[0]}. Give another --out to start anew"
        )
    set_model_state_dict(model, tensors, options=StateDictOptions(full_state_dict=True, strict=False))  # frozen: absent


def part(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors whose names begin with `prefix`, by what follows it."""
    return {name[len(prefix) :]: tensor for name, tensor in state.items() if name.startswith(prefix)}
