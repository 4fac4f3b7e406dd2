"""Training windows against the windows that the sampler really shows to a network."""

from __future__ import annotations

from itertools import product

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pavdm.errors import InputError
from pavdm.prompts import PromptSchedule
from pavdm.sampling import progressive
from pavdm.sampling.schedule import Schedule
from pavdm.training.stdit.windows import TrainingWindows, WindowDraw, WindowPlan

schedules = st.builds(
    lambda window, chunk, factor, overlap: Schedule(window, chunk, window * factor, overlap=overlap),
    st.integers(1, 6),
    st.integers(1, 5),
    st.integers(1, 6),
    st.booleans(),
)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def seen_by_the_sampler(schedule: Schedule, total: int, clip: bool = True) -> set[tuple[float, ...]]:
    """Timesteps of every model call of a run that makes `total` chunks from a clip (or from text alone)."""
    calls: set[tuple[float, ...]] = set()

    def velocity(latents, timesteps, texts, frame_mask=None):
        calls.add(tuple(timesteps[0].tolist()))
        return torch.zeros_like(latents)

    state = progressive.start(
        schedule,
        torch.zeros(1, 1, schedule.chunk_latents, 1, 1) if clip else None,
        shape=(1, 1, 1, 1),
        seeds=(0,),
        prompts=(PromptSchedule.parse("x"),),
        chunk_seconds=1.0,
        total=total,
    )
    for _ in progressive.sample(state, velocity):
        pass
    return calls


def all_training_windows(windows: TrainingWindows, clean: bool = True) -> set[tuple[float, ...]]:
    """Timesteps of every window that can be drawn, without the random moves."""
    schedule, seen = windows.schedule, set()
    for n in range(1, schedule.window_chunks + 1):
        plan = WindowPlan(n, 0, clean and schedule.overlap)
        shape = (1, 1, (n + plan.clean) * schedule.chunk_latents, 1, 1)
        places = {int(windows.draw(plan, shape, seeded(s)).first) for s in range(40)}
        for first, stage in product(places, range(schedule.calls_per_chunk)):
            draw = WindowDraw(
                torch.tensor([stage]),
                torch.tensor([first]),
                torch.zeros(1, n),
                torch.zeros(1),
                torch.zeros(1, 1, n * schedule.chunk_latents, 1, 1),
            )
            seen.add(tuple(windows.noised(torch.zeros(shape), plan, draw).timesteps[0].tolist()))
    return seen


@settings(max_examples=20)
@given(schedules)
def test_training_shows_exactly_the_windows_of_a_long_run(schedule):
    schedule = Schedule(schedule.window_chunks, schedule.chunk_latents, schedule.steps)  # the clip as a clean chunk
    windows = TrainingWindows(schedule, "linear")
    assert all_training_windows(windows) == seen_by_the_sampler(schedule, 3 * schedule.window_chunks)


@settings(max_examples=10)
@given(schedules)
def test_windows_from_anywhere_also_show_those_of_videos_shorter_than_the_window(schedule):
    schedule = Schedule(schedule.window_chunks, schedule.chunk_latents, schedule.steps)
    windows = TrainingWindows(schedule, "linear", partial_place="anywhere")
    runs = [seen_by_the_sampler(schedule, total) for total in range(1, 2 * schedule.window_chunks)]
    assert all_training_windows(windows) == set().union(*runs)


@settings(max_examples=10)
@given(schedules)
def test_text_only_windows_are_those_of_a_run_without_a_clip_up_to_its_first_clean_chunk(schedule):
    schedule = Schedule(schedule.window_chunks, schedule.chunk_latents, schedule.steps)
    start = {row for row in seen_by_the_sampler(schedule, 3 * schedule.window_chunks, clip=False) if row[0] > 0}
    assert all_training_windows(TrainingWindows(schedule, "linear"), clean=False) == start


@given(schedules, st.integers(0, 2**31), st.integers(0, 40), st.floats(0, 1), st.booleans())
def test_a_window_is_cut_from_whole_chunks_of_the_clip_and_starts_clean(schedule, seed, extra, share, anywhere):
    windows = TrainingWindows(
        schedule, partial_share=share, partial_place="anywhere" if anywhere else "ends", text_only_share=share / 2
    )
    n = schedule.chunk_latents
    length = (1 + schedule.overlap) * n + extra
    clips = torch.arange(float(length))[None, None, :, None, None].expand(2, 1, -1, 1, 1)
    generator = seeded(seed)
    plan = windows.plan(length, generator)
    draw = windows.draw(plan, clips.shape, generator)
    noised = windows.noised(clips, plan, draw)
    assert 1 <= plan.num_chunks <= schedule.window_chunks
    assert 0 <= plan.start <= length // n - plan.clean - plan.num_chunks
    clean = plan.clean * n
    begin = plan.start * n
    assert noised.latents[0, 0, :clean, 0, 0].tolist() == list(range(begin, begin + clean))
    assert torch.equal(
        noised.counted,
        noised.timesteps.new_ones(2, noised.latents.shape[2]).index_fill(1, torch.arange(clean), 0).bool(),
    )
    assert not noised.timesteps[:, :clean].any()
    x0 = noised.target[:, :, clean:] + draw.noise
    torch.testing.assert_close(
        x0[0, 0, :, 0, 0], torch.arange(begin + clean, begin + clean + plan.num_chunks * n).float()
    )


@given(
    schedules,
    st.sampled_from(["linear", "linear-variance", "linear-variance-shift", "linear-shift"]),
    st.integers(0, 2**31),
)
def test_a_chunk_has_one_level_and_levels_stay_in_range(schedule, pattern, seed):
    windows = TrainingWindows(schedule, pattern, variance_scale=2.0, shift_scale=2.0)
    generator = seeded(seed)
    plan = windows.plan(schedule.window_latents, generator)
    noised_draw = windows.draw(plan, (3, 1, schedule.window_latents, 1, 1), generator)
    noised = windows.noised(torch.zeros(3, 1, schedule.window_latents, 1, 1), plan, noised_draw, shift=3.0)
    chunks = noised.timesteps.unflatten(1, (-1, schedule.chunk_latents))
    assert torch.equal(chunks, chunks[:, :, :1].expand_as(chunks))
    assert noised.timesteps.min() >= 0 and noised.timesteps.max() <= 1000
    if "variance" not in pattern:
        assert (chunks[:, :, 0].diff(dim=1) >= 0).all()


def moves(pattern: str) -> torch.Tensor:
    """How far the levels of 4 chunks move in 4000 clips, in gaps of the ramp (far from its ends)."""
    schedule = Schedule(6, 1, 600)
    plan = WindowPlan(4, 0)
    still, moved = (TrainingWindows(schedule, p, variance_scale=0.5, shift_scale=2.0) for p in ("linear", pattern))
    draw = moved.draw(plan, (4000, 1, 5, 1, 1), seeded())
    draw = WindowDraw(draw.stage, torch.ones(4000, dtype=torch.long), draw.variance, draw.shift, draw.noise)
    return (moved.timesteps(plan, draw) - still.timesteps(plan, draw)) * 600 / 1000


def test_shift_moves_the_whole_window_and_variance_each_chunk():
    shift, variance, both = (moves(p) for p in ("linear-shift", "linear-variance", "linear-variance-shift"))
    assert shift.std() == pytest.approx(2.0, rel=0.05)
    torch.testing.assert_close(shift, shift[:, :1].expand_as(shift), atol=1e-3, rtol=0)
    assert variance.std() == pytest.approx(0.5, rel=0.05)
    assert variance.T.corrcoef().fill_diagonal_(0).abs().max() < 0.06
    torch.testing.assert_close(both, shift + variance, atol=1e-3, rtol=0)


def test_every_clip_of_a_batch_has_its_own_row_and_noise():
    windows = TrainingWindows(Schedule())
    plan = WindowPlan(3)
    draw = windows.draw(plan, (64, 1, 35, 2, 2), seeded())
    assert draw.stage.unique().tolist() == [0, 1, 2, 3, 4]
    assert draw.first.unique().tolist() == [0, 3]
    assert abs(torch.corrcoef(draw.noise.flatten(1))[0, 1:]).max() < 0.6


def test_partial_and_text_only_windows_come_as_often_as_asked():
    windows = TrainingWindows(Schedule(), partial_share=0.3, text_only_share=0.2)
    generator = seeded()
    plans = [windows.plan(35, generator) for _ in range(4000)]
    lengths = torch.bincount(torch.tensor([plan.num_chunks for plan in plans]), minlength=7) / 4000
    torch.testing.assert_close(lengths, torch.tensor([0, *[0.06] * 5, 0.7]), atol=0.025, rtol=0)
    assert sum(not plan.clean for plan in plans) / 4000 == pytest.approx(0.2, abs=0.03)


def test_windows_from_text_alone_leave_the_start_of_a_clip_out_where_they_can():
    generator = seeded()
    for chunks, clean_starts, text_starts in ((6, {0, 1, 2}, {2, 3}), (4, {0}, {1}), (3, set(), {0})):
        for share, expected in ((0.0, clean_starts), (1.0, text_starts)):
            windows = TrainingWindows(Schedule(window_chunks=3, steps=15), partial_share=0.0, text_only_share=share)
            if expected:
                assert {windows.plan(5 * chunks, generator).start for _ in range(60)} == expected


def test_the_same_generator_state_gives_the_same_batch_and_leaves_the_global_one_alone():
    windows = TrainingWindows(Schedule())
    before = torch.get_rng_state()
    drawn = []
    for _ in range(2):
        generator = seeded(7)
        plan = windows.plan(50, generator)
        draw = windows.draw(plan, (2, 4, 50, 3, 3), generator)
        drawn.append((plan, draw))
    assert torch.equal(torch.get_rng_state(), before)
    assert drawn[0][0] == drawn[1][0]
    assert all(
        torch.equal(getattr(drawn[0][1], k), getattr(drawn[1][1], k)) for k in ("stage", "first", "shift", "noise")
    )


def test_clips_that_hold_no_window_are_refused():
    with pytest.raises(InputError, match="at least 10 latents: got 9"):
        TrainingWindows(Schedule()).plan(9, seeded())
    with pytest.raises(InputError, match="at least 35 latents: got 34"):
        TrainingWindows(Schedule(variable_length=False)).plan(34, seeded())
    assert TrainingWindows(Schedule(variable_length=False)).plan(39, seeded()) == WindowPlan(6)
    assert TrainingWindows(Schedule(overlap=False)).plan(5, seeded()) == WindowPlan(1, 0, False)
    mixed = TrainingWindows(Schedule(), text_only_share=0.5)
    for seed in range(8):
        with pytest.raises(InputError, match="at least 10 latents: got 5"):
            mixed.plan(5, seeded(seed))
    assert TrainingWindows(Schedule(), text_only_share=1.0).plan(5, seeded()) == WindowPlan(1, 0, False)


@pytest.mark.parametrize(
    "values",
    [
        {"pattern": "cosine"},
        {"shift_scale": -0.1},
        {"partial_share": 1.5},
        {"text_only_share": -1},
        {"resampled_share": 2},
        {"partial_place": "x"},
    ],
)
def test_settings_without_a_meaning_are_refused(values):
    with pytest.raises(InputError):
        TrainingWindows(Schedule(), **values)


def test_what_no_window_has_is_not_resampled():
    with pytest.raises(InputError, match="no clean chunk"):
        TrainingWindows(Schedule(overlap=False), resampled_share=0.5)
