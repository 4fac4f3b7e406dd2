"""The training commands of the README, small, from the world to a checkpoint: nothing stands in for anything."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from pavdm import cli
from pavdm.models.checkpoint import load_stdit3
from pavdm.new_model import create

WORLD = ["--size", "32x48", "--frames", "34"]
RUN = ["--cpu", "--quiet", "--warmup", "0", "--learning-rate", "1e-3", "--batch-size", "2", "--sample-chunks", "1"]
WINDOW = ["--like", "tiny", "--window-chunks", "2", "--chunk", "2", "--denoise-steps", "4"]


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def latents(models: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("data") / "latents"
    networks = ["--vae", str(models / "vae"), "--text-encoder", str(models / "text_encoder")]
    assert cli.main(["preprocess", "world", *WORLD, "--clips", "6", *networks, "--out", str(out), "--quiet"]) == 0
    return out


def settings(run: Path) -> dict[str, object]:
    return json.loads((next(run.glob("step-*")) / "progress.json").read_text("utf-8"))["settings"]


def test_clips_are_encoded_once_and_trained_on(latents: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    command = ["train", *WINDOW, *RUN, "--data", str(latents), "--out", str(run), "--workers", "1"]
    assert cli.main([*command, "--steps", "4"]) == 0  # more than an epoch of 3
    losses = [json.loads(line)["loss"] for line in (run / "loss.jsonl").read_text("utf-8").splitlines()]
    assert len(losses) == 4 and len(set(losses)) == 4
    assert (run / "samples" / "step-000004.mp4").is_file()
    raw, averaged = (load_stdit3(run / "step-000004" / name).state_dict() for name in ("raw", "model"))
    assert raw.keys() == averaged.keys() and any(not torch.equal(raw[name], averaged[name]) for name in raw)
    assert settings(run)["data"]["clips"] == 6


def test_the_command_of_the_readme_trains_with_two_processes(latents: Path, tmp_path: Path) -> None:
    """`accelerate launch` around `pavdm train` does with half the batch in each what one process does with the whole."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parent.parent.parent)}
    environment["CUDA_VISIBLE_DEVICES"] = ""  # on CPUs, and without being told so
    run = ["train", *WINDOW, *RUN[1:-2], "--data", str(latents), "--workers", "0", "--steps", "3"]
    found = []
    for name, processes, batch in (("one", 1, "2"), ("two", 2, "1")):
        launcher = ["-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", str(processes)]
        command = ["-m", "pavdm", *run, "--sample-every", "0", "--batch-size", batch, "--out", str(tmp_path / name)]
        line = [sys.executable, *(launcher if processes > 1 else []), *command]
        done = subprocess.run(line, capture_output=True, text=True, env=environment, check=False)
        assert done.returncode == 0, done.stderr[-3000:]
        lines = (tmp_path / name / "loss.jsonl").read_text("utf-8").splitlines()
        found.append([json.loads(line)["loss"] for line in lines])
    assert found[0] == pytest.approx(found[1], rel=1e-4) and len(found[0]) == 3
    assert settings(tmp_path / "two")["batches per step"] == 2
    assert load_stdit3(tmp_path / "two" / "step-000003" / "model")


def test_clips_are_encoded_while_they_are_trained_on_and_other_encoders_are_another_run(
    models: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, other = tmp_path / "run", tmp_path / "other"
    create(other, "tiny", seed=1)
    command = ["train", *WINDOW, *RUN, "--data", "world", *WORLD, "--out", str(run), "--workers", "0"]

    def trained(vae: Path, encoder: Path, steps: int) -> int:
        networks = ["--vae", str(vae / "vae"), "--text-encoder", str(encoder / "text_encoder")]
        return cli.main([*command, *networks, "--steps", str(steps)])

    assert trained(models, models, 1) == 0
    assert trained(models, models, 2) == 0
    assert (run / "samples" / "step-000002.mp4").is_file() and load_stdit3(run / "step-000002/model")
    for vae, encoder in ((other, models), (models, other)):
        assert trained(vae, encoder, 3) == 2
        assert "data" in (error := capsys.readouterr().err) and error.startswith("error: ")


ON_PICTURES = {
    "stdit": ["--objective", "whole-clip", "--bucket", "32x48:1", "--batch-size", "2"],
    "vae": ["--part", "spatial", "--bucket", "32x48:1", "--batch-size", "2"],
    "text-encoder": [],
}


def test_a_batch_that_the_clips_do_not_fill_is_refused_before_the_run(
    latents: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    Image.new("RGB", (48, 32)).save(tmp_path / "a.png")
    (tmp_path / "a.txt").write_text("a colour", "utf-8")
    pictures = ["--what", "vae", "--part", "spatial", "--bucket", "32x48:1", "--like", "tiny", "--data", str(tmp_path)]
    for clips, size in ((pictures, "2"), ([*WINDOW, "--data", str(latents)], "7")):
        command = ["train", *clips, "--steps", "1", "--out", str(tmp_path / "run"), "--dry-run"]
        assert cli.main([*command, "--batch-size", size]) == 2
        assert "clips fill no batch on 1 processes" in capsys.readouterr().err
        assert cli.main(command) == 0
    monkeypatch.setenv("WORLD_SIZE", "7")
    assert cli.main(command) == 2
    assert "on 7 processes" in capsys.readouterr().err


@pytest.mark.parametrize("workers", ["0", "2"])
def test_a_file_that_fails_when_it_is_its_turn_is_listed_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, make_clip: Callable[..., Path], workers: str
) -> None:
    clips, out = tmp_path / "clips", tmp_path / "run"
    clips.mkdir()
    for number in range(3):
        make_clip(f"clips/{number}.mkv", [np.full((32, 48, 3), 4 * frame, np.uint8) for frame in range(34)])
        (clips / f"{number}.txt").write_text("a clip", "utf-8")
    torn = clips / "1.mkv"
    torn.write_bytes(torn.read_bytes()[: torn.stat().st_size // 3])  # its first frame, which is looked at, is there
    command = ["train", "--what", "vae", "--like", "tiny", "--data", str(clips), "--out", str(out), "--batch-size", "3"]
    command += ["--size", "32x48", "--frames", "17", "--cpu", "--quiet", "--workers", workers, "--warmup", "0"]
    for steps in ("3", "4"):
        assert cli.main([*command, "--steps", steps]) == 0
        with (out / "skipped.csv").open() as file:
            ((listed, reason),) = [(row["path"], row["reason"]) for row in csv.DictReader(file)]
        assert listed == str(torn) and "decode" in reason
    assert [message for message in caplog.messages if "1.mkv is left out" in message] == [
        f"{torn} is left out: {reason}"
    ]


@pytest.mark.parametrize("what", ON_PICTURES)
def test_files_that_are_left_out_are_listed_once_the_run_starts_and_not_by_a_dry_one(
    what: str, models: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    clips, out = tmp_path / "clips", tmp_path / "run"
    clips.mkdir()
    for number in range(2):
        Image.new("RGB", (48, 32), (40 * number, 90, 200)).save(clips / f"{number}.png")
        (clips / f"{number}.txt").write_text("a colour", "utf-8")
    (clips / "lonely.png").write_bytes((clips / "0.png").read_bytes())
    (clips / "torn.png").write_text("no picture", "utf-8")
    (clips / "torn.txt").write_text("nothing", "utf-8")
    left_out = ["lonely.png"] if what == "text-encoder" else ["lonely.png", "torn.png"]
    command = ["train", "--what", what, "--like", "tiny", "--data", str(clips), "--out", str(out), "--steps", "1"]
    command += [*ON_PICTURES[what], "--cpu", "--quiet", "--workers", "0", "--warmup", "0"]
    if what == "stdit":
        command += ["--vae", str(models / "vae"), "--text-encoder", str(models / "text_encoder"), "--sample-every", "0"]
    assert cli.main([*command, "--dry-run"]) == 0
    assert not out.exists()
    (told,) = caplog.messages
    assert told.startswith(f"{len(left_out)} files are left out, such as {clips / 'lonely.png'} (no caption")
    assert cli.main(command) == 0
    with (out / "skipped.csv").open() as file:
        assert [Path(row["path"]).name for row in csv.DictReader(file)] == left_out
    listed = (out / "skipped.csv").read_bytes()
    (clips / "none.png").write_bytes(b"")
    assert cli.main([*command, "--seed", "1"]) == 2
    assert (out / "skipped.csv").read_bytes() == listed, "of the run that it belongs to"


@pytest.mark.parametrize(
    "command",
    [
        ["train", "--like", "tiny", "--steps", "1", "--data", "NAME"],
        ["train", "--like", "tiny", "--steps", "1", "--data", "NAME", "--what", "vae", "--bucket", "32x48:17"],
        ["train", "--like", "tiny", "--steps", "1", "--data", "NAME", "--what", "text-encoder"],
        ["preprocess", "NAME"],
    ],
)
@pytest.mark.parametrize("name", ["clips", "clips.csv"])
def test_a_name_at_which_nothing_is_does_not_send_the_user_to_other_options(
    tmp_path: Path, command: list[str], name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    name = str(tmp_path / name)
    typed = [name if word == "NAME" else word for word in command]
    assert cli.main([*typed, "--out", str(tmp_path / "out")]) == 2
    assert capsys.readouterr().err.startswith(f"error: there is nothing at {name}: ")


def test_the_estimate_is_that_of_the_largest_clips(
    models: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    networks = ["--vae", str(models / "vae"), "--text-encoder", str(models / "text_encoder")]
    run = ["--like", "tiny", "--objective", "whole-clip", "--steps", "1", "--out", str(tmp_path / "run"), "--dry-run"]
    sizes = []
    for frames in ("119", "17-119", "17"):
        data = ["--data", "world", "--size", "64x96", "--frames", frames, "--batch-size", "8", *networks]
        assert cli.main(["train", *run, *data]) == 0
        (line,) = (line for line in capsys.readouterr().out.splitlines() if "activations" in line)
        sizes.append(float(line.split()[-2]))
    assert sizes[0] == sizes[1] > sizes[2]
    assert not (tmp_path / "run").exists()


def test_latents_that_the_network_does_not_read_are_refused(
    latents: Path, models: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shape = json.loads((models / "stdit" / "config.json").read_text("utf-8"))
    for name, said in (("in_channels", "latents with 5 channels"), ("caption_channels", "texts 5 numbers wide")):
        (tmp_path / "config.json").write_text(json.dumps({**shape, name: 5}), "utf-8")
        command = ["train", "--config", str(tmp_path / "config.json"), *WINDOW[2:], *RUN, "--data", str(latents)]
        for quiet in ([], ["--dry-run"]):
            assert cli.main([*command, *quiet, "--steps", "1", "--out", str(tmp_path / "run")]) == 2
            assert said in capsys.readouterr().err


def test_a_killed_command_ends_as_one_that_was_not_bit_for_bit(latents: Path, tmp_path: Path) -> None:
    """Pre-computed clips, a worker process, steps of two batches, more than one epoch."""
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    command = ["train", *WINDOW, *RUN[:-2], "--data", str(latents), "--workers", "1", "--accumulation", "2"]
    command += ["--steps", "5", "--save-every", "2", "--sample-every", "0"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parent.parent.parent)}
    line = [sys.executable, "-c", KILLED_AFTER_3, *command, "--out", str(killed)]
    assert subprocess.run(line, env=environment, check=False).returncode == -signal.SIGKILL
    assert (killed / "step-000002").is_dir() and not (killed / "step-000004").exists()
    for out in (whole, killed):
        assert cli.main([*command, "--out", str(out)]) == 0
    for file in ("loss.jsonl", "step-000005/state.safetensors", "step-000005/model/model.safetensors"):
        assert (killed / file).read_bytes() == (whole / file).read_bytes(), file


KILLED_AFTER_3 = """
import os, signal, sys, torch
from pavdm import cli
from pavdm.training.run_log import RunLog

write = RunLog.step
def step(self, number, values):
    write(self, number, values)
    if number == 3:
        os.kill(os.getpid(), signal.SIGKILL)

RunLog.step = step
torch.set_num_threads(1)
cli.main(sys.argv[1:])
"""
