"""Options of `pavdm train --what text-encoder`, and the task that they ask for."""

from __future__ import annotations

import argparse
import logging
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pavdm.errors import InputError
from pavdm.training.start_options import data_of

if TYPE_CHECKING:
    from pavdm.training.data.clip_list import Skipped
    from pavdm.training.task import Plan

logger = logging.getLogger(__name__)

LEAST_VOCABULARY, MOST_VOCABULARY = 261, 2**20
WORLD_CAPTIONS = 6000  # if --clips does not say how many
SIZES = ("d_model", "d_kv", "d_ff", "num_layers", "num_heads")


def add_options(parser: argparse.ArgumentParser) -> None:
    text = parser.add_argument_group("text-encoder")
    text.add_argument(
        "--vocabulary", type=int, default=512, metavar="N", help="tokens that are learned from the captions (512)"
    )


def plan(options: argparse.Namespace) -> Plan:
    """Raises InputError for options that make no encoder, and data without captions."""
    from pavdm import captions
    from pavdm.training.task import Plan
    from pavdm.training.text_encoder.task import TextTask

    if not LEAST_VOCABULARY <= options.vocabulary <= MOST_VOCABULARY:
        raise InputError(
            f"--vocabulary must lie in {LEAST_VOCABULARY}..{MOST_VOCABULARY}, of which 260 are bytes and marks: got "
            f"{options.vocabulary}"
        )
    given, skipped = _captions(options)
    texts = [text for text in (captions.preprocess(text, options.aesthetic) for text in given) if text]
    if not texts:
        raise InputError(f"none of the {len(given)} captions of {options.data} has words that the text encoder reads")
    if len(texts) < len(given):
        logger.warning("%d captions are left out: nothing is left of them after cleaning", len(given) - len(texts))
    with tempfile.TemporaryDirectory() as scratch:
        task = TextTask(
            texts,
            _shape(options),
            scratch=Path(scratch),
            vocab_size=options.vocabulary,
            batch_size=options.batch_size,
            seed=options.seed,
        )
    return Plan(lambda: task, skipped=skipped)


def _captions(options: argparse.Namespace) -> tuple[list[str], Sequence[Skipped]]:
    """The captions of --data, and its files that have none."""
    from pavdm.training.data.clip_list import read_clip_list
    from pavdm.training.data.sources import WORLD, world_clips
    from pavdm.training.world import make_scene

    data = data_of(options)
    if data.is_latents:
        raise InputError(f"{data.name} holds pre-computed clips: the text encoder learns from captions themselves")
    if data.name == WORLD:
        world = world_clips(data if data.clips is not None else replace(data, clips=WORLD_CAPTIONS))
        return [make_scene(world.first_seed + number).caption for number in range(world.count)], ()
    clips, skipped = read_clip_list(data.name)
    return [clip.text for clip in clips], skipped


def _shape(options: argparse.Namespace) -> dict[str, Any]:
    from pavdm.new_model import PRESETS
    from pavdm.training.start import read_json

    if options.start is not None:
        raise InputError("a text encoder is trained from nothing, with its own tokenizer: give --config or --like")
    if options.config is not None:
        config = read_json(options.config)
        missing = [name for name in SIZES if not isinstance(config.get(name), int)]
        if missing:
            raise InputError(f"{options.config}: a T5 encoder's shape has whole numbers for {', '.join(missing)}")
        return {name: config[name] for name in SIZES}
    if options.like is None:
        raise InputError("say what shape the encoder has: --config FILE or --like tiny, small or xl")
    return {name: getattr(PRESETS[options.like].text_encoder, name) for name in SIZES}
