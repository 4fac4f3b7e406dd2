"""Peak memory of `pavdm extend` against the length of the video: it must not grow.

    python benchmarks/memory.py CLIP --models DIR [--seconds 10 120]

Each run is a process of its own; the operating system's figure of its peak resident memory is reported (Linux, macOS).
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path


def run(clip: Path, models: Path, seconds: float, options: list[str]) -> tuple[float, float]:
    """(peak resident memory in MB, wall-clock seconds) of one run."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "pavdm", "extend", str(clip), "--prompt", "memory", "--quiet"]
        command += ["--seconds", str(seconds), "--models", str(models), "--out", str(Path(folder, "out.mp4")), *options]
        start = time.monotonic()
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        _, status, usage = os.wait4(process.pid, 0)
        if status:
            sys.exit(f"the run failed: {' '.join(command)}")
    unit = 1e6 if sys.platform == "darwin" else 1e3  # bytes there, kilobytes here
    return usage.ru_maxrss / unit, time.monotonic() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("clip", type=Path)
    parser.add_argument("--models", type=Path, required=True, help="a set of networks, such as `pavdm new-model` makes")
    parser.add_argument(
        "--seconds", type=float, nargs="+", default=[10, 120], help="lengths of new video (default 10 120)"
    )
    parser.add_argument("--state", action="store_true", help="save a state after every chunk, too")
    parser.add_argument("--size", default="96x160")
    parser.add_argument("--steps", default="6")
    options = parser.parse_args()

    first = None
    for seconds in options.seconds:
        with tempfile.TemporaryDirectory() as state:
            extra = ["--size", options.size, "--steps", options.steps, *(["--state", state] if options.state else [])]
            peak, wall = run(options.clip, options.models, seconds, extra)
        first = first or peak
        print(f"{seconds:7.0f} s of video: peak {peak:7.1f} MB ({peak / first:.3f} x), {wall:6.1f} s", flush=True)


if __name__ == "__main__":
    main()
