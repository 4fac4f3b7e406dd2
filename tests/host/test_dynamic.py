"""Newer hosts can leave weights where they are until they are used (dynamic VRAM); layers then begin without any."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.host

ROOT = Path(__file__).resolve().parent.parent.parent
# A CPU never gets a dynamic patcher, so the host's switch is turned by hand, and the loaders are told that theirs is one.
SCRIPT = """
import sys, types
core, root, models = sys.argv[1:4]
sys.argv = ["main.py", "--cpu"]
sys.path[:0] = [core, root]
import comfy.options
comfy.options.enable_args_parsing()
try:
    import comfy.memory_management as memory
    memory.aimdo_enabled
except (ImportError, AttributeError):
    sys.exit(77)
import torch
pack = sys.modules["pack"] = types.ModuleType("pack")
pack.__path__ = [root]
from pack.nodes import model, vae

def loaded():
    network = model.load_patcher(f"{models}/stdit/model.safetensors", {}).model.diffusion_model
    return network, vae.OpenSoraVAE(f"{models}/vae/model.safetensors").first_stage_model

with torch.inference_mode():
    usual = loaded()
    memory.aimdo_enabled = True
    model.is_dynamic = vae.is_dynamic = lambda patcher: True
    for ours, theirs in zip(loaded(), usual):
        weights, expected = ours.state_dict(), theirs.state_dict()
        assert weights.keys() == expected.keys()
        assert all(torch.equal(weights[name].float(), expected[name].float()) for name in expected)
"""


def test_weights_that_come_late_are_the_same_weights(core: Path, models: Path) -> None:
    command = [sys.executable, "-c", SCRIPT, core, ROOT, models]
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(command, cwd=core, env=environment, capture_output=True, text=True, check=False)
    if done.returncode == 77:
        pytest.skip("this ComfyUI has no dynamic VRAM")
    assert done.returncode == 0, done.stderr[-3000:]
