"""What the launcher (torchrun, or one that sets the same variables) tells a process about its run."""

from __future__ import annotations

import os

from pavdm.errors import InputError


def is_leader(size: int | None = None) -> bool:
    """Whether this is the process that speaks to the user: the first of all, or of its team of `size` processes."""
    rank = int(os.environ.get("RANK", "0"))
    return rank == 0 if size is None else rank % max(1, size) == 0


def started() -> int:
    """How many processes were started, this one included."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def local_place() -> int:
    """Number of this process among those on this machine."""
    return int(os.environ.get("LOCAL_RANK", "0"))


def place(size: int, several: bool = False) -> int:
    """Number of this process among all that were started. Raises InputError if they do not make a team of `size`.

    several: nor several such teams.
    """
    if size < 1:
        raise InputError(f"--context-parallel is a number of processes, at least 1: got {size}")
    count = started()
    if count == size or (several and count % size == 0):
        return int(os.environ.get("RANK", "0"))
    if size == 1:
        raise InputError(
            f"{count} processes were started to make one video: add --context-parallel {count}, or start one"
        )
    raise InputError(
        f"--context-parallel {size} needs {size} processes{', or a multiple' if several else ''}, and {count} "
        f"{'was' if count == 1 else 'were'} started: start with torchrun --nproc-per-node {size} -m pavdm ..."
    )
