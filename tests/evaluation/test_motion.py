"""Optical flow on motion of known speed, on a freeze, and on what flow cannot explain."""

import numpy as np
import pytest

from pavdm.evaluation import measure

HEIGHT = 64


def test_motion_of_known_speed_is_measured_in_its_unit(moving):
    found = measure(moving(34, speed=2), fps=24)
    per_second = 100 * 2 * 24 / HEIGHT  # 2 pixels per frame, % of the shorter side per second
    assert found.summary["motion.mean"] == pytest.approx(per_second, rel=0.1)


def test_twice_the_speed_is_twice_the_motion_and_the_rate_counts(moving):
    slow, fast = (measure(moving(20, speed), fps=24).summary["motion.mean"] for speed in (1, 2))
    assert fast / slow == pytest.approx(2, rel=0.1)
    assert measure(moving(20, 1), fps=12).summary["motion.mean"] == pytest.approx(slow / 2)


def test_motion_that_stops_half_way_is_not_kept_and_its_chunks_are_static(moving):
    frames = moving(17 * 8)
    frames[17 * 4 :] = frames[17 * 4]
    found = measure(frames, chunk_frames=17, fps=8)
    assert found.summary["motion_kept"] == pytest.approx(0, abs=0.01)
    assert found.summary["static_share"] == 0.5


def test_what_is_kept_of_the_motion_is_the_ratio_of_the_ends(moving):
    slow = moving(121, speed=1)
    frames = np.concatenate([slow, np.roll(moving(120, speed=2), 122, axis=2)])
    assert measure(frames, fps=24).summary["motion_kept"] == pytest.approx(2, rel=0.1)
    assert measure(frames[::-1], fps=24).summary["motion_kept"] == pytest.approx(0.5, rel=0.1)


def test_the_fastest_pixels_are_those_of_what_moves(still, moving):
    frames = still(34)
    frames[:, 16:48, 16:80] = moving(34, speed=2, seed=3)[:, 16:48, 16:80]  # a third of the picture
    summary = measure(frames, fps=24).summary
    assert summary["fast_motion.mean"] == pytest.approx(100 * 2 * 24 / HEIGHT, rel=0.15)
    assert summary["motion.mean"] == pytest.approx(summary["fast_motion.mean"] / 3, rel=0.3)


def test_a_small_thing_that_moves_keeps_a_chunk_from_being_static(still, moving):
    frames = still(34)
    frames[:, 20:40, 20:60] = moving(34, speed=2, seed=3)[:, 20:40, 20:60]
    found = measure(frames)
    assert found.summary["static_share"] == 0
    assert measure(still(34)).summary["static_share"] == 1


def test_a_chunk_that_stands_still_is_static_however_far_the_picture_jumps_before_it(still):
    chunk = still(17)
    frames = np.concatenate([np.roll(chunk, 6 * i, axis=2) for i in range(4)])
    assert measure(frames, chunk_frames=17).summary["static_share"] == 1


def test_noise_alone_is_no_motion(still, noisy):
    frames = noisy(still(8, size=(240, 320)), 2.0)
    assert measure(frames, chunk_frames=4).summary["static_share"] == 1


def test_clean_motion_leaves_nothing_unexplained_and_flicker_does(moving):
    frames = moving(34)
    clean = measure(frames).summary["warp_error.mean"]
    brighter = frames.astype(int) // 2
    brighter[1::2] += 20  # every second frame
    flicker = measure(brighter.astype(np.uint8)).summary["warp_error.mean"]
    assert clean < 1.5
    assert flicker > 5 * clean
    assert flicker == pytest.approx(20, rel=0.35)


def test_without_opencv_motion_is_named_as_missing_and_the_rest_is_measured(moving, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "cv2", None)
    found = measure(moving(40))
    assert found.summary["motion.mean"] is None
    assert "opencv-python-headless" in found.missing["motion.mean"]
    assert "scenes" in found.missing
    assert found.summary["seam_ratio"] == pytest.approx(1, abs=0.1)
