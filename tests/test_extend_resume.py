"""Runs that are killed, stopped or asked to end, and the states that they go on from."""

import json
import shutil
import signal
import subprocess
from contextlib import contextmanager

import numpy as np
import pytest
from extending import command, extend, frames_of, latents_of, saved_chunks, wait_for


@pytest.mark.parametrize("after_chunks", [1, 2])
def test_a_killed_run_goes_on_and_ends_like_one_that_was_not(uninterrupted, bikes, models, tmp_path, after_chunks):
    state, out = tmp_path / "state", tmp_path / "out.mp4"
    arguments = command(bikes, out, models, "--seconds", 2.5, "--state", state)
    process = subprocess.Popen(arguments, stderr=subprocess.DEVNULL)
    wait_for(lambda: saved_chunks(state) >= after_chunks, process)
    process.kill()
    process.wait()
    assert not out.exists()
    assert len(frames_of(tmp_path / "out.partial.mp4")) >= 240  # playable, though its writer was killed
    again = subprocess.run(arguments, capture_output=True, text=True, check=True)
    assert "going on from" in again.stderr
    assert latents_of(state) == latents_of(uninterrupted / "state")
    assert np.array_equal(frames_of(out), frames_of(uninterrupted / "out.mp4"))


def test_ctrl_c_saves_the_state_closes_the_video_and_exits_with_130(uninterrupted, bikes, models, tmp_path):
    state, out = tmp_path / "state", tmp_path / "out.mp4"
    arguments = command(bikes, out, models, "--seconds", 2.5, "--state", state)
    process = subprocess.Popen(arguments, stderr=subprocess.PIPE, text=True)
    wait_for(lambda: saved_chunks(state) >= 1, process)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 130
    assert "Traceback" not in errors
    assert f"goes on from {state}" in errors
    assert len(frames_of(tmp_path / "out.partial.mp4")) >= 240
    assert subprocess.run(arguments, capture_output=True, check=False).returncode == 0
    assert np.array_equal(frames_of(out), frames_of(uninterrupted / "out.mp4"))


def stopped_after(num_calls, monkeypatch, clip, folder, models, *options, prompt):
    """Run towards folder/out.mp4 with state folder/b, asked to stop after so many model calls; the exit status."""
    reports = []

    @contextmanager
    def asked_to_stop():
        yield lambda: len(reports) >= num_calls

    with monkeypatch.context() as patch:
        patch.setattr("pavdm.progress_bar.ProgressBar.progress", lambda bar, progress: reports.append(progress))
        patch.setattr("pavdm.cli.asked_to_stop", asked_to_stop)
        return extend(clip, folder / "out.mp4", models, *options, "--state", folder / "b", prompt=prompt)


@pytest.mark.parametrize(
    "options",
    [
        ["--no-overlap"],
        ["--no-variable-length"],
        ["--chunk", 3, "--window-chunks", 3],
        ["--condition", "first"],
        ["--prompt-switch", "window"],
    ],
    ids=lambda options: " ".join(map(str, options)),
)
def test_a_run_stopped_after_every_third_call_ends_like_one_that_was_not(bikes, models, tmp_path, monkeypatch, options):
    prompt = "|0| rain |2| snow"
    options = ["--seconds", 2, *options]
    assert extend(bikes, tmp_path / "whole.mp4", models, *options, "--state", tmp_path / "a", prompt=prompt) == 0

    stops = 0
    while (status := stopped_after(3, monkeypatch, bikes, tmp_path, models, *options, prompt=prompt)) == 130:
        stops += 1
    assert status == 0
    assert stops >= 2
    assert latents_of(tmp_path / "a") == latents_of(tmp_path / "b")
    assert np.array_equal(frames_of(tmp_path / "out.mp4"), frames_of(tmp_path / "whole.mp4"))


def test_a_state_from_other_settings_is_refused_and_can_be_overridden(uninterrupted, bikes, models, tmp_path, capsys):
    options = ["--seconds", 2.5, "--state", uninterrupted / "state", "--guidance", 3]
    assert extend(bikes, tmp_path / "out.mp4", models, *options) == 2
    assert "guidance: 7.0 in the state, 3.0 now" in capsys.readouterr().err
    assert not (tmp_path / "out.mp4").exists()
    assert extend(bikes, tmp_path / "out.mp4", models, *options, "--override-state") == 0


def test_a_damaged_state_is_named(uninterrupted, bikes, models, tmp_path, capsys):
    state = tmp_path / "state"
    (state / "chunks").mkdir(parents=True)
    (state / "state.safetensors").write_bytes((uninterrupted / "state/state.safetensors").read_bytes()[:-8])
    assert extend(bikes, tmp_path / "out.mp4", models, "--seconds", 2.5, "--state", state) == 2
    assert "damaged" in capsys.readouterr().err


def test_a_missing_chunk_file_is_named(uninterrupted, bikes, models, tmp_path, capsys):
    state = tmp_path / "state"
    state.mkdir()
    (state / "state.safetensors").write_bytes((uninterrupted / "state/state.safetensors").read_bytes())
    assert extend(bikes, tmp_path / "out.mp4", models, "--seconds", 2.5, "--state", state) == 2
    assert "000000.safetensors is missing or damaged" in capsys.readouterr().err
    assert not (tmp_path / "out.mp4").exists()


def test_a_state_knows_the_configuration_of_its_networks(bikes, models, tmp_path, capsys):
    changed = shutil.copytree(models, tmp_path / "models")
    options = ["--seconds", 0.5, "--state", tmp_path / "state"]
    assert extend(bikes, tmp_path / "a.mp4", changed, *options) == 0
    config = json.loads((changed / "stdit" / "config.json").read_text())
    (changed / "stdit" / "config.json").write_text(json.dumps({**config, "input_sq_size": 64}))
    assert extend(bikes, tmp_path / "b.mp4", changed, *options) == 2
    assert "model: " in capsys.readouterr().err


def test_being_asked_to_end_while_loading_leaves_nothing_behind(bikes, models, tmp_path):
    arguments = command(bikes, tmp_path / "out.mp4", models, "--seconds", 60)
    process = subprocess.Popen(arguments, stderr=subprocess.PIPE, text=True)
    assert "reading" in process.stderr.readline()
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 130
    assert "Traceback" not in errors
    assert list(tmp_path.iterdir()) == []
