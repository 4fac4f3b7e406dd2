"""`pavdm preprocess` and `pavdm world`: what can be typed, and what it means for the library."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from pavdm.errors import InputError

if TYPE_CHECKING:
    from pavdm.training.data.coding import Coder
    from pavdm.training.data.preprocess import Outcome, Progress
    from pavdm.training.data.sources import Data


def add_preprocess(commands: argparse._SubParsersAction[argparse.ArgumentParser], models: Callable[..., None]) -> None:
    """models: adds --models and the paths of single networks."""
    parser = commands.add_parser(
        "preprocess",
        help="encode clips and captions once, for many epochs of training",
        description="Encode clips and captions once, into sharded safetensors that `pavdm train --data DIR` reads. The "
        "same command goes on where it was stopped; several processes share the work (torchrun, accelerate launch, or "
        "--rank and --world-size).",
        epilog="Example: pavdm preprocess world --clips 4000 --frames 119-187 --size 64x96 --vae DIR "
        "--text-encoder DIR --out latents",
    )
    parser.add_argument(
        "source",
        metavar="SOURCE",
        help="`world` (clips that are rendered), a .csv or .jsonl list, or a folder of clips",
    )
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="the folder of shards")
    add_source_options(parser)
    models(parser)
    coding = parser.add_argument_group("encoding")
    coding.add_argument(
        "--posterior",
        choices=("sample", "mode"),
        default="sample",
        help="draw the latents from the VAE's posterior (sample, published) or take the most likely ones (mode)",
    )
    coding.add_argument("--seed", type=int, default=0, help="of the posterior's noise (default 0)")
    coding.add_argument("--store", choices=("fp16", "bf16", "fp32"), default="fp16", help="on disk (default fp16)")
    coding.add_argument(
        "--aesthetic", type=float, metavar="X", help="append this aesthetic score to every caption (default: none)"
    )
    run = parser.add_argument_group("run")
    run.add_argument("--shard-clips", type=int, default=128, metavar="N", help="clips of a shard (default 128)")
    run.add_argument("--workers", type=int, default=0, metavar="N", help="processes that only read clips (default 0)")
    run.add_argument(
        "--rank", type=int, help="which of the processes that share the work this is (default: $RANK or 0)"
    )
    run.add_argument("--world-size", type=int, metavar="N", help="how many share it (default: $WORLD_SIZE or 1)")
    run.add_argument("--device", default="auto", help="cuda, cuda:1, mps, cpu (default: the best there is)")
    run.add_argument(
        "--dtype", choices=("auto", "fp32", "bf16", "fp16"), default="auto", help="default bf16 on CUDA, else fp32"
    )
    run.add_argument("--text-dtype", choices=("fp32", "bf16"), default="fp32", help=argparse.SUPPRESS)
    run.add_argument("--tile", type=int, metavar="N", help="let the VAE work in tiles of N x N latent pixels")
    run.add_argument("--quiet", action="store_true", help="no progress, only the result and errors")
    parser.set_defaults(command="preprocess")


def add_world(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser(
        "world",
        help="render clips of a procedural world to train small networks on",
        description="Render clips of the procedural world to video files, each with its caption in a .txt beside it: "
        "to look at, or to train on as files.",
    )
    parser.add_argument("--count", type=int, default=4, metavar="N", help="clips (default 4)")
    parser.add_argument("--seconds", type=float, default=5.0, metavar="S", help="length of each (default 5)")
    parser.add_argument("--size", default="64x96", metavar="HxW", help="height x width in pixels (default 64x96)")
    parser.add_argument("--fps", type=float, default=24.0, help="frames per second (default 24)")
    parser.add_argument(
        "--seed", type=int, default=0, metavar="N", help="of the first clip (default 0); 1000000000 and on are held out"
    )
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="the folder to write them to")
    parser.add_argument("--overwrite", action="store_true", help="replace files that exist")
    parser.set_defaults(command="world")


def add_source_options(parser: argparse.ArgumentParser) -> None:
    """What says which clips of a source, and in which form; `data_from` reads it."""
    clips = parser.add_argument_group("clips")
    clips.add_argument(
        "--frames",
        type=frame_range,
        default=(119, 119),
        metavar="N[-M]",
        help="length, or shortest and longest in multiples of 17, at --fps (default 119)",
    )
    clips.add_argument("--size", metavar="HxW", help="height x width in pixels (world: default 64x96)")
    clips.add_argument("--fps", type=float, default=24.0, help="frames per second (default 24)")
    clips.add_argument(
        "--bucket",
        action="append",
        default=[],
        metavar="RESOLUTION:FRAMES[:BATCH]",
        help="files: instead of --size and --frames, and as often as wanted: clips go to the largest that they fill. "
        "RESOLUTION is HxW, or 144p to 1080p with all their aspects; 1 frame takes images",
    )
    clips.add_argument("--clips", type=int, metavar="N", help="world: how many (training: default no limit)")
    clips.add_argument(
        "--first-seed", type=int, default=0, metavar="N", help="world: the first clip's; 1000000000 and on are held out"
    )
    clips.add_argument(
        "--latest-start",
        type=float,
        default=0.0,
        metavar="S",
        help="world: clips begin up to S seconds into their scene (default 0)",
    )
    clips.add_argument(
        "--changing",
        type=float,
        default=0.0,
        metavar="SHARE",
        help="world, pre-computed: share of the clips in which a colour or the light changes, and the caption with it",
    )
    clips.add_argument(
        "--mending",
        type=float,
        default=0.0,
        metavar="SHARE",
        help="world, pre-computed: share of the clips in which at first a shape is missing, or not as the caption says",
    )


def data_from(options: argparse.Namespace, name: str) -> Data:
    from pavdm.buckets import parse_size
    from pavdm.training.data.sources import Data

    return Data(
        name,
        options.frames,
        parse_size(options.size) if options.size else None,
        options.fps,
        tuple(options.bucket),
        options.clips,
        options.first_seed,
        options.latest_start,
        options.changing,
        options.mending,
    )


def frame_range(text: str) -> tuple[int, int]:
    """ "119" -> (119, 119), "119-187" -> (119, 187)."""
    first, _, last = text.partition("-")
    if not first.isdigit() or (last and not last.isdigit()) or int(first) < 1 or int(last or first) < int(first):
        raise argparse.ArgumentTypeError(f"expected a number of frames, or two such as 119-187: got {text!r}")
    return int(first), int(last or first)


def process_from(options: argparse.Namespace) -> tuple[int, int]:
    """(rank, world size): typed, or those that torchrun and accelerate set."""
    rank, size = options.rank, options.world_size
    if (rank is None) != (size is None):
        raise InputError("give --rank and --world-size together")
    if rank is None:
        rank, size = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    if not 0 <= rank < size:
        raise InputError(f"expected a rank from 0 to the world size less one: got {rank} of {size}")
    return rank, size


def run_preprocess(
    options: argparse.Namespace, progress: Callable[[Progress], None], should_stop: Callable[[], bool]
) -> Outcome:
    import torch

    from pavdm.models.checkpoint import load_vae
    from pavdm.models.files import find_encoders
    from pavdm.models.text_encoder import TextEncoder
    from pavdm.models.weights import fingerprint
    from pavdm.options import precision_from
    from pavdm.training.data.coding import Coding, Networks
    from pavdm.training.data.preprocess import Job, preprocess
    from pavdm.training.data.sources import raw_clips

    rank, world_size = process_from(options)
    if options.device == "auto" and torch.cuda.is_available():
        options.device = f"cuda:{int(os.environ.get('LOCAL_RANK', '0')) % torch.cuda.device_count()}"
    precision = precision_from(options)
    clips = raw_clips(data_from(options, options.source))
    files = find_encoders(options.models, options.vae, options.text_encoder, options.spatial_vae)

    def load() -> Coder:
        vae = load_vae(files.vae, precision.device, precision.vae_dtype, files.spatial_vae)
        vae.tile = precision.tile
        encoder = TextEncoder.load(files.text_encoder, precision.device, precision.text_dtype)
        return Networks(vae, encoder, precision.device)

    identity = {
        "vae": fingerprint(files.vae)[:16],
        "spatial vae": None if files.spatial_vae is None else fingerprint(files.spatial_vae)[:16],
        "text encoder": fingerprint(files.text_encoder)[:16],
        "dtype": str(precision.vae_dtype).removeprefix("torch."),
        "text dtype": str(precision.text_dtype).removeprefix("torch."),
        "tile": precision.tile,
    }
    coding = Coding(options.posterior, options.seed, options.aesthetic, identity)
    return preprocess(
        clips,
        Job(options.out, coding, options.store, options.shard_clips),
        load,
        rank=rank,
        world_size=world_size,
        workers=options.workers,
        progress=progress,
        should_stop=should_stop,
    )
