"""`pavdm extend` and `pavdm generate` as a person runs them: real clips, real files, real processes killed."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import contextmanager

import av
import numpy as np
import pytest

from pavdm.cli import main
from pavdm.sampling.state import load_state
from pavdm.video_reader import probe, read_frames

FAST = ["--size", "48x64", "--steps", "6"]


def frames_of(path):
    with av.open(str(path)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


def extend(clip, out, models, *options, prompt="bicycles in a park"):
    arguments = ["extend", str(clip), "--prompt", prompt, "--out", str(out), "--models", str(models), "--quiet"]
    return main([*arguments, *FAST, *map(str, options)])


def command(clip, out, models, *options):
    return [
        *(sys.executable, "-m", "pavdm", "extend", str(clip), "--prompt", "bicycles in a park"),
        *("--out", str(out), "--models", str(models), *FAST, *map(str, options)),
    ]


@pytest.fixture(scope="module")
def uninterrupted(bikes, models, tmp_path_factory):
    """A finished run of 2.5 s (4 chunks) and its state directory."""
    folder = tmp_path_factory.mktemp("uninterrupted")
    assert extend(bikes, folder / "out.mp4", models, "--seconds", 2.5, "--state", folder / "state") == 0
    return folder


def latents_of(state):
    return [path.read_bytes() for path in sorted((state / "chunks").iterdir())]


def test_seconds_counts_new_video_and_the_clip_s_own_frames_come_first(uninterrupted, bikes):
    out = frames_of(uninterrupted / "out.mp4")
    own = probe(bikes)
    assert own.num_frames == 250 and float(own.fps) == 25  # 10 s
    assert out.shape == (240 + 60, 48, 64, 3)
    expected = np.stack(list(read_frames(bikes, fps=24, size=(48, 64)))).astype(float)
    distance = np.array([np.abs(expected - frame).mean(axis=(1, 2, 3)) for frame in out[:240]])
    in_place = distance.argmin(axis=1) == np.arange(240)  # the codec loses detail, but no frame moves
    assert in_place.mean() > 0.97
    assert distance.diagonal().mean() < distance.mean() / 10


def test_total_seconds_counts_the_clip_too(bikes, models, tmp_path, capsys):
    assert extend(bikes, tmp_path / "out.mp4", models, "--total-seconds", 11, "--end", 2) == 0
    assert len(frames_of(tmp_path / "out.mp4")) == 11 * 24
    assert "264 frames, 11.00 s at 24 fps, 216 of them new" in capsys.readouterr().out


def test_the_published_condition_gives_its_first_frames_decoded_and_nothing_before(bikes, models, tmp_path):
    first, last = tmp_path / "first", tmp_path / "last"
    options = ["--total-seconds", 2, "--condition", "first", "--state", first]
    assert extend(bikes, tmp_path / "out.mp4", models, *options) == 0
    assert len(frames_of(tmp_path / "out.mp4")) == 48
    # In a clip that ends after those 17 frames they are the last ones: the same latents, so the same new chunks.
    options = ["--seconds", 31 / 24, "--end", 17 / 24, "--state", last]
    assert extend(bikes, tmp_path / "short.mp4", models, *options) == 0
    assert latents_of(first) == latents_of(last)


def test_the_file_says_how_it_was_made(uninterrupted):
    record = json.loads(probe(uninterrupted / "out.mp4").metadata["pavdm"])
    assert record["prompt"] == "bicycles in a park"
    assert record["seed"] == 42
    assert record["guidance"] == 7.0
    assert record["steps"] == 6
    assert (record["clip_frames"], record["chunk_frames"]) == (240, 17)  # 250 frames at 25 fps, shown at 24


def test_the_same_command_gives_the_same_video_and_another_seed_another(uninterrupted, bikes, models, tmp_path):
    assert extend(bikes, tmp_path / "same.mp4", models, "--seconds", 2.5) == 0
    assert np.array_equal(frames_of(tmp_path / "same.mp4"), frames_of(uninterrupted / "out.mp4"))
    assert extend(bikes, tmp_path / "other.mp4", models, "--seconds", 0.5, "--seed", 7) == 0
    assert not np.array_equal(frames_of(tmp_path / "other.mp4")[240:], frames_of(uninterrupted / "out.mp4")[240:252])


def saved_chunks(state):
    """How many finished chunks the state file counts; a chunk's own file is there a moment earlier."""
    file = state / "state.safetensors"
    return load_state(file).next_chunk if file.exists() else 0


def wait_for(condition, process, seconds=120):
    deadline = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, "the process ended before it could be interrupted"
        assert time.monotonic() < deadline
        time.sleep(0.01)


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
        patch.setattr("pavdm.cli._asked_to_stop", asked_to_stop)
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


def test_a_prompt_schedule_changes_what_follows_and_nothing_before(bikes, models, tmp_path):
    first, second = tmp_path / "first", tmp_path / "second"
    alone = ["--seconds", 2.5, "--window-chunks", 1]  # each chunk is clean before the next one enters
    assert extend(bikes, tmp_path / "a.mp4", models, *alone, "--state", first, prompt="rain") == 0
    prompt = "|0| rain |2| snow"
    assert extend(bikes, tmp_path / "b.mp4", models, *alone, "--state", second, prompt=prompt) == 0
    same = [a == b for a, b in zip(latents_of(first), latents_of(second), strict=True)]
    assert same == [True, True, False, False]


def test_the_baseline_loop_runs_and_resumes(bikes, models, tmp_path):
    method = ["--method", "replacement", "--seconds", 4]
    assert extend(bikes, tmp_path / "whole.mp4", models, *method, "--state", tmp_path / "whole") == 0
    whole = frames_of(tmp_path / "whole.mp4")
    assert len(whole) == 240 + 96
    state, out = tmp_path / "state", tmp_path / "out.mp4"
    arguments = command(bikes, out, models, *method, "--state", state)
    process = subprocess.Popen(arguments, stderr=subprocess.DEVNULL)
    wait_for(lambda: saved_chunks(state) >= 1, process)
    process.kill()
    process.wait()
    assert subprocess.run(arguments, capture_output=True, check=False).returncode == 0
    assert np.array_equal(frames_of(out), whole)


@pytest.mark.parametrize("method", ["progressive", "replacement"])
def test_a_video_from_text_alone(models, tmp_path, method):
    out = tmp_path / "out.mp4"
    arguments = ["generate", "--prompt", "a lake", "--seconds", "1.7", "--out", str(out), "--models", str(models)]
    assert main([*arguments, "--quiet", "--method", method, *FAST]) == 0
    assert len(frames_of(out)) == 41


@pytest.mark.parametrize(
    ("options", "num_frames"),
    [
        (["--chunk", 1, "--window-chunks", 30, "--steps", 30], 240 + 24),
        (["--chunk", 3, "--window-chunks", 4, "--steps", 8], 240 + 24),
        (["--chunk", 10, "--window-chunks", 3, "--steps", 6], 240 + 24),
        (["--no-overlap"], 240 + 24),
        (["--no-variable-length"], 240 + 24),
        (["--no-variable-length", "--no-overlap", "--chunk", 1, "--window-chunks", 15, "--steps", 15], 240 + 24),
        (["--no-timestep-transform", "--guidance", 1, "--posterior", "mode", "--prompt-switch", "window"], 240 + 24),
    ],
    ids=["per frame", "chunk 3", "chunk 10", "no overlap", "fixed window", "per frame, fixed, no overlap", "others"],
)
def test_every_ablation_gives_the_exact_number_of_frames(bikes, models, tmp_path, options, num_frames):
    assert extend(bikes, tmp_path / "out.mp4", models, "--seconds", 1, *options) == 0
    assert len(frames_of(tmp_path / "out.mp4")) == num_frames


def test_a_short_clip_is_refused_and_can_be_padded(bikes, models, tmp_path, capsys):
    assert extend(bikes, tmp_path / "out.mp4", models, "--seconds", 1, "--end", 0.5) == 2
    errors = capsys.readouterr().err
    assert "has 12 frames" in errors and "17 are needed" in errors and "--pad" in errors
    assert list(tmp_path.iterdir()) == []
    assert extend(bikes, tmp_path / "out.mp4", models, "--seconds", 1, "--end", 0.5, "--pad") == 0
    assert len(frames_of(tmp_path / "out.mp4")) == 12 + 24


def test_an_existing_output_is_not_touched_without_overwrite(bikes, models, tmp_path, capsys):
    out = tmp_path / "out.mp4"
    out.write_bytes(b"precious")
    assert extend(bikes, out, models, "--seconds", 1) == 2
    assert "--overwrite" in capsys.readouterr().err
    assert out.read_bytes() == b"precious"
    assert extend(bikes, out, models, "--seconds", 0.5, "--overwrite") == 0
    assert len(frames_of(out)) == 252


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--seconds", 0], "above 0"),
        (["--seconds", -3], "above 0"),
        (["--seconds", "nan"], "above 0"),
        (["--seconds", 1e9], "at most"),
        (["--seconds", 0.01], "no new frame"),
        (["--total-seconds", 5], "no new frame"),
        (["--seconds", 1, "--steps", 31], "30 or 36"),
        (["--seconds", 1, "--size", "7x9"], "size"),
        (["--seconds", 1, "--fps", 0], "fps"),
        (["--seconds", 1, "--device", "cuda:9"], "cannot be used here"),
        (["--seconds", 1, "--device", "quantum"], "cannot be used here"),
        (["--seconds", 1, "--prompt", "  "], "prompt is empty"),
        (["--seconds", 1, "--start", 30], "start"),
    ],
)
def test_bad_numbers_are_answered_with_a_sentence_and_leave_nothing(bikes, models, tmp_path, capsys, options, message):
    assert extend(bikes, tmp_path / "out.mp4", models, *options) == 2
    errors = capsys.readouterr().err
    assert errors.startswith("error: ") and message in errors
    assert list(tmp_path.iterdir()) == []


def test_bad_clips_are_told_apart(models, tmp_path, capsys):
    text = tmp_path / "notes.txt"
    text.write_text("no video\n" * 100)
    for clip, message in ((tmp_path / "absent.mp4", "no such file"), (text, "not a video"), (tmp_path, "directory")):
        assert extend(clip, tmp_path / "out.mp4", models, "--seconds", 1) == 2
        assert message in capsys.readouterr().err


def test_missing_networks_are_named_with_their_places(bikes, tmp_path, capsys):
    (tmp_path / "models").mkdir()
    assert extend(bikes, tmp_path / "out.mp4", tmp_path / "models", "--seconds", 1) == 2
    errors = capsys.readouterr().err
    for name in ("OpenSora-STDiT-v3", "OpenSora-VAE-v1.2", "t5-v1_1-xxl", "new-model"):
        assert name in errors


def test_a_truncated_checkpoint_is_named(bikes, models, tmp_path, capsys):
    broken = tmp_path / "model.safetensors"
    broken.write_bytes((models / "stdit" / "model.safetensors").read_bytes()[:-1000])
    assert extend(bikes, tmp_path / "out.mp4", models, "--seconds", 1, "--stdit", broken) == 2
    assert str(broken) in capsys.readouterr().err
    assert not (tmp_path / "out.mp4").exists()


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


@pytest.mark.skipif(sys.platform == "win32", reason="file-size limits are a POSIX thing")
def test_a_full_disk_ends_with_a_sentence(bikes, models, tmp_path):
    """A file-size limit on the process stands in for the full disk: writing beyond it fails the same way."""
    import resource

    def limit():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))

    arguments = command(bikes, tmp_path / "out.mp4", models, "--seconds", 1, "--quiet")
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(arguments, preexec_fn=limit, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("error: ") and "free some space" in done.stderr
    assert not (tmp_path / "out.mp4").exists()
    assert len(frames_of(tmp_path / "out.partial.mp4")) > 0


def test_the_clip_is_never_written_over_under_any_of_its_names(bikes, models, tmp_path, capsys):
    for name in ("long.mp4", "long.partial.mp4", "long.closing.mp4"):
        clip = tmp_path / name
        clip.write_bytes(bikes.read_bytes())
        assert extend(clip, tmp_path / "long.mp4", models, "--seconds", 0.5, "--overwrite") == 2
        assert "would replace the clip" in capsys.readouterr().err
        assert clip.read_bytes() == bikes.read_bytes()
        clip.unlink()


def test_a_state_knows_the_configuration_of_its_networks(bikes, models, tmp_path, capsys):
    changed = shutil.copytree(models, tmp_path / "models")
    options = ["--seconds", 0.5, "--state", tmp_path / "state"]
    assert extend(bikes, tmp_path / "a.mp4", changed, *options) == 0
    config = json.loads((changed / "stdit" / "config.json").read_text())
    (changed / "stdit" / "config.json").write_text(json.dumps({**config, "input_sq_size": 64}))
    assert extend(bikes, tmp_path / "b.mp4", changed, *options) == 2
    assert "model: " in capsys.readouterr().err


def test_a_reader_of_the_output_that_leaves_does_not_end_the_run(bikes, models, tmp_path):
    arguments = command(bikes, tmp_path / "out.mp4", models, "--seconds", 0.5)
    process = subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    process.stdout.close()
    process.stderr.close()
    assert process.wait(timeout=120) == 0
    assert len(frames_of(tmp_path / "out.mp4")) == 252


def test_being_asked_to_end_while_loading_leaves_nothing_behind(bikes, models, tmp_path):
    arguments = command(bikes, tmp_path / "out.mp4", models, "--seconds", 60)
    process = subprocess.Popen(arguments, stderr=subprocess.PIPE, text=True)
    assert "reading" in process.stderr.readline()
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 130
    assert "Traceback" not in errors
    assert list(tmp_path.iterdir()) == []


def test_the_loop_s_own_options_and_those_of_the_window_are_kept_apart(bikes, models, tmp_path, capsys):
    out = tmp_path / "out.mp4"
    assert extend(bikes, out, models, "--seconds", 1, "--method", "replacement", "--chunk", 3) == 2
    assert "--chunk has no meaning" in capsys.readouterr().err
    assert extend(bikes, out, models, "--seconds", 1, "--reencode") == 2
    assert "--method replacement" in capsys.readouterr().err
    assert extend(bikes, out, models, "--seconds", 1, "--method", "replacement", "--steps", 5) == 0


def test_the_published_loop_encodes_again_what_it_takes_over(bikes, models, tmp_path):
    for name, extra in (("carried", []), ("again", ["--reencode"])):
        options = ["--seconds", 2.5, "--method", "replacement", "--state", tmp_path / name, *extra]
        assert extend(bikes, tmp_path / f"{name}.mp4", models, *options) == 0
    carried, again = latents_of(tmp_path / "carried"), latents_of(tmp_path / "again")
    assert carried[0] == again[0]
    assert carried[1] != again[1]


def test_padding_is_not_counted_as_clip(bikes, models, tmp_path):
    for options in (["--condition", "first"], ["--no-overlap"], []):
        out = tmp_path / "out.mp4"
        settings = ["--total-seconds", 1, "--end", 7 / 24, "--pad", "--overwrite", *options]
        assert extend(bikes, out, models, *settings) == 0
        assert len(frames_of(out)) == 24


def test_values_that_are_no_numbers_end_the_run_before_they_are_saved(bikes, models, tmp_path, capsys):
    options = ["--seconds", 1, "--guidance", 1e38, "--state", tmp_path / "state"]
    assert extend(bikes, tmp_path / "out.mp4", models, *options) == 2
    assert "no numbers" in capsys.readouterr().err
    assert latents_of(tmp_path / "state") == []
