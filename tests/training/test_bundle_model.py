"""scripts/bundle_model.py: what a run leaves becomes a folder that `--models` and ComfyUI take."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file

from pavdm.models.checkpoint import load_stdit3
from pavdm.models.files import find_models
from pavdm.models.stdit3 import STDiT3

SCRIPT = Path(__file__).parents[2] / "scripts" / "bundle_model.py"


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, SCRIPT, *map(str, arguments)], capture_output=True, text=True)


def test_the_networks_of_runs_become_a_folder_of_models(models: Path, tmp_path: Path) -> None:
    networks = ["--stdit", models / "stdit", "--vae", models / "vae", "--text-encoder", models / "text_encoder"]
    made = run(*networks, "--name", "mine", "--out", tmp_path)
    assert made.returncode == 0, made.stderr
    ours = load_file(tmp_path / "diffusion_models" / "mine-stdit.safetensors")
    for name, tensor in load_file(models / "stdit" / "model.safetensors").items():
        kept = name == "rope.freqs"
        assert ours[name].dtype == (torch.float32 if kept else torch.float16)
        assert torch.equal(ours[name], tensor if kept else tensor.half())
    found = find_models(tmp_path)
    assert isinstance(load_stdit3(found.stdit), STDiT3)
    assert (tmp_path / "text_encoders" / "tokenizer.json").is_file() and (tmp_path / "vae" / "config.json").is_file()


def test_what_is_no_model_is_refused(tmp_path: Path) -> None:
    for typed, said in ((["--vae", tmp_path], "is no model folder"), ([], "give at least one")):
        refused = run(*typed, "--name", "mine", "--out", tmp_path / "out")
        assert refused.returncode == 2 and said in refused.stderr
    assert not (tmp_path / "out").exists()
