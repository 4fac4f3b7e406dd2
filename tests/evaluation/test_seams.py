"""The seam ratio on videos whose seams were put there."""

import numpy as np
import pytest

from pavdm.errors import InputError
from pavdm.evaluation import measure


def brightening(steps, still):
    """A still picture that gets brighter by `steps[i]` levels between frames i and i + 1."""
    levels = np.concatenate([[0], np.cumsum(steps)])
    return (still(len(levels)) // 2 + levels[:, None, None, None]).astype(np.uint8)


def test_steady_motion_has_no_seam(moving):
    found = measure(moving(17 * 4), chunk_frames=17)
    assert [seam.frame for seam in found.seams] == [17, 34, 51]
    assert found.summary["seam_ratio"] == pytest.approx(1, abs=0.05)


def test_a_jump_at_a_boundary_has_the_ratio_that_it_was_made_with(still):
    steps = np.ones(50, int)
    steps[33] = 6  # between frames 33 and 34, where the third chunk begins
    found = measure(brightening(steps, still), chunk_frames=17)
    assert [(seam.frame, seam.ratio) for seam in found.seams] == [(17, 1.0), (34, 6.0)]
    assert found.summary["seam_ratio"] == 3.5
    assert found.summary["seam_worst"] == 6.0


def test_a_jump_inside_a_chunk_is_no_seam(still):
    steps = np.ones(50, int)
    steps[25] = 40
    found = measure(brightening(steps, still), chunk_frames=17)
    assert found.summary["seam_worst"] == 1.0


def test_chunks_count_from_the_end_of_the_clip_and_its_own_frames_do_not_count(still):
    steps = np.ones(60, int)
    steps[2] = 30  # inside the clip, where a piece of it would begin
    steps[19] = 4  # the clip ends here
    steps[36] = 8
    found = measure(brightening(steps, still), chunk_frames=17, clip_frames=20)
    assert [(seam.frame, seam.ratio) for seam in found.seams] == [(3, 30.0), (20, 4.0), (37, 8.0), (54, 1.0)]
    assert found.summary["clip_seam"] == 4.0
    assert found.summary["seam_worst"] == 8.0
    assert found.summary["seam_ratio"] == 4.5


def test_the_pictures_of_the_worst_seams_are_those_on_its_two_sides(still):
    steps = np.ones(50, int)
    steps[33] = 6
    frames = brightening(steps, still)
    found = measure(frames, chunk_frames=17, pictures=True)
    assert np.array_equal(found.worst_seams[0].before, frames[33])
    assert np.array_equal(found.worst_seams[0].after, frames[34])


def test_a_freeze_has_no_ratio(still):
    found = measure(still(40), chunk_frames=17)
    assert [seam.ratio for seam in found.seams] == [None, None]
    assert found.summary["seam_ratio"] is None


def test_chunks_too_short_to_measure_are_refused(still):
    with pytest.raises(InputError, match="at least 2 frames"):
        measure(still(40), chunk_frames=1)
