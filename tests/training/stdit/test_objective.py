"""The loss, the timestep transform in batches, ordinary training and text dropout."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pavdm.errors import InputError
from pavdm.models.stdit3 import STDiT3, STDiT3Config, initialize_weights
from pavdm.sampling.schedule import Schedule, timestep_shift
from pavdm.training.stdit.objective import (
    Noised,
    TrainedVelocity,
    WholeClipTimesteps,
    add_noise,
    dropped_texts,
    transformed,
    whole_clip,
)
from pavdm.training.stdit.windows import TrainingWindows

FPS, SIZE = 24.0, (48, 64)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def velocity() -> TrainedVelocity:
    config = STDiT3Config(hidden_size=32, depth=1, num_heads=2, caption_channels=16, model_max_length=12)
    network = STDiT3(config)
    initialize_weights(network, seeded())
    return TrainedVelocity(network)


@given(st.integers(0, 2**31), st.floats(0, 1000))
def test_the_target_velocity_leads_from_the_noised_latents_to_the_clean_ones(seed, level):
    x0, noise = torch.randn(2, 1, 2, 3, 4, 4, generator=seeded(seed))
    t = torch.full((1, 3), level)
    x_t = add_noise(x0, noise, t)
    torch.testing.assert_close(x_t + (x0 - noise) * level / 1000, x0, atol=1e-5, rtol=0)


def test_no_noise_and_pure_noise_are_exact():
    x0, noise = torch.randn(2, 1, 2, 2, 4, 4, generator=seeded())
    x_t = add_noise(x0, noise, torch.tensor([[0.0, 1000.0]]))
    assert torch.equal(x_t[:, :, 0], x0[:, :, 0])
    assert torch.equal(x_t[:, :, 1], noise[:, :, 1])


def test_the_loss_is_the_mean_over_counted_frames_of_each_item():
    target = torch.zeros(2, 4, 3, 5, 5)
    prediction = torch.zeros(2, 4, 3, 5, 5)
    prediction[:, :, 0], prediction[:, :, 1], prediction[:, :, 2] = 100, 2, 4
    counted = torch.tensor([[False, True, True], [False, False, True]])
    noised = Noised(target, torch.zeros(2, 3), target, counted)
    assert noised.loss(prediction).tolist() == [10, 16]
    assert noised.loss(prediction.bfloat16()).dtype == torch.float32


def test_a_frame_that_is_not_counted_may_hold_anything_even_nan():
    prediction = torch.ones(1, 4, 2, 3, 3)
    prediction[:, :, 0] = torch.nan
    noised = Noised(prediction, torch.zeros(1, 2), torch.zeros(1, 4, 2, 3, 3), torch.tensor([[False, True]]))
    assert noised.loss(prediction).tolist() == [1]


def test_the_transform_gives_the_levels_of_the_published_first_full_window():
    # 240x426, 35 latents: seen in the published scheduler (facts/method.md, 1.5)
    t = transformed(torch.arange(1, 7)[None] * 1000 / 6, timestep_shift(240, 426, 35))
    expected = torch.tensor([[424.9, 648.8, 787.0, 880.8, 948.6, 1000.0]])
    torch.testing.assert_close(t, expected, atol=0.06, rtol=0)


@given(st.lists(st.floats(0.2, 10), min_size=1, max_size=5), st.integers(1, 5))
def test_every_clip_of_a_batch_gets_its_own_ratio(shifts, frames):
    # frames == batch is where the published broadcast mixes them up without an error
    t = torch.rand(len(shifts), frames, generator=seeded()) * 1000
    ratios = torch.tensor(shifts)
    together = transformed(t, ratios)
    for item, ratio in enumerate(ratios):
        torch.testing.assert_close(together[item], transformed(t[item : item + 1], float(ratio))[0])
    torch.testing.assert_close(transformed(t[:, 0], ratios), together[:, 0])


def test_one_ratio_too_many_is_refused():
    with pytest.raises(InputError, match="one timestep shift for each of 2 clips"):
        transformed(torch.zeros(2, 3), torch.ones(3))


def test_logit_normal_timesteps_have_the_quartiles_of_the_distribution():
    t = WholeClipTimesteps(mean=0.5, deviation=2).draw(20000, seeded())
    quartiles = torch.sigmoid(torch.tensor([0.5 - 2 * 0.67449, 0.5, 0.5 + 2 * 0.67449])) * 1000
    torch.testing.assert_close(t.quantile(torch.tensor([0.25, 0.5, 0.75])), quartiles, atol=15, rtol=0)
    uniform = WholeClipTimesteps("uniform").draw(20000, seeded())
    torch.testing.assert_close(
        uniform.quantile(torch.tensor([0.1, 0.9])), torch.tensor([100.0, 900.0]), atol=15, rtol=0
    )


def test_an_unknown_distribution_is_refused():
    with pytest.raises(InputError, match="logit-normal or uniform"):
        WholeClipTimesteps("normal")


def test_masked_frames_of_a_whole_clip_stay_clean_and_uncounted():
    x0, noise = torch.randn(2, 2, 4, 3, 2, 2, generator=seeded())
    mask = torch.tensor([[False, True, True], [True, True, False]])
    noised = whole_clip(x0, torch.tensor([500.0, 250.0]), noise, shift=torch.tensor([1.0, 3.0]), frame_mask=mask)
    assert torch.equal(noised.timesteps, torch.tensor([[500.0] * 3, [500.0] * 3]))  # 3 * .25 / (1 + 2 * .25) = .5
    assert torch.equal(noised.latents[0, :, 0], x0[0, :, 0])
    assert torch.equal(noised.latents[1, :, 2], x0[1, :, 2])
    torch.testing.assert_close(noised.latents[0, :, 1], (x0 + noise)[0, :, 1] / 2)
    assert torch.equal(noised.counted, mask) and torch.equal(noised.frame_mask, mask)


def test_dropped_items_read_the_null_embedding_and_leave_the_others_alone(velocity):
    noised = whole_clip(
        *torch.randn(1, 2, 4, 3, 4, 4, generator=seeded()),
        torch.full((2,), 600.0),
        torch.randn(2, 4, 3, 4, 4, generator=seeded(1)),
    )
    texts = [torch.randn(n, 16, generator=seeded(n)) for n in (5, 7)]
    with torch.no_grad():
        both = velocity(noised, texts, fps=FPS, size=SIZE)
        dropped = velocity(noised, texts, fps=FPS, size=SIZE, dropped=torch.tensor([False, True]))
        null = velocity(noised, [texts[0], velocity.network.null_embedding(7)], fps=FPS, size=SIZE)
    assert both.shape == noised.latents.shape
    torch.testing.assert_close(dropped, null)
    torch.testing.assert_close(dropped[0], both[0], atol=1e-5, rtol=1e-5)
    assert not torch.allclose(dropped[1], both[1], atol=1e-3)


def test_texts_are_dropped_as_often_as_asked():
    assert dropped_texts(20000, 0.1, seeded()).float().mean() == pytest.approx(0.1, abs=0.01)
    assert not dropped_texts(1000, 0.0, seeded()).any()
    assert dropped_texts(1000, 1.0, seeded()).all()


def test_the_loss_reaches_every_weight_and_falls_when_they_follow_it():
    # The last layer sees no data before it trains, so one batch must be learnt well below the loss of the answer 0.
    config = STDiT3Config(hidden_size=32, depth=1, num_heads=2, caption_channels=16, model_max_length=12)
    network = STDiT3(config)
    initialize_weights(network, seeded())
    velocity = TrainedVelocity(network)
    windows = TrainingWindows(Schedule(2, 2, 4))
    x0 = torch.randn(2, 4, 6, 4, 4, generator=seeded())
    plan = windows.plan(6, seeded(3))
    noised = windows.noised(x0, plan, windows.draw(plan, x0.shape, seeded(4)), shift=2.0)
    texts = [torch.randn(n, 16, generator=seeded(n)) for n in (5, 7)]
    optimizer = torch.optim.AdamW(velocity.parameters(), lr=3e-3)
    losses = []
    for _ in range(40):
        loss = noised.loss(velocity(noised, texts, fps=FPS, size=SIZE)).mean()
        optimizer.zero_grad()
        loss.backward()
        untouched = [name for name, p in velocity.named_parameters() if p.grad is None or not p.grad.any()]
        assert untouched == []
        optimizer.step()
        losses.append(loss.item())
    zero = float(noised.loss(torch.zeros_like(noised.target)).mean())
    assert losses[-1] < 0.5 * zero < losses[0]
