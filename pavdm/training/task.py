"""What can be trained: the protocol between a task (STDiT3, VAE, text encoder) and the run that trains it.

The run (`pavdm.training.run`) knows optimizers, processes, checkpoints and logs; a task knows network, data and loss.
Chance belongs to the examples: what a micro-step sees is decided by (seed, its number, the process), so neither the
order of a run nor its resumption needs the state of a random generator.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor, nn
from torch.utils.data import Dataset


@dataclass(frozen=True)
class Share:
    """The part of a run's examples that one process reads: `rank` of `world_size`, `accumulation` batches a step.

    Micro-steps are counted through the whole run: number m belongs to optimizer step m // accumulation.
    """

    rank: int = 0
    world_size: int = 1
    accumulation: int = 1

    def step(self, index: int) -> int:
        """The optimizer step that micro-step `index` belongs to. What a whole step shares is drawn from this."""
        return index // self.accumulation

    def examples(self, index: int, batch_size: int) -> range:
        """The run's example numbers in the batch of micro-step `index`.

        Numbered so that a step sees the same examples however it is divided: two processes with one batch each, one
        process with two micro-steps, or one batch of twice the size.
        """
        first = (index * self.world_size + self.rank) * batch_size
        return range(first, first + batch_size)


class Task(Protocol):
    """What is trained: weights, examples, loss, how weights and samples are written.

    network: whose weights are trained (those that require gradients), averaged and saved.
    objective: contains `network`; `forward(batch) -> (loss, logs)`: a scalar tensor, the mean over the batch's
        examples, and named scalar tensors to log. This is what the data-parallel wrappers wrap. It draws from no global
        generator: chance comes with the batch.
    """

    @property
    def network(self) -> nn.Module: ...

    @property
    def objective(self) -> nn.Module: ...

    def examples(self, share: Share) -> Dataset[Any]:
        """Map-style data set: item m is the whole batch of micro-step m for one process, on the CPU, noise included.

        A batch is a tensor, a dict, list or tuple of them, or an object with `to(device)`.
        """
        ...

    def settings(self) -> Mapping[str, Any]:
        """What changes the numbers (data, seed, sizes, ...) as JSON values: a run is not continued with other ones."""
        ...

    def blocks(self) -> Iterable[nn.Module]:
        """Modules whose activations may be recomputed in the backward pass, one after the other, to save memory."""
        ...

    def save(self, directory: Path, weights: Mapping[str, Tensor]) -> None:
        """Write `weights`, named as in `network.state_dict()`, into the empty folder `directory` so that the loaders of
        `pavdm.models` (and of the host) take it as it is."""
        ...

    def sample(self, directory: Path, step: int, weights: Mapping[str, Tensor]) -> None:
        """Write something to look at into `directory`, made with `weights`; its name begins with `step-000123`.

        Runs in the first process alone: no collective operation, so on a copy of the network.
        """
        ...
