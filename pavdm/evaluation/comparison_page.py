"""The part of the page that puts methods side by side: curves over time, and a table of means with intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

import numpy as np

from pavdm.evaluation import charts, registry
from pavdm.evaluation.charts import COLOURS, number
from pavdm.evaluation.comparison import Comparison, Estimate, mean_interval
from pavdm.evaluation.drift import Series, finite_mean
from pavdm.evaluation.measurement import Measurements

_CURVES = ("sharpness", "high_frequency", "contrast", "colourfulness", "luma", "motion", "warp_error", "difference")
_STEPS = 48  # along time


def comparison_section(methods: Mapping[str, Sequence[Measurements]], comparison: Comparison) -> str:
    names = "".join(
        f'<li class="c{i % COLOURS}"><span class="swatch"></span>{escape(name)}: {len(videos)} '
        f"video{'s' if len(videos) != 1 else ''}</li>"
        for i, (name, videos) in enumerate(methods.items())
    )
    first = escape(comparison.methods[0])
    how = (
        "The videos of all methods have the same names, so the difference is taken video by video."
        if comparison.paired
        else "The videos of the methods have other names or prompts, so the difference is between independent means."
    )
    main = [key for key in comparison.estimates if "." not in key or key.endswith(".drift") or key == "motion.mean"]
    rest = [key for key in comparison.estimates if key not in main]
    more = f"<details><summary>All other numbers</summary>{_table(comparison, rest)}</details>" if rest else ""
    delta = f" &Delta; is the difference to {first}; bold where its interval leaves out 0. {how}"
    return (
        f'<section class="card" id="methods"><h2>Methods</h2><ul class="legend">{names}</ul>'
        f'<p class="soft">Means over the videos with 95 % bootstrap intervals, which are too narrow where '
        "there are few videos; a single one has none."
        f"{delta if len(methods) > 1 else ''}</p>"
        f'<h3>Over time</h3><div class="charts">{_curves(methods)}</div>'
        f"<h3>In numbers</h3>{_table(comparison, main)}{more}</section>"
    )


def _curves(methods: Mapping[str, Sequence[Measurements]]) -> str:
    """From the first new frame to the end of the shortest video."""
    total = min(
        ((v.scored[-1].stop - v.scored[0].start) / v.fps for videos in methods.values() for v in videos if v.scored),
        default=0.0,
    )
    if not total:
        return ""
    html = ""
    for key in _CURVES:
        measure = next(m for m in registry.SERIES if m.key == key)
        drawn = []
        for i, videos in enumerate(methods.values()):
            scored = [_resampled(video, key, total) for video in videos if video.scored]
            if not scored:
                continue
            points = [mean_interval([float(v) for v in column if np.isfinite(v)]) for column in np.stack(scored).T]
            around = [
                (p.low if p.low is not None else p.mean, p.high if p.high is not None else p.mean) for p in points
            ]
            drawn.append((f"c{i % COLOURS}", [p.mean for p in points], around))
        html += charts.bands(measure.name, measure.unit, drawn, total)
    return html


def _resampled(video: Measurements, key: str, total: float) -> Series:
    """Means of a series over equal steps of the first `total` seconds of new video, (steps,)."""
    start = video.scored[0].start
    values = video.series[key][start : start + max(_STEPS, round(total * video.fps))]
    parts = np.array_split(values, _STEPS)
    return np.array([finite_mean(part) for part in parts])


def _table(comparison: Comparison, keys: Sequence[str]) -> str:
    bodies = "".join(_rows(comparison, key) for key in keys)
    first = escape(comparison.methods[0])
    return (
        '<div class="scroll" tabindex="0" role="region" aria-label="Methods in numbers"><table class="compare">'
        '<thead><tr><th scope="col">method</th>'
        '<th scope="col" class="where"></th><th class="n" scope="col">mean</th><th class="n" scope="col">95 %</th>'
        f'<th class="n" scope="col">&Delta; to {first}</th></tr></thead>{bodies}</table></div>'
    )


def _rows(comparison: Comparison, key: str) -> str:
    measure, estimates = registry.find(key), comparison.estimates[key]
    ends = [v for e in estimates.values() for v in (e.mean, e.low, e.high) if v is not None]
    low, high = min(ends), max(ends)
    hint = ", ".join(text for text in (measure.unit, registry.IN_WORDS[measure.better]) if text)
    rows = ""
    for i, method in enumerate(comparison.methods):
        estimate = estimates.get(method)
        if estimate is None:
            continue
        difference = comparison.differences.get(key, {}).get(method)
        rows += (
            f'<tr class="c{i % COLOURS}"><td class="method"><span class="swatch"></span>{escape(method)}</td>'
            f'<td class="where">{charts.interval(estimate, f"c{i % COLOURS}", low, high)}</td>'
            f'<td class="n">{number(estimate.mean, measure.digits)}</td>'
            f'<td class="n" data-label="95 %:">{_interval(estimate, measure.digits)}</td>'
            f'<td class="n" data-label="&Delta;">{_difference(difference, measure.digits)}</td></tr>'
        )
    return (
        f'<tbody><tr><th scope="rowgroup" colspan="5" title="{escape(measure.definition)}">{escape(measure.name)} '
        f'<span class="unit">{escape(hint)}</span></th></tr>{rows}</tbody>'
    )


def _interval(estimate: Estimate, digits: int) -> str:
    if estimate.low is None:
        return ""
    return f"{number(estimate.low, digits)} to {number(estimate.high, digits)}"


def _difference(estimate: Estimate | None, digits: int) -> str:
    if estimate is None:
        return ""
    sign = "+" if estimate.mean > 0 else ""
    text = f"{sign}{number(estimate.mean, digits)}"
    if estimate.low is None or estimate.high is None:
        return text
    around = f" ({number(estimate.low, digits)} to {number(estimate.high, digits)})"
    return f'<span class="sure">{text}</span>{around}' if estimate.leaves_out_zero else text + around
