"""Drift seen in the latents themselves: their per-channel statistics, chunk by chunk, without decoding anything."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from torch import Tensor

from pavdm.errors import InputError
from pavdm.evaluation.drift import ENDS

_CHUNK_LATENTS = 5
_NAMES = ("latents", "latent_tensor", "samples")  # pavdm's, ComfyUI's Save Latent, ComfyUI in memory

Statistics = dict[str, NDArray[np.float64]]


def read_latents(path: Path) -> Iterator[Tensor]:
    """Latents (1, C, T, h, w) piece by piece: of a file, or of the `--state` folder of a run.

    Raises InputError if there are none.
    """
    files = sorted((path / "chunks").glob("[0-9]*.safetensors")) if path.is_dir() else [path]
    if not files:
        raise InputError(f"{path} holds no finished chunks: give the --state folder of a run, or a file with latents")
    for file in files:
        try:
            with safe_open(file, framework="pt") as stored:
                found = [name for name in _NAMES if name in stored.keys()]  # noqa: SIM118 (no mapping)
                if not found:
                    raise InputError(f"{file} holds none of the tensors {', '.join(_NAMES)}: give a file with latents")
                yield stored.get_tensor(found[0])
        except (OSError, SafetensorError) as error:
            raise InputError(f"{file} cannot be read as safetensors ({error}); give a file with latents") from error


def latent_statistics(latents: Tensor | Iterable[Tensor]) -> Statistics:
    """Per-channel mean and spread of every 5 latents: "mean" and "std", each (chunks, C).

    latents: (1, C, T, h, w), or pieces of it in order. Raises InputError for other shapes, or if there are none.
    """
    means, spreads = [], []
    for chunk in _fives([latents] if isinstance(latents, Tensor) else latents):
        means.append(chunk.mean((0, 2, 3, 4)).cpu().numpy())
        spreads.append(chunk.std((0, 2, 3, 4), correction=0).cpu().numpy())
    if not means:
        raise InputError("there are no latents to measure")
    return {"mean": np.stack(means), "std": np.stack(spreads)}


def _fives(pieces: Iterable[Tensor]) -> Iterator[Tensor]:
    """The same latents, float64, 5 at a time however long the pieces are; at the end what is left."""
    rest: Tensor | None = None
    for piece in pieces:
        if piece.ndim != 5 or piece.shape[0] != 1:
            raise InputError(f"expected the latents of one video (1, C, T, h, w), got {tuple(piece.shape)}")
        known = piece.to(torch.float64) if rest is None else torch.cat([rest, piece.to(torch.float64)], dim=2)
        whole = known.shape[2] // _CHUNK_LATENTS * _CHUNK_LATENTS
        yield from known[:, :, :whole].split(_CHUNK_LATENTS, dim=2) if whole else ()
        rest = known[:, :, whole:]
    if rest is not None and rest.shape[2]:
        yield rest


def latent_drift(statistics: Statistics) -> dict[str, float | None]:
    """`latent_mean_drift` and `latent_std_drift` of `registry.SCALARS`; None with fewer than two chunks, or
    where latents are not finite.
    """
    means, spreads = statistics["mean"], statistics["std"]
    if len(means) < 2:
        return {"latent_mean_drift": None, "latent_std_drift": None}
    count = max(1, round(len(means) * ENDS))
    first, last = spreads[:count].mean(0), spreads[-count:].mean(0)
    if not (first.all() and last.all()):  # a channel of one value has no spread to compare with
        return {"latent_mean_drift": None, "latent_std_drift": None}
    moved = (means[-count:].mean(0) - means[:count].mean(0)) / first
    return {"latent_mean_drift": _rms(moved), "latent_std_drift": _rms(np.log(last / first))}


def _rms(values: NDArray[np.float64]) -> float | None:
    found = float(np.sqrt((values**2).mean()))
    return found if math.isfinite(found) else None
