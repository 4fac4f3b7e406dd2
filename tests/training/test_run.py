"""The run: what it computes, what it writes, and that neither a kill nor a division into processes changes it."""

from __future__ import annotations

import json
import math
import os
import re
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from pavdm.errors import InputError
from pavdm.training import run, run_options
from pavdm.training.ema import WeightAverage
from pavdm.training.run import RunInterrupted, train
from pavdm.training.run_options import RunOptions

from .toy_task import OPTIONS, ToyTask

TOY = Path(__file__).with_name("toy_task.py")


def trained(out: Path, task: ToyTask | None = None, **changes: Any) -> Path:
    return train(task or ToyTask(), replace(OPTIONS, **changes), out, quiet=True)


def losses(out: Path) -> list[float]:
    return [json.loads(line)["loss"] for line in (out / "loss.jsonl").read_text().splitlines()]


def command(*arguments: object, launcher: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(TOY.parent.parent.parent)}
    line = [sys.executable, *launcher, str(TOY), *map(str, arguments)]
    return subprocess.run(line, capture_output=True, text=True, env=environment, check=False)


@pytest.fixture(autouse=True)
def one_thread() -> Any:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    out = tmp_path_factory.mktemp("unbroken")
    trained(out)
    return out


def test_a_killed_and_resumed_run_ends_as_one_that_was_not_bit_for_bit(tmp_path: Path, unbroken: Path) -> None:
    killed = command(tmp_path, "--killed-at", 5)
    assert killed.returncode == -signal.SIGKILL
    assert len(losses(tmp_path)) == 5 and (tmp_path / "step-000004").is_dir()  # it had gone past its checkpoint
    (tmp_path / "step-000004").rename(tmp_path / ".step-000004.0123abcd.tmp")  # as if killed while writing it

    last = trained(tmp_path)
    assert not list(tmp_path.glob(".*.tmp"))
    for file in ("state.safetensors", "model/model.safetensors", "raw/model.safetensors", "progress.json"):
        assert (last / file).read_bytes() == (unbroken / last.name / file).read_bytes(), file
    assert (tmp_path / "loss.jsonl").read_bytes() == (unbroken / "loss.jsonl").read_bytes()


@pytest.mark.parametrize("step", [3, 6])
def test_a_run_killed_before_a_sample_makes_it_when_it_goes_on(tmp_path: Path, unbroken: Path, step: int) -> None:
    class Killed(Exception):
        pass

    class Unsampled(ToyTask):
        def sample(self, directory: Path, step: int, weights: Any) -> None:
            (directory / f"step-{step:06d}.partial.txt").touch()
            raise Killed

    with pytest.raises(Killed):
        trained(tmp_path, Unsampled(), save_every=3, sample_every=step)
    name = f"step-{step:06d}"
    last = trained(tmp_path, save_every=3, sample_every=step)
    assert (tmp_path / "samples" / f"{name}.txt").read_bytes() == (unbroken / "samples" / f"{name}.txt").read_bytes()
    assert (last / "state.safetensors").read_bytes() == (unbroken / last.name / "state.safetensors").read_bytes()
    (tmp_path / "samples" / f"{name}.txt").write_text("looked at")
    trained(tmp_path, save_every=3, sample_every=step)
    assert (tmp_path / "samples" / f"{name}.txt").read_text() == "looked at", "it was there"


def test_two_processes_do_what_one_does_with_twice_the_batch(tmp_path: Path, unbroken: Path) -> None:
    launcher = ("-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2")  # the task says: CPU
    done = command(tmp_path, "--batch-size", 1, launcher=launcher)
    assert done.returncode == 0, done.stderr[-2000:]
    np.testing.assert_allclose(losses(tmp_path), losses(unbroken), rtol=1e-5)
    ours, theirs = (load_file(out / "step-000006" / "state.safetensors") for out in (tmp_path, unbroken))
    assert ours.keys() == theirs.keys()
    for name, tensor in ours.items():
        torch.testing.assert_close(tensor, theirs[name], rtol=1e-4, atol=1e-6, msg=name)
    assert (tmp_path / "samples" / "step-000006.txt").is_file()


def test_accumulated_batches_do_what_one_large_batch_does(tmp_path: Path, unbroken: Path) -> None:
    trained(tmp_path, ToyTask(batch_size=1), accumulation=2)
    np.testing.assert_allclose(losses(tmp_path), losses(unbroken), rtol=1e-5)
    ours, theirs = (load_file(out / "step-000006" / "raw" / "model.safetensors") for out in (tmp_path, unbroken))
    for name, tensor in ours.items():
        torch.testing.assert_close(tensor, theirs[name], rtol=1e-4, atol=1e-6, msg=name)


def test_steps_are_adamw_with_warm_up_and_clipping(tmp_path: Path) -> None:
    changes = {"weight_decay": 0.1, "clip": 0.2, "warmup": 2, "decay": "cosine", "keep": 9, "save_every": 1}
    trained(tmp_path, **changes)
    task = ToyTask()
    weights = {name: p for name, p in task.network.named_parameters() if p.requires_grad}
    first, second = ({name: torch.zeros_like(p) for name, p in weights.items()} for _ in range(2))
    rates = [1e-2 / 3, 2e-2 / 3, *(1e-2 * 0.5 * (1 + math.cos(math.pi * k / 4)) for k in range(4))]
    data = ToyTask().examples(run.Share())
    norms: list[float] = []
    for step, rate in enumerate(rates):
        loss, _ = task.objective(data[step])
        grads = dict(zip(weights, torch.autograd.grad(loss, list(weights.values())), strict=True))
        norm = math.sqrt(sum(float(grad.square().sum()) for grad in grads.values()))
        norms.append(norm)
        for name, parameter in weights.items():
            grad = grads[name] * min(1.0, 0.2 / norm)
            first[name] = 0.9 * first[name] + 0.1 * grad
            second[name] = 0.999 * second[name] + 0.001 * grad.square()
            moments = first[name] / (1 - 0.9 ** (step + 1)), second[name] / (1 - 0.999 ** (step + 1))
            with torch.no_grad():
                parameter.mul_(1 - rate * 0.1).sub_(rate * moments[0] / (moments[1].sqrt() + 1e-15))
        saved = load_file(tmp_path / f"step-{step + 1:06d}" / "raw" / "model.safetensors")
        for name, parameter in weights.items():
            torch.testing.assert_close(saved[name], parameter.detach(), rtol=1e-3, atol=1e-5, msg=f"{step} {name}")
    assert min(norms) < 0.2 < max(norms), "or one side of clipping is not tested"


def test_the_average_is_that_of_all_steps(tmp_path: Path) -> None:
    trained(tmp_path, keep=9, save_every=1, ema=0.3)
    start = {name: tensor.numpy().astype(np.float64) for name, tensor in ToyTask().network.state_dict().items()}
    expected = dict(start)
    for step in range(6):
        folder = tmp_path / f"step-{step + 1:06d}"
        decay = min(0.3, (1 + step) / (10 + step))
        for name, weights in load_file(folder / "raw" / "model.safetensors").items():
            expected[name] = decay * expected[name] + (1 - decay) * weights.numpy()
        for name, average in load_file(folder / "model" / "model.safetensors").items():
            np.testing.assert_allclose(average.numpy(), expected[name], rtol=1e-5, atol=1e-6)
    assert np.abs(expected["0.weight"] - weights_of(tmp_path / "step-000006" / "raw")["0.weight"]).max() > 1e-4


def weights_of(folder: Path) -> dict[str, np.ndarray]:
    return {name: tensor.numpy() for name, tensor in load_file(folder / "model.safetensors").items()}


def test_weights_come_back_bit_for_bit_after_the_average_stood_in_their_place() -> None:
    network = ToyTask().network
    parameters = [p for p in network.parameters() if p.requires_grad]
    average = WeightAverage(parameters)
    before = [p.detach().clone() for p in parameters]
    with torch.no_grad():
        for parameter in parameters:
            parameter.mul_(1.7)
    changed = [p.detach().clone() for p in parameters]
    with average.in_place():
        assert all(torch.equal(p, b) for p, b in zip(parameters, before, strict=True))
    assert all(torch.equal(p, c) for p, c in zip(parameters, changed, strict=True))


def test_only_the_newest_checkpoints_are_kept(unbroken: Path) -> None:
    assert sorted(path.name for path in unbroken.glob("step-*")) == ["step-000004", "step-000006"]


def test_a_run_is_not_continued_with_other_settings(tmp_path: Path) -> None:
    trained(tmp_path, steps=2)
    with pytest.raises(InputError, match=r"learning_rate: 0\.01 there, 0\.02 now"):
        trained(tmp_path, learning_rate=2e-2)
    with pytest.raises(InputError, match="batches per step: 1 there, 2 now"):
        trained(tmp_path, accumulation=2)
    with pytest.raises(InputError, match="seed: 0 there, 1 now"):
        trained(tmp_path, ToyTask(seed=1))
    with pytest.raises(InputError, match="has made 2 steps already"):
        trained(tmp_path, steps=1)
    trained(tmp_path, steps=3, save_every=1, keep=5)  # what changes no number may change
    assert len(losses(tmp_path)) == 3


@pytest.mark.parametrize("prefix", ["weights.", "average."])
def test_a_checkpoint_without_all_weights_is_not_gone_on_from(tmp_path: Path, prefix: str) -> None:
    file = trained(tmp_path, steps=2) / "state.safetensors"
    state = load_file(file)
    name = next(name for name in state if name.startswith(prefix))
    save_file({other: tensor for other, tensor in state.items() if other != name}, file)
    with pytest.raises(InputError, match=f"1 tensors.*{re.escape(name.removeprefix(prefix))}"):
        trained(tmp_path, steps=3)


def test_a_damaged_checkpoint_is_named(tmp_path: Path) -> None:
    last = trained(tmp_path, steps=2)
    (last / "state.safetensors").write_bytes(b"no")
    with pytest.raises(InputError, match=r"state\.safetensors is missing or damaged.*Remove .*step-000002"):
        trained(tmp_path, steps=3)
    (last / "progress.json").write_text("{")
    with pytest.raises(InputError, match=r"progress\.json is missing or damaged"):
        trained(tmp_path, steps=3)


def test_a_run_that_is_asked_to_stop_saves_and_goes_on_as_if_it_had_not(tmp_path: Path, unbroken: Path) -> None:
    asked = iter([False, False, True])
    with pytest.raises(RunInterrupted) as stopped:
        train(ToyTask(), OPTIONS, tmp_path, should_stop=lambda: next(asked), quiet=True)
    assert stopped.value.step == 3 and stopped.value.checkpoint == tmp_path / "step-000003"
    last = trained(tmp_path)
    assert (last / "state.safetensors").read_bytes() == (unbroken / last.name / "state.safetensors").read_bytes()
    assert (tmp_path / "loss.jsonl").read_bytes() == (unbroken / "loss.jsonl").read_bytes()


def test_a_run_with_muon_is_resumed_exactly_and_differs_from_adamw(tmp_path: Path, unbroken: Path) -> None:
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    trained(whole, optimizer="muon")
    trained(stopped, optimizer="muon", steps=3)
    last = trained(stopped, optimizer="muon")
    assert (last / "state.safetensors").read_bytes() == (whole / last.name / "state.safetensors").read_bytes()
    assert losses(whole)[1:] != losses(unbroken)[1:]


def test_examples_made_in_worker_processes_are_the_same_ones(tmp_path: Path, unbroken: Path) -> None:
    trained(tmp_path, workers=2)
    assert (tmp_path / "loss.jsonl").read_bytes() == (unbroken / "loss.jsonl").read_bytes()


def test_a_loss_that_is_no_number_ends_the_run_and_is_not_saved(tmp_path: Path) -> None:
    task = ToyTask()
    with torch.no_grad():
        task.network[0].bias[0] = math.nan
    with pytest.raises(InputError, match="loss of step 1 is nan"):
        trained(tmp_path, task)
    assert not list(tmp_path.glob("step-*"))


def test_a_gradient_that_is_no_number_ends_the_run_before_it_is_saved(tmp_path):
    task = ToyTask()
    task.network[0].bias.register_hook(lambda gradient: gradient * math.nan)
    with pytest.raises(InputError, match="gradient norm of step 1 is nan"):
        train(task, OPTIONS, tmp_path / "run", quiet=True)
    assert not list((tmp_path / "run").glob("step-*"))


def test_a_run_in_bf16_is_resumed_exactly(tmp_path: Path, unbroken: Path) -> None:
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    trained(whole, precision="bf16")
    trained(stopped, precision="bf16", steps=3)
    last = trained(stopped, precision="bf16")
    for file in ("state.safetensors", "progress.json"):
        assert (last / file).read_bytes() == (whole / last.name / file).read_bytes()
    assert losses(stopped) == losses(whole)
    np.testing.assert_allclose(losses(whole), losses(unbroken), rtol=0.05)
    assert losses(whole) != losses(unbroken)


def test_fp16_is_refused_where_it_would_be_fp32(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="fp16"):
        trained(tmp_path, precision="fp16")


def test_tensorboard_shows_the_losses(unbroken: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(unbroken / "tensorboard"))
    events.Reload()
    np.testing.assert_allclose([event.value for event in events.Scalars("loss")], losses(unbroken), rtol=1e-6)
    assert [event.step for event in events.Scalars("gradient_norm")] == [1, 2, 3, 4, 5, 6]


def test_what_training_needs_besides_is_named_when_it_is_missing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with monkeypatch.context() as without:
        without.setattr(run_options, "find_spec", lambda name: None if name == "accelerate" else object())
        with pytest.raises(InputError, match=r"accelerate, which is not installed: pip install 'pavdm\[train\]'"):
            trained(tmp_path)
    monkeypatch.setattr(run_options, "version", lambda name: "2.5.1+cpu")
    with pytest.raises(InputError, match=r"needs torch 2\.6 or newer, and 2\.5\.1"):
        trained(tmp_path)


@pytest.mark.parametrize("cpu", ["True", "False"])
def test_a_launcher_that_starts_one_process_instead_of_several_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, cpu: str
) -> None:
    """What `accelerate launch --num_processes 2` sets in its one process, with --cpu of its own and without."""
    monkeypatch.setenv("ACCELERATE_USE_CPU", cpu)
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    with pytest.raises(InputError, match="only one process.*--multi_gpu --num_processes"):
        trained(tmp_path)


def test_processes_that_would_each_train_alone_into_one_folder_are_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """As where there is an accelerator of which accelerate makes no groups."""
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr("torch.accelerator.is_available", lambda: True)
    with pytest.raises(InputError, match=r"2 processes were launched, and accelerate sees 1.*Add --cpu"):
        trained(tmp_path, cpu=False)
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize(
    "changes",
    [
        {"steps": 0},
        {"accumulation": 0},
        {"keep": 0},
        {"ema": 1.0},
        {"learning_rate": math.nan},
        {"save_every": -1},
        {"epsilon": 0.0},
    ],
)
def test_options_that_make_no_run_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(InputError):
        RunOptions(**{"steps": 1, **changes})
