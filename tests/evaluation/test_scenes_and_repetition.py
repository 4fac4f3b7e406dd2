"""Cuts where there are cuts, and coming back where a video comes back."""

from itertools import islice

import cv2
import numpy as np
import pytest
import scenedetect

from pavdm.evaluation import measure
from pavdm.evaluation.scenes import Scenes
from pavdm.video_reader import read_frames


def test_a_hard_cut_is_a_second_scene(still, noisy):
    frames = noisy(np.concatenate([still(30, seed=1), still(30, seed=2)]))
    found = measure(frames)
    assert found.cuts == (30,)
    assert found.summary["scenes"] == 2


def test_a_cut_at_the_joint_with_the_clip_counts_and_those_of_the_clip_do_not(still, noisy):
    frames = noisy(np.concatenate([still(30, seed=1), still(30, seed=2), still(40, seed=3)]))
    assert [measure(frames, clip_frames=clip).summary["scenes"] for clip in (0, 30, 60, 61)] == [3, 3, 2, 1]


def test_motion_and_a_slow_fade_are_no_cut(moving):
    fade = (moving(60) * np.linspace(1, 0.2, 60)[:, None, None, None]).astype(np.uint8)
    assert measure(fade).summary["scenes"] == 1


def test_the_cuts_of_a_real_video_are_those_of_pyscenedetect_itself(bikes):
    """Its own reader and scene manager on a file with several cuts; 640 pixels wide, so that it is made smaller."""
    own = scenedetect.detect(str(bikes), scenedetect.AdaptiveDetector(), end_time=100)
    assert len(own) > 2
    scenes = Scenes(scenedetect, cv2, 25)
    for number, frame in enumerate(islice(read_frames(bikes), 100)):
        scenes.next(number, frame)
    assert scenes.cuts == [start.frame_num for start, _ in own[1:]]


def loop(moving, period, frames):
    return np.concatenate([moving(period, speed=1, seed=4)] * (frames // period + 1))[:frames]


def test_a_loop_is_repetition(moving):
    found = measure(loop(moving, period=36, frames=240), fps=12)  # 3 s, 20 s in all
    assert found.summary["repetition"] == pytest.approx(17 / 18, abs=0.03)  # all but the third of the 20 s


def test_going_back_and_forth_is_repetition(moving):
    there = moving(48, speed=1, seed=4)
    frames = np.concatenate([there, there[::-1], there, there[::-1]])
    assert measure(frames, fps=12).summary["repetition"] > 0.7


def test_a_freeze_a_steady_fade_and_new_pictures_are_none(moving, still):
    frozen = still(120)
    fading = (still(120) * np.linspace(1, 0, 120)[:, None, None, None]).astype(np.uint8)
    assert measure(frozen, fps=12).summary["repetition"] == 0
    assert measure(fading, fps=12).summary["repetition"] == pytest.approx(0, abs=0.01)
    fresh = np.concatenate([still(12, seed=seed) for seed in range(10)])
    assert measure(fresh, fps=12).summary["repetition"] < 0.35


def test_a_video_too_short_to_come_back_has_no_number(moving):
    assert measure(moving(24), fps=24).summary["repetition"] is None
