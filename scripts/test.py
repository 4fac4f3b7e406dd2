"""Set everything up in .venv and run the tests: python scripts/test.py [pytest options]."""

import subprocess
import sys

from environment import ROOT, prepare

if __name__ == "__main__":
    sys.exit(subprocess.run([prepare("test"), "-m", "pytest", *sys.argv[1:]], cwd=ROOT, check=False).returncode)
