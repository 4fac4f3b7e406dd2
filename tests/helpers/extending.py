"""`pavdm extend` for tests: as a function and as a process, and what to look at afterwards."""

import sys
import time

import av
import numpy as np

from pavdm.cli import main
from pavdm.sampling.state import load_state

FAST = ["--size", "48x64", "--steps", "6"]


def frames_of(path):
    with av.open(str(path)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


def extend(clip, out, models, *options, prompt="bicycles in a park"):
    arguments = ["extend", str(clip), "--prompt", prompt, "--out", str(out), "--models", str(models), "--quiet"]
    return main([*arguments, *FAST, *map(str, options)])


def command(clip, out, models, *options):
    return [
        *(sys.executable, "-m", "pavdm", "extend", str(clip), "--prompt", "bicycles in a park"),
        *("--out", str(out), "--models", str(models), *FAST, *map(str, options)),
    ]


def latents_of(state):
    return [path.read_bytes() for path in sorted((state / "chunks").iterdir())]


def saved_chunks(state):
    """How many finished chunks the state file counts; a chunk's own file is there a moment earlier."""
    file = state / "state.safetensors"
    return load_state(file).next_chunk if file.exists() else 0


def wait_for(condition, process, seconds=120):
    deadline = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, "the process ended before it could be interrupted"
        assert time.monotonic() < deadline
        time.sleep(0.01)
