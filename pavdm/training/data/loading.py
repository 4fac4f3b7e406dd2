"""Items of a data set in a given order, made ahead by worker processes: for training and pre-computing."""

from __future__ import annotations

import signal
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset

from pavdm.errors import InputError


def items(dataset: Dataset[Any], numbers: Sequence[int], workers: int) -> Iterator[Any]:
    """`dataset[number]` for each of `numbers`, as they are; workers: processes that make them, 0 for none.

    Raises InputError with the sentence of the one that the data set raised, or of an OSError, in whichever process.
    """
    loader: DataLoader[Any] = DataLoader(
        _Told(dataset),
        batch_size=None,
        sampler=numbers,
        num_workers=workers,
        collate_fn=_as_it_is,
        worker_init_fn=_leave_signals_to_the_main_process,
        generator=torch.Generator().manual_seed(0),  # draws the workers' seeds; items do not depend on it
    )
    for item in loader:
        if isinstance(item, _Unreadable):
            raise InputError(item.reason)
        yield item


@dataclass(frozen=True)
class _Unreadable:
    reason: str


class _Told(Dataset[Any]):
    """Errors as items: torch would put a worker's traceback into the message of the one that it raises."""

    def __init__(self, dataset: Dataset[Any]) -> None:
        self._dataset = dataset

    def __getitem__(self, number: int) -> Any:
        try:
            return self._dataset[number]
        except (InputError, OSError) as error:
            return _Unreadable(str(error))


def _as_it_is(item: Any) -> Any:
    return item


def _leave_signals_to_the_main_process(worker: int) -> None:
    """Ctrl-C reaches every process of a terminal: items go on being made until the main process has stopped."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
