"""Files that appear whole or not at all: written under a name of their own and renamed."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pavdm.errors import InputError


def temporary_beside(path: Path) -> Path:
    """A name in the folder of `path` that no other process has, on whatever machine: process numbers repeat there."""
    return path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.tmp")


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a temporary name beside `path`; rename it to `path` at the end, delete it if anything fails.

    Raises InputError if the disk is full or the place cannot be written.
    """
    temporary = temporary_beside(path)
    try:
        yield temporary
        temporary.replace(path)
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror or error}. Nothing was kept.") from error
    finally:
        temporary.unlink(missing_ok=True)
