"""The small model that ships with the pack, made visible among the host's own model files.

The folders in `bundled/` have the names that the host gives to kinds of models; they are searched after the user's.
"""

from __future__ import annotations

from pathlib import Path

import folder_paths

BUNDLED = Path(__file__).resolve().parent.parent / "pavdm" / "bundled"
KINDS = ("diffusion_models", "vae", "text_encoders")


def register(bundled: Path = BUNDLED) -> None:
    """Let the host's lists of files name what is in the folders of `bundled`, if there is anything."""
    for kind in KINDS:
        folder = bundled / kind
        if any(folder.glob("*.safetensors")) and str(folder) not in folder_paths.get_folder_paths(kind):
            folder_paths.add_model_folder_path(kind, str(folder))
