"""STDiT3 over two processes, whole in each (DDP) or in shards (FSDP 2), does what one process does."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from pavdm.models.checkpoint import load_stdit3

ROOT = Path(__file__).parent.parent.parent
SCRIPT = ROOT / "tests" / "helpers" / "stdit_run.py"


def ran(*arguments: object, processes: int = 1) -> None:
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    line = [sys.executable, *(launcher if processes > 1 else []), str(SCRIPT), *map(str, arguments)]
    done = subprocess.run(line, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr[-4000:]


def losses(out: Path) -> list[float]:
    return [json.loads(line)["loss"] for line in (out / "loss.jsonl").read_text("utf-8").splitlines()]


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("alone")
    ran(out)
    return out


@pytest.mark.parametrize("sharded", [[], ["--sharded"]], ids=["ddp", "fsdp"])
def test_two_processes_train_and_go_on_as_one_does_with_twice_the_batch(
    tmp_path: Path, alone: Path, sharded: list[str]
) -> None:
    """Half of the texts are dropped, so that at times a process has none of them and the other has."""
    for steps in (2, 4):  # a run that ends there, and one that goes on
        ran(tmp_path, "--batch-size", 1, "--steps", steps, *sharded, processes=2)
    np.testing.assert_allclose(losses(tmp_path), losses(alone), rtol=1e-5)
    ours, theirs = (load_file(out / "step-000004" / "state.safetensors") for out in (tmp_path, alone))
    assert ours.keys() == theirs.keys()
    for name, tensor in ours.items():
        torch.testing.assert_close(tensor, theirs[name], rtol=1e-3, atol=1e-6, msg=name)
    averaged, raw = (load_stdit3(tmp_path / "step-000004" / name).state_dict() for name in ("model", "raw"))
    reference = load_stdit3(alone / "step-000004" / "model").state_dict()
    for name, tensor in averaged.items():
        torch.testing.assert_close(tensor, reference[name], rtol=1e-3, atol=1e-6, msg=name)
    assert any(not torch.equal(averaged[name], raw[name]) for name in raw)


def test_three_processes_that_were_stopped_end_as_three_that_were_not_bit_for_bit(tmp_path: Path) -> None:
    """Of three summands the order matters."""
    for out, lengths in (("whole", (4,)), ("stopped", (2, 4))):
        for steps in lengths:
            ran(tmp_path / out, "--batch-size", 1, "--steps", steps, processes=3)
    for file in ("loss.jsonl", "step-000004/state.safetensors", "step-000004/model/model.safetensors"):
        assert (tmp_path / "whole" / file).read_bytes() == (tmp_path / "stopped" / file).read_bytes(), file
