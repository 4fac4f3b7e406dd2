"""Where tests keep what they fetch between runs."""

import os
from pathlib import Path

from pavdm.comfyui.core import default_cache


def fetched() -> Path:
    """$PAVDM_TEST_CACHE, else where the project itself keeps what it fetched."""
    return Path(os.environ.get("PAVDM_TEST_CACHE") or default_cache())
