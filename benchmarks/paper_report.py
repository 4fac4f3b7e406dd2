"""The table of `paper_table.py` and its section of docs/results.md, from what was measured of every video."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from paper_methods import OURS

from pavdm.evaluation.comparison import Estimate, mean_interval
from pavdm.files import replacing
from pavdm.networks import Networks
from pavdm.settings import Settings

PAIRS, SECONDS = 40, 60.0  # of the whole table
FEWEST_PAIRS = 8  # a bootstrap of fewer says nothing

# (key of the summary, heading, digits); `registry.find` has the definitions.
COLUMNS = (
    ("scenes", "Scenes v", 2),
    ("moving", "Dynamic ^", 2),
    ("motion_kept", "Motion kept ~1", 2),
    ("warp_error.mean", "Warp error v", 2),
    ("seam_ratio", "Seam ratio ~1", 2),
    ("luma.drift", "Luma drift v", 1),
    ("saturation.drift", "Saturation drift v", 3),
    ("sharpness.weighted_error", "Sharpness error v", 1),
    ("repetition", "Repetition v", 3),
    ("colours_right", "Colours right ^", 2),
)
# Columns of the paper's table 1 that need networks or data from elsewhere; `pavdm eval --vbench` adds them.
NOT_HERE = "subject and background consistency, motion smoothness, aesthetic and imaging quality (VBench), FVD"

Summary = Mapping[str, float | None]


@dataclass(frozen=True)
class Measured:
    """The measurements of one video. origin: the code and machine that took them, as `paper_table` writes it."""

    summary: Summary
    origin: Mapping[str, str]


Rows = Mapping[str, Sequence[Measured]]  # by method, in the order of the pairs


def table(rows: Rows, steps: Mapping[str, int], costs: Mapping[str, tuple[int, int]], seconds: float) -> list[str]:
    """The Markdown table. steps, costs: of the methods; costs are (model calls, latents) of one video."""
    summaries = {name: [video.summary for video in row] for name, row in rows.items()}
    columns = [column for column in COLUMNS if any(s.get(column[0]) is not None for s in chain(*summaries.values()))]
    lines = [
        f"{_extent(len(rows[OURS]), seconds)}; means with 95 % bootstrap intervals. * (from {FEWEST_PAIRS} pairs on) "
        f"differs from {OURS} on the same pairs: the interval of the paired difference leaves out 0. Of a table "
        "of such comparisons one in twenty would do so by chance. (n): over the n videos that have a value. "
        "v: less is better, ^: more is better, ~1: best near 1.",
        "",
        "| | Steps | Calls | Latents | " + " | ".join(heading for _, heading, _ in columns) + " |",
        "|---|---|---|---|" + "---|" * len(columns),
    ]
    for name, own in summaries.items():
        spent = [str(steps[name]), *(f"{number:,}" for number in costs[name])] if name in costs else ["", "", ""]
        cells = [_cell(own, summaries[OURS], key, digits) for key, _, digits in columns]
        lines.append(f"| {name} | " + " | ".join([*spent, *cells]) + " |")
    return lines


def section(label: str, lines: Sequence[str], rows: Rows, networks: Networks, settings: Settings, command: str) -> str:
    """The section of docs/results.md: how it was made, and the table `lines`. settings: of the first pair, by OURS."""
    config, count = networks.stdit.config, sum(p.numel() for p in networks.stdit.parameters())
    height, width = settings.size
    origins = [video.origin for video in chain(*rows.values())]
    dates = sorted({origin["date"] for origin in origins})
    made = ", ".join(
        f"{name} {'; '.join(sorted({origin[name] for origin in origins}))}" for name in ("commit", "machine", "torch")
    )
    return "\n".join(
        [
            f"## {label}",
            "",
            f"{' to '.join(dict.fromkeys((dates[0], dates[-1])))}, {made}, {networks.precision.dtype}. `{command}`",
            "",
            f"STDiT3 of {count / 1e6:.1f} M parameters (hidden size {config.hidden_size}, depth {config.depth}; "
            f"fingerprint {networks.fingerprints['model']}), {height}x{width} at {settings.fps:g} fps, "
            f"{settings.seconds:g} s of new video, guidance {settings.guidance_scale:g}. Every pair has a seed of its "
            f"own, {settings.seed} and on, the same with every method. "
            "Calls and latents: what one video takes of the network (each for both halves of the guidance pair).",
            "",
            *lines,
            "",
            "Definitions: docs/measures.md. Every method has the same weights, which were trained for all of PA-VDM; "
            "what an ablation leaves out is left out of the sampling. Dynamic is the share of chunks that are not "
            "static; the loop's chunks have 34 frames, the others' 17. Colours right is the share of the last 15 % of "
            "frames whose shapes have just the scene's colours; the world itself shows what can be had. "
            f"Columns of the paper's Table 1 that need networks from elsewhere and are not here: {NOT_HERE}.",
        ]
    )


def write_section(path: Path, label: str, text: str) -> None:
    """Put a section of this name into a Markdown file, in the place of an earlier one."""
    begin, end = f"<!-- paper_table: {label} -->", "<!-- end of paper_table -->"
    whole = path.read_text(encoding="utf-8") if path.exists() else "# Results\n"
    own = f"{begin}\n{text}\n{end}"
    before, found, after = whole.partition(begin)
    if found:
        whole = before + own + after.partition(end)[2]
    else:
        whole = f"{whole.rstrip()}\n\n{own}\n"
    with replacing(path) as temporary:
        temporary.write_text(whole, encoding="utf-8")


def _extent(pairs: int, seconds: float) -> str:
    """How many pairs of how many seconds, and of what that is a part."""
    text = f"{pairs} pair{'s' if pairs > 1 else ''} of {seconds:g} s"
    if pairs < PAIRS or seconds < SECONDS:
        text += f" (a part: the whole table is {PAIRS} pairs of {SECONDS:g} s)"
    return text


def _cell(own: Sequence[Summary], ours: Sequence[Summary], key: str, digits: int) -> str:
    found = mean_interval([value for row in own if (value := row.get(key)) is not None])
    if not found.count:
        return "-"
    pairs = [(a.get(key), b.get(key)) for a, b in zip(own, ours, strict=True)]
    difference = mean_interval([a - b for a, b in pairs if a is not None and b is not None])
    sure = difference.count >= FEWEST_PAIRS and difference.leaves_out_zero
    fewer = f" ({found.count})" if found.count < len(own) else ""
    return _text(found, digits) + ("*" if sure else "") + fewer


def _text(estimate: Estimate, digits: int) -> str:
    if estimate.low is None or estimate.high is None:
        return f"{estimate.mean:.{digits}f}"
    return f"{estimate.mean:.{digits}f} [{estimate.low:.{digits}f}, {estimate.high:.{digits}f}]"
