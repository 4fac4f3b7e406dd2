from __future__ import annotations

from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pavdm.errors import InputError
from pavdm.prompts import PromptSchedule


@pytest.mark.parametrize(
    ("text", "texts", "starts", "unit"),
    [
        ("a lighthouse", ("a lighthouse",), (0,), "chunks"),
        ("  a lighthouse\n", ("a lighthouse",), (0,), "chunks"),
        ("|0| first |3| then", ("first", "then"), (0, 3), "chunks"),
        ("|0|first|3|then", ("first", "then"), (0, 3), "chunks"),
        (" | 0 | first | 3 | then", ("first", "then"), (0, 3), "chunks"),
        ("|0| only", ("only",), (0,), "chunks"),
        ("|0s| only", ("only",), (0,), "chunks"),
        ("|0s| first |12.5s| then |60S| last", ("first", "then", "last"), (0.0, 12.5, 60.0), "seconds"),
        ("|0.0s| first |.5s| then", ("first", "then"), (0.0, 0.5), "seconds"),
        ("a cat | a dog", ("a cat | a dog",), (0,), "chunks"),
        ("a cat |0| a dog", ("a cat |0| a dog",), (0,), "chunks"),
        ("|cinematic| a cat", ("|cinematic| a cat",), (0,), "chunks"),
        ("|0| the same |2| the same", ("the same", "the same"), (0, 2), "chunks"),
    ],
)
def test_each_form_is_parsed(text: str, texts: tuple[str, ...], starts: tuple[float, ...], unit: str) -> None:
    schedule = PromptSchedule.parse(text)
    assert (schedule.texts, schedule.starts, schedule.unit) == (texts, starts, unit)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "the prompt is empty"),
        ("  \n", "the prompt is empty"),
        ("|3| late", "must start at 0, got |3|"),
        ("|2s| late |5s| later", "must start at 0, got |2s|"),
        ("|-1| early |3| then", "must start at 0, got |-1|"),
        ("|0| a |3| b |3| c", "must increase, got |3| after |3|"),
        ("|0s| a |4.5s| b |2s| c", "must increase, got |2s| after |4.5s|"),
        ("|0s| a |nans| b", "must increase"),
        ("|0s| a |infs| b", "must increase"),
        ("|0| a |3s| b", "either chunks or seconds, got both: |0|, |3s|"),
        ("|0| a |3| ", "text 2 of the prompt schedule is empty"),
        ("|0| |3| b", "text 1 of the prompt schedule is empty"),
        ("|0|", "the prompt is empty"),
        ("|0 a cat", "needs a second '|'"),
        ("|0| a |3", "needs a second '|' and a text, got '|3'"),
        ("|0| a cat | a dog", "needs a second '|'"),
        ("|0| a |x| b", "whole number of a chunk"),
        ("|0| a |1.5| b", "got |1.5|"),
        ("|0s| a |1.2.3s| b", "got |1.2.3s|"),
        ("|2 cats| asleep", "got |2 cats|"),
    ],
)
def test_a_schedule_that_makes_no_sense_is_an_input_error_that_says_why(text: str, says: str) -> None:
    with pytest.raises(InputError) as caught:
        PromptSchedule.parse(text)
    assert says in str(caught.value)


def test_chunks_take_the_text_that_is_in_force_when_they_enter() -> None:
    schedule = PromptSchedule.parse("|0| a |3| b |4| c")
    assert [schedule.index(chunk, 17 / 24) for chunk in range(6)] == [0, 0, 0, 1, 2, 2]


def test_seconds_take_effect_at_the_first_chunk_that_begins_at_or_after_them() -> None:
    schedule = PromptSchedule.parse("|0s| a |1s| b |2.5s| c")
    # chunks of 0.7 s begin at 0, 0.7, 1.4, 2.1, 2.8
    assert [schedule.index(chunk, 0.7) for chunk in range(5)] == [0, 0, 1, 1, 2]


@pytest.mark.parametrize("chunk", [3, 24, 48, 72, 120, 2400])
def test_a_second_on_a_chunk_boundary_is_not_missed_by_rounding(chunk: int) -> None:
    for fps in (7, 24, 30000 / 1001):
        boundary = sum(17 / fps for _ in range(chunk))  # rounded otherwise than chunk * (17 / fps)
        schedule = PromptSchedule(("a", "b"), (0, boundary), "seconds")
        assert (schedule.index(chunk - 1, 17 / fps), schedule.index(chunk, 17 / fps)) == (0, 1)


def test_chunks_of_the_clip_itself_take_the_first_text() -> None:
    assert PromptSchedule.parse("|0| a |1| b").index(-2, 0.7) == 0
    assert PromptSchedule.parse("|0s| a |1s| b").index(-2, 0.7) == 0


def test_map_changes_texts_and_nothing_else() -> None:
    assert PromptSchedule.parse("|0s| A |1s| B").map(str.lower) == PromptSchedule.parse("|0s| a |1s| b")


def test_map_to_an_empty_text_is_an_input_error() -> None:
    with pytest.raises(InputError, match="text 2 .* is empty"):
        PromptSchedule.parse("|0| a |1| b").map(lambda text: "" if text == "b" else text)


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        (" a cat ", "a cat"),
        ("|0|a|3|b", "|0| a |3| b"),
        ("|0s|a|12.50s|b|60S|c", "|0s| a |12.5s| b |60s| c"),
        ("|0| only", "only"),
    ],
)
def test_the_canonical_form_is_readable(text: str, canonical: str) -> None:
    assert str(PromptSchedule.parse(text)) == canonical


_TEXT = st.text(st.characters(exclude_characters="|"), max_size=20).map(str.strip).filter(bool)


@st.composite
def _schedules(draw: st.DrawFn) -> PromptSchedule:
    texts = tuple(draw(st.lists(_TEXT, min_size=2, max_size=6)))
    unit: Literal["chunks", "seconds"] = draw(st.sampled_from(["chunks", "seconds"]))
    numbers = st.integers(1, 10**6) if unit == "chunks" else st.floats(1e-9, 1e20)
    later = draw(st.lists(numbers, min_size=len(texts) - 1, max_size=len(texts) - 1, unique=True))
    return PromptSchedule(texts, (0, *sorted(later)), unit)


@given(_schedules())
def test_the_canonical_form_parses_to_an_equal_schedule(schedule: PromptSchedule) -> None:
    assert PromptSchedule.parse(str(schedule)) == schedule


@given(st.text(max_size=30))
def test_any_text_is_a_schedule_or_an_input_error(text: str) -> None:
    try:
        schedule = PromptSchedule.parse(text)
    except InputError:
        return
    assert PromptSchedule.parse(str(schedule)) == schedule
