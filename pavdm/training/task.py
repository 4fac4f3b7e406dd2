"""What can be trained: the protocol between a task (STDiT3, VAE, text encoder) and the run that trains it.

The run (`pavdm.training.run`) knows optimizers, processes, checkpoints and logs; a task knows network, data and loss.
Chance belongs to the examples: what a micro-step sees is decided by (seed, its number, the process), so neither the
order of a run nor its resumption needs the state of a random generator.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from torch import Tensor, nn
from torch.utils.data import Dataset

if TYPE_CHECKING:
    from pavdm.training.data.clip_list import Skipped
    from pavdm.training.memory import MemoryEstimate


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

    def examples(self, index: int, batch_size: int, largest: int | None = None) -> range:
        """The run's example numbers in the batch of micro-step `index`.

        Numbered so that a step sees the same examples however it is divided: two processes with one batch each, one
        process with two micro-steps, or one batch of twice the size. largest: where batches differ in size, the size
        of the largest, so that no two steps share a number.
        """
        step, micro_step = divmod(index, self.accumulation)
        first = step * self.accumulation * self.world_size * (largest or batch_size)
        first += (micro_step * self.world_size + self.rank) * batch_size
        return range(first, first + batch_size)


@dataclass(frozen=True)
class Extent:
    """A form that batches of clips come in. shape: of a clip as the network reads it, (C, T, H, W) of pixels or
    latents. size: (height, width) in pixels."""

    batch_size: int
    shape: tuple[int, int, int, int]
    size: tuple[int, int]


def largest_batch(extents: Sequence[Extent]) -> int:
    return max(extent.batch_size for extent in extents)


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
        """Write something to look at into `directory`, made with `weights`: `step-000123` with an ending of its kind.

        Runs in the first process alone: no collective operation, so on a copy of the network.
        """
        ...


@dataclass(frozen=True)
class Plan:
    """A training whose options and data were found fit. make: reads or makes the weights. estimate: the memory that a
    step takes at most, None for networks that need little. skipped: files that are not trained on."""

    make: Callable[[], Task]
    estimate: Callable[[], MemoryEstimate] | None = None
    skipped: Sequence[Skipped] = ()
