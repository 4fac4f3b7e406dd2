"""`pavdm schedule`: the table in words, and the picture of it."""

import re

import pytest
from PIL import Image

from pavdm.cli import main


def run(tmp_path, capsys, *options):
    status = main(["schedule", "--plot", str(tmp_path / "plot.png"), *map(str, options)])
    return status, capsys.readouterr()


def test_the_printed_table_is_the_published_one(tmp_path, capsys):
    status, printed = run(tmp_path, capsys, "--chunks", 9)
    assert status == 0
    lines = printed.out.splitlines()
    assert "r = 3.695" in lines[0]
    full = next(line for line in lines if line.startswith("   25 "))
    assert re.findall(r"\d+\.\d", full) == ["424.9", "648.8", "787.0", "880.8", "948.6", "1000.0"]
    assert sum("front chunk done" in line for line in lines) == 9
    assert len(lines) == 2 + 70 + 1


def test_the_picture_shows_noise_bright_and_clean_chunks_grey(tmp_path, capsys):
    run(tmp_path, capsys, "--chunks", 3)
    picture = Image.open(tmp_path / "plot.png").convert("RGB")
    left, top, cell, row = 76, 84, 12, 26
    assert picture.getpixel((left + 2, top + 2)) == (250, 229, 99)  # chunk 0 at call 0: pure noise
    assert picture.getpixel((left + 29 * cell + 2, top + 2))[0] < 70  # at its last call: almost clean
    assert picture.getpixel((left + 30 * cell + 2, top + 2)) == (208, 213, 224)  # then the clean chunk
    assert picture.getpixel((left + 2, top + row + 2)) == (255, 255, 255)  # chunk 1 has not entered yet


def test_a_window_that_starts_full_is_shown_so(tmp_path, capsys):
    status, printed = run(tmp_path, capsys, "--chunks", 2, "--no-variable-length", "--no-overlap")
    assert status == 0
    first = printed.out.splitlines()[2]
    assert first.split()[:2] == ["25", "-5"]
    assert len(first.split()) == 2 + 6


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--steps", 31], "30 or 36"),
        (["--chunks", 0], "at least 1"),
        (["--chunks", 100000], "too many"),
        (["--resolution", "999p"], "unknown resolution"),
    ],
)
def test_what_cannot_be_drawn_is_refused(tmp_path, capsys, options, message):
    status, printed = run(tmp_path, capsys, *options)
    assert status == 2
    assert message in printed.err
    assert list(tmp_path.iterdir()) == []


def test_a_plot_that_cannot_be_written_is_named(tmp_path, capsys):
    assert main(["schedule", "--chunks", "2", "--plot", str(tmp_path / "absent" / "plot.png")]) == 2
    assert "cannot write the plot" in capsys.readouterr().err
