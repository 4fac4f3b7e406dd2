"""Whole videos in one go, against the step-by-step samplers and hand-made velocities."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from pavdm.errors import InputError
from pavdm.prompts import PromptSchedule
from pavdm.sampling.fill import fill, fill_by_replacement, num_replacement_loops, placed_noise
from pavdm.sampling.rectified_flow import ReplacementLoop
from pavdm.sampling.schedule import Schedule
from pavdm.sampling.state import WindowState

PROMPTS = (PromptSchedule(("a",)),)


def to_noise_free(latents: Tensor, timesteps: Tensor, texts: object, frame_mask: Tensor | None = None) -> Tensor:
    """The velocity of a model that believes every clean latent to be 3: it brings any noise to 3 exactly."""
    return (3.0 - latents) / (timesteps / 1000).clamp(min=1e-6)[:, None, :, None, None]


@pytest.mark.parametrize("length", [12, 15, 17])
@pytest.mark.parametrize(
    ("overlap", "variable_length", "num_known"), [(True, True, 5), (False, True, 10), (True, False, 10)]
)
def test_everything_after_the_clip_is_made_and_the_length_stays(
    length: int, overlap: bool, variable_length: bool, num_known: int
) -> None:
    schedule = Schedule(2, 5, 4, overlap, variable_length)
    noise = torch.randn(1, 4, length, 2, 2, generator=torch.Generator().manual_seed(0))
    clip = torch.full_like(noise, 7.0)
    place = placed_noise(noise, num_known, 5, (1,))
    video = fill(schedule, clip, num_known, to_noise_free, noise=place, seeds=(1,), prompts=PROMPTS, chunk_seconds=1.0)
    warm = 0 if variable_length and overlap else 5
    assert video.shape == noise.shape
    assert torch.equal(video[:, :, : num_known - warm], clip[:, :, : num_known - warm])
    torch.testing.assert_close(video[:, :, num_known:], torch.full_like(video[:, :, num_known:], 3.0))


@pytest.mark.parametrize(
    ("overlap", "variable_length", "num_known"),
    [(True, True, 5), (False, True, 10), (True, False, 10), (True, True, 0)],
)
@pytest.mark.parametrize("stop_after", [1, 2])
def test_a_stopped_fill_goes_on_to_the_same_video(
    overlap: bool, variable_length: bool, num_known: int, stop_after: int
) -> None:
    schedule = Schedule(2, 5, 4, overlap, variable_length)
    noise = torch.randn(1, 4, 27, 2, 2, generator=torch.Generator().manual_seed(0))
    kept: list[tuple[WindowState, Tensor]] = []
    calls = 0

    def velocity(latents: Tensor, timesteps: Tensor, texts: object, frame_mask: Tensor | None = None) -> Tensor:
        nonlocal calls
        calls += 1
        return torch.sin(latents.mean(dim=2, keepdim=True)) - 0.1 * latents

    def run(begun: tuple[WindowState, Tensor] | None) -> Tensor:
        place = placed_noise(noise, num_known, 5, (1,))
        return fill(
            schedule,
            noise.flip(2),
            num_known,
            velocity,
            noise=place,
            seeds=(1,),
            prompts=PROMPTS,
            chunk_seconds=1.0,
            begun=begun,
            on_chunk=lambda _, done: kept.append(done()),
        )

    whole = run(None)
    all_calls, calls = calls, 0
    assert torch.equal(run(kept[stop_after - 1]), whole)
    assert calls < all_calls


def test_a_clip_too_short_for_a_full_window_is_refused() -> None:
    latents = torch.zeros(1, 4, 20, 2, 2)
    schedule = Schedule(4, 5, 4, True, False)
    with pytest.raises(InputError, match="20 latents"):
        fill(
            schedule,
            latents,
            5,
            to_noise_free,
            noise=placed_noise(latents, 5, 5, (1,)),
            seeds=(1,),
            prompts=PROMPTS,
            chunk_seconds=1.0,
        )


def test_noise_lies_at_its_place_and_goes_on_by_seed_beyond_the_end() -> None:
    noise = torch.arange(12.0).view(1, 1, 12, 1, 1)
    place = placed_noise(noise, 5, 5, (1,))
    assert place(-1, (1, 1, 5, 1, 1)).flatten().tolist() == [0, 1, 2, 3, 4]
    last = place(1, (1, 1, 5, 1, 1)).flatten()
    assert last[:2].tolist() == [10, 11] and last.shape == (5,)
    assert torch.equal(last, place(1, (1, 1, 5, 1, 1)).flatten())


@pytest.mark.parametrize(("num_known", "length", "loops"), [(5, 25, 2), (5, 26, 3), (0, 15, 1), (0, 5, 1), (0, 25, 2)])
def test_the_baseline_makes_the_length_in_the_loops_that_are_announced(num_known: int, length: int, loops: int) -> None:
    loop = ReplacementLoop(15, 5, 2)
    noise = torch.randn(1, 4, length, 2, 2, generator=torch.Generator().manual_seed(0))
    steps: list[tuple[int, int]] = []
    video = fill_by_replacement(
        loop,
        torch.full_like(noise, 7.0),
        num_known,
        to_noise_free,
        noise=noise,
        seeds=(1,),
        texts_for=lambda index: ("a",),
        on_step=lambda index, step: steps.append((index, step)),
    )
    assert len(steps) == 2 * loops == 2 * num_replacement_loops(loop, length, num_known)
    assert torch.equal(video[:, :, :num_known], torch.full_like(video[:, :, :num_known], 7.0))
    torch.testing.assert_close(video[:, :, num_known:], torch.full_like(video[:, :, num_known:], 3.0))


def overflowing(latents: Tensor, timesteps: Tensor, texts: object, frame_mask: Tensor | None = None) -> Tensor:
    """A model that overflows in the noisiest frames only: what leaves the window first is still sound."""
    return torch.where((timesteps > 600)[:, None, :, None, None], torch.inf, -latents)


@pytest.mark.parametrize("way", ["progressive", "replacement"])
def test_a_model_that_overflows_is_stopped_before_a_state_is_kept(way: str) -> None:
    noise = torch.randn(1, 4, 20, 2, 2, generator=torch.Generator().manual_seed(0))
    kept: list[object] = []
    with pytest.raises(InputError, match="no numbers"):
        if way == "replacement":
            loop = ReplacementLoop(15, 5, 2)
            fill_by_replacement(loop, noise, 0, overflowing, noise=noise, seeds=(1,), texts_for=lambda index: ("a",))
        else:
            fill(
                Schedule(2, 5, 4),
                noise,
                0,
                overflowing,
                noise=placed_noise(noise, 0, 5, (1,)),
                seeds=(1,),
                prompts=PROMPTS,
                chunk_seconds=1.0,
                on_chunk=lambda *given: kept.append(given),
            )
    assert not kept
