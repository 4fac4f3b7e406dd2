"""The report as one HTML page that loads nothing: styles and pictures are in it, and no script."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from importlib.resources import files

import numpy as np

from pavdm import __version__
from pavdm.evaluation import charts, registry
from pavdm.evaluation.charts import COLOURS, TimeAxis, number, seconds
from pavdm.evaluation.comparison import Comparison, by_turns
from pavdm.evaluation.comparison_page import comparison_section
from pavdm.evaluation.images import jpeg_uri, similarity_uri
from pavdm.evaluation.measurement import Measurements
from pavdm.evaluation.pictures import shrunk
from pavdm.evaluation.seams import SeamPictures

_TILES = ("seam_ratio", "seam_worst", "clip_seam", "motion_kept", "static_share", "scenes", "repetition")
_SHEET_PICTURES = 24
_SEAM_WIDTH = 424
_DIFFERENCE_GAIN = 4
# The page may show what is in it and nothing else, whatever a file's name or prompt should hold.
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


@dataclass(frozen=True)
class Fact:
    """A figure that stands above all others on the page: what it is, the value as text, what it means."""

    name: str
    value: str
    meaning: str


def render(
    methods: Mapping[str, Sequence[Measurements]],
    comparison: Comparison,
    shown: int,
    made: str,
    failed: Mapping[str, str],
    facts: Sequence[Fact] = (),
) -> str:
    """The page.

    shown: how many videos have a section of their own, by turns of every method. made: when, and by which command.
    failed: what was asked for and could not be measured, with the reasons. facts: what stands on top.
    """
    videos = [video for of in methods.values() for video in of]
    colours = {method: number % COLOURS for number, method in enumerate(methods)}
    chosen = sorted(by_turns(methods), key=lambda found: not found[1].sheet)[:shown]  # those with pictures first
    compared = len(methods) > 1 or len(videos) > 1 or "fvd" in comparison.estimates
    links = '<li><a href="#methods">Methods</a></li>' if compared else ""
    links += "".join(
        f'<li class="c{colours[method]}"><a href="#video{i}"><span class="swatch"></span>{escape(video.name)}</a></li>'
        for i, (method, video) in enumerate(chosen)
    )
    links += '<li><a href="#definitions">Definitions</a></li>'
    count = f"{len(videos)} video{'s' if len(videos) != 1 else ''}"
    if len(methods) > 1:
        count += f" of {len(methods)} methods"
    left_out = (
        f"<p class=soft>{shown} videos have a section below, by turns of every method; all are in the tables, in "
        "<code>measures.csv</code> and in <code>report.json</code>.</p>"
        if shown < len(videos)
        else ""
    )
    sections = _facts_section(facts) + (comparison_section(methods, comparison) if compared else "")
    sections += "".join(
        _video_section(i, method if len(methods) > 1 else "", colours[method], video)
        for i, (method, video) in enumerate(chosen)
    )
    style = files("pavdm.evaluation").joinpath("report.css").read_text(encoding="utf-8")
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>Drift report: {escape(count)}</title><style>{style}</style></head><body>"
        f'<header class="page"><h1>Drift report</h1><p class="lead">{escape(count)}. How well chunks join, and what '
        "happens to light, colour, sharpness and motion from the first new frame to the last.</p>"
        f'<nav aria-label="Sections"><ul>{links}</ul></nav>{left_out}</header><main>{_failed_section(failed)}{sections}'
        f"{_missing_section(videos, comparison)}{_definitions_section()}</main>"
        f"<footer>{escape(made)} pavdm {escape(__version__)}.</footer></body></html>\n"
    )


def _facts_section(facts: Sequence[Fact]) -> str:
    if not facts:
        return ""
    rows = "".join(
        f'<tr><th scope="row">{escape(fact.name)}</th><td class="n">{escape(fact.value)}</td>'
        f'<td class="long">{escape(fact.meaning)}</td></tr>'
        for fact in facts
    )
    return f'<section class="card" id="facts"><h2>At a glance</h2><table><tbody>{rows}</tbody></table></section>'


def _video_section(index: int, method: str, colour: int, video: Measurements) -> str:
    axis = TimeAxis(video.num_frames, video.fps)
    parts = [
        f'<section class="card c{colour}" id="video{index}"><h2><span class="swatch"></span>{escape(video.name)}</h2>',
        f'<p class="soft">{_facts(method, video)}</p>{_tiles(video)}',
        f"<h3>From beginning to end</h3>{_sheet(video)}",
        f"<h3>Over time</h3>{_legend(video)}<div class='charts'>{_curves(video, axis)}</div>",
        _latents(video),
        _worst_seams(video),
        _similarity(video),
        f"<h3>Drift in numbers</h3>{_statistics(video)}</section>",
    ]
    return "".join(parts)


def _facts(method: str, video: Measurements) -> str:
    layout, new = video.layout, len(video.chunks) - sum(chunk.number < 0 for chunk in video.chunks)
    chunks = {
        "recorded": f"{new} chunks of {layout.chunk_frames} frames, as the file records",
        "given": f"{new} chunks of {layout.chunk_frames} frames, as given",
        "assumed": f"chunks of {layout.chunk_frames} frames are assumed: the file does not record them, so the seam "
        "ratios mean something only if that is right",
    }[layout.known]
    facts = [
        f"{video.size[1]} \N{MULTIPLICATION SIGN} {video.size[0]} pixels",
        f"{video.num_frames} frames, {video.seconds:.2f} s at {video.fps:g} fps",
        chunks,
    ]
    if method:
        facts.insert(0, f"method {method}")
    if layout.clip_frames:
        scored = video.scored[0].start if video.scored else video.num_frames
        what = "not scored" if scored >= layout.clip_frames else "scored, too"
        facts.append(f"the first {layout.clip_frames} frames show the clip ({what})")
    text = escape("; ".join(facts)) + "."
    prompt = video.record.get("prompt")
    return text + (f"<br>Prompt: <q>{escape(prompt)}</q>" if isinstance(prompt, str) else "")


def _tiles(video: Measurements) -> str:
    tiles = ""
    for key in (*_TILES, *(k for k in video.summary if "." not in k and k not in _TILES)):
        value, measure = video.summary.get(key), registry.find(key)
        if value is None:
            continue
        small = " \N{MIDDLE DOT} ".join(text for text in (measure.unit, registry.IN_WORDS[measure.better]) if text)
        tiles += (
            f'<div title="{escape(measure.definition)}"><dt>{escape(measure.name)}</dt>'
            f"<dd>{number(value, measure.digits)}<small>{escape(small)}</small></dd></div>"
        )
    return f'<dl class="tiles">{tiles}</dl>'


def _sheet(video: Measurements) -> str:
    count = len(video.sheet)
    if not count:
        return ""
    chosen = sorted({round(i) for i in np.linspace(0, count - 1, min(count, _SHEET_PICTURES))})
    items = "".join(
        f'<li><img src="{jpeg_uri(picture)}" alt="Frame {frame}" width="{picture.shape[1]}" '
        f'height="{picture.shape[0]}"><span>{seconds(round(frame / video.fps, 2))}</span></li>'
        for frame, picture in (video.sheet[i] for i in chosen)
    )
    return f'<ol class="sheet">{items}</ol>'


def _legend(video: Measurements) -> str:
    def sample(css: str, text: str) -> str:
        line = f'<path class="{css}" d="M0 6H26"/>' if css != "clip" else '<rect class="clip" width="26" height="12"/>'
        return f'<li><svg viewBox="0 0 26 12" aria-hidden="true">{line}</svg>{text}</li>'

    items = sample("frames", "every frame") + sample("steps", "mean of a chunk")
    items += sample("ends", "means of the first and last 15 %, which drift compares")
    items += "<li>upright lines: chunk boundaries</li>"
    if video.cuts:
        items += sample("cut", "cut")
    if video.layout.clip_frames:
        items += sample("clip", "the clip")
    return f'<ul class="legend">{items}</ul>'


def _curves(video: Measurements, axis: TimeAxis) -> str:
    ratio = video.summary.get("seam_ratio")
    note = "" if ratio is None else f"mean {number(ratio)}"
    html = charts.seam_chart(video.seams, axis, video.chunks, video.cuts, note)
    for measure in registry.SERIES:
        drift, slope = (video.summary.get(f"{measure.key}.{how}") for how in ("drift", "slope"))
        note = "" if drift is None else f"drift {number(drift, measure.digits + 1)}"
        note += "" if slope is None else f", {'+' if slope > 0 else ''}{number(slope, measure.digits + 1)} a minute"
        html += charts.curve(
            measure.name,
            measure.unit,
            note,
            video.series[measure.key],
            axis,
            video.chunks,
            video.scored,
            video.cuts,
            from_zero=measure.key in registry.FROM_ZERO,
            digits=measure.digits,
        )
    return html


def _latents(video: Measurements) -> str:
    """The statistics of the latents over time, a line for each channel."""
    html = ""
    for name, title in (("mean", "Mean"), ("std", "Standard deviation")):
        if name in video.latents:
            channels = video.latents[name].T.tolist()
            lines = [(f"c{i % COLOURS}", values, [(v, v) for v in values]) for i, values in enumerate(channels)]
            html += charts.bands(title, "of every channel, by 5 latents", lines, video.seconds)
    return f'<h3>Latents</h3><div class="charts">{html}</div>' if html else ""


def _worst_seams(video: Measurements) -> str:
    if not video.worst_seams:
        return ""
    pairs = "".join(_pair(kept, video.fps) for kept in video.worst_seams)
    return f'<h3>Worst seams</h3><div class="seams">{pairs}</div>'


def _pair(kept: SeamPictures, fps: float) -> str:
    seam = kept.seam
    before, after = (shrunk(picture, _SEAM_WIDTH) for picture in (kept.before, kept.after))
    gained = np.abs(before.astype(int) - after).clip(0, 255 // _DIFFERENCE_GAIN) * _DIFFERENCE_GAIN
    pictures = (
        (before, f"frame {seam.frame - 1}"),
        (after, f"frame {seam.frame}"),
        (gained.astype(np.uint8), f"{_DIFFERENCE_GAIN}\N{MULTIPLICATION SIGN} difference"),
    )
    images = "".join(
        f'<div><img src="{jpeg_uri(picture)}" alt="{text}" width="{picture.shape[1]}" height="{picture.shape[0]}">'
        f"<span>{text}</span></div>"
        for picture, text in pictures
    )
    return (
        f'<figure class="pair"><figcaption><b>{number(seam.ratio)}\N{MULTIPLICATION SIGN}</b> at '
        f"{seconds(round(seam.frame / fps, 2))}: {number(seam.difference, 1)} levels across, "
        f"{number(seam.inside, 1)} inside</figcaption><div>{images}</div></figure>"
    )


def _similarity(video: Measurements) -> str:
    if len(video.similarity.distances) < 2:
        return ""
    return (
        '<h3>Self-similarity</h3><div class="similarity">'
        f'<img src="{similarity_uri(video.similarity.distances)}" alt="Distance of every moment to every other">'
        "<p>Every moment against every other, time from left to right and from top to bottom; dark is alike. A dark "
        "diagonal alone: the video goes on. Further dark diagonals: it repeats itself. A dark square: it stands still. "
        "Sharp-edged squares: cuts. The picture smoothly getting lighter away from the diagonal: it drifts.</p></div>"
    )


def _statistics(video: Measurements) -> str:
    rows = ""
    for measure in (m for m in registry.SERIES if m.key in registry.STATISTIC_SERIES):
        values = [(how, video.summary.get(f"{measure.key}.{how.key}")) for how in registry.STATISTICS]
        if all(value is None for _, value in values):
            continue
        cells = "".join(
            f'<td class="n">{number(value, registry.find(f"{measure.key}.{how.key}").digits)}</td>'
            for how, value in values
        )
        mean, drift = values[0][1], values[1][1]
        share = None if drift is None or not mean else 100 * drift / abs(mean)
        percent = "\N{EN DASH}" if share is None else f"{number(share, 1)} %"
        rows += (
            f'<tr><th scope="row">{escape(measure.name)}</th>{cells}<td class="n">{percent}</td>'
            f"<td>{escape(measure.unit)}</td></tr>"
        )
    heads = "".join(
        f'<th class="n" scope="col" title="{escape(how.definition)}">{escape(text)}</th>'
        for how, text in zip(registry.STATISTICS, ("mean", "drift", "slope a minute", "weighted error"), strict=True)
    )
    return (
        '<div class="scroll" tabindex="0" role="region" aria-label="Drift in numbers"><table><thead><tr>'
        f'<th scope="col">measure</th>{heads}<th class="n" scope="col">drift of mean</th><th scope="col">unit</th>'
        "</tr></thead>"
        f"<tbody>{rows}</tbody></table></div>"
    )


def _failed_section(failed: Mapping[str, str]) -> str:
    items = "".join(f"<li>{escape(what)}: <code>{escape(why)}</code></li>" for what, why in failed.items())
    return (
        '<section class="card" id="failed"><h2>Failed</h2><p class="soft">This was asked for, and is in none of the '
        f"numbers below.</p><ul class='missing'>{items}</ul></section>"
        if failed
        else ""
    )


def _missing_section(videos: Sequence[Measurements], comparison: Comparison) -> str:
    missing = {key: reason for video in videos for key, reason in video.missing.items()}
    if "fvd" in comparison.estimates:
        missing.pop("fvd", None)
    if not missing:
        return ""
    items = "".join(
        f"<li>{escape(', '.join(names))}: <code>{escape(reason)}</code></li>"
        for reason, names in registry.by_reason(missing).items()
    )
    return (
        '<section class="card" id="missing"><h2>Not measured</h2><p class="soft">These measures need something that '
        f"was not there. Nothing is fetched by itself.</p><ul class='missing'>{items}</ul></section>"
    )


def _definitions_section() -> str:
    rows = "".join(
        f'<tr><th scope="row">{escape(measure.name)}</th><td class="long">{escape(measure.definition)}</td>'
        f"<td>{escape(measure.unit)}</td><td>{escape(registry.IN_WORDS[measure.better] or measure.better)}</td>"
        f"<td>{escape(measure.source)}</td></tr>"
        for measure in (*registry.SCALARS, *registry.SERIES, *registry.STATISTICS)
    )
    return (
        '<section class="card" id="definitions"><h2>Definitions</h2><p class="soft">Steady: no value is better than '
        "another, but a change over the video is drift.</p><details><summary>All measures</summary>"
        '<div class="scroll" tabindex="0" role="region" aria-label="Definitions"><table class="definitions"><thead>'
        '<tr><th scope="col">measure</th>'
        '<th scope="col">definition</th><th scope="col">unit</th><th scope="col">direction</th><th scope="col">source'
        f"</th></tr></thead><tbody>{rows}</tbody></table></div></details></section>"
    )
