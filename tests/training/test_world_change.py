"""Clips in which something changes: the caption says so from the piece on in which it happens, and the pixels follow."""

from __future__ import annotations

import numpy as np
import pytest

from pavdm.training.world import PALETTE, make_scene, render
from pavdm.training.world_change import change, render_changing, spoiled
from pavdm.training.world_measure import visible_colours

FRAMES = 85


def changing_clips(count: int):
    clips = ((seed, render_changing(seed, FRAMES, changing=1.0)) for seed in range(count))
    return [(seed, clip) for seed, clip in clips if len(clip.captions) > 1]


def test_without_a_change_it_is_the_clip_of_the_seed():
    for seed in range(5):
        clip = render_changing(seed, 40, changing=0.0)
        frames, caption, _ = render(seed, 40)
        assert np.array_equal(clip.frames, frames) and clip.captions == ((0, caption),)


@pytest.mark.parametrize("shares", [{"changing": 0.0}, {"changing": 1.0}, {"changing": 0.0, "mending": 1.0}])
def test_a_clip_may_begin_later_in_its_scene(shares):
    for seed in range(8):
        clip, later = (render_changing(seed, FRAMES, size=(16, 24), start=start, **shares) for start in (0, 10))
        first = 17 if "mending" in shares else clip.captions[-1][0]
        faded = first + 12 if any(shares.values()) else 0
        assert later.captions == clip.captions
        assert np.array_equal(later.frames[: max(first - 10, 0)], clip.frames[10:first])
        assert np.array_equal(later.frames[faded : FRAMES - 10], clip.frames[10 + faded :])


def test_about_the_share_that_was_asked_for_changes():
    changed = sum(len(render_changing(seed, 34, size=(16, 24), changing=0.3).captions) > 1 for seed in range(200))
    assert 40 <= changed <= 80


def test_a_change_begins_with_a_piece_and_leaves_everything_before_it_alone():
    for seed, clip in changing_clips(12):
        first, _ = clip.captions[1]
        frames, _, _ = render(seed, FRAMES)
        assert first % 17 == 0 and 17 <= first < FRAMES
        assert np.array_equal(clip.frames[:first], frames[:first])
        assert not np.array_equal(clip.frames[first:], frames[first:])


def test_after_a_change_of_colour_the_named_colours_are_to_be_seen_and_no_others():
    checked = 0
    for _, clip in changing_clips(40):
        words = [{word for word in caption.split() if word in PALETTE} for _, caption in clip.captions]
        if words[0] != words[1]:
            after = clip.frames[clip.captions[1][0] + 12 :]
            seen = [set(colours) for colours in visible_colours(after)]
            assert set().union(*seen) <= words[1]
            checked += any(words[1] == colours for colours in seen)
    assert checked >= 10


def test_a_change_of_light_keeps_the_shapes():
    scene = next(s for s in map(make_scene, range(50)) if s.light == "day")
    changed = change(scene, 0.1)
    assert changed.light == "night" and changed.bodies == scene.bodies
    assert change(changed, 0.1) == scene


@pytest.mark.parametrize("what", [0.34, 0.5, 0.77, 0.999])
def test_a_new_colour_is_one_that_no_shape_has(what):
    for seed in range(30):
        scene = make_scene(seed)
        after = [body.colour for body in change(scene, what).bodies]
        before = [body.colour for body in scene.bodies]
        assert len(set(after)) == len(after) and sum(a != b for a, b in zip(after, before, strict=True)) == 1


def test_about_the_share_that_was_asked_for_is_wrong_at_first_and_then_as_its_caption_says():
    wrong = 0
    for seed in range(60):
        clip = render_changing(seed, 51, changing=0.2, mending=0.5)
        frames, caption, _ = render(seed, 51)
        if clip.captions == ((0, caption),) and not np.array_equal(clip.frames, frames):
            wrong += 1
            assert np.abs(clip.frames[:17].astype(int) - frames[:17]).max() > 30
            assert np.array_equal(clip.frames[17 + 12 :], frames[17 + 12 :])  # half a second later
    assert 20 <= wrong <= 40


def test_what_is_wrong_is_one_shape_that_is_missing_or_has_another_colour_or_form():
    scene = next(s for s in map(make_scene, range(50)) if len(s.bodies) == 2)
    ways = set()
    for what in np.linspace(0, 1, 60, endpoint=False):
        after = spoiled(scene, what).bodies
        different = [(a, b) for a, b in zip(scene.bodies, after, strict=False) if a != b]
        if len(after) == 1:
            assert after[0] in scene.bodies
            ways.add("missing")
        else:
            ((a, b),) = different
            ways.add("colour" if a.colour != b.colour else "form")
            assert (a.colour, a.shape) != (b.colour, b.shape)
    assert ways == {"missing", "colour", "form"}
