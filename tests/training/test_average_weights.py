"""scripts/average_weights.py: a model folder between two others, and what it refuses."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from pavdm.models.checkpoint import load_stdit3, save_stdit3
from pavdm.models.stdit3 import STDiT3, STDiT3Config, initialize_weights

SCRIPT = Path(__file__).parents[2] / "scripts" / "average_weights.py"


@pytest.fixture(scope="module")
def states(tmp_path_factory) -> list[Path]:
    folders = []
    for seed, width in ((0, 32), (1, 32), (2, 64)):
        network = STDiT3(STDiT3Config(hidden_size=width, depth=1, num_heads=2, caption_channels=16))
        initialize_weights(network, torch.Generator().manual_seed(seed))
        folders.append(tmp_path_factory.mktemp("run") / "model")
        save_stdit3(network, folders[-1])
    return folders


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, SCRIPT, *map(str, arguments)], capture_output=True, text=True)


def test_every_weight_lies_between_and_the_loaders_take_it(states: list[Path], tmp_path: Path) -> None:
    made = run(states[0], states[1], "--share", 0.25, "--out", tmp_path / "out")
    assert made.returncode == 0, made.stderr
    ours, theirs, between = (load_file(folder / "model.safetensors") for folder in (*states[:2], tmp_path / "out"))
    assert ours.keys() == between.keys()
    for name, tensor in between.items():
        torch.testing.assert_close(tensor, 0.75 * ours[name] + 0.25 * theirs[name])
    assert load_stdit3(tmp_path / "out").config == load_stdit3(states[0]).config
    with (
        safe_open(states[0] / "model.safetensors", "pt") as a,
        safe_open(tmp_path / "out/model.safetensors", "pt") as b,
    ):
        assert a.metadata() == b.metadata()


def test_what_cannot_be_averaged_is_refused_and_nothing_is_written(states: list[Path], tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    broken.mkdir()
    save_file({"a": torch.zeros(1)}, broken / "model.safetensors")
    out = tmp_path / "out"
    for arguments, told in (
        ((states[0], states[2]), "not two states of one network"),
        ((states[0], broken), "no model folder"),
        ((states[0], states[1], "--share", 2), "must lie in 0..1"),
    ):
        refused = run(*arguments, "--out", out)
        assert refused.returncode == 2 and told in refused.stderr and not out.exists()
    assert "exists already" in run(states[0], states[1], "--out", tmp_path).stderr
