"""Charts as HTML that needs nothing else: inline SVG for lines, text beside it, so that text never shrinks with it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from html import escape

import numpy as np

from pavdm.evaluation.comparison import Estimate
from pavdm.evaluation.drift import Series, end_length, finite_mean
from pavdm.evaluation.layout import Chunk
from pavdm.evaluation.seams import Seam

COLOURS = 8  # that report.css has, as the classes c0 to c7
_WIDTH, _HEIGHT = 1000, 100  # of every SVG, in its own units; it is stretched to the page
_MOST_POINTS = 1200
_TIME_STEPS = (0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 1800)  # seconds
_MOST_MARKS = 6
_ENOUGH = 0.1  # of the mean: a steady series is not blown up to fill the chart


def number(value: float | None, digits: int = 2) -> str:
    """A number for people: a true minus sign, no exponent, a dash for None."""
    if value is None or not math.isfinite(value):
        return "\N{EN DASH}"
    text = f"{value:,.{digits}f}"
    if float(text.replace(",", "")) == 0 and value != 0:
        text = f"{value:.1g}" if abs(value) >= 1e-4 else "0"
    return text.replace("-", "\N{MINUS SIGN}").replace(",", "\N{NARROW NO-BREAK SPACE}")


def seconds(value: float) -> str:
    return f"{value:.3g} s"


class TimeAxis:
    """Frames to the chart's x, and the marks under it."""

    def __init__(self, num_frames: int, fps: float) -> None:
        self.num_frames, self.fps = num_frames, fps

    def x(self, frame: float) -> float:
        return _WIDTH * frame / max(1, self.num_frames)

    def marks(self) -> str:
        total = self.num_frames / self.fps
        step = next(s for s in (*_TIME_STEPS, math.inf) if total / s <= _MOST_MARKS)
        times = [0.0] if step == math.inf else [i * step for i in range(int(total / step + 1e-9) + 1)]
        spans = "".join(f'<span style="left:{100 * t / total:.2f}%">{seconds(t)}</span>' for t in times)
        return f'<div class="x" aria-hidden="true">{spans}</div>'


def ground(axis: TimeAxis, chunks: Sequence[Chunk], cuts: Sequence[int]) -> str:
    """What lies behind a curve over time: the clip's part shaded, chunk boundaries, cuts."""
    first_new = next((chunk.start for chunk in chunks if chunk.number >= 0), axis.num_frames)
    boundaries = "".join(f"M{axis.x(chunk.start):.1f} 0V{_HEIGHT}" for chunk in chunks if chunk.start)
    found = "".join(f"M{axis.x(cut):.1f} 0V{_HEIGHT}" for cut in cuts)
    shade = f'<rect class="clip" width="{axis.x(first_new):.1f}" height="{_HEIGHT}"/>' if first_new else ""
    return f'{shade}<path class="boundary" d="{boundaries}"/><path class="cut" d="{found}"/>'


def curve(
    title: str,
    unit: str,
    note: str,
    series: Series,
    axis: TimeAxis,
    chunks: Sequence[Chunk],
    scored: Sequence[Chunk],
    cuts: Sequence[int],
    *,
    from_zero: bool,
    digits: int,
) -> str:
    """A series over time: frames thin, chunk means as steps, and the means of the two ends that drift compares."""
    there = series[np.isfinite(series)]
    if not len(there):
        return ""
    low, high = value_range(there, from_zero)

    def y(value: float) -> float:
        return _HEIGHT * (1 - (value - low) / (high - low))

    means = [(chunk, finite_mean(series[chunk.start : chunk.stop])) for chunk in chunks]
    steps = "".join(
        f"M{axis.x(chunk.start):.1f} {y(mean):.2f}H{axis.x(chunk.stop):.1f}"
        for chunk, mean in means
        if math.isfinite(mean)
    )
    ends = ""
    if scored:
        start, stop = scored[0].start, scored[-1].stop
        length = end_length(stop - start)
        for a, b in ((start, start + length), (stop - length, stop)):
            if math.isfinite(mean := finite_mean(series[a:b])):
                ends += f"M{axis.x(a):.1f} {y(mean):.2f}H{axis.x(b):.1f}"
    drawing = (
        f"{ground(axis, chunks, cuts)}"
        f'<polyline class="frames" points="{_points(series, axis, y)}"/>'
        f'<path class="steps" d="{steps}"/><path class="ends" d="{ends}"/>'
    )
    values = f"<span>{number(high, digits)}</span><span>{number(low, digits)}</span>"
    label = f"{title}: {number(float(there.min()), digits)} to {number(float(there.max()), digits)} {unit}. {note}"
    return _figure(title, unit, note, values, drawing, axis, label)


def seam_chart(seams: Sequence[Seam], axis: TimeAxis, chunks: Sequence[Chunk], cuts: Sequence[int], note: str) -> str:
    """Seam ratios on a scale where twice and half are equally far from 1."""
    ratios = [(seam, seam.ratio) for seam in seams if seam.ratio is not None]
    if not ratios:
        return ""
    worst = max(ratio for _, ratio in ratios)
    top = math.ceil(math.log2(max(worst, 4.0)))
    bottom = -1.0

    def y(ratio: float) -> float:
        return _HEIGHT * (1 - (math.log2(max(ratio, 2**bottom)) - bottom) / (top - bottom))

    first_new = next((chunk.start for chunk in chunks if chunk.number >= 0), axis.num_frames)
    stems = "".join(
        f'<path class="seam{" real" if seam.frame < first_new else ""}{" bad" if ratio > 2 else ""}" '
        f'd="M{axis.x(seam.frame):.1f} {y(1):.2f}V{y(ratio):.2f}"><title>frame {seam.frame}, '
        f"{seconds(seam.frame / axis.fps)}: {number(ratio)} times</title></path>"
        for seam, ratio in ratios
    )
    drawing = f'{ground(axis, chunks, cuts)}<path class="one" d="M0 {y(1):.2f}H{_WIDTH}"/>{stems}'
    values = (
        f'<span>{2**top}\N{MULTIPLICATION SIGN}</span><span style="position:absolute;top:{y(1):.1f}%;'
        f'transform:translateY(-50%)">1\N{MULTIPLICATION SIGN}</span><span>\N{VULGAR FRACTION ONE HALF}'
        "\N{MULTIPLICATION SIGN}</span>"
    )
    return _figure("Seam ratio", "at every chunk boundary", note, values, drawing, axis, f"worst {number(worst)}")


def bands(
    title: str, unit: str, curves: Sequence[tuple[str, Sequence[float], Sequence[tuple[float, float]]]], total: float
) -> str:
    """Methods over time: for each a colour class, values at equal steps of time, and low and high at each."""
    flat = [v for _, values, around in curves for v in (*values, *(e for pair in around for e in pair))]
    there = np.array([v for v in flat if math.isfinite(v)])
    if not len(there):
        return ""
    low, high = value_range(there, False)

    def place(index: int, count: int, value: float) -> str:
        return f"{_WIDTH * (index + 0.5) / count:.1f},{_HEIGHT * (1 - (value - low) / (high - low)):.2f}"

    drawing = ""
    for colour, values, around in curves:
        count = len(values)
        shown = [i for i in range(count) if math.isfinite(values[i])]
        edge = [place(i, count, around[i][1]) for i in shown] + [place(i, count, around[i][0]) for i in reversed(shown)]
        line = " ".join(place(i, count, values[i]) for i in shown)
        drawing += f'<polygon class="band {colour}" points="{" ".join(edge)}"/>'
        drawing += f'<polyline class="line {colour}" points="{line}"/>'
    digits = 3 if high < 1 else 1
    values_beside = f"<span>{number(high, digits)}</span><span>{number(low, digits)}</span>"
    axis = TimeAxis(round(total * 1000), 1000)
    return _figure(title, unit, "", values_beside, drawing, axis, f"{title} of every method over time")


def interval(estimate: Estimate, colour: str, low: float, high: float) -> str:
    """A point with its confidence interval between `low` and `high`."""
    span = (high - low) or 1.0

    def at(value: float) -> float:
        return 100 * (value - low) / span

    bar = ""
    if estimate.low is not None and estimate.high is not None:
        width = at(estimate.high) - at(estimate.low)
        bar = f'<i class="range" style="left:{at(estimate.low):.2f}%;width:{width:.2f}%"></i>'
    dot = f'<i class="dot" style="left:{at(estimate.mean):.2f}%"></i>'
    return f'<span class="track {escape(colour)}" aria-hidden="true">{bar}{dot}</span>'


def _figure(title: str, unit: str, note: str, values: str, drawing: str, axis: TimeAxis, label: str) -> str:
    return (
        f'<figure class="chart"><figcaption><b>{escape(title)}</b> <span class="unit">{escape(unit)}</span>'
        f'<span class="note">{escape(note)}</span></figcaption><div class="plot"><div class="y" aria-hidden="true">'
        f'{values}</div><svg viewBox="0 0 {_WIDTH} {_HEIGHT}" preserveAspectRatio="none" role="img" '
        f'aria-label="{escape(label)}">{drawing}</svg></div>{axis.marks()}</figure>'
    )


def value_range(values: Series, from_zero: bool) -> tuple[float, float]:
    """The lowest and the highest value that a chart shows."""
    low, high = float(values.min()), float(values.max())
    if from_zero:
        return 0.0, high * 1.08 or 1.0
    least = max(abs(float(values.mean())) * _ENOUGH, 1e-9)
    middle, half = (low + high) / 2, max(high - low, least) / 2 * 1.1
    bottom = middle - half
    return (max(0.0, bottom) if low >= 0 else bottom), middle + half


def _points(series: Series, axis: TimeAxis, y: Callable[[float], float]) -> str:
    """Points of a line; of a long series the least and the greatest of every stretch, so that no spike is lost."""
    frames = [int(i) for i in np.flatnonzero(np.isfinite(series))]
    if len(frames) > _MOST_POINTS:
        kept: list[int] = []
        for stretch in np.array_split(np.array(frames), _MOST_POINTS // 2):
            ends = {int(stretch[series[stretch].argmin()]), int(stretch[series[stretch].argmax()])}
            kept += sorted(ends)
        frames = kept
    return " ".join(f"{axis.x(frame + 0.5):.1f},{y(float(series[frame])):.2f}" for frame in frames)
