"""The schedule's table against its definition, the published code's recorded timesteps, and hand-written numbers."""

import json
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file

from pavdm.errors import InputError
from pavdm.sampling.schedule import Schedule, timestep_shift

GOLDEN = Path(__file__).parent.parent / "golden"
CASES = json.loads((GOLDEN / "model.json").read_text())["progressive_sampler"]

schedules = st.builds(
    lambda window, per_chunk, chunk, overlap: Schedule(window, chunk, window * per_chunk, overlap),
    st.integers(1, 9),
    st.integers(1, 7),
    st.integers(1, 6),
    st.booleans(),
)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["name"])
def test_timesteps_equal_the_published_ones_bit_for_bit(case):
    data = load_file(GOLDEN / "progressive_sampler.safetensors")
    recorded = [data[key] for key in sorted(data) if key.startswith(f"{case['name']}.timesteps.")]
    chunk, overlap, grows = case["chunk"], case["overlapped_conditioning"], case["variable_length"]
    shift = timestep_shift(case["height"], case["width"], case["num_frames"] // 17 * 5)
    schedule = Schedule(
        case["window"] // chunk - overlap,
        chunk,
        case["steps"],
        overlap,
        grows,
        shift if case["timestep_transform"] else None,
    )
    total = case["total_latents"] // chunk - overlap if grows else None
    first = 0 if grows else schedule.full_window_call()
    for i, expected in enumerate(recorded):
        row = schedule.row(first + i, total)
        clean = torch.zeros(chunk if overlap else 0)
        assert torch.equal(torch.cat([clean, schedule.row_timesteps(row)]), expected)
    assert len(recorded) == case["model_calls"]
    if grows:
        assert schedule.num_calls(total) == case["model_calls"]


def test_the_paper_s_numbers():
    shift = timestep_shift(240, 426, 35)
    assert shift == pytest.approx(3.695, abs=1e-3)
    schedule = Schedule(shift=shift)
    full = schedule.row(schedule.full_window_call())
    steady = [424.9, 648.8, 787.0, 880.8, 948.6, 1000.0]
    assert [round(float(schedule.timesteps[level]), 1) for level in full.levels] == steady
    assert schedule.window_latents == 35
    assert schedule.num_calls(84) == 445  # 60 s: 425 latents, 5 of them the clip's


def test_rows_of_a_small_window_written_out_by_hand():
    schedule = Schedule(window_chunks=2, chunk_latents=1, steps=4)
    rows = [(row.first, row.levels) for row in schedule.rows(3)]
    assert rows == [
        (0, (4,)),
        (0, (3,)),
        (0, (2, 4)),
        (0, (1, 3)),
        (1, (2, 4)),
        (1, (1, 3)),
        (2, (2,)),
        (2, (1,)),
    ]


def test_fewer_chunks_than_the_window_holds():
    rows = list(Schedule(window_chunks=6, steps=12).rows(1))
    assert [row.levels for row in rows] == [(level,) for level in range(12, 0, -1)]


@given(schedules, st.integers(1, 25))
def test_every_chunk_goes_through_every_level_once_in_order(schedule, total):
    seen = {chunk: [] for chunk in range(total)}
    for row in schedule.rows(total):
        for chunk, level in zip(row.chunks, row.levels, strict=True):
            seen[chunk].append(level)
    assert all(levels == list(range(schedule.steps, 0, -1)) for levels in seen.values())


@given(schedules, st.integers(1, 25))
def test_levels_never_increase_towards_the_front_and_the_window_never_overflows(schedule, total):
    for row in schedule.rows(total):
        assert list(row.levels) == sorted(row.levels)
        assert 1 <= len(row.levels) <= schedule.window_chunks


@given(schedules, st.integers(1, 25))
def test_exactly_the_asked_number_of_chunks_finishes_in_order(schedule, total):
    finished = [row.first for row in schedule.rows(total) if row.finishes]
    assert finished == list(range(total))
    assert schedule.row(schedule.num_calls(total), total) is None


@given(schedules, st.floats(0.2, 12))
def test_the_steps_of_one_chunk_add_up_to_the_whole_way(schedule, shift):
    schedule = Schedule(schedule.window_chunks, schedule.chunk_latents, schedule.steps, shift=shift)
    travelled = sum(float(schedule.row_step(row)[0]) for row in schedule.rows(1))
    assert travelled == pytest.approx(1.0, abs=1e-5)
    assert torch.all(schedule.timesteps.diff() > 0)


@pytest.mark.parametrize(
    ("window", "steps", "nearest"), [(6, 31, "30 or 36"), (6, 5, "6"), (4, 30, "28 or 32"), (7, 30, "28 or 35")]
)
def test_steps_that_do_not_fit_are_refused_with_the_nearest_that_do(window, steps, nearest):
    with pytest.raises(InputError, match=f"got {steps}; the nearest valid value is {nearest}"):
        Schedule(window_chunks=window, steps=steps)


@pytest.mark.parametrize("values", [{"window_chunks": 0}, {"chunk_latents": 0}, {"steps": 0}, {"steps": -30}])
def test_zero_or_negative_settings_are_refused(values):
    with pytest.raises(InputError):
        Schedule(**values)
