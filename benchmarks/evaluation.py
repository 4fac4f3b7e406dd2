"""Peak memory and time of `pavdm eval` against the length of the video: memory must not grow with it.

    python benchmarks/evaluation.py CLIP [--seconds 10 60] [--size 240x424]

The videos are CLIP, forwards and backwards again and again. Each run is a process of its own; the operating system's
figures of its peak resident memory and of its processor time are reported (Linux, macOS).
"""

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import numpy as np

from pavdm.buckets import parse_size
from pavdm.video_reader import read_frames
from pavdm.video_writer import VideoWriter

FPS = 24


def back_and_forth(frames: list[np.ndarray]) -> Iterator[np.ndarray]:
    while True:
        yield from frames
        yield from reversed(frames)


def run(frames: list[np.ndarray], seconds: float) -> tuple[float, float]:
    """(peak resident memory in MB, processor seconds) of one run."""
    with tempfile.TemporaryDirectory() as folder:
        video = Path(folder, "video.mp4")
        stream = islice(back_and_forth(frames), round(seconds * FPS))
        with VideoWriter(video, frames[0].shape[:2], FPS) as writer:
            while piece := list(islice(stream, 17)):
                writer.write(np.stack(piece))
        command = [sys.executable, "-m", "pavdm", "eval", str(video), "--out", str(Path(folder, "report"))]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        _, status, usage = os.wait4(process.pid, 0)
        if status:
            sys.exit(f"the run failed: {' '.join(command)}")
    unit = 1e6 if sys.platform == "darwin" else 1e3  # bytes there, kilobytes here
    return usage.ru_maxrss / unit, usage.ru_utime + usage.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("clip", type=Path)
    parser.add_argument("--seconds", type=float, nargs="+", default=[10, 60], help="lengths (default 10 60)")
    parser.add_argument("--size", default="240x424", help="height x width (default 240x424)")
    options = parser.parse_args()

    frames = list(islice(read_frames(options.clip, fps=FPS, size=parse_size(options.size)), 10 * FPS))
    first = None
    for seconds in options.seconds:
        peak, used = run(frames, seconds)
        first = first or peak
        each = 1000 * used / round(seconds * FPS)
        print(
            f"{seconds:7.0f} s of video: peak {peak:7.1f} MB ({peak / first:.3f} x), {each:6.1f} ms a frame", flush=True
        )


if __name__ == "__main__":
    main()
