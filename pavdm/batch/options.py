"""What can be typed after `pavdm batch` and `pavdm cut`."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any


def add_batch(
    commands: Any,
    add_making_options: Callable[[argparse.ArgumentParser, bool], argparse._ArgumentGroup],
    add_clip_options: Callable[[argparse.ArgumentParser], None],
) -> None:
    """commands: what `add_subparsers` returned; the functions add what `pavdm extend` has, too."""
    batch = commands.add_parser(
        "batch",
        help="make the videos of a list, on one process or many",
        description="Make a video, or several, of every line of a list. Whoever is free takes the next one: start it "
        "once, under torchrun, or many times on any machines that share the folder DIR. Stopped or killed, the same "
        "command goes on where it was, and what is finished is left alone. The options are those of `pavdm extend` "
        "and hold for every line; the columns of a CSV overrule them. Exit status: 0 all are made, 1 some failed or a "
        "process was lost, 2 bad input, 130 interrupted.",
        epilog="Example: torchrun --nproc-per-node 8 --max-restarts 3 -m pavdm batch prompts.txt --seconds 60 "
        "--out videos --models models",
    )
    _add_list_options(batch)
    batch.add_argument("--out", type=Path, required=True, metavar="DIR", help="the folder for the videos")
    batch.add_argument(
        "--num-sample",
        type=_at_least_one,
        default=1,
        metavar="N",
        help="videos of every line, with seed, seed + 1, ...",
    )
    batch.add_argument(
        "--sample-name", default="sample", metavar="NAME", help="the videos are NAME_0000.mp4 ... (default sample)"
    )
    batch.add_argument(
        "--clips", type=Path, metavar="DIR", help="look for the clips here, too, by any part of their paths' ends"
    )
    servers = batch.add_argument_group("ComfyUI servers, instead of networks in this process")
    servers.add_argument(
        "--server",
        nargs="+",
        action="extend",
        default=[],
        metavar="URL",
        help="hand the videos out to these servers, which have the nodes and the networks: http://127.0.0.1:8188 ...",
    )
    servers.add_argument(
        "--workflow",
        type=Path,
        metavar="FILE",
        help="in API format (default: those that come with the nodes); the settings go into its nodes by their class",
    )
    add_making_options(batch, False)
    add_clip_options(batch)
    batch.set_defaults(command="batch")


def add_cut(commands: Any) -> None:
    cut = commands.add_parser(
        "cut",
        help="cut new clips for a list from the raw videos",
        description="The published clips are named for what they are: artgallery_s0_16f_320x176.mp4 holds 16 frames "
        "from frame 0 of the raw video `artgallery`. This cuts clips of another size or length that begin at the same "
        "frame, and writes the list that names them, DIR/list.txt.",
        epilog="Example: pavdm cut all_prompts.txt --raw pavdm_test --out clips; pavdm batch clips/list.txt ...",
    )
    _add_list_options(cut)
    cut.add_argument("--raw", type=Path, required=True, metavar="DIR", help="the raw videos, anywhere below it")
    cut.add_argument("--out", type=Path, required=True, metavar="DIR", help="a folder for the clips and their list")
    cut.add_argument(
        "--frames", type=_at_least_one, default=17, metavar="N", help="of every clip (default 17, a piece of the VAE)"
    )
    cut.add_argument("--size", default="240x426", metavar="HxW", help="height x width in pixels (default 240x426)")
    cut.add_argument(
        "--fps",
        type=_rate,
        default=24.0,
        metavar="F",
        help="resample to F frames per second (default 24), or `raw`: keep the raw video's own frames",
    )
    cut.set_defaults(command="cut")


def _add_list_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "list",
        type=Path,
        metavar="LIST",
        help="text_prompt||video_file_path.mp4 in every line (no || for a video from text alone; a JSON suffix "
        '{"reference_path": "clip.mp4"} does, too), or a .csv with the columns prompt, clip, seconds, seed, ...',
    )
    parser.add_argument("--start-index", type=_whole, default=0, metavar="N", help="begin with this line, from 0")
    parser.add_argument("--end-index", type=_whole, metavar="N", help="and end before this one")


def _whole(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"expected a whole number from 0 on: got {text!r}")
    return int(text)


def _at_least_one(text: str) -> int:
    if (number := _whole(text)) == 0:
        raise argparse.ArgumentTypeError("expected at least 1: got 0")
    return number


def _rate(text: str) -> float | None:
    try:
        return None if text == "raw" else float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected frames per second, or raw: got {text!r}") from None
