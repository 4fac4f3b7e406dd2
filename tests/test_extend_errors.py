"""What `pavdm extend` says and leaves behind when something is wrong, with real files and processes."""

import os
import signal
import subprocess
import sys

import pytest
from extending import command, extend, frames_of, latents_of


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


def test_a_reader_of_the_output_that_leaves_does_not_end_the_run(bikes, models, tmp_path):
    arguments = command(bikes, tmp_path / "out.mp4", models, "--seconds", 0.5)
    process = subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    process.stdout.close()
    process.stderr.close()
    assert process.wait(timeout=120) == 0
    assert len(frames_of(tmp_path / "out.mp4")) == 252


def test_values_that_are_no_numbers_end_the_run_before_they_are_saved(bikes, models, tmp_path, capsys):
    options = ["--seconds", 1, "--guidance", 1e38, "--state", tmp_path / "state"]
    assert extend(bikes, tmp_path / "out.mp4", models, *options) == 2
    assert "no numbers" in capsys.readouterr().err
    assert latents_of(tmp_path / "state") == []
