"""`benchmarks/small_model.py`: rows of its table from videos that are there already."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

from pavdm.training.world import make_scene

BENCHMARKS = Path(__file__).resolve().parent.parent / "benchmarks"


@pytest.fixture
def small_model(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(BENCHMARKS)
    import small_model

    return small_model


@pytest.mark.parametrize(
    ("kept", "median", "enough"),
    [([0.9, None, 0.7, 0.2], "70%", "2 of 4"), ([None, None], "-", "0 of 2")],
)
def test_a_video_that_begins_without_motion_keeps_none_and_ends_no_benchmark(
    small_model: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    kept: list[float],
    median: str,
    enough: str,
) -> None:
    monkeypatch.setattr(small_model, "LONG_SECONDS", 0.5)
    for number in range(len(kept)):
        small_model.write_clip(tmp_path / f"long_{number:03d}.mp4", make_scene(number, 1.5), 12)
    found = ({"motion_kept": share, "seam_ratio": 1.0} for share in kept)
    monkeypatch.setattr(small_model, "measure", lambda video: SimpleNamespace(summary=next(found)))
    lines: list[str] = []
    rows = dict(small_model.going_on(tmp_path, len(kept), None, lines.append))
    assert rows["20 s made after a clip, motion of the last 5 s over the first 5, median"] == median
    assert rows["the same, videos that keep at least 60%"] == enough
    assert "motion none to keep" in lines[1]


def test_a_group_of_videos_has_its_own_mean(small_model: ModuleType) -> None:
    assert small_model.by_group([1.0, 0.5, 0.0], [1, 2, 2]) == "1: 100% (1), 2: 25% (2)"


def test_a_caption_is_recoloured_with_a_colour_that_no_shape_of_it_has(small_model: ModuleType) -> None:
    for single in (True, False):
        for scene in small_model.held_out_scenes(8, single):
            assert (len(scene.bodies) == 1) == single
            caption, colour, replaced = small_model.recoloured(scene)
            assert f" {colour} " in caption and f" {colour} " not in scene.caption and f" {replaced} " not in caption


def test_a_colour_leads_or_is_seen_among_others(small_model: ModuleType) -> None:
    jobs = [small_model.TextJob(None, "red", "blue")] * 4
    seen = [["red", "blue"], ["blue", "red"], ["red"], []]
    assert small_model.share_led(jobs, seen) == "50%"
    assert small_model.share_among(jobs, seen) == "75% (50%)"
