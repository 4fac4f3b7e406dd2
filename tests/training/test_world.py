"""The procedural world: its captions are true, its clips repeatable, its shapes countable."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pavdm.errors import InputError
from pavdm.training.world import MUTED, PALETTE, Background, Scene, draw, make_scene, render
from pavdm.training.world_drawing import SHAPES, draw_bodies
from pavdm.training.world_measure import COLOURS, colour_labels, visible_colours

SIZE = (64, 96)
seeds = st.integers(0, 2**63 - 1)


def distances(scene: Scene, seconds: np.ndarray) -> np.ndarray:
    """Free space between the two nearest shapes at each time, in picture heights."""
    paths = [body.positions(seconds) for body in scene.bodies]
    gaps = [
        np.hypot(*(paths[i] - paths[j]).T) - 1.15 * (scene.bodies[i].radius + scene.bodies[j].radius)
        for i in range(len(paths))
        for j in range(i)
    ]
    return np.min(gaps, axis=0) if gaps else np.full(len(seconds), np.inf)


def test_a_seed_keeps_its_scene_without_which_no_training_run_can_be_repeated():
    captions = [make_scene(seed).caption for seed in (0, 11, 13)]
    assert captions == [
        "A yellow crescent quickly turning in place and a small green cross slowly sliding from side to side over "
        "a gradient from lilac to charcoal, night turns to day.",
        "A small green circle sliding from side to side over charcoal dots on lilac, the camera pans right, at night.",
        "A small yellow ring slowly hopping, a small green heart slowly turning in place and a small blue square hopping "
        "over sand and cream checks.",
    ]


def test_another_process_renders_the_same_pixels():
    code = (
        "import hashlib; from pavdm.training.world import render;"
        "print(hashlib.sha256(render(5, 40)[0].tobytes()).hexdigest())"
    )
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert other.stdout.strip() == hashlib.sha256(render(5, 40)[0].tobytes()).hexdigest()


@settings(max_examples=8)
@given(seeds, st.integers(1, 70))
def test_a_longer_clip_begins_with_the_shorter_one_and_can_be_entered_anywhere(seed, length):
    frames, caption, scene = render(seed, 70)
    shorter, same, _ = render(seed, length)
    assert caption == same
    assert np.array_equal(frames[:length], shorter)
    assert np.array_equal(frames[length:], draw(scene, 70 - length, SIZE, first_frame=length))


@settings(max_examples=8)
@given(seeds)
def test_the_frame_rate_changes_when_the_world_is_looked_at_and_not_how_fast_it_goes(seed):
    assert np.array_equal(render(seed, 8, fps=12)[0], render(seed, 16, fps=24)[0][::2])


@settings(max_examples=200)
@given(seeds, st.floats(0.75, 3))
def test_shapes_never_leave_the_picture(seed, aspect):
    scene = make_scene(seed, aspect)
    for body in scene.bodies:
        path = body.positions(np.linspace(0, 60, 600))
        assert path.min() >= body.radius
        assert path[:, 0].max() <= aspect - body.radius and path[:, 1].max() <= 1 - body.radius


@settings(max_examples=200)
@given(seeds)
def test_the_caption_names_all_that_is_to_be_seen(seed):
    scene = make_scene(seed)
    for body in scene.bodies:
        assert f"{body.colour} {body.shape} {body.speed}{body.motion}" in scene.caption
    words = scene.caption.replace(",", "").replace(".", "").lower().split()
    assert [w for w in words if w in PALETTE] == [body.colour for body in reversed(scene.bodies)]
    assert [w for w in words if w in SHAPES] == [body.shape for body in reversed(scene.bodies)]
    assert {w for w in words if w in MUTED} == set(scene.background.colours)
    assert ("camera" in words) == (scene.background.pan != 0)
    assert ("night" in words) == (scene.light != "day")
    assert (
        len({body.colour for body in scene.bodies}) == len({body.shape for body in scene.bodies}) == len(scene.bodies)
    )


@settings(max_examples=30)
@given(seeds)
def test_colours_are_counted_right_by_day_and_night_and_never_seen_where_they_are_not(seed):
    frames, _, scene = render(seed, 60, fps=4)
    apart = distances(scene, np.arange(60) / 4) > 0.06
    expected = {body.colour for body in scene.bodies}
    for free, seen in zip(apart, visible_colours(frames), strict=True):
        assert set(seen) <= expected
        assert not free or set(seen) == expected


@settings(max_examples=20)
@given(seeds)
def test_shapes_are_drawn_where_the_scene_says(seed):
    scene = make_scene(seed)
    body = replace(scene.bodies[-1], shape="circle")
    scene = replace(scene, bodies=(body,))
    seconds = np.arange(10) / 2
    labels = colour_labels(draw(scene, 10, SIZE, fps=2)) == COLOURS.index(body.colour)
    for mask, (x, y) in zip(labels, body.positions(seconds) * 64, strict=True):
        rows, columns = mask.nonzero()
        assert columns.mean() + 0.5 == pytest.approx(x, abs=0.6)
        assert rows.mean() + 0.5 == pytest.approx(y, abs=0.6)


@pytest.mark.parametrize(
    ("shape", "area"),
    [
        ("circle", np.pi * 0.94**2),
        ("ring", np.pi * (0.95**2 - 0.37**2)),
        ("square", 1.56**2 - (4 - np.pi) * 0.14**2),
        ("triangle", 27**0.5 / 4 * 0.94**2 + 3 * 3**0.5 * 0.94 * 0.1 + np.pi * 0.1**2),  # + rounding
        ("cross", 2 * 1.92 * 0.6 - 0.6**2 - 8 * (1 - np.pi / 4) * 0.08**2),
    ],
)
def test_shapes_cover_their_area_at_every_angle_and_place_between_pixels(shape, area):
    centers = 0.5 + 0.01 * np.arange(24)[:, None] * [0.7, 0.3]
    white = (10_000, 10_000, 10_000)  # clipped to 255 however it is shaded; a shadow on black is black
    body = (shape, 0.3, white, centers, np.linspace(0, 1, 24))
    coverage = draw_bodies(np.zeros((24, 128, 128, 3), np.float32), [body]).mean(axis=(1, 2, 3)) / 255
    assert coverage == pytest.approx(area * 0.3**2, rel=0.004)


def test_the_later_shape_hides_the_earlier_one():
    scene = make_scene(0)
    still = {"radius": 0.2, "center": (0.75, 0.5), "reach": (0.0, 0.0)}
    back = replace(scene.bodies[0], shape="square", colour="red", **still)
    front = replace(scene.bodies[0], shape="square", colour="blue", **still)
    for bodies, seen in [((back, front), "blue"), ((front, back), "red")]:
        assert visible_colours(draw(replace(scene, bodies=bodies), 1, SIZE)) == [(seen,)]


def test_shapes_keep_to_their_own_part_of_the_picture_unless_one_passes_behind_another():
    seconds = np.linspace(0, 120, 1200)
    scenes = [s for s in map(make_scene, range(300)) if all(b.motion != "passing behind it" for b in s.bodies)]
    assert {len(scene.bodies) for scene in scenes} == {1, 2, 3}
    for scene in scenes:
        paths = [(body.positions(seconds), body.radius) for body in scene.bodies]
        for (path, radius), (other, its_radius) in combinations(paths, 2):
            assert np.hypot(*(path - other).T).min() > radius + its_radius


def test_a_scene_that_says_passing_behind_has_one_shape_pass_behind_another():
    scenes = [s for s in map(make_scene, range(200)) if s.bodies[-2:][0].motion == "passing behind it"]
    assert len(scenes) > 20
    for scene in scenes:
        back, front = scene.bodies[-2:]
        seconds = np.linspace(0, 60, 1200)
        apart = np.hypot(*(back.positions(seconds) - front.positions(seconds)).T)
        assert apart.min() < 0.75 * front.radius
        assert apart.max() > front.radius + back.radius
        assert f"{front.shape} {front.speed}{front.motion}, a" in scene.caption.replace(" and a", ", a")
    for scene in scenes[:10]:  # something of it is always seen
        shown = tuple(name for name in COLOURS if name in {body.colour for body in scene.bodies})
        assert set(visible_colours(draw(scene, 90, SIZE, fps=3))) == {shown}


@pytest.mark.parametrize("kind", ["dots", "stripes", "checks", "hills"])
def test_the_background_moves_against_the_camera(kind):
    # one pixel a frame; in hills, the nearest ridge
    pan = Background(kind, ("cream", "slate"), pan=24 / 64, offset=2.0)
    frames = draw(replace(make_scene(0), bodies=(), background=pan, light="day"), 5, SIZE).astype(int)
    rows = slice(58, 64) if kind == "hills" else slice(0, 64)
    assert np.abs(frames[4, rows, :-4] - frames[0, rows, 4:]).max() <= 4
    if kind != "hills":
        assert np.abs(frames[4, rows, :-4] - frames[0, rows, :-4]).max() > 60


def test_night_falls_and_stays():
    scene = replace(make_scene(11), bodies=(), background=Background("plain", ("sage",)), turning_seconds=5.0)
    brightness = {
        kind: draw(replace(scene, light=kind), 11, SIZE, fps=1).mean(axis=(1, 2, 3))
        for kind in ("day", "night", "day to night", "night to day")
    }
    assert np.ptp(brightness["day"]) == np.ptp(brightness["night"]) == 0
    assert (np.diff(brightness["day to night"][:6]) < 0).all() and (np.diff(brightness["night to day"][:6]) > 0).all()
    assert brightness["day to night"][0] == brightness["day"][0] == brightness["night to day"][-1]
    assert set(brightness["day to night"][5:]) == set(brightness["night"])
    assert set(brightness["night to day"][5:]) == set(brightness["day"])


@pytest.mark.parametrize("values", [{"num_frames": 0}, {"size": (8, 96)}, {"size": (64, 32)}, {"fps": 0}])
def test_clips_that_show_nothing_are_refused(values):
    with pytest.raises(InputError, match="a clip of the world"):
        render(0, **values)
