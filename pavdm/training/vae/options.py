"""Options of `pavdm train --what vae`, and the task that they ask for. Heavy imports wait until they are needed."""

from __future__ import annotations

import argparse
import math
from typing import TYPE_CHECKING, Any

from pavdm.errors import InputError
from pavdm.training.start_options import memory_of, open_pixels

if TYPE_CHECKING:
    from pavdm.models.vae import VideoVAE
    from pavdm.training.memory import MemoryEstimate
    from pavdm.training.task import Plan
    from pavdm.training.vae.task import VAETask


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
    vae.add_argument(
        "--still-weight",
        type=float,
        default=0.0,
        metavar="X",
        help="how much latents should be those of still pictures, so that pieces of 17 frames join without a jump "
        "(default 0, as published; 8 for the small model)",
    )


def plan(options: argparse.Namespace) -> Plan:
    """Raises InputError for options that contradict each other, and files that are missing or no VAE."""
    from pavdm.training.data.sources import parse_bucket
    from pavdm.training.task import Plan
    from pavdm.training.vae.task import VAETask

    if min(options.decoded_frames, options.kl_weight, options.still_weight) < 0:
        raise InputError("--decoded-frames, --kl-weight and --still-weight must be at least 0")
    if options.part == "temporal" and options.start is None:
        raise InputError("--part temporal learns behind a trained image half: say where it is with --from PATH")
    network, start = starting_vae(options)
    piece = network.config.micro_frame_size
    longest = max([parse_bucket(text, 1).num_frames for text in options.bucket] or options.frames)
    if longest > piece:
        raise InputError(
            f"the VAE codes {piece} frames at a time: give --frames or --bucket with 1 to {piece}, got {longest}"
        )
    task = VAETask(
        network,
        open_pixels(options),
        part=options.part,
        frames=options.decoded_frames,
        kl_weight=options.kl_weight,
        still_weight=options.still_weight,
        seed=options.seed,
        start=start,
    )
    return Plan(lambda: task, lambda: _estimate(options, task), task.source.skipped)


def _estimate(options: argparse.Namespace, task: VAETask) -> MemoryEstimate:
    """What a step takes with the largest batch. Attention, of the image half's middle alone, is counted with its
    matrix, which fused kernels do not make."""
    from pavdm.models.vae import VideoVAE
    from pavdm.training.vae.task import VAETask

    largest = max(task.source.extents(), key=lambda extent: extent.batch_size * math.prod(extent.shape))
    vae = VideoVAE(task.network.config, device="meta")
    simulated = VAETask(
        vae, task.source, part=options.part, frames=options.decoded_frames, still_weight=options.still_weight
    )
    return memory_of(options, task.network, simulated.objective, simulated.blocks(), simulated.stand_in(largest))


def starting_vae(options: argparse.Namespace) -> tuple[VideoVAE, dict[str, Any]]:
    """The VAE to train, and what identifies it."""
    from pavdm.models.checkpoint import load_vae
    from pavdm.models.vae import VAEConfig, VideoVAE, initialize_weights
    from pavdm.models.weights import fingerprint
    from pavdm.training.chance import generator_for
    from pavdm.training.start import chosen_config
    from pavdm.training.vae.objective import prepare_for_training

    if options.start is not None:
        loaded = load_vae(options.start)
        vae = VideoVAE(loaded.config)
        vae.load_state_dict(loaded.state_dict())  # copies: the file's own memory must not be trained
        return vae, {"start": fingerprint(options.start)[:16]}
    config = chosen_config(options.config, options.like, VAEConfig.from_dict, lambda preset: preset.vae)
    vae = VideoVAE(config)
    initialize_weights(vae, generator_for(options.seed, "weights"))
    prepare_for_training(vae)
    return vae, {"start": config.to_dict()}
