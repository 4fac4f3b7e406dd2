"""The curves as one picture, and the numbers as text: for where no page can be shown."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from pavdm.evaluation import registry
from pavdm.evaluation.charts import number, value_range
from pavdm.evaluation.latents import Statistics, latent_drift
from pavdm.evaluation.measurement import Measurements

if TYPE_CHECKING:
    from PIL.Image import Image
    from PIL.ImageDraw import ImageDraw
    from PIL.ImageFont import FreeTypeFont, ImageFont

_INK, _PAPER, _FAINT, _LINE = (30, 32, 40), (255, 255, 255), (104, 110, 124), (214, 218, 226)
_CLIP, _FRAMES, _MEANS, _BAD = (236, 238, 243), (150, 184, 214), (11, 102, 168), (190, 52, 40)
_CHANNELS = ((11, 102, 168), (181, 83, 11), (26, 122, 74), (120, 71, 176))
_SCALE = 2  # drawn so many times larger and made smaller, for smooth lines
_WIDTH, _HEIGHT, _COLUMNS = 460, 120, 2  # of a panel
_GAP, _TOP, _LEFT, _BELOW = 26, 74, 58, 46

Line = tuple[Sequence[float], Sequence[float], tuple[int, int, int], int]  # seconds, values, colour, width


@dataclass(frozen=True)
class Panel:
    """One chart. steps: (start, stop, value), drawn level."""

    title: str
    note: str
    lines: tuple[Line, ...]
    steps: tuple[tuple[float, float, float], ...] = ()
    from_zero: bool = False


def draw_video(found: Measurements) -> Image:
    """The curves of a video."""
    boundaries = [chunk.start / found.fps for chunk in found.chunks if chunk.start]
    clip = min(found.layout.clip_frames, found.num_frames) / found.fps
    subtitle = f"{found.num_frames} frames, {found.seconds:.2f} s; upright lines: chunks of {found.layout.chunk_frames}"
    panels = [*_video_panels(found), *_latent_panels(found.latents, found.seconds)]
    return _draw(f"Drift of {found.name}", subtitle, panels, found.seconds, boundaries, clip)


def draw_latents(statistics: Statistics) -> Image:
    """The curves of latents that were not decoded; time is counted in chunks of 5 latents."""
    count = len(statistics["mean"])
    subtitle = f"{count} chunks of 5 latents; a colour for each channel"
    return _draw("Drift of the latents", subtitle, _latent_panels(statistics, count), count, list(range(1, count)), 0)


def describe_video(found: Measurements) -> str:
    """The numbers, a line each, and which libraries would allow more."""
    lines = [f"{found.name}: {found.num_frames} frames, {found.seconds:.2f} s, {len(found.scored)} chunks scored"]
    if found.layout.known == "assumed":
        lines.append(f"chunks of {found.layout.chunk_frames} frames are assumed")
    for key in registry.summary_keys():
        value, measure = found.summary.get(key), registry.find(key)
        if value is not None:
            lines.append(f"{measure.name}: {number(value, measure.digits)} ({measure.unit})")
    here = {key: why for key, why in found.missing.items() if registry.find(key).needs in ("opencv", "scenedetect")}
    lines += [f"not measured: {', '.join(names)}: {why}" for why, names in registry.by_reason(here).items()]
    return "\n".join(lines)


def describe_latents(statistics: Statistics) -> str:
    lines = [f"{len(statistics['mean'])} chunks of 5 latents"]
    for key, value in latent_drift(statistics).items():
        measure = registry.find(key)
        lines.append(f"{measure.name}: {number(value, measure.digits)} ({measure.unit})")
    return "\n".join(lines)


def _video_panels(found: Measurements) -> list[Panel]:
    panels = []
    ratios = [(seam.frame / found.fps, seam.ratio) for seam in found.seams if seam.ratio is not None]
    if ratios:
        stems = tuple(
            ((x, x), (1.0, ratio), _BAD if ratio > 2 else _MEANS, 3) for x, ratio in ratios if math.isfinite(ratio)
        )
        level: Line = ((0.0, found.seconds), (1.0, 1.0), _FAINT, 1)
        panels.append(Panel("Seam ratio", f"mean {number(found.summary['seam_ratio'])}", (level, *stems), (), True))
    for measure in registry.SERIES:
        series = found.series[measure.key]
        there = np.flatnonzero(np.isfinite(series))
        if not len(there):
            continue
        means = found.chunk_means(measure.key)
        steps = tuple(
            (chunk.start / found.fps, chunk.stop / found.fps, mean)
            for chunk, mean in zip(found.chunks, means, strict=True)
            if math.isfinite(mean)
        )
        frames: Line = (((there + 0.5) / found.fps).tolist(), series[there].tolist(), _FRAMES, 1)
        drift = found.summary.get(f"{measure.key}.drift")
        note = "" if drift is None else f"drift {number(drift, measure.digits + 1)}"
        from_zero = measure.key in registry.FROM_ZERO
        panels.append(Panel(f"{measure.name}, {measure.unit}", note, (frames,), steps, from_zero))
    return panels


def _latent_panels(statistics: Statistics, total: float) -> list[Panel]:
    panels = []
    for name, title in (("mean", "Latent means"), ("std", "Latent standard deviations")):
        if name not in statistics:
            continue
        values = statistics[name]
        times = ((np.arange(len(values)) + 0.5) * total / len(values)).tolist()
        lines = tuple((times, channel.tolist(), _CHANNELS[i % len(_CHANNELS)], 2) for i, channel in enumerate(values.T))
        panels.append(Panel(title, "by channel", lines))
    return panels


def _draw(
    title: str, subtitle: str, panels: Sequence[Panel], total: float, boundaries: Sequence[float], clip: float
) -> Image:
    from PIL import Image as images
    from PIL import ImageDraw as drawing
    from PIL import ImageFont as fonts

    rows = -(-len(panels) // _COLUMNS)
    width = _COLUMNS * (_LEFT + _WIDTH + _GAP) + _GAP
    height = _TOP + rows * (_HEIGHT + _BELOW + 22) + _GAP
    image = images.new("RGB", (width * _SCALE, height * _SCALE), _PAPER)
    canvas = drawing.Draw(image)
    font, small = fonts.load_default(size=17 * _SCALE), fonts.load_default(size=12 * _SCALE)
    canvas.text((_GAP * _SCALE, 14 * _SCALE), title, fill=_INK, font=font)
    canvas.text((_GAP * _SCALE, 42 * _SCALE), subtitle, fill=_FAINT, font=small)
    for index, panel in enumerate(panels):
        x = _GAP + index % _COLUMNS * (_LEFT + _WIDTH + _GAP) + _LEFT
        y = _TOP + index // _COLUMNS * (_HEIGHT + _BELOW + 22) + 22
        _panel(canvas, panel, (x, y), small, total, boundaries, clip)
    return image.resize((width, height), images.Resampling.BOX)


def _panel(
    canvas: ImageDraw,
    panel: Panel,
    corner: tuple[int, int],
    font: FreeTypeFont | ImageFont,
    total: float,
    boundaries: Sequence[float],
    clip: float,
) -> None:
    left, top = corner
    values = np.array([v for _, ys, _, _ in panel.lines for v in ys])
    low, high = value_range(values, panel.from_zero)

    def x(seconds: float) -> float:
        return (left + _WIDTH * seconds / total) * _SCALE

    def y(value: float) -> float:
        return (top + _HEIGHT * (1 - (value - low) / (high - low))) * _SCALE

    bottom, right = (top + _HEIGHT) * _SCALE, (left + _WIDTH) * _SCALE
    if clip:
        canvas.rectangle((x(0), top * _SCALE, x(clip), bottom), fill=_CLIP)
    for boundary in boundaries:
        canvas.line((x(boundary), top * _SCALE, x(boundary), bottom), fill=(236, 238, 242), width=_SCALE)
    for times, heights, colour, width in panel.lines:
        points = [(x(time), y(height)) for time, height in zip(times, heights, strict=True)]
        canvas.line(points, fill=colour, width=width * _SCALE, joint="curve")
    for start, stop, value in panel.steps:
        canvas.line((x(start), y(value), x(stop), y(value)), fill=_MEANS, width=3 * _SCALE)
    canvas.rectangle((left * _SCALE, top * _SCALE, right, bottom), outline=_LINE, width=_SCALE)
    canvas.text((left * _SCALE, (top - 18) * _SCALE), panel.title, fill=_INK, font=font)
    canvas.text((right, (top - 18) * _SCALE), _plain(panel.note), fill=_FAINT, font=font, anchor="ra")
    digits = max(0, 2 - math.floor(math.log10(max(high - low, 1e-9))))
    for value, edge, anchor in ((high, top, "ra"), (low, top + _HEIGHT, "rd")):
        text = _plain(number(value, min(digits, 4)))
        canvas.text(((left - 6) * _SCALE, edge * _SCALE), text, _FAINT, font, anchor)
    for share, anchor in ((0.0, "la"), (0.5, "ma"), (1.0, "ra")):
        place = (x(total * share), bottom + 4 * _SCALE)
        canvas.text(place, f"{total * share:.4g}", fill=_FAINT, font=font, anchor=anchor)


def _plain(text: str) -> str:
    """Without the characters that Pillow's font lacks."""
    return text.replace("\N{MINUS SIGN}", "-").replace("\N{NARROW NO-BREAK SPACE}", " ")
