"""The networks that `pavdm train --what` knows: the one place to add another."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pavdm.training import stdit_options, text_options, vae_options

if TYPE_CHECKING:
    from pavdm.training.memory import MemoryEstimate
    from pavdm.training.task import Task


@dataclass(frozen=True)
class TaskEntry:
    """add_options adds argument groups of the task's own; make_task reads them, and imports what is heavy.

    estimate: memory that a step takes, from the options alone; None for networks that need none.
    """

    add_options: Callable[[argparse.ArgumentParser], None]
    make_task: Callable[[argparse.Namespace], Task]
    estimate: Callable[[argparse.Namespace], MemoryEstimate] | None = None


TASKS: Mapping[str, TaskEntry] = {
    "stdit": TaskEntry(stdit_options.add_options, stdit_options.make_task, stdit_options.estimate_memory),
    "vae": TaskEntry(vae_options.add_options, vae_options.make_task),
    "text-encoder": TaskEntry(text_options.add_options, text_options.make_task),
}


def make_task(options: argparse.Namespace) -> Task:
    """The task that the options ask for. Raises InputError for options or files that make none."""
    return TASKS[options.what].make_task(options)


def estimate_memory(options: argparse.Namespace) -> MemoryEstimate | None:
    """Memory that the run will take, None where no estimate is known."""
    estimate = TASKS[options.what].estimate
    return None if estimate is None else estimate(options)
