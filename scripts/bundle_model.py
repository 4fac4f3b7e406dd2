"""Make the folder of a small model that ships: python scripts/bundle_model.py --stdit DIR --vae DIR --text-encoder DIR
--name pavdm-tiny --out OUT.

Each DIR is a model folder of `pavdm train` (`step-NNNNNN/model`). OUT gets three folders, named as ComfyUI's for these
kinds of models, with the weights in fp16 as NAME-KIND.safetensors and all else as it is. A kind that is not given is
left out. So `pavdm/bundled` is laid out.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from pathlib import Path

from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from pavdm.files import replacing
from pavdm.models.checkpoint import ROPE, WEIGHTS

FOLDERS = {"stdit": "diffusion_models", "vae": "vae", "text-encoder": "text_encoders"}


def half(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The rotary frequencies stay: published files hold them in fp32."""
    return {name: tensor if name == ROPE else tensor.half() for name, tensor in tensors.items()}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for kind in FOLDERS:
        parser.add_argument(f"--{kind}", type=Path, metavar="DIR")
    parser.add_argument("--name", required=True, help="what the files' names begin with")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    given = {kind: getattr(options, kind.replace("-", "_")) for kind in FOLDERS}
    given = {kind: folder for kind, folder in given.items() if folder is not None}
    if not given:
        parser.error("give at least one of --stdit, --vae and --text-encoder")
    for folder in given.values():
        if not (folder / WEIGHTS).is_file():
            parser.error(f"{folder} is no model folder of pavdm train: it has no {WEIGHTS}")
    for kind, folder in given.items():
        target = options.out / FOLDERS[kind]
        target.mkdir(parents=True, exist_ok=True)
        with safe_open(folder / WEIGHTS, "pt") as file:
            metadata = file.metadata()
        with replacing(target / f"{options.name}-{kind}.safetensors") as partial:
            save_file(half(load_file(folder / WEIGHTS)), partial, metadata)
        for other in folder.iterdir():
            if other.name != WEIGHTS:
                shutil.copyfile(other, target / other.name)
    return 0


if __name__ == "__main__":
    sys.exit(main())
