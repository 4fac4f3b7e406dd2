"""Set everything up in .venv and continue a clip: python scripts/first_run.py [CLIP [pavdm options]].

Without published weights in ./models it uses small networks with random weights: the video then shows the clip, and
after it every stage at work on noise. Without a CLIP it fetches a short real one.
"""

import subprocess
import sys
from pathlib import Path

from environment import ROOT, prepare

DEMO = ROOT / "demo"


def main() -> int:
    python = prepare()
    pavdm = [python, "-m", "pavdm"]
    models = ROOT / "models"
    options = sys.argv[2:]
    if not models.is_dir():
        models = DEMO / "random-models"
        options = ["--resolution", "144p", *options]
        if not models.is_dir():
            subprocess.run([*pavdm, "new-model", models], check=True)
    if len(sys.argv) > 1:
        clip = Path(sys.argv[1])
    else:
        subprocess.run([python, ROOT / "scripts" / "clips.py", DEMO / "clips"], check=True)
        clip = DEMO / "clips" / "bikes.mp4"
    DEMO.mkdir(exist_ok=True)
    settings = ["--prompt", "a street with bicycles", "--seconds", "4", "--models", models, "--overwrite"]
    command = [*pavdm, "extend", clip, *settings, "--out", DEMO / f"{clip.stem}-extended.mp4", *options]
    return subprocess.run(command, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
