"""Options of `pavdm train --what stdit`, and the task that they ask for. Heavy imports wait until they are needed."""

from __future__ import annotations

import argparse
import logging
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pavdm.errors import InputError
from pavdm.parallel.launch import is_leader
from pavdm.training.start_options import memory_of, open_clips, precision_of

if TYPE_CHECKING:
    from pavdm.models.stdit3 import STDiT3, STDiT3Config
    from pavdm.sampling.schedule import Schedule
    from pavdm.training.data.source import Source
    from pavdm.training.memory import MemoryEstimate
    from pavdm.training.stdit.noising import Noising
    from pavdm.training.stdit.samples import Sampler
    from pavdm.training.stdit.task import STDiTTask
    from pavdm.training.stdit.windows import TrainingWindows
    from pavdm.training.task import Plan

logger = logging.getLogger(__name__)


def add_options(parser: argparse.ArgumentParser) -> None:
    network = parser.add_argument_group("stdit: network and texts")
    network.add_argument("--lora", type=int, metavar="RANK", help="train a LoRA of this rank, with --from")
    network.add_argument("--lora-alpha", type=float, metavar="A", help="its strength is alpha / rank (default: rank)")
    network.add_argument(
        "--text-dropout", type=float, default=0.1, metavar="X", help="share without text (default 0.1)"
    )

    noise = parser.add_argument_group("stdit: noise")
    noise.add_argument(
        "--objective",
        choices=("progressive", "whole-clip"),
        default="progressive",
        help="windows of the progressive sampler (default), or ordinary training of whole clips, as Open-Sora's",
    )
    noise.add_argument("--no-timestep-transform", action="store_true", help="do not shift timesteps by size and length")
    window = parser.add_argument_group("stdit: windows of the progressive objective, and of the samples")
    window.add_argument("--window-chunks", type=int, default=6, metavar="N", help="noisy chunks (default 6)")
    window.add_argument("--chunk", type=int, default=5, metavar="N", help="latents of a chunk (default 5)")
    window.add_argument("--denoise-steps", type=int, default=30, metavar="N", help="levels of the ramp (default 30)")
    window.add_argument("--no-overlap", action="store_true", help="no clean chunk in front")
    window.add_argument("--no-variable-length", action="store_true", help="full windows only")
    window.add_argument(
        "--noise-pattern",
        choices=("linear", "linear-variance", "linear-variance-shift", "linear-shift"),
        default="linear-shift",
        help="how the ramp is moved (default linear-shift)",
    )
    window.add_argument("--variance-scale", type=float, default=0.4, metavar="X", help="of each chunk (default 0.4)")
    window.add_argument("--shift-scale", type=float, default=0.4, metavar="X", help="of the window (default 0.4)")
    window.add_argument("--partial-share", type=float, default=0.5, metavar="X", help="shorter windows (default 0.5)")
    window.add_argument(
        "--partial-place",
        choices=("ends", "anywhere"),
        default="ends",
        help="where they lie in the ramp (default ends)",
    )
    window.add_argument(
        "--text-only-share", type=float, default=0.0, metavar="X", help="windows without a clean chunk (default 0)"
    )
    window.add_argument(
        "--resampled-share",
        type=float,
        default=0.0,
        metavar="X",
        help="windows whose clean chunk the network makes anew, to learn to mend its own errors; needs clips a chunk "
        "longer than the window (default 0)",
    )
    whole = parser.add_argument_group("stdit: whole clips")
    whole.add_argument(
        "--timesteps", choices=("logit-normal", "uniform"), default="logit-normal", help="default logit-normal"
    )
    whole.add_argument(
        "--frame-masks",
        choices=("open-sora", "none"),
        default="open-sora",
        help="frames given clean (default open-sora)",
    )
    sample = parser.add_argument_group("stdit: samples")
    sample.add_argument("--sample-vae", type=Path, metavar="PATH", help="decodes them; without: the latents as colours")
    sample.add_argument("--sample-chunks", type=int, default=6, metavar="N", help="new chunks (default 6)")
    sample.add_argument("--sample-guidance", type=float, default=7.0, metavar="X", help="default 7")


def plan(options: argparse.Namespace) -> Plan:
    """Raises InputError for options that contradict each other, data that the network does not read, and files that
    are missing or no networks. A dry run needs no data: its estimate is then that of the full window, or of whole
    clips of 102 frames, at 240p."""
    from pavdm.training.stdit.task import STDiTTask
    from pavdm.training.task import Plan

    if not 0 <= options.text_dropout <= 1:
        raise InputError(f"--text-dropout must lie in 0..1: got {options.text_dropout}")
    if options.lora is None and options.lora_alpha is not None:
        raise InputError("--lora-alpha belongs to a LoRA: add --lora RANK, or leave it out")
    if options.lora is not None and options.start is None and not options.dry_run:
        raise InputError("a LoRA changes a trained network: say which with --from PATH")
    config, noising = _config(options), noising_from(options)
    sampler = _sampler(options, config)
    source = None if options.dry_run and options.data is None else _fitting_clips(options, config)

    def make() -> STDiTTask:
        assert source is not None
        network, start = _starting_network(options)
        return STDiTTask(
            network,
            source,
            noising,
            text_dropout=options.text_dropout,
            seed=options.seed,
            lora_alpha=_lora_alpha(options),
            start=start,
            sampler=sampler,
        )

    return Plan(make, lambda: _estimate(options, config, source), () if source is None else source.skipped)


def _config(options: argparse.Namespace) -> STDiT3Config:
    from pavdm.models.checkpoint import stdit3_config
    from pavdm.models.stdit3 import STDiT3Config
    from pavdm.models.weights import Weights
    from pavdm.training.start import chosen_config

    if options.start is not None:
        return stdit3_config(Weights(options.start))
    return chosen_config(options.config, options.like, STDiT3Config.from_dict, lambda preset: preset.stdit)


def _estimate(options: argparse.Namespace, config: STDiT3Config, source: Source | None) -> MemoryEstimate:
    """What a step takes at most: with the full window of the largest batch that `source` gives, and texts as long as
    the network reads them."""
    import torch

    from pavdm.models.stdit3 import STDiT3
    from pavdm.training.memory import attention_without_matrix
    from pavdm.training.stdit.lora import add_lora
    from pavdm.training.stdit.task import STDiTObjective, stand_in
    from pavdm.training.task import Extent

    alpha = _lora_alpha(options)
    frozen = torch.bfloat16 if _half_frozen(options) else torch.float32

    def network(dtype: torch.dtype) -> STDiT3:
        network = STDiT3(config, device="meta", dtype=dtype, attention=attention_without_matrix)
        if alpha is not None:
            add_lora(network, options.lora, alpha, torch.Generator())
        return network

    simulated = network(torch.float32)
    whole = options.objective == "whole-clip"
    window = schedule_from(options).window_latents
    if source is not None:
        extents = list(source.extents())
    else:
        extents = [Extent(options.batch_size, (config.in_channels, 30 if whole else window, 30, 53), (240, 426))]

    def shown(extent: Extent) -> tuple[int, ...]:
        channels, latents, height, width = extent.shape
        return extent.batch_size, channels, latents if whole else min(latents, window), height, width

    largest = max(extents, key=lambda extent: math.prod(shown(extent)))
    example = stand_in(shown(largest), config.model_max_length, config.caption_channels, largest.size)
    return memory_of(options, network(frozen), STDiTObjective(simulated), simulated.blocks(), example)


def _half_frozen(options: argparse.Namespace) -> bool:
    """Frozen weights need no more than they are used in."""
    return options.lora is not None and precision_of(options) == "bf16"


def _fitting_clips(options: argparse.Namespace, config: STDiT3Config) -> Source:
    """The clips of --data. Raises InputError if a network of this shape cannot read them, or no window be cut."""
    source = open_clips(options)
    for what, ours, theirs in (
        ("latents with {} channels", config.in_channels, source.channels),
        ("texts {} numbers wide", config.caption_channels, source.text_width),
    ):
        if ours != theirs:
            raise InputError(
                f"this network reads {what.format(ours)}, and {options.data} gives {what.format(theirs)}: encode the "
                "clips with the VAE and the text encoder that belong to the network"
            )
    if options.objective == "progressive":
        _check_lengths(options, [extent.shape[1] for extent in source.extents()])
    return source


def _check_lengths(options: argparse.Namespace, lengths: Sequence[int]) -> None:
    """Raise InputError if clips of these `lengths`, in latents, are too short for their windows, which would end the
    run at the first of them; tell which windows no clip is long enough for."""
    windows = windows_from(options)
    if min(lengths) < windows.least_latents:
        raise InputError(
            f"the windows to train need clips of at least {windows.least_latents} latents, and {options.data} gives "
            f"some of {min(lengths)} (17 frames are 5 latents, a picture is 1): give longer ones alone, a smaller "
            "--chunk or --window-chunks, or --objective whole-clip, which takes any length"
        )
    if is_leader():
        for sentence in _untrained(options, windows, max(lengths)):
            logger.warning(sentence)


def _untrained(options: argparse.Namespace, windows: TrainingWindows, longest: int) -> Iterator[str]:
    """What is never trained with clips of at most `longest` latents, in sentences."""
    full, longer = (windows.latents(options.window_chunks + more) for more in (0, 1))
    if longest < full:
        yield f"the full window of {full} latents is never trained: the longest clips have {longest}"
    if options.resampled_share and options.text_only_share == 1:
        yield "--resampled-share applies to no window: with --text-only-share 1 none has a clean chunk"
    elif options.resampled_share and longest < longer:
        partial = options.partial_share > 0 and not options.no_variable_length
        where = "shorter windows alone" if partial and longest >= windows.latents(2) else "no window"
        yield (
            f"--resampled-share applies to {where}: a full one needs clips of {longer} latents, and the longest have "
            f"{longest}"
        )


def schedule_from(options: argparse.Namespace) -> Schedule:
    from pavdm.sampling.schedule import Schedule

    return Schedule(
        window_chunks=options.window_chunks,
        chunk_latents=options.chunk,
        steps=options.denoise_steps,
        overlap=not options.no_overlap,
        variable_length=not options.no_variable_length,
    )


def _starting_network(options: argparse.Namespace) -> tuple[STDiT3, dict[str, Any]]:
    """The network to train, and what identifies it."""
    import torch

    from pavdm.training.chance import generator_for
    from pavdm.training.start import from_checkpoint, from_scratch
    from pavdm.training.stdit.lora import add_lora

    if options.start is not None:
        network, start = from_checkpoint(options.start, torch.bfloat16 if _half_frozen(options) else torch.float32)
    else:
        network, start = from_scratch(_config(options), options.seed)
    alpha = _lora_alpha(options)
    if alpha is not None:
        add_lora(network, options.lora, alpha, generator_for(options.seed, "lora"))
        start["lora rank"] = options.lora
    return network, start


def _lora_alpha(options: argparse.Namespace) -> float | None:
    if options.lora is None:
        return None
    return float(options.lora if options.lora_alpha is None else options.lora_alpha)


def noising_from(options: argparse.Namespace) -> Noising:
    from pavdm.training.stdit.frame_masks import FrameMasks
    from pavdm.training.stdit.noising import ProgressiveWindows, WholeClips
    from pavdm.training.stdit.objective import WholeClipTimesteps

    transform = not options.no_timestep_transform
    if options.objective == "whole-clip":
        masks = FrameMasks() if options.frame_masks == "open-sora" else None
        return WholeClips(WholeClipTimesteps(options.timesteps), masks, transform)
    return ProgressiveWindows(windows_from(options), transform)


def windows_from(options: argparse.Namespace) -> TrainingWindows:
    from pavdm.training.stdit.windows import TrainingWindows

    return TrainingWindows(
        schedule_from(options),
        pattern=options.noise_pattern,
        variance_scale=options.variance_scale,
        shift_scale=options.shift_scale,
        partial_share=options.partial_share,
        partial_place=options.partial_place,
        text_only_share=options.text_only_share,
        resampled_share=options.resampled_share,
    )


def _sampler(options: argparse.Namespace, config: STDiT3Config) -> Sampler | None:
    """Makes the samples. Raises InputError for options that would end the run at the first of them."""
    from pavdm.models.checkpoint import load_vae
    from pavdm.training.stdit.samples import Sampler

    if not options.sample_every:
        return None
    if options.sample_chunks < 1:
        raise InputError(
            f"--sample-chunks must be at least 1: got {options.sample_chunks}; --sample-every 0 makes none"
        )
    if not math.isfinite(options.sample_guidance):
        raise InputError(f"--sample-guidance must be a finite number: got {options.sample_guidance}")
    vae = None if options.sample_vae is None else load_vae(options.sample_vae)
    if vae is not None and vae.config.temporal.embed_dim != config.in_channels:
        raise InputError(
            f"this network makes latents with {config.in_channels} channels, and the VAE in {options.sample_vae} "
            f"decodes {vae.config.temporal.embed_dim}: give the --sample-vae that belongs to the network"
        )
    return Sampler(
        schedule_from(options),
        options.sample_chunks,
        options.sample_guidance,
        transform=not options.no_timestep_transform,
        seed=options.seed,
        vae=vae,
    )
