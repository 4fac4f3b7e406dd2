"""Fit the preview of latents to a video VAE: python scripts/fit_preview.py VAE CLIP... [--into FOLDER ...].

Prints the two entries that ComfyUI's latent preview needs; --into writes them into the config.json of
model folders: the VAE's, and those of networks that make its latents. Runs where the project is installed.
"""

import argparse
import json
import sys
from pathlib import Path

import numpy as np
import torch

from pavdm.clip import PIECE_FRAMES, PIECE_LATENTS
from pavdm.errors import InputError
from pavdm.frames import to_pixels
from pavdm.models.checkpoint import load_vae
from pavdm.models.files import CONFIG, read_config
from pavdm.models.latent_preview import LatentPreview, fit_preview
from pavdm.models.write import write_json
from pavdm.video_reader import read_frames

SIZE = (144, 256)
FPS = 24.0


@torch.inference_mode()
def fitted(vae_path: Path, clips: list[Path]) -> tuple[LatentPreview, float]:
    """The fit to the first piece of every clip, and the part of the colours' variance that it explains (1 is all)."""
    vae = load_vae(vae_path)
    pieces = []
    for clip in clips:
        frames = [frame for _, frame in zip(range(PIECE_FRAMES), read_frames(clip, fps=FPS, size=SIZE), strict=False)]
        if len(frames) < PIECE_FRAMES:
            raise InputError(f"{clip} has {len(frames)} frames, {PIECE_FRAMES} are needed: leave it out")
        pieces.append(to_pixels(np.stack(frames)))
    pixels = torch.cat(pieces)
    latents = torch.cat([vae.encode(piece) for piece in pieces])
    preview = fit_preview(latents, pixels)
    colours = torch.nn.functional.adaptive_avg_pool3d(pixels, (PIECE_LATENTS, *latents.shape[3:]))
    rest = (preview.pictures(latents) - colours).var() / colours.var()
    return preview, 1 - float(rest)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("vae", type=Path)
    parser.add_argument("clips", type=Path, nargs="+")
    parser.add_argument("--into", type=Path, nargs="+", default=[], metavar="FOLDER")
    options = parser.parse_args()
    try:
        preview, explained = fitted(options.vae, options.clips)
        print(json.dumps(preview.to_config()))
        print(f"explains {100 * explained:.1f} % of the colours' variance", file=sys.stderr)
        for folder in options.into:
            write_json(folder / CONFIG, {**read_config(folder), **preview.to_config()})
    except InputError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
