"""`pavdm extend` and `pavdm generate` as a person runs them, on real clips: what comes out."""

import json

import numpy as np
import pytest
from extending import FAST, extend, frames_of, latents_of

from pavdm.cli import main
from pavdm.video_reader import probe, read_frames


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


def test_a_prompt_schedule_changes_what_follows_and_nothing_before(bikes, models, tmp_path):
    first, second = tmp_path / "first", tmp_path / "second"
    alone = ["--seconds", 2.5, "--window-chunks", 1]  # each chunk is clean before the next one enters
    assert extend(bikes, tmp_path / "a.mp4", models, *alone, "--state", first, prompt="rain") == 0
    prompt = "|0| rain |2| snow"
    assert extend(bikes, tmp_path / "b.mp4", models, *alone, "--state", second, prompt=prompt) == 0
    same = [a == b for a, b in zip(latents_of(first), latents_of(second), strict=True)]
    assert same == [True, True, False, False]


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


def test_padding_is_not_counted_as_clip(bikes, models, tmp_path):
    for options in (["--condition", "first"], ["--no-overlap"], []):
        out = tmp_path / "out.mp4"
        settings = ["--total-seconds", 1, "--end", 7 / 24, "--pad", "--overwrite", *options]
        assert extend(bikes, out, models, *settings) == 0
        assert len(frames_of(out)) == 24
