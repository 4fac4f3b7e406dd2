"""Methods side by side: means, intervals and paired differences that can be worked out by hand."""

from dataclasses import replace

import numpy as np
import pytest

from pavdm.errors import InputError
from pavdm.evaluation import compare, measure


@pytest.fixture
def video(still):
    """A function: measurements with a given name and seam ratio."""
    base = measure(still(20, size=(16, 16)))
    return lambda name, ratio: replace(base, name=name, summary={**base.summary, "seam_ratio": ratio})


def test_the_interval_is_that_of_the_mean(video):
    values = np.random.default_rng(1).normal(5, 2, 40)
    found = compare({"a": [video(str(i), v) for i, v in enumerate(values)]}).estimates["seam_ratio"]["a"]
    half = 1.96 * values.std() / np.sqrt(40)  # the normal interval, which the bootstrap comes near for 40 values
    assert found.mean == pytest.approx(values.mean())
    assert found.low == pytest.approx(values.mean() - half, abs=0.15 * half)
    assert found.high == pytest.approx(values.mean() + half, abs=0.15 * half)
    assert found.count == 40


def test_the_same_prompts_are_compared_one_by_one(video):
    """The videos differ far more than the methods do: only pair by pair is the difference certain."""
    levels = [1.0, 5.0, 9.0, 20.0]
    a = [video(str(i), v) for i, v in enumerate(levels)]
    b = [video(str(i), v + 1 + 0.1 * i) for i, v in enumerate(levels)]
    found = compare({"a": a, "b": b[::-1]})
    assert found.paired
    difference = found.differences["seam_ratio"]["b"]
    assert difference.mean == pytest.approx(1.15)
    assert 1 <= difference.low <= difference.high <= 1.3
    other = compare({"a": a, "b": [replace(v, name="x" + v.name) for v in b]})
    assert not other.paired
    assert other.differences["seam_ratio"]["b"].low < 0


def test_videos_of_other_prompts_are_no_pairs_though_their_names_are_the_same(video):
    def told(name, prompt, seam):
        return replace(video(name, seam), record={"prompt": prompt} if prompt else {})

    a = [told("sample_0000", "a lake", 1.0), told("sample_0001", "a hill", 5.0)]
    for prompts, paired in ((("a lake", "a hill"), True), (("a lake", None), True), (("a lake", "a street"), False)):
        b = [told(f"sample_000{i}", prompt, 2.0) for i, prompt in enumerate(prompts)]
        assert compare({"a": a, "b": b}).paired is paired


def test_one_video_has_no_interval_and_what_is_undefined_is_left_out(video):
    found = compare({"a": [video("x", 2.0)], "b": [video("x", None)]})
    assert found.estimates["seam_ratio"].keys() == {"a"}
    assert found.estimates["seam_ratio"]["a"].low is None
    assert "seam_ratio" not in found.differences


def test_a_pair_of_which_one_is_undefined_is_no_pair(video):
    a = [video("x", 2.0), video("y", 4.0), video("z", None)]
    b = [video("x", 3.0), video("y", None), video("z", 9.0)]
    assert compare({"a": a, "b": b}).differences["seam_ratio"]["b"].mean == 1.0


def test_nothing_to_compare_is_refused():
    with pytest.raises(InputError, match="no methods"):
        compare({})
    with pytest.raises(InputError, match="'a' has no videos"):
        compare({"a": []})
