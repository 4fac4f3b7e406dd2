"""The VBench dimensions of the paper's table 1, by the `vbench` package where it and its weights are installed."""

from __future__ import annotations

import json
import os
import tempfile
from dataclasses import replace
from importlib.util import find_spec
from itertools import islice
from pathlib import Path

import numpy as np

from pavdm.errors import InputError
from pavdm.evaluation.measurement import Measurements
from pavdm.evaluation.networks import WINDOW_SECONDS
from pavdm.video_reader import read_frames
from pavdm.video_writer import VideoWriter

# Dimension -> what it reads, under VBench's cache folder. VBench would fetch what is missing without asking.
FILES: dict[str, tuple[str, ...]] = {
    "subject_consistency": ("dino_model/facebookresearch_dino_main", "dino_model/dino_vitbase16_pretrain.pth"),
    "background_consistency": ("clip_model/ViT-B-32.pt",),
    "motion_smoothness": ("amt_model/amt-s.pth",),
    "dynamic_degree": ("raft_model/models/raft-things.pth",),
    "aesthetic_quality": ("clip_model/ViT-L-14.pt", "aesthetic_model/emb_reader/sa_0_4_vit_l_14_linear.pth"),
    "imaging_quality": ("pyiqa_model/musiq_spaq_ckpt-358bb6af.pth",),
}


def cache_folder() -> Path:
    """Where VBench looks for its weights."""
    return Path(os.environ.get("VBENCH_CACHE_DIR") or Path.home() / ".cache" / "vbench")


def missing_files() -> dict[str, list[str]]:
    """For each dimension that cannot be computed here, the files that it lacks."""
    folder = cache_folder()
    absent = {dimension: [name for name in names if not (folder / name).exists()] for dimension, names in FILES.items()}
    return {dimension: names for dimension, names in absent.items() if names}


def check_installed() -> None:
    """Raises InputError if the package is not installed."""
    if find_spec("vbench") is None:
        raise InputError("the package vbench is not installed: pip install vbench, or leave out --vbench")


def with_vbench(found: Measurements, path: Path, device: str) -> Measurements:
    """`found` with every dimension whose weights are there: the mean over two-second pieces, as VBench-Long.

    Raises InputError if the package is not installed.
    """
    check_installed()
    missing = dict(found.missing)
    absent = missing_files()
    for dimension, names in absent.items():
        missing[f"vbench_{dimension}"] = f"put {' and '.join(names)} into {cache_folder()}"
    wanted = [dimension for dimension in FILES if dimension not in absent]
    if not wanted or not found.scored:
        return replace(found, missing=missing)
    with tempfile.TemporaryDirectory(prefix="pavdm-vbench-") as name:
        folder = Path(name)
        _cut(found, path, folder / "pieces")
        scores = _run(folder, wanted, device)
    for dimension in scores:
        missing.pop(f"vbench_{dimension}", None)
    summary = {**found.summary, **{f"vbench_{dimension}": score for dimension, score in scores.items()}}
    return replace(found, summary=summary, missing=missing)


def _run(folder: Path, dimensions: list[str], device: str) -> dict[str, float]:
    import torch
    from vbench import VBench

    results = folder / "results"
    bench = VBench(torch.device(device), "", str(results))
    bench.evaluate(
        videos_path=str(folder / "pieces"), name="pavdm", dimension_list=dimensions, local=True, mode="custom_input"
    )
    found = json.loads((results / "pavdm_eval_results.json").read_text(encoding="utf-8"))
    return {dimension: float(found[dimension][0]) for dimension in dimensions}


def _cut(found: Measurements, path: Path, folder: Path) -> None:
    """The scored part of the video in pieces of two seconds, almost lossless; a rest of less than one is left out."""
    folder.mkdir()
    length = max(2, round(found.fps * WINDOW_SECONDS))
    frames = islice(read_frames(path), found.scored[0].start, found.scored[-1].stop)
    size = found.size[0] // 2 * 2, found.size[1] // 2 * 2
    number = 0
    while piece := [frame[: size[0], : size[1]] for frame in islice(frames, length)]:
        if len(piece) >= length / 2 or number == 0:
            with VideoWriter(folder / f"piece-{number:04d}.mp4", size, found.fps, crf=4) as writer:
                writer.write(np.stack(piece))
        number += 1
