"""`pavdm cut`: each frame of a raw video has a grey of its own, so that a clip shows where it was cut."""

import numpy as np
import pytest

from pavdm.cli import main
from pavdm.video_reader import probe, read_frames

LEVEL = 4  # between one frame's grey and the next


def grey_frames(count):
    return [np.full((48, 64, 3), 10 + LEVEL * i, np.uint8) for i in range(count)]


def first_frames_of(path):
    """The raw video's frame number behind each frame of a clip."""
    return [round((float(frame.mean()) - 10) / LEVEL) for frame in read_frames(path)]


@pytest.fixture
def raw(make_clip, tmp_path):
    """The published layout: SET/raw beside SET/clipped_16_176_320, a name that occurs in two sets."""
    for folder in ("sora/raw", "ucf/raw", "out"):
        (tmp_path / folder).mkdir(parents=True)
    make_clip("sora/raw/lake.mkv", grey_frames(60), fps=30)
    make_clip("ucf/raw/lake.mkv", grey_frames(10), fps=30)
    make_clip("ucf/raw/lake_s5_16f_320x176.mkv", grey_frames(16), fps=30)  # a clip is no raw video
    return tmp_path


def cut(raw, text, *options, name="list.txt"):
    (raw / name).write_text(text)
    return main(["cut", str(raw / name), "--raw", str(raw), "--out", str(raw / "out"), "--size", "32x48", *options])


LINE = "a lake||data/sora/clipped_16_176_320/lake_s30_16f_320x176.mp4\n"


def test_a_new_clip_begins_at_the_frame_that_the_old_one_s_name_tells(raw, capsys):
    assert cut(raw, f"from text\n{LINE}", "--fps", "raw") == 0
    clip = raw / "out/lake_s30_17f_48x32.mp4"
    assert first_frames_of(clip) == list(range(30, 47))
    info = probe(clip)
    assert (info.width, info.height, info.fps) == (48, 32, 30)
    assert (raw / "out/list.txt").read_text() == "from text\na lake||lake_s30_17f_48x32.mp4\n"
    assert cut(raw, LINE, "--fps", "raw") == 0
    assert "0 clips cut, 1 were there already" in capsys.readouterr().out


def test_by_default_it_is_resampled_to_24_frames_per_second(raw, capsys):
    assert cut(raw, LINE) == 0
    clip = raw / "out/lake_s30_17f_48x32.mp4"
    assert probe(clip).fps == 24
    assert first_frames_of(clip) == [30 + k * 30 // 24 for k in range(17)]
    assert cut(raw, LINE, "--fps", "raw") == 2
    assert "is there already, with 17 frames at 24 fps" in capsys.readouterr().err


def test_a_cut_keeps_what_colour_at_half_the_size_can_keep(bikes, tmp_path):
    (tmp_path / "list.txt").write_text("a||bikes_s100_16f_640x272.mp4\n")
    arguments = ["cut", str(tmp_path / "list.txt"), "--raw", str(bikes.parent), "--out", str(tmp_path)]
    assert main([*arguments, "--size", "64x96", "--fps", "raw"]) == 0
    made = np.stack(list(read_frames(tmp_path / "bikes_s100_17f_96x64.mp4"))).astype(float)
    frames = list(read_frames(bikes, size=(64, 96)))[100:117]
    psnr = 10 * np.log10(255**2 / ((made - np.stack(frames)) ** 2).mean())
    assert psnr > 36


def test_a_csv_keeps_its_settings(raw):
    text = "prompt,clip,seed\na lake,ucf/clipped_16_176_320/lake_s2_16f_320x176.mp4,7\nfrom text,,8\n"
    assert cut(raw, text, "--frames", "5", "--fps", "raw", name="list.csv") == 0
    lines = (raw / "out/list.csv").read_text().splitlines()
    assert lines == ["prompt,clip,seed", "a lake,lake_s2_5f_48x32.mp4,7", "from text,,8"]


def test_every_line_that_cannot_be_cut_is_named(raw, capsys):
    bad = [
        "a||sora/clipped/lake.mp4",
        "a||sora/clipped/sea_s3_16f_320x176.mp4",
        "a||other/clipped/lake_s3_16f_320x176.mp4",
    ]
    assert cut(raw, "\n".join(bad)) == 2
    errors = capsys.readouterr().err
    for text in ("line 1: lake.mp4 is not named like", "line 2: no raw video sea", "line 3: ", "more than once"):
        assert text in errors
    assert list((raw / "out").iterdir()) == []
    assert cut(raw, LINE + "a||ucf/clipped/lake_s5_16f_320x176.mp4") == 2
    assert "line 2: " in (errors := capsys.readouterr().err) and "ends 4 frames after frame 5" in errors
    assert not (raw / "out/list.txt").exists()
