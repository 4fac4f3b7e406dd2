"""What several tasks of `pavdm train` share: options for where weights start and which clips are read, the memory."""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pavdm.data_commands import add_source_options, data_from
from pavdm.errors import InputError
from pavdm.parallel.launch import started

if TYPE_CHECKING:
    from torch import nn

    from pavdm.training.data.coding import Coder
    from pavdm.training.data.pixel_source import PixelSource
    from pavdm.training.data.source import Source
    from pavdm.training.data.sources import Data
    from pavdm.training.memory import MemoryEstimate
    from pavdm.training.task import Share

SIZES = ("tiny", "small", "xl")


def add_start_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("start, one of the three")
    start = group.add_mutually_exclusive_group()
    start.add_argument("--from", dest="start", type=Path, metavar="PATH", help="a checkpoint to go on from")
    start.add_argument("--config", type=Path, metavar="FILE", help="random weights, of the shape of a config.json")
    start.add_argument("--like", choices=SIZES, help="random weights, as large as in pavdm new-model")


def add_data_options(parser: argparse.ArgumentParser) -> None:
    data = parser.add_argument_group("data")
    data.add_argument(
        "--data",
        metavar="SOURCE",
        help="a folder that pavdm preprocess wrote (stdit), `world`, a .csv or .jsonl list, or a folder of clips",
    )
    data.add_argument("--vae", type=Path, metavar="PATH", help="stdit, clips not pre-computed: encodes them")
    data.add_argument("--text-encoder", type=Path, metavar="DIR", help="stdit, clips not pre-computed: reads captions")
    data.add_argument(
        "--aesthetic", type=float, metavar="X", help="append this aesthetic score to every caption (default: none)"
    )
    add_source_options(parser)


def precision_of(options: argparse.Namespace) -> str:
    """As typed, else as accelerate was launched."""
    return options.precision or os.environ.get("ACCELERATE_MIXED_PRECISION", "no")


def memory_of(
    options: argparse.Namespace, network: nn.Module, objective: nn.Module, blocks: Iterable[nn.Module], example: Any
) -> MemoryEstimate:
    """What a step of the run takes. network: as it will be in memory. objective: on the meta device, run on `example`,
    the largest batch; blocks: its parts that --checkpointing computes twice."""
    from pavdm.training.memory import estimate, peak_bytes
    from pavdm.training.run import checkpoint_blocks

    if options.checkpointing:
        checkpoint_blocks(blocks)

    def step() -> None:
        for _ in range(min(2, options.accumulation)):  # from the second batch on, gradients are there all the time
            objective(example)[0].backward()

    mixed = precision_of(options) in ("bf16", "fp16")
    return estimate(network, peak_bytes(step), ema=options.ema > 0, mixed=mixed)


def data_of(options: argparse.Namespace) -> Data:
    """Raises InputError without --data."""
    if options.data is None:
        raise InputError("say what to train on: --data SOURCE; `pavdm train --help` lists what it can be")
    return data_from(options, options.data)


def open_pixels(options: argparse.Namespace) -> PixelSource:
    """Clips in pixels. Raises InputError if --data names none, or too few for a step."""
    from pavdm.training.data.sources import pixel_source

    source = pixel_source(data_of(options), options.batch_size, options.seed)
    source.check(_share(options))
    return source


def open_clips(options: argparse.Namespace) -> Source:
    """Clips as latents and text features: pre-computed, or encoded while training by --vae and --text-encoder.

    Raises InputError if --data names none, or too few for a step, or the networks are missing that encode them.
    """
    from pavdm.models.weights import fingerprint
    from pavdm.training.data.coding import Coding
    from pavdm.training.data.sources import clip_source

    data = data_of(options)
    if not data.is_latents and (options.vae is None or options.text_encoder is None):
        raise InputError(
            f"{options.data} is no folder of pre-computed clips: run pavdm preprocess first, or give --vae and "
            "--text-encoder to encode clips while training"
        )
    networks = {"vae": options.vae, "text encoder": options.text_encoder}
    identity = {} if data.is_latents else {name: fingerprint(path)[:16] for name, path in networks.items()}
    coding = Coding(seed=options.seed, aesthetic=options.aesthetic, identity=identity)
    source = clip_source(data, options.batch_size, options.seed, coding, lambda: _coder(options))
    source.check(_share(options))
    return source


def _share(options: argparse.Namespace) -> Share:
    """The first process's, of as many as were launched."""
    from pavdm.training.task import Share

    return Share(0, started(), options.accumulation)


def _coder(options: argparse.Namespace) -> Coder:
    import torch

    from pavdm.models.checkpoint import load_vae
    from pavdm.models.text_encoder import TextEncoder
    from pavdm.training.data.coding import Networks

    vae = load_vae(options.vae).requires_grad_(False).eval()
    encoder = TextEncoder.load(options.text_encoder, "cpu", torch.float32)
    return Networks(vae, encoder, torch.device("cpu"))
