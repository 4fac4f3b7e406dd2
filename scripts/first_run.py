"""Set everything up in .venv and see it work: python scripts/first_run.py [CLIP [pavdm options]].

Without a CLIP: `pavdm demo`, by the small model that comes with the project. With one: `pavdm extend` by the networks
in ./models, into demo/CLIP-extended.mp4.
"""

import subprocess
import sys
from pathlib import Path

from environment import ROOT, prepare

DEMO = ROOT / "demo"


def main() -> int:
    python = prepare("eval")
    pavdm = [python, "-m", "pavdm"]
    if len(sys.argv) == 1:
        return subprocess.run([*pavdm, "demo", "--out", DEMO, "--overwrite"], check=False).returncode
    DEMO.mkdir(exist_ok=True)
    clip, options = Path(sys.argv[1]), sys.argv[2:]
    settings = ["--seconds", "10", "--models", ROOT / "models", "--out", DEMO / f"{clip.stem}-extended.mp4"]
    return subprocess.run([*pavdm, "extend", clip, *settings, *options], check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
