"""The project's own virtual environment, .venv beside the README; used by the other scripts here."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
ENVIRONMENT = ROOT / ".venv"


def prepare(extras: str = "") -> Path:
    """Make .venv if need be, install the project into it (editable, with `extras`), and return its Python."""
    python = ENVIRONMENT / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")
    if not python.exists():
        print(f"making {ENVIRONMENT} ...", flush=True)
        subprocess.run([sys.executable, "-m", "venv", ENVIRONMENT], check=True)
    print("installing the project (the first time this fetches PyTorch) ...", flush=True)
    target = f"{ROOT}[{extras}]" if extras else str(ROOT)
    subprocess.run([python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-e", target], check=True)
    return python
