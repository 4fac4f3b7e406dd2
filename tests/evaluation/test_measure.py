"""One pass: what it takes, what it holds, and what it says about a file."""

import json
import weakref

import numpy as np
import pytest

from pavdm.errors import InputError
from pavdm.evaluation import measure
from pavdm.evaluation.layout import Layout, find_layout
from pavdm.video_writer import VideoWriter


class Counted(np.ndarray):
    """An array that can be weakly referenced, to see whether it is still held."""


def test_frames_are_let_go_as_they_go_by(moving):
    """A picture of the seam that is open, one before it, and the last two frames: no more, however long the video."""
    made, most = [], 0

    def frames():
        nonlocal most
        for frame in moving(17 * 6):
            counted = frame.copy().view(Counted)
            made.append(weakref.ref(counted))
            most = max(most, sum(reference() is not None for reference in made))
            yield counted
            del counted

    measure(frames(), chunk_frames=17)
    assert most <= 6


def write(path, frames, record=None, fps=24):
    metadata = {} if record is None else {"pavdm": json.dumps(record)}
    with VideoWriter(path, frames.shape[1:3], fps, metadata) as writer:
        writer.write(frames)
    return path


def test_a_file_says_its_own_rate_and_where_its_chunks_are(tmp_path, moving):
    video = write(tmp_path / "v.mp4", moving(80), {"chunk_frames": 34, "clip_frames": 10, "prompt": "x"}, fps=12)
    found = measure(video)
    assert (found.name, found.fps, found.num_frames) == ("v", 12, 80)
    assert found.layout == Layout(34, 10, "recorded")
    assert [(chunk.number, chunk.start) for chunk in found.chunks] == [(-1, 0), (0, 10), (1, 44), (2, 78)]
    assert found.record["prompt"] == "x"


def test_what_is_given_goes_before_what_is_recorded():
    record = {"chunk_frames": 34, "clip_frames": 10}
    assert find_layout(record, 20, None) == Layout(20, 10, "given")
    assert find_layout(record, None, 0) == Layout(34, 0, "recorded")


@pytest.mark.parametrize("record", [{}, {"chunk_frames": "17"}, {"chunk_frames": True, "clip_frames": -3}])
def test_without_a_word_about_chunks_they_are_assumed(record):
    assert find_layout(record, None, None) == Layout(17, 0, "assumed")


@pytest.mark.parametrize(
    ("frames", "message"),
    [
        (np.zeros((0, 32, 32, 3), np.uint8), "no frame"),
        (np.zeros((3, 32, 32, 3), np.float32), "uint8"),
        (np.zeros((3, 32, 32), np.uint8), "height, width, 3"),
        (np.zeros((3, 4, 4, 3), np.uint8), "at least 8 x 8"),
        ([np.zeros((16, 16, 3), np.uint8), np.zeros((16, 18, 3), np.uint8)], "different sizes"),
    ],
)
def test_what_cannot_be_measured_is_refused(frames, message):
    with pytest.raises(InputError, match=message):
        measure(frames)


def test_one_frame_has_what_one_frame_can_have():
    summary = measure(np.full((1, 16, 16, 3), 90, np.uint8)).summary
    assert summary["luma.mean"] == pytest.approx(90, abs=1e-3)
    assert summary["luma.drift"] is None
    assert summary["motion.mean"] is None
    assert summary["seam_ratio"] is None


def test_the_contact_sheet_is_spread_over_the_whole_video(moving):
    found = measure(moving(200), pictures=True)
    numbers = [number for number, _ in found.sheet]
    steps = np.diff(numbers)
    assert numbers[0] == 0
    assert len(set(steps)) == 1
    assert 200 - numbers[-1] <= steps[0]
    assert 24 <= len(numbers) <= 48


def test_a_pass_says_how_far_it_is_and_ends_when_it_is_told_to(tmp_path, moving):
    class Cancelled(Exception):
        pass

    seen = []

    def on_frame(number):
        seen.append(number)
        if number == 5:
            raise Cancelled

    video = write(tmp_path / "v.mp4", moving(20))
    with pytest.raises(Cancelled):
        measure(video, on_frame=on_frame)
    assert seen == [1, 2, 3, 4, 5]
