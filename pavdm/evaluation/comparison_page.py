"""The part of the page that puts methods side by side: curves over time, and a table of means with intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

import numpy as np

from pavdm.evaluation import charts, registry
from pavdm.evaluation.charts import number
from pavdm.evaluation.comparison import Comparison, Estimate, mean_interval
from pavdm.evaluation.drift import Series
from pavdm.evaluation.measurement import Measurements

_CURVES = ("sharpness", "high_frequency", "contrast", "colourfulness", "luma", "motion", "warp_error", "difference")
_STEPS = 48  # along time


def comparison_section(methods: Mapping[str, Sequence[Measurements]], comparison: Comparison) -> str:
    names = "".join(
        f'<li class="c{i % 8}"><span class="swatch"></span>{escape(name)}: {len(videos)} '
        f"video{'s' if len(videos) != 1 else ''}</li>"
        for i, (name, videos) in enumerate(methods.items())
    )
    first = escape(comparison.methods[0])
    how = (
        "The videos of all methods have the same names, so the difference is taken video by video."
        if comparison.paired
        else "The videos of the methods are not the same, so the difference is between independent means."
    )
    main = [key for key in comparison.estimates if "." not in key or key.endswith(".drift") or key == "motion.mean"]
    rest = [key for key in comparison.estimates if key not in main]
    more = f"<details><summary>All other numbers</summary>{_table(comparison, rest)}</details>" if rest else ""
    return (
        f'<section class="card" id="methods"><h2>Methods</h2><ul class="legend">{names}</ul>'
        f'<p class="soft">Means over the videos with 95 % bootstrap intervals. &Delta; is the difference to {first}; '
        f"bold where its interval leaves out 0. {how} A single video has no interval.</p>"
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
            table = np.stack([_resampled(video, key, total) for video in videos if video.scored])
            points = [mean_interval([float(v) for v in column if np.isfinite(v)]) for column in table.T]
            around = [
                (p.low if p.low is not None else p.mean, p.high if p.high is not None else p.mean) for p in points
            ]
            drawn.append((f"c{i % 8}", [p.mean for p in points], around))
        html += charts.bands(measure.name, measure.unit, drawn, total)
    return html


def _resampled(video: Measurements, key: str, total: float) -> Series:
    """Means of a series over equal steps of the first `total` seconds of new video, (steps,)."""
    start = video.scored[0].start
    values = video.series[key][start : start + max(_STEPS, round(total * video.fps))]
    parts = np.array_split(values, _STEPS)
    return np.array([part[np.isfinite(part)].mean() if np.isfinite(part).any() else np.nan for part in parts])


def _table(comparison: Comparison, keys: Sequence[str]) -> str:
    bodies = "".join(_rows(comparison, key) for key in keys)
    first = escape(comparison.methods[0])
    return (
        '<div class="scroll" tabindex="0"><table class="compare"><thead><tr><th scope="col">method</th>'
        '<th scope="col" class="where"></th><th class="n" scope="col">mean</th><th class="n" scope="col">95 %</th>'
        f'<th class="n" scope="col">&Delta; to {first}</th></tr></thead>{bodies}</table></div>'
    )


def _rows(comparison: Comparison, key: str) -> str:
    measure, estimates = registry.find(key), comparison.estimates[key]
    ends = [v for e in estimates.values() for v in (e.mean, e.low, e.high) if v is not None]
    low, high = min(ends), max(ends)
    better = {"lower": "lower is better", "higher": "higher is better", "near 0": "best at 0", "near 1": "best at 1"}
    hint = ", ".join(text for text in (measure.unit, better.get(measure.better, "")) if text)
    rows = ""
    for i, method in enumerate(comparison.methods):
        estimate = estimates.get(method)
        if estimate is None:
            continue
        difference = comparison.differences.get(key, {}).get(method)
        rows += (
            f'<tr class="c{i % 8}"><td class="method"><span class="swatch"></span>{escape(method)}</td>'
            f'<td class="where">{charts.interval(estimate, f"c{i % 8}", low, high)}</td>'
            f'<td class="n">{number(estimate.mean, measure.digits)}</td>'
            f'<td class="n">{_interval(estimate, measure.digits)}</td>'
            f'<td class="n">{_difference(difference, measure.digits)}</td></tr>'
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
    sure = estimate.low > 0 or estimate.high < 0
    around = f" ({number(estimate.low, digits)} to {number(estimate.high, digits)})"
    return f'<span class="sure">{text}</span>{around}' if sure else text + around
