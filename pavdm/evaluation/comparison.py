"""Several methods side by side: the mean over each method's videos, with a bootstrap confidence interval."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from pavdm.errors import InputError
from pavdm.evaluation import registry
from pavdm.evaluation.measurement import Measurements

_RESAMPLES = 4000
_LEVEL = 0.95

T = TypeVar("T")


@dataclass(frozen=True)
class Estimate:
    """Mean over `count` videos. low, high: the 95 % interval; None for a single video."""

    mean: float
    low: float | None
    high: float | None
    count: int

    @property
    def leaves_out_zero(self) -> bool:
        """Whether the interval does; False without one."""
        return self.low is not None and self.high is not None and (self.low > 0 or self.high < 0)


@dataclass(frozen=True)
class Comparison:
    """estimates, differences: by key of `registry.find`, then by method; only what was measured is there.

    A difference is a method's mean minus the first method's. paired: over the videos of the same names (with the same
    prompts, as far as they record them), which takes the spread between videos out of the interval.
    """

    methods: tuple[str, ...]
    estimates: dict[str, dict[str, Estimate]]
    differences: dict[str, dict[str, Estimate]]
    paired: bool


def by_turns(methods: Mapping[str, Sequence[T]]) -> list[tuple[str, T]]:
    """All videos, each with its method: the first of every method, then the second of every method, and so on."""
    rounds = zip_longest(*([(method, video) for video in videos] for method, videos in methods.items()))
    return [found for one_round in rounds for found in one_round if found is not None]


def compare(
    methods: Mapping[str, Sequence[Measurements]], seed: int = 0, fvd: Mapping[str, float] | None = None
) -> Comparison:
    """Compare methods by their videos. The same seed gives the same intervals. fvd: of whole methods, without any.

    Raises InputError if there is no method, or one without videos.
    """
    if not methods or not all(methods.values()):
        empty = next((name for name, videos in methods.items() if not videos), None)
        raise InputError(f"the method {empty!r} has no videos" if methods else "there are no methods to compare")
    first, *others = methods
    paired = _are_pairs(methods)
    estimates: dict[str, dict[str, Estimate]] = {}
    differences: dict[str, dict[str, Estimate]] = {}
    for key in registry.summary_keys():
        values = {method: _values(videos, key) for method, videos in methods.items()}
        estimates[key] = {method: mean_interval(list(v.values()), seed) for method, v in values.items() if v}
        differences[key] = {
            method: _difference(values[method], values[first], paired, seed)
            for method in others
            if (values[method] and values[first] and not paired) or values[method].keys() & values[first].keys()
        }
    if fvd:
        estimates["fvd"] = {method: Estimate(value, None, None, len(methods[method])) for method, value in fvd.items()}
    return Comparison(
        tuple(methods),
        {key: found for key, found in estimates.items() if found},
        {key: found for key, found in differences.items() if found},
        paired,
    )


def _are_pairs(methods: Mapping[str, Sequence[Measurements]]) -> bool:
    """Whether every method has one video of each name, of the same prompt where it is recorded.

    Two lists of other prompts have videos of the same names, too: sample_0000, sample_0001, ...
    """
    first, *others = ({video.name: video for video in videos} for videos in methods.values())
    if any(len({video.name for video in videos}) < len(videos) for videos in methods.values()):
        return False
    prompts = [{name: video.record.get("prompt") for name, video in of.items()} for of in (first, *others)]
    return all(
        own.keys() == prompts[0].keys()
        and all(own[n] is None or own[n] == p or p is None for n, p in prompts[0].items())
        for own in prompts[1:]
    )


def _values(videos: Sequence[Measurements], key: str) -> dict[tuple[str, int], float]:
    found = ((video.name, number, video.summary.get(key)) for number, video in enumerate(videos))
    named = [(name, number, value) for name, number, value in found if value is not None]
    unique = len({name for name, _, _ in named}) == len(named)
    return {(name, 0 if unique else number): value for name, number, value in named}


def _difference(
    of: Mapping[tuple[str, int], float], to: Mapping[tuple[str, int], float], paired: bool, seed: int
) -> Estimate:
    if paired:
        return mean_interval([of[name] - to[name] for name in to if name in of], seed)
    ours, theirs = _resampled(list(of.values()), seed), _resampled(list(to.values()), seed + 1)
    mean = float(np.mean(list(of.values())) - np.mean(list(to.values())))
    if min(len(of), len(to)) < 2:
        return Estimate(mean, None, None, 1)
    return Estimate(mean, *_interval(ours - theirs), min(len(of), len(to)))


def mean_interval(values: Sequence[float], seed: int = 0) -> Estimate:
    """Mean of `values` with its percentile bootstrap interval; NaN of none."""
    mean = float(np.mean(values)) if values else float("nan")
    if len(values) < 2:
        return Estimate(mean, None, None, len(values))
    return Estimate(mean, *_interval(_resampled(values, seed)), len(values))


def _resampled(values: Sequence[float], seed: int) -> NDArray[np.float64]:
    """Means of samples drawn from `values` with replacement, (resamples,)."""
    drawn = np.random.default_rng(seed).integers(len(values), size=(_RESAMPLES, len(values)))
    means: NDArray[np.float64] = np.asarray(values, np.float64)[drawn].mean(1)
    return means


def _interval(means: NDArray[np.float64]) -> tuple[float, float]:
    outside = (1 - _LEVEL) / 2
    low, high = np.quantile(means, (outside, 1 - outside))
    return float(low), float(high)
