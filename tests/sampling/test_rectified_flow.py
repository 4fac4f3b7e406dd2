"""The baseline: Open-Sora's mask strategies by hand, and the loop's bookkeeping with stub velocities.

Its numbers are held against the published sampler in tests/test_conformance.py.
"""

import itertools

import pytest
import torch

from pavdm.errors import InputError
from pavdm.sampling.progressive import named_noise
from pavdm.sampling.rectified_flow import (
    MaskRule,
    ReplacementLoop,
    apply_mask_strategy,
    extend,
    parse_mask_strategy,
    sample,
    timesteps,
)

SHAPE = (1, 2, 3, 4)


def towards(target):
    def velocity(latents, timesteps, texts, frame_mask=None):
        return (target - latents) / (timesteps / 1000).clamp_min(1e-6)[:, None, :, None, None]

    return velocity


def noise(index, step, shape):
    return named_noise(f"{index}/{step}", shape)


def test_timesteps_fall_evenly_from_1000_without_a_transform():
    assert timesteps(4, None).tolist() == [1000, 750, 500, 250]


def test_a_velocity_that_points_at_a_target_arrives_there():
    out = sample(towards(0.3), torch.randn(1, 2, 5, 3, 4), (("a",) * 5,), steps=7, shift=3.0)
    assert torch.allclose(out, torch.full_like(out, 0.3), atol=1e-5)


def test_kept_frames_stay_and_are_masked_for_the_model():
    z = torch.randn(1, 2, 5, 3, 4)
    masks = []

    def velocity(latents, timesteps, texts, frame_mask=None):
        masks.append(frame_mask.clone())
        return towards(0.3)(latents, timesteps, texts)

    frame_mask = torch.tensor([[0.0, 0.5, 1.0, 1.0, 1.0]])
    out = sample(
        velocity, z, (("a",) * 5,), steps=4, frame_mask=frame_mask, noise=lambda step, shape: torch.zeros(shape)
    )
    assert torch.equal(out[:, :, 0], z[:, :, 0])
    assert [mask[0, 1].item() for mask in masks] == [False, False, True, True]  # joins when t falls to 500
    assert all(mask[0, 2] and not mask[0, 0] for mask in masks)
    assert torch.allclose(out[:, :, 1:], torch.full_like(out[:, :, 1:], 0.3), atol=1e-5)


def test_mask_strategies_parse_with_open_sora_s_defaults():
    assert parse_mask_strategy("") == []
    assert parse_mask_strategy("0") == [MaskRule(loop=0)]
    assert parse_mask_strategy("1,2,-5,0,5,0.4; 0,0,3") == [MaskRule(1, 2, -5, 0, 5, 0.4), MaskRule(0, 0, 3)]
    for bad in ("a", "1,2,3,4,5,6,7", "1,,2"):
        with pytest.raises(InputError, match="mask strategy"):
            parse_mask_strategy(bad)


def test_a_rule_copies_the_end_of_its_reference_and_marks_it():
    reference = torch.arange(10.0)[None, :, None, None].expand(2, 10, 3, 4)
    latents, mask = apply_mask_strategy(torch.full((2, 8, 3, 4), -1.0), [reference], [MaskRule(1, 0, -3, 2, 3, 0.4)], 1)
    assert latents[0, :, 0, 0].tolist() == [-1, -1, 7, 8, 9, -1, -1, -1]
    assert mask.tolist() == pytest.approx([1, 1, 0.4, 0.4, 0.4, 1, 1, 1])
    unchanged, all_new = apply_mask_strategy(latents, [reference], [MaskRule(1, 0, -3, 2, 3)], 0)
    assert torch.equal(unchanged, latents)
    assert all_new.tolist() == [1] * 8


@pytest.mark.parametrize(("start", "aligned"), [(0, 0), (2, 0), (3, 5), (7, 5), (8, 10), (-3, 10), (-5, 10)])
def test_starts_are_aligned_to_the_pieces_of_the_vae(start, aligned):
    reference = torch.arange(15.0)[None, :, None, None].expand(1, 15, 1, 1)
    latents, _ = apply_mask_strategy(
        torch.full((1, 15, 1, 1), -1.0), [reference], [MaskRule(0, 0, start, 0, 1)], 0, align=5
    )
    assert latents[0, 0, 0, 0] == aligned


def test_a_missing_reference_is_named():
    with pytest.raises(InputError, match="reference 2, but there are 1"):
        apply_mask_strategy(torch.zeros(1, 5, 1, 1), [torch.zeros(1, 5, 1, 1)], [MaskRule(0, 2)], 0)


def test_each_loop_keeps_the_last_latents_of_the_one_before_and_yields_only_new_ones():
    loop = ReplacementLoop(clip_latents=15, condition_latents=5, steps=3)
    inputs = []

    def velocity(latents, timesteps, texts, frame_mask=None):
        inputs.append((latents.clone(), texts))
        return towards(float(len(inputs)))(latents, timesteps, texts)

    clip = torch.randn(1, 2, 10, 3, 4)
    clips = extend(loop, velocity, clip, shape=SHAPE, texts_for=lambda i: (f"text {i:g}",), noise=noise)
    first, second = itertools.islice(clips, 2)
    assert first.shape == second.shape == (1, 2, 10, 3, 4)
    assert torch.equal(inputs[0][0][:, :, :5], clip[:, :, -5:])
    assert torch.equal(inputs[3][0][:, :, :5], first[:, :, -5:])
    assert inputs[3][1] == (("text 1",) * 15,)


def test_a_loop_without_a_clip_begins_with_a_whole_new_one():
    clips = extend(ReplacementLoop(steps=2), towards(0.1), None, shape=SHAPE, texts_for=lambda i: ("a",), noise=noise)
    assert [clip.shape[2] for clip in itertools.islice(clips, 3)] == [15, 10, 10]


def test_texts_of_a_video_from_text_alone_begin_where_its_longer_first_loop_ends():
    asked = []

    def texts_for(position):
        asked.append(position)
        return ("a",)

    loop = ReplacementLoop(steps=1)
    for conditioning, rules in (
        (None, ()),
        (torch.zeros(1, 2, 5, 3, 4), ()),
        (torch.zeros(1, 2, 5, 3, 4), [MaskRule()]),
    ):
        clips = extend(loop, towards(0.1), conditioning, shape=SHAPE, texts_for=texts_for, noise=noise, rules=rules)
        made = [clip.shape[2] for clip in itertools.islice(clips, 3)]
        starts = [sum(made[:n]) / loop.new_latents for n in range(3)]
        assert asked == starts
        asked.clear()


def test_a_mask_strategy_places_the_clip_in_every_loop_that_it_names():
    inputs, masks = [], []

    def velocity(latents, timesteps, texts, frame_mask=None):
        inputs.append(latents.clone())
        masks.append(frame_mask[0].tolist())
        return torch.zeros_like(latents)

    clip = torch.randn(1, 2, 10, 3, 4)
    rules = parse_mask_strategy("0,0,5,10,5;1,0,0,10,5")
    loop = ReplacementLoop(steps=1)
    clips = extend(loop, velocity, clip, shape=SHAPE, texts_for=lambda i: ("a",), noise=noise, rules=rules)
    first, second = itertools.islice(clips, 2)
    assert first.shape[2] == 15 and second.shape[2] == 10
    assert torch.equal(inputs[0][:, :, 10:], clip[:, :, 5:])
    assert masks[0] == [True] * 10 + [False] * 5
    assert torch.equal(inputs[1][:, :, :5], first[:, :, -5:])
    assert torch.equal(inputs[1][:, :, 10:], clip[:, :, :5])
    assert masks[1] == [False] * 5 + [True] * 5 + [False] * 5


def test_going_on_at_a_later_loop_equals_not_having_stopped():
    loop = ReplacementLoop(steps=2)
    options = {"shape": SHAPE, "texts_for": lambda i: ("a",), "noise": noise}

    def velocity(latents, timesteps, texts, frame_mask=None):
        return torch.tanh(latents + latents.mean())

    whole = list(itertools.islice(extend(loop, velocity, None, **options), 3))
    rest = list(itertools.islice(extend(loop, velocity, None, first_loop=1, before=whole[0], **options), 2))
    assert torch.equal(torch.cat(rest, dim=2), torch.cat(whole[1:], dim=2))


def test_the_published_reencoding_is_applied_to_what_is_kept():
    loop = ReplacementLoop(steps=1, reencode=lambda index, latents: latents * 0 + 9 * index)
    inputs = []

    def velocity(latents, timesteps, texts, frame_mask=None):
        inputs.append(latents.clone())
        return torch.zeros_like(latents)

    clip = torch.randn(1, 2, 5, 3, 4)
    clips = extend(loop, velocity, clip, shape=SHAPE, texts_for=lambda i: ("a",), noise=noise)
    list(itertools.islice(clips, 2))
    assert torch.equal(inputs[0][:, :, :5], clip)  # the clip was never generated
    assert torch.all(inputs[1][:, :, :5] == 9)


def test_impossible_loops_are_refused():
    with pytest.raises(InputError, match="between 1 and 14"):
        ReplacementLoop(condition_latents=15)
    with pytest.raises(InputError, match="steps"):
        ReplacementLoop(steps=0)
