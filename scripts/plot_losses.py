"""Loss curves of training runs as one SVG: python scripts/plot_losses.py OUT.svg TITLE=RUN [TITLE=RUN ...].

RUN is the --out of a `pavdm train`. A point is the mean of a hundredth of the run; the band behind it holds the middle
half of the single steps' losses. The axis of losses begins at 0.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from html import escape
from pathlib import Path

import numpy as np

POINTS = 100
WIDTH, HEIGHT, GAP = 300, 130, 56  # of a panel, and between panels
COLUMNS = 3
INK, FAINT, LINE, BAND = "#1e2028", "#787c88", "#2b6086", "#c9dbe6"


def losses(run: Path) -> tuple[np.ndarray, np.ndarray]:
    """(steps, losses) of a run, each (N,). Raises SystemExit if there are none."""
    file = run / "loss.jsonl"
    if not file.is_file():
        raise SystemExit(f"{run} holds no {file.name}: give the --out of a pavdm train")
    rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    return np.array([row["step"] for row in rows]), np.array([row["loss"] for row in rows])


def panel(title: str, steps: np.ndarray, found: np.ndarray) -> str:
    """One run, in its own coordinates: (0, 0) is the upper left corner of its plot."""
    parts = np.array_split(np.arange(len(steps)), min(POINTS, len(steps)))
    low, high = (np.array([np.percentile(found[part], percent) for part in parts]) for percent in (25, 75))
    mean = np.array([found[part].mean() for part in parts])
    top = float(max(mean.max(), np.percentile(high, 98)) * 1.05)

    def points(values: np.ndarray) -> list[str]:
        xs = (WIDTH * steps[part].mean() / steps[-1] for part in parts)
        ys = HEIGHT * (1 - np.minimum(values / top, 1))
        return [f"{x:.1f},{y:.1f}" for x, y in zip(xs, ys, strict=True)]

    band = " ".join(points(low) + points(high)[::-1])
    return "".join(
        (
            f'<text y="-10" fill="{INK}" font-weight="600">{escape(title)}</text>',
            f'<path d="M0 0V{HEIGHT}H{WIDTH}" fill="none" stroke="{FAINT}"/>',
            f'<polygon points="{band}" fill="{BAND}"/>',
            f'<polyline points="{" ".join(points(mean))}" fill="none" stroke="{LINE}" stroke-width="2"/>',
            f'<text x="-6" y="5" fill="{FAINT}" text-anchor="end">{top:.2g}</text>',
            f'<text x="-6" y="{HEIGHT}" fill="{FAINT}" text-anchor="end">0</text>',
            f'<text x="{WIDTH}" y="{HEIGHT + 16}" fill="{FAINT}" text-anchor="end">{steps[-1]:,} steps</text>',
            f'<text x="{WIDTH}" y="-10" fill="{FAINT}" text-anchor="end">last tenth {_end(found):.3g}</text>',
        )
    )


def picture(runs: Sequence[tuple[str, Path]]) -> str:
    columns = min(COLUMNS, len(runs))
    width, height = columns * (WIDTH + GAP) + GAP // 2, -(-len(runs) // columns) * (HEIGHT + GAP) + GAP // 2
    panels = []
    for number, (title, run) in enumerate(runs):
        x, y = GAP + number % columns * (WIDTH + GAP), GAP // 2 + 6 + number // columns * (HEIGHT + GAP)
        panels.append(f'<g transform="translate({x},{y})">{panel(title, *losses(run))}</g>\n')
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="sans-serif"'
        f' font-size="12">\n<rect width="{width}" height="{height}" fill="#fff"/>\n{"".join(panels)}</svg>\n'
    )


def _end(found: np.ndarray) -> float:
    return float(found[-max(1, len(found) // 10) :].mean())


def _titled(text: str) -> tuple[str, Path]:
    title, found, run = text.partition("=")
    if not found:
        raise argparse.ArgumentTypeError(f"expected TITLE=RUN, got {text!r}")
    return title, Path(run)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, metavar="OUT.svg")
    parser.add_argument("runs", type=_titled, nargs="+", metavar="TITLE=RUN")
    options = parser.parse_args()
    options.out.write_text(picture(options.runs), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
