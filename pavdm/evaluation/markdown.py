"""The registry as a page for docs."""

from __future__ import annotations

from pavdm.evaluation.registry import HOW_TO_GET, SCALARS, SERIES, STATISTICS, Measure


def as_markdown() -> str:
    """The page docs/measures.md."""
    parts = [
        "# Measures",
        "What `pavdm eval` measures. `python scripts/measures.py` writes this page from "
        "`pavdm/evaluation/registry.py`, which the report reads, too.",
        "Chunks, and the clip that a video goes on from, are taken from the video's own record where pavdm wrote it, "
        "else from `--chunk-frames` and `--clip-frames`. The clip's frames are in the curves, but not in the numbers, "
        "unless `--include-clip`. Seams are shown in the curves for the clip, too: it was filmed, so what its "
        "boundaries reach is what chance gives.",
        '"Steady": no value is better than another, but a change over the video is drift. "Shown": nothing can be said '
        "without looking.",
        "## Of a video",
        _table(SCALARS),
        "## Of a frame, over time",
        _table(SERIES),
        "## From a series to a number",
        _table(STATISTICS),
        "## What some of them need",
        *(f"- {needs}: {how}" for needs, how in HOW_TO_GET.items()),
    ]
    return "\n\n".join(parts).replace("\n\n- ", "\n- ").replace("need\n- ", "need\n\n- ") + "\n"


def _table(measures: tuple[Measure, ...]) -> str:
    rows = ["| measure | key | definition | unit | better | needs | source |", "|---|---|---|---|---|---|---|"]
    rows += [
        f"| {m.name} | `{m.key}` | {m.definition.replace('|', chr(92) + '|')} | {m.unit} | {m.better} | "
        f"{'' if m.needs == 'nothing' else m.needs} | {m.source} |"
        for m in measures
    ]
    return "\n".join(rows)
