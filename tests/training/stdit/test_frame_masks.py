"""Open-Sora's frame masks."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pavdm.errors import InputError
from pavdm.training.stdit.frame_masks import KINDS, OPEN_SORA_RATIOS, FrameMasks, frame_mask


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def given_frames(kind: str, num_frames: int, seed: int) -> list[int]:
    return (~frame_mask(kind, num_frames, seeded(seed))).nonzero().flatten().tolist()


@given(st.sampled_from(KINDS), st.integers(1, 40), st.integers(0, 2**31))
def test_something_is_always_left_to_generate_and_an_image_is_never_given(kind, num_frames, seed):
    assert len(given_frames(kind, num_frames, seed)) < num_frames


@given(st.integers(4, 40), st.integers(0, 2**31))
def test_each_kind_gives_the_frames_that_its_name_says(num_frames, seed):
    last = num_frames - 1
    assert given_frames("identity", num_frames, seed) == []
    assert given_frames("image_head", num_frames, seed) == [0]
    assert given_frames("image_tail", num_frames, seed) == [last]
    assert given_frames("image_head_tail", num_frames, seed) == [0, last]
    assert len(given_frames("image_random", num_frames, seed)) == 1
    head = given_frames("quarter_head", num_frames, seed)
    assert 1 <= len(head) <= num_frames // 4 and head == list(range(len(head)))
    tail = given_frames("quarter_tail", num_frames, seed)
    assert 1 <= len(tail) <= num_frames // 4 and tail == list(range(num_frames - len(tail), num_frames))
    both = given_frames("quarter_head_tail", num_frames, seed)
    assert both == sorted(last - frame for frame in both) and 0 in both
    run = given_frames("quarter_random", num_frames, seed)
    assert 1 <= len(run) <= num_frames // 4 and run == list(range(run[0], run[0] + len(run)))
    every_other = given_frames("interpolate", num_frames, seed)
    assert every_other in (list(range(0, num_frames, 2)), list(range(1, num_frames, 2)))


def test_all_places_and_lengths_are_reached():
    runs = {tuple(given_frames("quarter_random", 8, seed)) for seed in range(300)}
    assert runs == {(i,) for i in range(8)} | {(i, i + 1) for i in range(7)}
    shares = torch.tensor([len(given_frames("random", 200, seed)) / 200 for seed in range(200)])
    assert shares.min() < 0.2 and shares.max() > 0.8 and shares.mean() == pytest.approx(0.5, abs=0.06)


def test_kinds_come_as_often_as_asked():
    masks = FrameMasks({"image_head": 0.3, "image_tail": 0.1}).draw(5000, 4, seeded())
    assert (~masks[:, 0]).float().mean() == pytest.approx(0.3, abs=0.03)
    assert (~masks[:, 3]).float().mean() == pytest.approx(0.1, abs=0.02)
    assert masks[:, 1:3].all()
    assert sum(OPEN_SORA_RATIOS.values()) == pytest.approx(0.25)
    assert (~FrameMasks().draw(5000, 15, seeded()).all(1)).float().mean() == pytest.approx(0.25, abs=0.03)


@pytest.mark.parametrize(
    "ratios", [{"intepolate": 0.1}, {"random": -0.1}, {"random": 0.7, "image_head": 0.7}, {"identity": 0.5}]
)
def test_ratios_without_a_meaning_are_refused(ratios):
    with pytest.raises(InputError):
        FrameMasks(ratios)
