"""The sampler with velocities whose answer is known without it, and with stub networks that count and compare."""

import itertools

import pytest
import torch

from pavdm.errors import InputError
from pavdm.prompts import PromptSchedule
from pavdm.sampling.progressive import Interrupted, finish, sample, seeded_noise, start, step
from pavdm.sampling.schedule import Schedule
from pavdm.sampling.state import with_total

SHAPE = (1, 2, 3, 4)  # B, C, H, W


def mixing(latents, timesteps, texts, frame_mask=None):
    """A velocity in which every frame depends on every other, on its timestep and on its text."""
    words = torch.tensor([[float(len(text)) for text in row] for row in texts])
    level = (timesteps / 1000 + 0.1 * words)[:, None, :, None, None]
    return torch.tanh(latents.mean(dim=2, keepdim=True) + 0.5 * latents + level)


def begin(schedule, clip=None, total=None, seeds=(1,), prompt="a", **options):
    batch = len(seeds)
    prompts = (PromptSchedule.parse(prompt),) * batch
    shape = (batch, *SHAPE[1:])
    return start(
        schedule, clip, shape=shape, seeds=seeds, prompts=prompts, chunk_seconds=17 / 24, total=total, **options
    )


def run(state, velocity=mixing, **options):
    chunks = [chunk for _, chunk in sample(state, velocity, **options)]
    return torch.cat(chunks, dim=2) if chunks else None


@pytest.mark.parametrize("overlap", [True, False])
@pytest.mark.parametrize("total", [1, 3, 6, 9])
def test_a_velocity_that_points_at_a_target_brings_every_chunk_there(overlap, total):
    schedule = Schedule(window_chunks=4, chunk_latents=2, steps=8, overlap=overlap, shift=2.5)
    target = torch.full((1, 2, 1, 3, 4), 0.7)
    noise = seeded_noise((1,))
    entered = [noise(i, (1, 2, 2, 3, 4)) for i in range(total)]

    def velocity(latents, timesteps, texts, frame_mask=None):
        t = timesteps[0, -latents.shape[2] :] / 1000
        t = t.clamp_min(1e-6)[:, None, None]
        return (target - latents) / t  # x0 - noise, for x = (1 - t) x0 + t noise

    out = run(begin(schedule, total=total), velocity)
    assert out.shape[2] == total * 2
    assert torch.allclose(out, target.expand_as(out), atol=1e-4)
    assert not torch.allclose(entered[0], target.expand_as(entered[0]), atol=1e-1)


def test_the_clean_chunk_stands_in_front_at_timestep_zero_and_is_never_changed():
    schedule = Schedule(window_chunks=2, chunk_latents=2, steps=4)
    clip = torch.randn(1, 2, 6, 3, 4)
    fronts = []

    def velocity(latents, timesteps, texts, frame_mask=None):
        assert torch.equal(timesteps[0, :2], torch.zeros(2))
        fronts.append(latents[:, :, :2].clone())
        return mixing(latents, timesteps, texts)

    out = run(begin(schedule, clip, total=3), velocity)
    assert torch.equal(fronts[0], clip[:, :, -2:])
    assert all(torch.equal(front, clip[:, :, -2:]) for front in fronts[:4])
    assert torch.equal(fronts[4], out[:, :, :2])


def test_a_text_only_start_has_no_clean_chunk_until_one_is_finished():
    schedule = Schedule(window_chunks=2, chunk_latents=2, steps=4)
    lengths = []

    def velocity(latents, timesteps, texts, frame_mask=None):
        lengths.append(latents.shape[2])
        return mixing(latents, timesteps, texts)

    run(begin(schedule, total=3), velocity)
    assert lengths == [2, 2, 4, 4, 6, 6, 4, 4]


def test_going_on_from_any_model_call_gives_the_same_chunks_bit_for_bit():
    schedule = Schedule(window_chunks=3, chunk_latents=2, steps=6, shift=3.0)
    state = begin(schedule, torch.randn(1, 2, 2, 3, 4), total=5, prompt="|0| a |2| bbb")
    whole = run(state)
    for _ in range(schedule.num_calls(5)):
        rest = run(state)
        assert torch.equal(rest, whole[:, :, whole.shape[2] - rest.shape[2] :])
        state, _ = step(state, mixing)


def test_noise_belongs_to_the_chunk_and_the_seed_not_to_the_run_or_the_batch():
    shape = (1, 2, 5, 3, 4)
    torch.manual_seed(0)
    first = seeded_noise((7,))(3, shape)
    torch.manual_seed(1)
    assert torch.equal(first, seeded_noise((7,))(3, shape))
    assert torch.equal(first[0], seeded_noise((5, 7))(3, (2, *shape[1:]))[1])
    assert not torch.equal(first, seeded_noise((7,))(4, shape))
    assert abs(float(seeded_noise((7,))(0, (1, 4, 20, 30, 30)).std()) - 1) < 0.02


def test_sampling_leaves_the_global_generator_alone():
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    run(begin(Schedule(2, 2, 4), total=2))
    assert torch.equal(torch.rand(3), expected)


def test_a_batch_equals_its_items_made_alone():
    schedule = Schedule(window_chunks=2, chunk_latents=2, steps=4)
    clip = torch.randn(2, 2, 2, 3, 4)
    together = run(begin(schedule, clip, total=3, seeds=(4, 9)))
    for i, seed in enumerate((4, 9)):
        alone = run(begin(schedule, clip[i : i + 1], total=3, seeds=(seed,)))
        assert torch.allclose(together[i : i + 1], alone, atol=1e-6)


def test_a_chunk_keeps_the_text_that_was_in_force_when_it_entered():
    schedule = Schedule(window_chunks=2, chunk_latents=1, steps=4)
    seen = []

    def velocity(latents, timesteps, texts, frame_mask=None):
        seen.append(texts[0])
        return mixing(latents, timesteps, texts)

    run(begin(schedule, torch.randn(1, 2, 1, 3, 4), total=3, prompt="|0| old |1| new"), velocity)
    assert seen[::2] == [("old", "old"), ("old", "old", "new"), ("old", "new", "new"), ("new", "new")]


def test_the_whole_window_can_switch_its_text_at_once():
    schedule = Schedule(window_chunks=2, chunk_latents=1, steps=4)
    seen = []

    def velocity(latents, timesteps, texts, frame_mask=None):
        seen.append(texts[0])
        return mixing(latents, timesteps, texts)

    clip = torch.randn(1, 2, 1, 3, 4)
    run(begin(schedule, clip, total=3, prompt="|0| old |1| new", prompt_switch="window"), velocity)
    assert seen[::2] == [("old", "old"), ("new",) * 3, ("new",) * 3, ("new",) * 2]


def test_seconds_in_a_prompt_switch_at_the_first_chunk_that_begins_then():
    state = begin(Schedule(), prompt="|0s| early |1.5s| late")  # chunks begin at 0, 0.708, 1.417, 2.125 s
    assert [state.texts_for(chunk) for chunk in range(4)] == [("early",), ("early",), ("early",), ("late",)]


def test_finish_ends_an_open_run_as_if_its_length_had_been_known():
    schedule = Schedule(window_chunks=3, chunk_latents=2, steps=6)
    known = run(begin(schedule, total=6))
    states = [state for state, _ in itertools.islice(sample(begin(schedule), mixing), 4)]
    head = run(begin(schedule), num_chunks=4)
    tail = run(finish(states[-1]))
    assert torch.equal(torch.cat([head, tail], dim=2), known)


def test_an_open_run_can_be_given_a_length_later_and_a_longer_one_until_it_shrinks():
    schedule = Schedule(window_chunks=3, chunk_latents=2, steps=6)
    states = [state for state, _ in sample(begin(schedule, total=5), mixing)]
    assert with_total(states[0], 9).total == 9
    assert torch.equal(run(with_total(states[0], 9)), run(begin(schedule, total=9))[:, :, 2:])
    with pytest.raises(InputError, match="begun to shrink"):
        with_total(states[3], 9)
    with pytest.raises(InputError, match="begun to shrink"):
        with_total(states[4], 9)


def test_a_full_window_start_noises_the_clip_to_its_place_in_the_ramp():
    schedule = Schedule(window_chunks=3, chunk_latents=2, steps=6, variable_length=False)
    clip = torch.randn(1, 2, 6, 3, 4)
    zero = lambda chunk, shape: torch.zeros(shape)  # noqa: E731
    state = begin(schedule, clip, noise=zero)
    assert torch.equal(state.clean, clip[:, :, :2])
    assert torch.allclose(state.window[:, :, :2], clip[:, :, 2:4] * (1 - 2 / 6))
    assert torch.allclose(state.window[:, :, 2:], clip[:, :, 4:] * (1 - 4 / 6))


def test_a_clip_too_short_for_the_schedule_is_refused():
    with pytest.raises(InputError, match="starts from 5 latents"):
        begin(Schedule(), torch.randn(1, 2, 4, 3, 4))
    with pytest.raises(InputError, match="starts from 30 latents"):
        begin(Schedule(variable_length=False), torch.randn(1, 2, 25, 3, 4))


def test_callbacks_come_at_every_model_call_and_stopping_keeps_the_state():
    schedule = Schedule(window_chunks=2, chunk_latents=2, steps=4)
    reports = []
    whole = run(begin(schedule, total=3), progress=reports.append)
    assert [(p.call, p.calls) for p in reports] == [(i, 8) for i in range(1, 9)]
    asked = itertools.count()
    chunks = []
    with pytest.raises(Interrupted) as stop:
        for _, chunk in sample(begin(schedule, total=3), mixing, should_stop=lambda: next(asked) == 5):
            chunks.append(chunk)
    assert stop.value.state.call == 5
    chunks += [chunk for _, chunk in sample(stop.value.state, mixing)]
    assert torch.equal(torch.cat(chunks, dim=2), whole)


def test_states_are_values_a_step_changes_nothing_of_the_one_before():
    state = begin(Schedule(2, 2, 4), torch.randn(1, 2, 2, 3, 4), total=3)
    state, _ = step(state, mixing)
    before = state.window.clone(), state.clean.clone()
    for _ in sample(state, mixing):
        pass
    assert torch.equal(state.window, before[0])
    assert torch.equal(state.clean, before[1])


def test_an_empty_window_says_so():
    states = [state for state, _ in sample(begin(Schedule(2, 2, 4), total=1), mixing)]
    with pytest.raises(InputError, match="window is empty"):
        step(states[-1], mixing)
