"""The project's own virtual environments, beside the README; used by the other scripts here."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def prepare(extras: str = "", name: str = ".venv", requirements: tuple[str | Path, ...] = ()) -> Path:
    """Make the environment `name` if need be and return its Python.

    The project is installed into it (editable, with `extras`), and what else pip is told by `requirements`.
    """
    environment = ROOT / name
    python = environment / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")
    if not python.exists():
        print(f"making {environment} ...", flush=True)
        subprocess.run([sys.executable, "-m", "venv", environment], check=True)
    print("installing the project (the first time this fetches PyTorch) ...", flush=True)
    target = f"{ROOT}[{extras}]" if extras else str(ROOT)
    pip = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, *requirements, "-e", target], check=True)
    return python
