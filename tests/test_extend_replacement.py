"""`pavdm extend --method replacement`: the baseline loop with all of its published options."""

import subprocess

import numpy as np
import pytest
from extending import command, extend, frames_of, latents_of, saved_chunks, wait_for
from safetensors import safe_open


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


def made(bikes, models, folder, name, *options):
    """The latents of a short run of the loop, from a clip of one second."""
    arguments = ["--seconds", 3, "--end", 1, "--method", "replacement", "--state", folder / name, *options]
    assert extend(bikes, folder / f"{name}.mp4", models, *arguments) == 0
    return latents_of(folder / name)


def test_the_loop_keeps_more_or_changes_what_it_keeps(bikes, models, tmp_path):
    usual = made(bikes, models, tmp_path, "usual")
    longer = made(bikes, models, tmp_path, "longer", "--condition-length", 10, "--pad")
    edited = made(bikes, models, tmp_path, "edited", "--edit-ratio", 0.5)
    frames = [len(frames_of(tmp_path / f"{name}.mp4")) for name in ("usual", "longer", "edited")]
    assert frames == [24 + 72] * 3
    assert (len(usual), len(longer)) == (3, 5)  # loops of 10 and of 5 new latents for 72 frames
    assert usual[0] != edited[0]


def test_a_mask_strategy_says_where_the_clip_goes(bikes, models, tmp_path, capsys):
    out, state = tmp_path / "masked.mp4", tmp_path / "masked"
    masked = made(bikes, models, tmp_path, "masked", "--mask-strategy", "0,0,0,10,5", "--align", "none")
    assert len(frames_of(out)) == 72  # nothing of the clip in front
    with safe_open(state / "chunks/000000.safetensors", "pt") as file:
        assert file.get_tensor("latents").shape[2] == 15
    assert made(bikes, models, tmp_path, "moved", "--mask-strategy", "0,0,0,0,5")[0] != masked[0]
    # Made in two runs, the second loop takes over the first one's end from the state.
    rules = ["--mask-strategy", "0,0,0,10,5", "--align", "none"]
    made(bikes, models, tmp_path, "grown", *rules, "--seconds", 2)
    assert made(bikes, models, tmp_path, "grown", *rules, "--overwrite") == masked
    options = ["--seconds", 3, "--end", 1, "--method", "replacement", "--state", state, "--overwrite"]
    assert extend(bikes, out, models, *options) == 2
    assert "loop: keep 5, edit 0, align None, '0,0,0,10,5' in the state, None now" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--condition-length", 4], "multiple of 5"),
        (["--condition-length", 15], "between 1 and 14"),
        (["--edit-ratio", 2], "between 0 and 1"),
        (["--mask-strategy", "0,1"], "reference 1"),
        (["--mask-strategy", "first"], "groups of up to 6 numbers"),
    ],
)
def test_impossible_loops_are_answered_with_a_sentence(bikes, models, tmp_path, capsys, options, message):
    assert extend(bikes, tmp_path / "out.mp4", models, "--seconds", 1, "--method", "replacement", *options) == 2
    assert message in capsys.readouterr().err
    assert extend(bikes, tmp_path / "out.mp4", models, "--seconds", 1, *options) == 2
    assert list(tmp_path.iterdir()) == []
