"""How much of a seam is the video file's: one encoder for all pieces against an encoder for each.

    python benchmarks/joints.py [--clips N] [--codec h264]

Calm clips of the procedural world have no seams. They are written in pieces of a chunk, both ways, and measured as
`pavdm eval` measures videos. Prints a Markdown table: seam ratio (1: like any other frame), error and size.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

import numpy as np

from pavdm.clip import PIECE_FRAMES
from pavdm.evaluation import measure
from pavdm.training.world import HELD_OUT, render
from pavdm.video_codecs import CODECS
from pavdm.video_reader import read_frames
from pavdm.video_writer import VideoWriter

PIECES = 8
FPS = 24.0


def written(files: list[list[np.ndarray]], folder: Path, codec: str) -> tuple[np.ndarray, int]:
    """What the pieces of each file look like when they are read again, and the bytes of all files."""
    shown, size = [], 0
    for pieces in files:
        path = folder / "file.mp4"
        with VideoWriter(path, pieces[0].shape[1:3], FPS, codec=codec, overwrite=True) as writer:
            for piece in pieces:
                writer.write(piece)
        shown += list(read_frames(path))
        size += path.stat().st_size
    return np.stack(shown), size


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=8, metavar="N", help="default 8")
    parser.add_argument("--codec", choices=tuple(CODECS), default="h264", help="default h264")
    options = parser.parse_args()
    found: dict[str, list[tuple[float, float, float]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for number in range(options.clips):
            frames, _, _ = render(HELD_OUT + number, PIECES * PIECE_FRAMES, fps=FPS)
            pieces = np.split(frames, PIECES)
            ways = {"one encoder": [pieces], "an encoder for each piece": [[piece] for piece in pieces]}
            for name, files in ways.items():
                shown, size = written(files, Path(folder), options.codec)
                error = np.sqrt(np.mean((shown.astype(float) - frames) ** 2))
                seam = measure(shown, chunk_frames=PIECE_FRAMES).summary["seam_ratio"]
                found.setdefault(name, []).append((seam, error, size / 1024))
    print(
        f"| {options.clips} clips, {options.codec} | seam ratio | RMS error, levels | KiB a clip |\n|---|---|---|---|"
    )
    for name, rows in found.items():
        seam, error, size = np.mean(rows, axis=0)
        print(f"| {name} | {seam:.2f} | {error:.2f} | {size:.0f} |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
