"""Options of `pavdm train --what vae`, and the task that they ask for. Heavy imports wait until they are needed."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from pavdm.errors import InputError
from pavdm.training.start_options import open_pixels

if TYPE_CHECKING:
    from pavdm.models.vae import VideoVAE
    from pavdm.training.vae_task import VAETask


def add_options(parser: argparse.ArgumentParser) -> None:
    vae = parser.add_argument_group("vae")
    vae.add_argument(
        "--part",
        choices=("spatial", "temporal", "whole"),
        default="whole",
        help="which half learns: spatial first (--frames 1), then temporal (--frames 17), then the whole (default)",
    )
    vae.add_argument(
        "--decoded-frames",
        type=int,
        default=0,
        metavar="N",
        help="frames of a clip that are decoded to pixels in a step, to save time (default 0: all)",
    )
    vae.add_argument("--kl-weight", type=float, default=1e-6, metavar="X", help="default 1e-6")


def make_task(options: argparse.Namespace) -> VAETask:
    """Raises InputError for options that contradict each other, and files that are missing or no VAE."""
    from pavdm.training.sources import parse_bucket
    from pavdm.training.vae_task import VAETask
    from pavdm.training.world_source import PIECE_FRAMES

    if options.decoded_frames < 0 or options.kl_weight < 0:
        raise InputError("--decoded-frames and --kl-weight must be at least 0")
    longest = max([parse_bucket(text, 1).num_frames for text in options.bucket] or options.frames)
    if longest > PIECE_FRAMES:
        raise InputError(f"the VAE codes 17 frames at a time: give --frames or --bucket with 1 to 17, got {longest}")
    network, start = starting_vae(options)
    return VAETask(
        network,
        open_pixels(options),
        part=options.part,
        frames=options.decoded_frames,
        kl_weight=options.kl_weight,
        seed=options.seed,
        start=start,
    )


def starting_vae(options: argparse.Namespace) -> tuple[VideoVAE, dict[str, Any]]:
    """The VAE to train, and what identifies it."""
    from pavdm.models.checkpoint import load_vae
    from pavdm.models.vae import VAEConfig, VideoVAE, initialize_weights
    from pavdm.models.weights import fingerprint
    from pavdm.new_model import PRESETS
    from pavdm.training.noising import generator_for
    from pavdm.training.start import read_json
    from pavdm.training.vae_objective import prepare_for_training

    if options.start is not None:
        loaded = load_vae(options.start)
        vae = VideoVAE(loaded.config)
        vae.load_state_dict(loaded.state_dict())  # copies: the file's own memory must not be trained
        return vae, {"start": fingerprint(options.start)[:16]}
    if options.config is not None:
        config = VAEConfig.from_dict(read_json(options.config))
    elif options.like is not None:
        config = PRESETS[options.like].vae
    else:
        raise InputError("say where training starts: --from PATH, --config FILE or --like tiny, small or xl")
    vae = VideoVAE(config)
    initialize_weights(vae, generator_for(options.seed, "weights"))
    prepare_for_training(vae)
    return vae, {"start": config.to_dict()}
