"""From a clip (or nothing) and a prompt to a video file: clip -> latents -> window -> chunks -> frames -> file.

Everything streams: each finished chunk is decoded, encoded and on disk before the next is sampled, so memory does not
grow with the length of the video. Networks are loaded one after the other and the text encoder is dropped after use.
"""

from __future__ import annotations

import gc
import json
import logging
import math
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pavdm import __version__, captions
from pavdm.chunks import Monitor, Run, progressive_chunks, replacement_chunks
from pavdm.clip import PIECE_FRAMES, PIECE_LATENTS, ClipSource, Conditioning, read_conditioning
from pavdm.errors import InputError
from pavdm.models.attention import best_attention
from pavdm.models.checkpoint import load_stdit3, load_vae, stdit3_config
from pavdm.models.files import ModelFiles
from pavdm.models.text_encoder import TextEncoder
from pavdm.models.vae import VideoVAE
from pavdm.models.weights import Weights, fingerprint
from pavdm.sampling import progressive, rectified_flow
from pavdm.sampling.guidance import GuidedVelocity
from pavdm.sampling.progressive import Interrupted, posterior_noise
from pavdm.sampling.schedule import Schedule, timestep_shift
from pavdm.sampling.state import WindowState, with_total
from pavdm.settings import Precision, Settings
from pavdm.state_directory import StateDirectory
from pavdm.video_writer import SUFFIXES, VideoWriter, working_paths

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Outcome:
    """The finished file; new_frames of its num_frames are new video."""

    path: Path
    num_frames: int
    new_frames: int
    fps: float


@dataclass(frozen=True)
class _Plan:
    """How the frames of the output come about.

    clip_frames of the clip go in as they are; then `decoded_frames` come from the VAE, after `padding` frames that
    stand for none of the clip's own: `lead` latents of the clip that share a piece with re-noised ones (or are asked
    for decoded), and the chunks that leave the window.
    """

    clip_frames: int
    padding: int
    decoded_frames: int
    new_frames: int
    lead: Tensor
    num_chunks: int


def make_video(settings: Settings, files: ModelFiles, precision: Precision, monitor: Monitor) -> Outcome:
    """Make the video that `settings` asks for.

    Raises InputError for anything a person can mend, before the output is touched where possible; Interrupted when
    `monitor.should_stop` answered True: then the state directory, if any, holds the point to go on from, and the
    partial file is closed and playable.
    """
    _check_output(settings)
    schedule, loop = _schedules(settings)
    source, clip = _read_clip(settings, schedule, loop, monitor)
    new_frames = _new_frames(settings, schedule, clip)

    _begin(monitor, "loading the VAE")
    vae = load_vae(files.vae, precision.device, precision.vae_dtype, files.spatial_vae)
    vae.tile = precision.tile
    latents, size = _encode(settings, vae, clip, precision)
    fresh = _fresh_state(settings, schedule, loop, latents, (1, len(vae.config.scale), *size), files, precision, clip)
    plan = _plan(settings, fresh, loop, clip, latents, new_frames)
    if loop is not None and settings.reencode:
        loop = replace(loop, reencode=partial(_reencode, vae, settings.seed))
    if settings.method == "progressive" and schedule.variable_length:
        fresh = replace(fresh, total=plan.num_chunks)
    directory = None if settings.state_directory is None else StateDirectory(settings.state_directory)
    saved = None if directory is None else directory.load(fresh, settings.override_state)
    state = fresh if saved is None else with_total(saved, fresh.total)
    num_done = state.next_chunk - state.first_chunk
    if saved is not None:
        _begin(
            monitor, f"going on from {settings.state_directory}: {num_done} of {plan.num_chunks} chunks are finished"
        )

    velocity = _velocity(settings, files, precision, _all_texts(state), monitor)
    run = Run(state, velocity, directory, plan.num_chunks, precision.device, monitor)
    sampled = progressive_chunks(run) if loop is None else replacement_chunks(run, loop, latents)
    done = (directory.load_chunk(i, size) for i in range(num_done)) if directory else iter(())
    pieces = vae.decode_pieces(piece.to(precision.device) for piece in chain([plan.lead], done, sampled))

    height, width = size[0] * 8, size[1] * 8
    metadata = {"pavdm": json.dumps(_record(settings, state)), "comment": str(settings.prompt)}
    with VideoWriter(settings.out, (height, width), settings.fps, metadata, overwrite=settings.overwrite) as writer:
        if source is not None and plan.clip_frames:
            own = (frame[:height, :width] for frame in islice(source.frames(), plan.clip_frames))
            while group := list(islice(own, PIECE_FRAMES)):
                writer.write(np.stack(group))
        padding, remaining = plan.padding, plan.decoded_frames
        while remaining:
            if monitor.should_stop():
                raise Interrupted
            with torch.inference_mode():
                decoded = _to_frames(next(pieces))
            frames = decoded[padding : padding + remaining]
            padding -= min(padding, len(decoded))
            writer.write(frames)
            remaining -= len(frames)
    return Outcome(settings.out, plan.clip_frames + plan.decoded_frames, plan.new_frames, settings.fps)


def _begin(monitor: Monitor, stage: str) -> None:
    if monitor.should_stop():
        raise Interrupted
    monitor.stage(stage)


def _check_output(settings: Settings) -> None:
    """What VideoWriter checks, too, but before minutes of loading; and that no write can reach the clip."""
    if settings.out.suffix.lower() not in SUFFIXES:
        raise InputError(f"{settings.out}: expected a file name that ends in {' or '.join(SUFFIXES)}")
    if settings.out.exists() and not settings.overwrite:
        raise InputError(f"{settings.out} exists already: choose another --out, or --overwrite to replace it")
    if not settings.out.parent.is_dir():
        raise InputError(f"the folder {settings.out.parent} for the output does not exist: make it first")
    clip = settings.clip
    if clip is None or not clip.exists():
        return
    for written in (settings.out, *working_paths(settings.out)):
        if written.exists() and written.samefile(clip):
            raise InputError(f"writing {settings.out} would replace the clip {clip}: choose another --out")


def _schedules(settings: Settings) -> tuple[Schedule, rectified_flow.ReplacementLoop | None]:
    """The table that the state follows, and the loop's settings if the method is the replacement loop.

    The loop, too, is a table: a window of one chunk, whose latents all share a level.
    """
    height, width = settings.size
    if settings.method == "progressive":
        loop, window = None, settings.schedule.window_latents
    else:
        loop = rectified_flow.ReplacementLoop(steps=settings.schedule.steps)
        window = loop.clip_latents
    shift = timestep_shift(height, width, window) if settings.timestep_transform else None
    if loop is None:
        return replace(settings.schedule, shift=shift), None
    return Schedule(1, loop.new_latents, loop.steps, shift=shift), replace(loop, shift=shift)


def _read_clip(
    settings: Settings, schedule: Schedule, loop: rectified_flow.ReplacementLoop | None, monitor: Monitor
) -> tuple[ClipSource | None, Conditioning | None]:
    if settings.clip is None:
        return None, None
    _begin(monitor, f"reading {settings.clip}")
    source = ClipSource(settings.clip, settings.fps, settings.size, settings.clip_start, settings.clip_end)
    if loop is not None:
        needed = wanted = loop.condition_latents
    else:
        needed = progressive.num_conditioning_latents(schedule, schedule.chunk_latents)
        wanted = progressive.num_conditioning_latents(schedule, schedule.window_latents)
    least, most = (math.ceil(n / PIECE_LATENTS) * PIECE_FRAMES for n in (needed, wanted))
    return source, read_conditioning(source, least, most, settings.condition, settings.pad)


@torch.inference_mode()
def _encode(
    settings: Settings, vae: VideoVAE, clip: Conditioning | None, precision: Precision
) -> tuple[Tensor | None, tuple[int, int]]:
    """The clip's latents (1, C, T, h, w), and the latent size (h, w)."""
    if clip is None:
        return None, (settings.size[0] // 8, settings.size[1] // 8)
    pixels = clip.pixels().to(precision.device)
    noise = posterior_noise(f"{settings.seed}") if settings.posterior == "sample" else None
    latents = vae.encode(pixels, noise).clone()
    return latents, (latents.shape[-2], latents.shape[-1])


def _fresh_state(
    settings: Settings,
    schedule: Schedule,
    loop: rectified_flow.ReplacementLoop | None,
    latents: Tensor | None,
    shape: tuple[int, int, int, int],
    files: ModelFiles,
    precision: Precision,
    clip: Conditioning | None,
) -> WindowState:
    prompts = (
        settings.prompt.map(lambda t: captions.preprocess(t, settings.aesthetic, settings.motion, settings.camera)),
    )
    conditioning = latents
    if loop is not None:
        conditioning = None
    elif latents is not None and settings.condition == "first":
        used = progressive.num_conditioning_latents(schedule, latents.shape[2])
        conditioning = latents[:, :, :used]
    frames_per_chunk = schedule.chunk_latents * PIECE_FRAMES / PIECE_LATENTS
    return progressive.start(
        schedule,
        conditioning,
        shape=shape,
        seeds=(settings.seed,),
        prompts=prompts,
        chunk_seconds=frames_per_chunk / settings.fps,
        prompt_switch=settings.prompt_switch,
        settings={
            "method": settings.method,
            "guidance": settings.guidance_scale,
            "size": f"{settings.size[0]}x{settings.size[1]}",
            "fps": settings.fps,
            "clip": None if clip is None else clip.digest,
            "condition": settings.condition,
            "posterior": settings.posterior,
            "dtype": str(precision.dtype).removeprefix("torch."),
            "text dtype": str(precision.text_dtype).removeprefix("torch."),
            "model": fingerprint(files.stdit)[:16],
            "vae": fingerprint(files.vae)[:16],
            "spatial vae": None if files.spatial_vae is None else fingerprint(files.spatial_vae)[:16],
            "tile": precision.tile,
            "reencode": settings.reencode,
            "text encoder": fingerprint(files.text_encoder)[:16],
        },
    )


def _plan(
    settings: Settings,
    state: WindowState,
    loop: rectified_flow.ReplacementLoop | None,
    clip: Conditioning | None,
    latents: Tensor | None,
    new_frames: int,
) -> _Plan:
    warm_latents = -state.first_chunk * state.schedule.chunk_latents
    lead = torch.zeros_like(state.window[:, :, :0])
    clip_frames = replaced_frames = padding = 0
    if clip is not None and latents is not None:
        if settings.condition == "first":
            used = progressive.num_conditioning_latents(state.schedule, latents.shape[2])
            lead = latents[:, :, : used - warm_latents]
            replaced_frames = _in_whole_pieces(used)
        else:
            replaced_frames = _in_whole_pieces(warm_latents)
            pieces = replaced_frames // PIECE_FRAMES * PIECE_LATENTS
            lead = latents[:, :, latents.shape[2] - pieces : latents.shape[2] - warm_latents]
            clip_frames = max(0, clip.num_frames - replaced_frames)
        padding = max(0, replaced_frames - clip.num_frames)
    sampled_latents = math.ceil((replaced_frames + new_frames) / PIECE_FRAMES) * PIECE_LATENTS - lead.shape[2]
    if loop is not None and latents is None:  # the first clip of a loop that starts from text is all new
        sampled_latents = max(loop.new_latents, sampled_latents - loop.condition_latents)
    num_chunks = math.ceil(sampled_latents / state.schedule.chunk_latents)
    return _Plan(clip_frames, padding, replaced_frames - padding + new_frames, new_frames, lead, num_chunks)


def _in_whole_pieces(latents: int) -> int:
    """Frames of the pieces that `latents` latents lie in."""
    return math.ceil(latents / PIECE_LATENTS) * PIECE_FRAMES


def _new_frames(settings: Settings, schedule: Schedule, clip: Conditioning | None) -> int:
    if settings.seconds is not None:
        frames, own = round(settings.seconds * settings.fps), ""
    else:
        of_the_clip = 0 if clip is None else clip.num_frames
        if clip is not None and settings.condition == "first":
            read = len(clip.frames) // PIECE_FRAMES * PIECE_LATENTS
            used = progressive.num_conditioning_latents(schedule, read)
            of_the_clip = min(clip.num_frames, _in_whole_pieces(used))
        frames = round((settings.total_seconds or 0) * settings.fps) - of_the_clip
        own = f", beside the clip's {of_the_clip / settings.fps:.2f} s"
    if frames < 1:
        raise InputError(f"that length leaves no new frame at {settings.fps:g} fps{own}: ask for more seconds")
    return frames


@torch.inference_mode()
def _reencode(vae: VideoVAE, seed: int, loop: int, latents: Tensor) -> Tensor:
    """The last piece of `latents` as the VAE sees it again, with posterior noise of this loop's own."""
    noise = posterior_noise(f"{seed}/{loop}")
    return vae.encode(vae.decode(latents[:, :, -PIECE_LATENTS:]), noise).clone()


def _all_texts(state: WindowState) -> list[str]:
    """Every text that the run can read: those still in the window of a saved state, too."""
    texts = chain(*(p.texts for p in state.prompts), *state.window_texts, state.clean_texts or ())
    return list(dict.fromkeys(texts))


def _velocity(
    settings: Settings, files: ModelFiles, precision: Precision, texts: list[str], monitor: Monitor
) -> GuidedVelocity:
    _begin(monitor, "encoding the prompt")
    config = stdit3_config(Weights(files.stdit))
    encoder = TextEncoder.load(files.text_encoder, precision.device, precision.text_dtype, config.model_max_length)
    if encoder.d_model != config.caption_channels:
        raise InputError(
            f"the STDiT3 in {files.stdit} reads text of width {config.caption_channels}, but the text encoder in "
            f"{files.text_encoder} gives width {encoder.d_model}: they do not belong together"
        )
    embeddings = dict(zip(texts, encoder.encode(texts), strict=True))
    del encoder
    gc.collect()

    _begin(monitor, "loading the STDiT3")
    name, attention = best_attention(precision.device, precision.dtype)
    logger.info("attention: %s", name)
    network = load_stdit3(files.stdit, precision.device, precision.dtype, attention=attention)
    return GuidedVelocity(
        network,
        {text: embedding.to(precision.device, precision.dtype) for text, embedding in embeddings.items()},
        guidance_scale=settings.guidance_scale,
        size=settings.size,
        fps=settings.fps,
    )


def _to_frames(pixels: Tensor) -> NDArray[np.uint8]:
    """(1, 3, F, H, W) in [-1, 1] -> (F, H, W, 3) uint8."""
    scaled = ((pixels[0] + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
    return scaled.permute(1, 2, 3, 0).cpu().numpy()


def _record(settings: Settings, state: WindowState) -> dict[str, Any]:
    """What the video file says about itself."""
    return {
        "version": __version__,
        "prompt": str(settings.prompt),
        "seed": settings.seed,
        "window_chunks": state.schedule.window_chunks,
        "chunk_latents": state.schedule.chunk_latents,
        "steps": state.schedule.steps,
        "overlap": state.schedule.overlap,
        "variable_length": state.schedule.variable_length,
        "shift": state.schedule.shift,
        **state.settings,
    }
