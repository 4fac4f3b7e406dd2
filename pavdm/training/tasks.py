"""The networks that `pavdm train --what` knows: the one place to add another."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pavdm.training.stdit import options as stdit_options
from pavdm.training.text_encoder import options as text_options
from pavdm.training.vae import options as vae_options

if TYPE_CHECKING:
    from pavdm.training.task import Plan


@dataclass(frozen=True)
class TaskEntry:
    """add_options adds argument groups of the task's own; plan reads them and the data, and imports what is heavy.

    plan raises InputError for options or data that make no training.
    """

    add_options: Callable[[argparse.ArgumentParser], None]
    plan: Callable[[argparse.Namespace], Plan]


TASKS: Mapping[str, TaskEntry] = {
    "stdit": TaskEntry(stdit_options.add_options, stdit_options.plan),
    "vae": TaskEntry(vae_options.add_options, vae_options.plan),
    "text-encoder": TaskEntry(text_options.add_options, text_options.plan),
}


def owners() -> Mapping[str, str]:
    """Of the options that a single network reads, which one does."""
    found: dict[str, str] = {}
    for what, entry in TASKS.items():
        own = argparse.ArgumentParser(add_help=False)
        entry.add_options(own)
        found |= dict.fromkeys(vars(own.parse_args([])), what)
    return found
