"""Pixel measures and their drift on videos whose colours are known."""

import colorsys

import numpy as np
import pytest

from pavdm.evaluation import measure
from pavdm.evaluation.drift import drift, slope, weighted_error
from pavdm.evaluation.layout import Chunk


def flat(colours):
    """A video of one-coloured frames (24 x 32)."""
    return np.repeat(np.repeat(np.array(colours, np.uint8)[:, None, None, :], 24, axis=1), 32, axis=2)


def test_light_and_colour_of_flat_frames_are_those_of_the_formulas():
    colour = (200, 100, 50)
    summary = measure(flat([colour] * 12)).summary
    assert summary["luma.mean"] == pytest.approx(0.2126 * 200 + 0.7152 * 100 + 0.0722 * 50, abs=1e-3)
    assert summary["saturation.mean"] == pytest.approx(colorsys.rgb_to_hsv(*(c / 255 for c in colour))[1])
    assert summary["colourfulness.mean"] == pytest.approx(0.3 * np.hypot(100, 100))
    assert summary["contrast.mean"] == pytest.approx(0, abs=1e-3)
    assert summary["sharpness.mean"] == pytest.approx(0, abs=1e-6)
    assert summary["high_frequency.mean"] == 0


def test_colourfulness_counts_the_spread_of_both_opponent_colours():
    frame = np.zeros((24, 32, 3), np.uint8)
    frame[:, ::2] = (255, 0, 0)
    frame[:, 1::2] = (0, 0, 255)  # red and blue columns: rg is 255 and 0, yb 127.5 and -255
    expected = np.hypot(127.5, 191.25) + 0.3 * np.hypot(127.5, 63.75)
    assert measure(frame[None].repeat(4, 0)).summary["colourfulness.mean"] == pytest.approx(expected, rel=1e-5)


def test_a_checkerboard_is_all_high_frequency_and_a_slow_wave_none():
    rows, columns = np.indices((48, 48))
    board = ((rows + columns) % 2 * 200).astype(np.uint8)
    wave = (100 + 80 * np.sin(2 * np.pi * columns / 24)).astype(np.uint8)
    fine, coarse = (measure(plane[None, ..., None].repeat(4, 0).repeat(3, -1)).summary for plane in (board, wave))
    assert fine["high_frequency.mean"] > 0.99
    assert coarse["high_frequency.mean"] < 0.01
    assert fine["sharpness.mean"] == pytest.approx(800**2, rel=0.01)  # the Laplacian is +-800 everywhere


def test_contrast_is_the_spread_of_the_light_in_the_frame():
    halves = np.zeros((8, 16, 16, 3), np.uint8)
    halves[:, :, 8:] = 200  # 100 above and below the mean
    assert measure(halves).summary["contrast.mean"] == pytest.approx(100, abs=1e-3)


def test_a_fade_to_grey_takes_the_colour_and_the_contrast_and_leaves_the_light(moving):
    frames = moving(100).astype(float)
    grey = frames @ (0.2126, 0.7152, 0.0722)
    share = np.linspace(0, 1, 100)[:, None, None, None]
    faded = (frames * (1 - share) + grey.mean() * share).round().astype(np.uint8)
    summary, steady = measure(faded).summary, measure(moving(100)).summary
    for key in ("colourfulness", "saturation", "contrast"):
        # The first and last 15 of 100 frames hold 7.5 % and 92.5 % of the fade.
        assert summary[f"{key}.drift"] == pytest.approx(0.86 * steady[f"{key}.mean"], rel=0.05)
        assert summary[f"{key}.slope"] < 0
        assert steady[f"{key}.drift"] == pytest.approx(0, abs=1e-3)
    assert summary["luma.drift"] == pytest.approx(0, abs=1)
    assert summary["sharpness.drift"] > 10 * steady["sharpness.drift"]


def test_a_steady_change_has_its_slope_per_minute():
    grey = np.arange(120)  # one level a frame, 24 frames a second
    summary = measure(flat(np.stack([grey] * 3, -1)), fps=24, chunk_frames=12).summary
    assert summary["luma.slope"] == pytest.approx(24 * 60, rel=1e-4)
    assert summary["luma.drift"] == pytest.approx(120 * 0.85)


def test_the_weighted_error_is_that_of_blockvid():
    """Worked by hand: only segment 3 of 10 is off, by half of the first; its linear weight is 10 - 3 + 1."""
    series = np.repeat([4.0, 4, 6, 4, 4, 4, 4, 4, 4, 4], 7)
    assert weighted_error(series) == pytest.approx((10 - 3 + 1) * 0.5)
    assert weighted_error(np.concatenate([[0.0] * 7, series[7:]])) is None


def test_what_a_single_difference_misses_the_slope_and_the_weighted_error_see():
    there_and_back = np.concatenate([np.full(30, 5.0), np.full(40, 1.0), np.full(30, 5.0)])
    assert drift(there_and_back) == 0
    assert weighted_error(there_and_back) > 10


def test_missing_values_are_left_out():
    series = np.array([np.nan, 1, 1, 1, 3, 3, 3, 3.0])
    assert slope(series, [Chunk(0, 0, 4), Chunk(1, 4, 8)], fps=60) == pytest.approx(2 / (4 / 3600))


def test_the_clip_is_in_the_curves_and_not_in_the_numbers():
    frames = flat([(250, 250, 250)] * 20 + [(100, 100, 100)] * 40)
    found = measure(frames, clip_frames=20)
    assert found.summary["luma.mean"] == pytest.approx(100, abs=1e-3)
    assert found.summary["luma.drift"] == pytest.approx(0, abs=1e-4)
    assert found.series["luma"][0] == pytest.approx(250, abs=1e-3)
    assert measure(frames, clip_frames=20, include_clip=True).summary["luma.drift"] == pytest.approx(150, abs=1e-3)
