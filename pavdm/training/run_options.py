"""How a run trains, whatever it trains."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from importlib.metadata import version
from importlib.util import find_spec
from typing import Any, Literal

from packaging.version import Version

from pavdm.errors import InputError

MixedPrecision = Literal["no", "bf16", "fp16"]
Decay = Literal["constant", "cosine"]
Optimizer = Literal["adamw", "muon"]

OLDEST_TORCH = Version("2.6")


def check_installed() -> None:
    """Raise InputError if a package that only training needs is missing, or too old a torch is there."""
    how = "pip install 'pavdm[train]', or in a clone of the repository pip install -e '.[train]'"
    for name in ("accelerate", "tensorboard"):
        if find_spec(name) is None:
            raise InputError(f"training needs the package {name}, which is not installed: {how}")
    if Version(version("torch")) < OLDEST_TORCH:  # the first with FSDP 2 in public
        raise InputError(f"training needs torch {OLDEST_TORCH} or newer, and {version('torch')} is installed: {how}")


@dataclass(frozen=True)
class RunOptions:
    """The optimizer's steps and what happens besides. Defaults are Open-Sora v1.2's where it has them.

    steps: optimizer steps in all. warmup: steps in which the learning rate rises from 0 to `learning_rate`. decay:
    "cosine" lowers it to 0 at the last step. accumulation: batches per step and process.
    clip: largest norm of the gradient, 0 for none. ema: decay of the averaged weights, 0 for none; the first averages
    span fewer steps (`ema_decay`).
    optimizer: AdamW, or `pavdm.training.muon.Muon` (not with FSDP); betas, epsilon, weight_decay are AdamW's in both.
    precision: bf16 and fp16 compute in that type where it is safe; weights and optimizer stay fp32. None: as
    accelerate was launched or configured, else "no".
    checkpointing: recompute activations in the backward pass. workers: processes that prepare examples, 0 for none.
    save_every, sample_every: steps, 0 for never (a run saves at its end in any case). keep: newest checkpoints kept.
    cpu: train on the CPU even where there is a GPU.

    Raises InputError for values that make no run.
    """

    steps: int
    learning_rate: float = 1e-4
    warmup: int = 1000
    decay: Decay = "constant"
    accumulation: int = 1
    clip: float = 1.0
    ema: float = 0.99
    optimizer: Optimizer = "adamw"
    betas: tuple[float, float] = (0.9, 0.999)
    epsilon: float = 1e-15
    weight_decay: float = 0.0
    precision: MixedPrecision | None = None
    checkpointing: bool = False
    workers: int = 0
    save_every: int = 1000
    keep: int = 2
    sample_every: int = 0
    cpu: bool = False

    def __post_init__(self) -> None:
        for name, least in (("steps", 1), ("accumulation", 1), ("keep", 1), ("warmup", 0), ("workers", 0)):
            if getattr(self, name) < least:
                raise InputError(f"{name} must be at least {least}: got {getattr(self, name)}")
        for name in ("save_every", "sample_every"):
            if getattr(self, name) < 0:
                raise InputError(f"{name} counts steps, 0 for never: got {getattr(self, name)}")
        for name in ("learning_rate", "clip", "epsilon", "weight_decay"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value >= 0):
                raise InputError(f"{name} must be a number of at least 0: got {value}")
        if self.epsilon == 0:  # where a gradient was always 0, a step would be 0 / 0
            raise InputError("epsilon must be above 0, such as 1e-15: got 0")
        for name, value in (("ema", self.ema), ("betas", self.betas[0]), ("betas", self.betas[1])):
            if not 0 <= value < 1:
                raise InputError(f"{name} must lie in 0..1, below 1: got {value}")

    def rate(self, step: int) -> float:
        """Learning rate of optimizer step `step`, 0 .. steps - 1."""
        rate = self.learning_rate * min(1.0, (step + 1) / (self.warmup + 1))
        if self.decay == "cosine" and step >= self.warmup:
            done = (step - self.warmup) / max(1, self.steps - self.warmup)
            rate *= 0.5 * (1 + math.cos(math.pi * done))
        return rate

    def ema_decay(self, step: int) -> float:
        """Decay of the average at optimizer step `step`: an average over few steps as long as there are few."""
        return min(self.ema, (1 + step) / (10 + step))

    def settings(self) -> dict[str, Any]:
        """What changes the numbers: a run is not continued with other values of these.

        `precision` and `accumulation` count, too, but what they are is known only with the processes there are."""
        free = {"precision", "accumulation", "checkpointing", "workers", "save_every", "keep", "sample_every", "cpu"}
        if self.decay == "constant":
            free.add("steps")
        return {name: value for name, value in asdict(self).items() if name not in free}
