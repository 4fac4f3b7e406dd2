"""Options of `pavdm train` that would change nothing are refused: whoever typed them expects that they do.

But for those of samples: `--sample-every 0` after a recipe is to be all that turns them off.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping
from typing import Any

from pavdm.errors import InputError

FORM = ("size", "frames", "fps", "bucket", "latest_start", "changing", "mending")
ENCODING = ("vae", "text_encoder", "aesthetic")
WINDOW_NOISE = (
    "noise_pattern",
    "variance_scale",
    "shift_scale",
    "partial_share",
    "partial_place",
    "text_only_share",
    "resampled_share",
)


def refuse_unused(options: argparse.Namespace, defaults: Mapping[str, Any], owners: Mapping[str, str]) -> None:
    """Raise InputError for an option that was set and that this training does not read.

    defaults: of all options. owners: the one network that reads an option, of those that only one does.
    """
    for name, reason in _unread(options, owners):
        if getattr(options, name) != defaults[name]:
            raise InputError(f"--{name.replace('_', '-')} {reason}: leave it out")


def _unread(options: argparse.Namespace, owners: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """Names of options, and why they are not read."""
    what = options.what
    for name, owner in owners.items():
        if owner != what:
            yield name, f"belongs to --what {owner}, not to {what}"
    if what == "stdit":
        whole = options.objective == "whole-clip"
        for name in WINDOW_NOISE if whole else ("timesteps", "frame_masks"):
            yield name, f"belongs to --objective {'progressive' if whole else 'whole-clip'}"
        if not whole:
            yield from _unread_of_windows(options)
        if options.data is not None and _holds_latents(options.data):
            for name in (*FORM, "clips", "first_seed", *ENCODING):
                yield name, f"has no meaning for clips that are pre-computed, as {options.data} is"
    if what == "vae":
        for name in ENCODING:
            yield name, "has no meaning for --what vae"
    if what == "text-encoder":
        for name in (*FORM, "vae", "text_encoder"):
            yield name, "has no meaning for --what text-encoder, which reads captions alone"
        yield "sample_every", "has no meaning for --what text-encoder, which makes nothing to look at"


def _unread_of_windows(options: argparse.Namespace) -> Iterator[tuple[str, str]]:
    for scale in ("variance", "shift"):
        if scale not in options.noise_pattern:
            yield f"{scale}_scale", f"has no meaning for --noise-pattern {options.noise_pattern}"
    if options.no_variable_length:
        for name in ("partial_share", "partial_place"):
            yield name, "has no meaning with --no-variable-length"
    if options.no_overlap:
        yield "text_only_share", "has no meaning with --no-overlap, where no window has a clean chunk"
    elif options.text_only_share == 1:
        yield "partial_place", "has no meaning with --text-only-share 1, where windows only grow"


def _holds_latents(name: str) -> bool:
    from pavdm.training.data.sources import Data

    return Data(name).is_latents
