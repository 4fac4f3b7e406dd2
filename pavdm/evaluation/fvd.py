"""Frechet video distance between the videos of a method and real ones, with a local I3D. Read it as relative only."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from pavdm.errors import InputError, is_out_of_memory
from pavdm.evaluation.networks import WINDOW_SECONDS, square
from pavdm.evaluation.pixels import Frame
from pavdm.video_reader import probe, read_frames

logger = logging.getLogger(__name__)

_FRAMES, _SIDE = 16, 224  # of every window, as the published I3D reads it
_FEW = 256  # windows; below this the number depends on their count more than on the videos

Features = NDArray[np.float64]  # (windows, D)


def load_i3d(path: Path, device: torch.device) -> Any:
    """A TorchScript I3D that gives features for (B, 3, T, 224, 224) in [-1, 1] (StyleGAN-V's `i3d_torchscript.pt`)."""
    try:
        return torch.jit.load(str(path), map_location=device).eval()
    except (ValueError, OSError, RuntimeError) as error:
        raise InputError(f"{path} is not a TorchScript network ({str(error).splitlines()[0]})") from error


@torch.inference_mode()
def video_features(model: Any, videos: Iterable[tuple[Path, int]], device: torch.device) -> Features:
    """Features of every two-second window. videos: files, and how many frames at their start are left out.

    Raises InputError if the network cannot be used so.
    """
    found = []
    for path, first in videos:
        for window in _windows(path, first):
            pixels = (
                torch.stack([square(frame, _SIDE, "bilinear") for frame in window], dim=1)[None].to(device) / 127.5 - 1
            )
            try:
                features = model(pixels, rescale=False, resize=False, return_features=True)[0]
            except RuntimeError as error:
                if is_out_of_memory(error):
                    raise
                told = str(error).strip().splitlines()[-1]
                raise InputError(f"the network for FVD does not work as StyleGAN-V's I3D does ({told})") from error
            found.append(features.double().cpu().numpy())
    return np.stack(found) if found else np.zeros((0, 0))


def frechet_distance(ours: Features, real: Features) -> float:
    """|m1 - m2|^2 + tr(C1 + C2 - 2 (C1 C2)^(1/2)) of the two sets' means and covariances.

    Raises InputError with fewer than two windows in a set.
    """
    if min(len(ours), len(real)) < 2:
        raise InputError(f"FVD needs at least two windows of each kind: got {len(ours)} and {len(real)} real ones")
    if min(len(ours), len(real)) < _FEW:
        logger.warning("FVD of %d windows against %d real ones: too few to be stable", len(ours), len(real))
    of_ours, of_real = (np.atleast_2d(np.cov(features, rowvar=False)) for features in (ours, real))
    # tr (C1 C2)^(1/2) is the sum of the square roots of the eigenvalues of the symmetric C1^(1/2) C2 C1^(1/2).
    values, vectors = np.linalg.eigh(of_ours)
    root = (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T
    mixed = np.sqrt(np.maximum(np.linalg.eigvalsh(root @ of_real @ root), 0)).sum()
    apart = ((ours.mean(0) - real.mean(0)) ** 2).sum()
    return float(apart + np.trace(of_ours) + np.trace(of_real) - 2 * mixed)


def _windows(path: Path, first: int) -> Iterator[list[Frame]]:
    """Sixteen frames evenly out of every full two seconds."""
    length = max(_FRAMES, round(float(probe(path).fps) * WINDOW_SECONDS))
    chosen = {round(i) for i in np.linspace(0, length - 1, _FRAMES)}
    frames = islice(read_frames(path), first, None)
    while window := [(i, frame) for i, frame in enumerate(islice(frames, length)) if i in chosen]:
        if len(window) == _FRAMES:
            yield [frame for _, frame in window]
