"""`pavdm world`: clips of the world as files that can be watched, and trained on."""

from __future__ import annotations

import numpy as np

from pavdm.cli import main
from pavdm.training.data.clip_list import read_clip_list
from pavdm.training.world import render
from pavdm.video_reader import probe, read_frames


def test_files_show_their_seeds_and_carry_their_captions(tmp_path, capsys):
    out = tmp_path / "clips"
    options = ["--count", "2", "--seconds", "1.5", "--size", "32x48", "--fps", "12", "--seed", "7"]
    assert main(["world", "--out", str(out), *options]) == 0
    clips, skipped = read_clip_list(out)
    assert not skipped and [clip.path.name for clip in clips] == ["world-000000007.mp4", "world-000000008.mp4"]
    printed = capsys.readouterr().out
    for seed, clip in zip((7, 8), clips, strict=True):
        frames, caption, _ = render(seed, 18, (32, 48), 12)
        assert clip.text == caption and caption in printed
        assert float(probe(clip.path).fps) == 12
        shown = np.stack(list(read_frames(clip.path)))
        assert shown.shape == frames.shape
        assert np.abs(shown.astype(float) - frames).mean() < 6  # half-size colour and a lossy codec


def test_files_that_exist_and_clips_that_show_nothing_are_refused(tmp_path, capsys):
    options = ["--count", "1", "--seconds", "0.5", "--size", "32x48"]
    assert main(["world", "--out", str(tmp_path), *options]) == 0
    before = (tmp_path / "world-000000000.mp4").read_bytes()
    assert main(["world", "--out", str(tmp_path), *options]) == 2
    assert "already exists" in capsys.readouterr().err
    assert (tmp_path / "world-000000000.mp4").read_bytes() == before
    assert main(["world", "--out", str(tmp_path), *options, "--overwrite"]) == 0
    for wrong in (
        ["--count", "0"],
        ["--seconds", "0"],
        ["--size", "32x16"],
        ["--seed", "-1"],
        ["--fps", "nan"],
        ["--seconds", "inf"],
    ):
        assert main(["world", "--out", str(tmp_path / "none"), *options, *wrong]) == 2
    assert not list((tmp_path / "none").glob("*"))
