"""`--context-parallel` as a person runs it: real processes, started by torchrun or by hand, interrupted and killed."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from pavdm import cli
from pavdm.cli import main
from pavdm.errors import InputError
from pavdm.sampling.state import load_state

LENGTH = ["--seconds", "2.5"]  # 4 chunks
SECONDS = 240


def arguments(models: Path, out: Path, *options: str) -> list[str]:
    fast = ["--size", "48x64", "--steps", "6", "--models", str(models), "--device", "cpu", "--quiet"]
    return ["generate", "--prompt", "a lake", "--out", str(out), *fast, *options]


@pytest.fixture(scope="module")
def alone(models: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The state directory of a finished run of one process."""
    folder = tmp_path_factory.mktemp("alone")
    assert main(arguments(models, folder / "out.mp4", *LENGTH, "--state", str(folder / "state"))) == 0
    return folder / "state"


def chunks(state: Path) -> list[torch.Tensor]:
    return [load_file(path)["latents"] for path in sorted((state / "chunks").iterdir())]


def by_torchrun(size: int, command: list[str]) -> subprocess.Popen[str]:
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(size)]
    launch = [*launcher, "-m", "pavdm", *command, "--context-parallel", str(size)]
    return subprocess.Popen(launch, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


Start = Callable[..., list["subprocess.Popen[str]"]]


@pytest.fixture
def start() -> Iterator[Start]:
    """start(size, command, teams) -> its processes, without torchrun, which would end all for the end of one."""
    started: list[subprocess.Popen[str]] = []

    def run(size: int, command: list[str], teams: int = 1) -> list[subprocess.Popen[str]]:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        launch = [sys.executable, "-m", "pavdm", *command, "--context-parallel", str(size)]
        for rank in range(size * teams):
            place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": size * teams, "MASTER_PORT": port}
            environment = {**os.environ, "MASTER_ADDR": "127.0.0.1", **{name: str(v) for name, v in place.items()}}
            started.append(
                subprocess.Popen(launch, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
            )
        return started

    yield run
    for process in started:
        process.kill()
        process.communicate()


def wait_for_chunk(state: Path, process: subprocess.Popen[str]) -> None:
    file, deadline = state / "state.safetensors", time.monotonic() + SECONDS
    while not file.exists() or load_state(file).next_chunk < 1:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_run_under_torchrun_that_is_interrupted_goes_on_and_ends_as_from_one_process(
    alone: Path, models: Path, tmp_path: Path
) -> None:
    state, out = tmp_path / "state", tmp_path / "out.mp4"
    command = arguments(models, out, *LENGTH, "--state", str(state))
    process = by_torchrun(2, command)
    wait_for_chunk(state, process)
    process.send_signal(signal.SIGINT)  # as Ctrl-C in a terminal: torchrun passes it on
    said, errors = process.communicate(timeout=SECONDS)
    assert process.returncode != 0
    assert said == ""
    assert errors.count(f"The same command goes on from {state}") == 1
    assert not out.exists()

    process = by_torchrun(3, command)  # a state does not know how many processes made it
    said, errors = process.communicate(timeout=SECONDS)
    assert process.returncode == 0, errors
    assert said.count("60 frames") == 1
    together = chunks(state)
    assert len(together) == 4
    for shared, single in zip(together, chunks(alone), strict=True):
        assert (shared - single).norm() / single.norm() < 1e-5


def test_what_is_wrong_is_said_once(models: Path, tmp_path: Path) -> None:
    process = by_torchrun(2, arguments(models, tmp_path / "out.mp4", "--seconds", "0"))
    said, errors = process.communicate(timeout=SECONDS)
    assert process.returncode != 0
    assert said == ""
    assert errors.count("error: the length must be above 0") == 1


def test_the_first_process_of_every_team_speaks_and_the_others_do_not(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such as of models that one machine lacks."""
    (tmp_path / "list.txt").write_text("a lake\n")
    command = ["batch", str(tmp_path / "list.txt"), "--seconds", "1", "--out", str(tmp_path / "out")]

    def without_models(*_: object, **__: object) -> int:
        raise InputError("no such models directory")

    monkeypatch.setattr(cli, "_together", without_models)
    for rank, speaks in enumerate((True, False, True, False)):
        monkeypatch.setenv("RANK", str(rank))
        assert main([*command, "--context-parallel", "2"]) == 2
        assert ("no such models directory" in capsys.readouterr().err) == speaks


@pytest.mark.parametrize(
    ("number", "message"),
    [(signal.SIGINT, "interrupted; "), (signal.SIGKILL, "error: another process of this run has ended")],
)
def test_the_end_of_one_process_is_the_end_of_all(
    models: Path, tmp_path: Path, start: Start, number: signal.Signals, message: str
) -> None:
    state = tmp_path / "state"
    processes = start(2, arguments(models, tmp_path / "out.mp4", *LENGTH, "--state", str(state)))
    wait_for_chunk(state, processes[0])
    processes[1].send_signal(number)
    (said, errors), (other_said, other_errors) = (process.communicate(timeout=SECONDS) for process in processes)
    assert said == other_said == other_errors == ""
    assert len(errors.splitlines()) == 1 and errors.startswith(message)
    assert processes[0].returncode == (130 if number == signal.SIGINT else 1)


def test_a_process_that_freezes_is_given_up(models: Path, tmp_path: Path, start: Start) -> None:
    state = tmp_path / "state"
    command = arguments(models, tmp_path / "out.mp4", *LENGTH, "--state", str(state), "--lost-after", "20")
    processes = start(2, command)
    wait_for_chunk(state, processes[0])
    processes[1].send_signal(signal.SIGSTOP)
    _, errors = processes[0].communicate(timeout=SECONDS)
    assert processes[0].returncode == 1
    assert "error: process 1 of 2 gave no sign of life for 20 s" in errors


def test_teams_of_a_batch_make_what_one_process_makes(alone: Path, models: Path, tmp_path: Path, start: Start) -> None:
    listed, out = tmp_path / "list.txt", tmp_path / "out"
    listed.write_text("a lake\na hill\n")
    _, _, _, _, _, *options = arguments(models, out, *LENGTH)
    processes = start(2, ["batch", str(listed), "--out", str(out), *options], teams=2)
    ends = [(*process.communicate(timeout=SECONDS), process.returncode) for process in processes]
    assert [status for _, _, status in ends] == [0] * 4, ends
    assert {path.name for path in out.glob("*.mp4")} == {"sample_0000.mp4", "sample_0001.mp4"}
    assert all(said == "" for said, _, _ in (ends[1], ends[3]))  # the followers
    together = chunks(out / "work" / "sample_0000" / "state")
    assert len(together) == 4
    for shared, single in zip(together, chunks(alone), strict=True):
        assert (shared - single).norm() / single.norm() < 1e-5


def test_another_number_of_processes_is_refused_with_the_command_that_starts_it(
    models: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    command = arguments(models, tmp_path / "out.mp4", *LENGTH)
    assert main([*command, "--context-parallel", "2"]) == 2
    assert "torchrun --nproc-per-node 2 -m pavdm" in capsys.readouterr().err
    monkeypatch.setenv("WORLD_SIZE", "3")
    assert main([*command, "--context-parallel", "2"]) == 2
    assert "needs 2 processes, and 3 were started" in capsys.readouterr().err
    assert main(command) == 2
    assert "add --context-parallel 3" in capsys.readouterr().err
    assert main([*command, "--context-parallel", "0"]) == 2
    assert "at least 1" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_the_video_of_a_team_that_lost_a_process_is_made_by_the_other(
    models: Path, tmp_path: Path, start: Start
) -> None:
    listed, out = tmp_path / "list.txt", tmp_path / "out"
    listed.write_text("a lake\na hill\n")
    _, _, _, _, _, *options = arguments(models, out, *LENGTH)
    processes = start(2, ["batch", str(listed), "--out", str(out), *options], teams=2)
    work = out / "work" / "sample_0000"
    leaders = {processes[0].pid: 0, processes[2].pid: 2}
    file, deadline = work / "state" / "state.safetensors", time.monotonic() + SECONDS
    while not file.exists() or load_state(file).next_chunk < 1:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    leader = leaders[int((work / "claim-0001").read_text().split("-")[-2])]
    processes[leader + 1].kill()
    other = processes[2 - leader]
    _, errors = other.communicate(timeout=SECONDS)
    assert other.returncode == 0, errors
    assert not (work / "failed.json").exists()
    assert json.loads((work / "done.json").read_text())["take"] == 2
    assert {path.name for path in out.glob("*.mp4")} == {"sample_0000.mp4", "sample_0001.mp4"}
