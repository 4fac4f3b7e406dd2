"""Average two trainings of one network: python scripts/average_weights.py MODEL OTHER --share 0.4 --out DIR.

MODEL and OTHER are model folders of `pavdm train` (`step-NNNNNN/model`), one trained on from the other; DIR becomes
such a folder, in which every weight is (1 - share) times that of MODEL plus share times that of OTHER. Between two
states of one training this often keeps what is good in both (Wortsman et al., "Model soups", arXiv 2203.05482).
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

FILE, CONFIG = "model.safetensors", "config.json"


def averaged(ours: dict[str, Tensor], theirs: dict[str, Tensor], share: float) -> dict[str, Tensor]:
    """Raises ValueError for the weights of another network."""
    shapes, other_shapes = ({name: tuple(tensor.shape) for name, tensor in each.items()} for each in (ours, theirs))
    if shapes != other_shapes:
        differing = sorted(name for name in shapes | other_shapes if shapes.get(name) != other_shapes.get(name))
        raise ValueError(f"these are not two states of one network: they differ in {', '.join(differing[:3])}")
    return {name: ((1 - share) * ours[name].float() + share * theirs[name].float()).to(ours[name]) for name in ours}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("other", type=Path)
    parser.add_argument("--share", type=float, default=0.5, metavar="X", help="of OTHER, 0..1 (default 0.5)")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="a folder that does not exist yet")
    options = parser.parse_args()
    if not 0 <= options.share <= 1:
        parser.error(f"--share must lie in 0..1: got {options.share}")
    for folder in (options.model, options.other):
        if not (folder / FILE).is_file() or not (folder / CONFIG).is_file():
            parser.error(f"{folder} is no model folder of pavdm train: it needs {FILE} and {CONFIG}")
    if options.out.exists():
        parser.error(f"{options.out} exists already: name a folder that does not")
    try:
        weights = averaged(load_file(options.model / FILE), load_file(options.other / FILE), options.share)
    except ValueError as error:
        parser.error(str(error))
    with safe_open(options.model / FILE, "pt") as file:
        metadata = file.metadata()
    options.out.mkdir(parents=True)
    shutil.copyfile(options.model / CONFIG, options.out / CONFIG)
    with replacing(options.out / FILE) as partial:
        save_file(weights, partial, metadata)
    return 0


if __name__ == "__main__":
    sys.exit(main())
