"""From a series over time to a number: how far the end is from the beginning. Definitions: `registry.STATISTICS`."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pavdm.evaluation.layout import Chunk

ENDS = 0.15  # share of the frames at either end
SEGMENTS = 10

Series = NDArray[np.float64]  # (F,), NaN where there is no value


def drift(series: Series) -> float | None:
    """|mean of the last 15 % - mean of the first 15 %|; None if the ends are not there."""
    count = end_length(len(series))
    if count < 1:
        return None
    return _number(abs(finite_mean(series[-count:]) - finite_mean(series[:count])))


def slope(series: Series, chunks: list[Chunk], fps: float) -> float | None:
    """Least-squares slope per minute over the chunks' means; None with fewer than two chunks."""
    means = np.array([finite_mean(series[chunk.start : chunk.stop]) for chunk in chunks])
    minutes = np.array([(chunk.start + chunk.stop) / 2 / fps / 60 for chunk in chunks])
    there = np.isfinite(means)
    if there.sum() < 2:
        return None
    x, y = minutes[there] - minutes[there].mean(), means[there]
    return _number(float((x * y).sum() / (x * x).sum()))


def weighted_error(series: Series) -> float | None:
    """BlockVid's Video Drift Error over 10 segments, linear weights; None if the first mean is 0 or a segment empty."""
    means = [finite_mean(segment) for segment in np.array_split(series, SEGMENTS)]
    if not means[0] > 0:
        return None
    errors = (
        (SEGMENTS - number + 1) * abs(mean - means[0]) / means[0] for number, mean in enumerate(means[1:], start=2)
    )
    return _number(sum(errors))


def statistics_of(series: Series, chunks: list[Chunk], fps: float) -> dict[str, float | None]:
    """mean, drift, slope and weighted_error over the frames of `chunks`, which follow one another."""
    if not chunks:
        return {"mean": None, "drift": None, "slope": None, "weighted_error": None}
    part = series[chunks[0].start : chunks[-1].stop]
    return {
        "mean": _number(finite_mean(part)),
        "drift": drift(part),
        "slope": slope(series, chunks, fps),
        "weighted_error": weighted_error(part),
    }


def finite_mean(part: Series) -> float:
    """The mean of the values that are there; NaN if none is."""
    there = part[np.isfinite(part)]
    return float(there.mean()) if len(there) else float("nan")


def end_length(count: int) -> int:
    """How many of `count` values are either end of them, which drift compares; 0: too few to have ends."""
    return round(count * ENDS)


def _number(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
