"""Draws that only names or numbers decide: chance belongs to what it is drawn for, never to the order of a run."""

from __future__ import annotations

import hashlib

import numpy as np
import torch


def generator_for(*names: object) -> torch.Generator:
    """A CPU generator that only `names` decide."""
    digest = hashlib.sha256("/".join(map(str, names)).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)


def integer(count: int, generator: torch.Generator) -> int:
    """0 .. count - 1."""
    return int(torch.randint(count, (1,), generator=generator))


def uniform(count: int, *key: int) -> np.ndarray:
    """`count` numbers in 0..1 that only `key` (whole numbers, at least 0) decides."""
    return np.random.Generator(np.random.PCG64(key)).random(count)
