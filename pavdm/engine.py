"""From a clip (or nothing) and a prompt to a video file: clip -> latents -> window -> chunks -> frames -> file.

Everything streams: each finished chunk is decoded, encoded and on disk before the next is sampled, so memory does not
grow with the length of the video.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pavdm import __version__, captions
from pavdm.chunks import Monitor, Run, progressive_chunks, replacement_chunks
from pavdm.clip import PIECE_FRAMES, PIECE_LATENTS, ClipSource, Conditioning, read_conditioning
from pavdm.errors import InputError
from pavdm.frames import to_frames
from pavdm.models.vae import VideoVAE
from pavdm.networks import Networks
from pavdm.parallel.team import Team
from pavdm.parallel.velocity import VelocitySettings, check_model, lead
from pavdm.plan import Plan, plan_output
from pavdm.prompts import PromptSchedule
from pavdm.sampling import progressive, rectified_flow
from pavdm.sampling.guidance import GuidedVelocity
from pavdm.sampling.progressive import Interrupted, Velocity, posterior_noise
from pavdm.sampling.schedule import Schedule, timestep_shift
from pavdm.sampling.state import WindowState, with_total
from pavdm.settings import LoopSettings, Settings
from pavdm.state_directory import StateDirectory
from pavdm.video_writer import SUFFIXES, VideoWriter, working_paths

MAX_REFERENCE_FRAMES = 85 * PIECE_FRAMES  # a minute at 24 fps


@dataclass(frozen=True)
class Outcome:
    """The finished file; new_frames of its num_frames are new video."""

    path: Path
    num_frames: int
    new_frames: int
    fps: float


def make_video(settings: Settings, networks: Networks, monitor: Monitor, team: Team | None = None) -> Outcome:
    """Make the video that `settings` asks for. `networks` are loaded as they are needed, and stay for the next video.
    team: processes to share the model calls with, of which this one is the leader.

    Raises InputError for anything a person can mend, before the output is touched where possible; Interrupted when
    `monitor.should_stop` answered True: then the state directory, if any, holds the point to go on from, and the
    partial file is closed and playable.
    """
    _check_output(settings)
    schedule, loop = _schedules(settings)
    source, clip = _read_clip(settings, schedule, loop, monitor)
    plan = plan_output(settings, schedule, loop, clip)

    _begin(monitor, "loading the VAE")
    vae, device = networks.vae, networks.precision.device
    latents, size = _encode(settings, vae, clip, device)
    fresh = _fresh_state(settings, schedule, loop, latents, (1, len(vae.config.scale), *size), networks, clip)
    lead = fresh.window[:, :, :0] if latents is None else latents[:, :, plan.lead]
    if loop is not None and settings.loop.reencode:
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

    velocity = _velocity(settings, networks, _all_texts(state), monitor, team)
    run = Run(state, velocity, directory, plan.num_chunks, device, monitor)
    sampled = progressive_chunks(run) if loop is None else replacement_chunks(run, loop, latents, settings.loop.rules)
    done = (directory.load_chunk(i, size) for i in range(num_done)) if directory else iter(())
    pieces = vae.decode_pieces(piece.to(device) for piece in chain([lead], done, sampled))

    height, width = size[0] * 8, size[1] * 8
    metadata = {"pavdm": json.dumps(_record(settings, state, plan)), "comment": str(settings.prompt)}
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
                decoded = to_frames(next(pieces)[0])
            frames = decoded[padding : padding + remaining]
            padding -= min(padding, len(decoded))
            writer.write(frames)
            remaining -= len(frames)
    return Outcome(settings.out, plan.clip_frames + plan.decoded_frames, plan.new_frames, settings.fps)


def _loop_text(loop: LoopSettings) -> str | None:
    """The loop's settings as a state compares them; None for the usual ones, which states did not always hold."""
    if replace(loop, reencode=False) == LoopSettings():
        return None
    return f"keep {loop.condition_latents}, edit {loop.edit_ratio:g}, align {loop.align}, {loop.mask_strategy!r}"


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
        loop = rectified_flow.ReplacementLoop(
            condition_latents=settings.loop.condition_latents,
            steps=settings.schedule.steps,
            align=settings.loop.align,
            edit_ratio=settings.loop.edit_ratio,
        )
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
    if settings.loop.mask_strategy:  # its rules may name any of the clip's latents
        clip = read_conditioning(source, PIECE_FRAMES, MAX_REFERENCE_FRAMES, "first", settings.pad)
        if clip.num_frames > MAX_REFERENCE_FRAMES:
            raise InputError(
                f"{settings.clip} has {clip.num_frames} frames; a mask strategy reads at most {MAX_REFERENCE_FRAMES}: "
                "choose a part with --start and --end"
            )
        return source, clip
    if loop is not None:
        needed = wanted = loop.condition_latents
    else:
        needed = progressive.num_conditioning_latents(schedule, schedule.chunk_latents)
        wanted = progressive.num_conditioning_latents(schedule, schedule.window_latents)
    least, most = (math.ceil(n / PIECE_LATENTS) * PIECE_FRAMES for n in (needed, wanted))
    return source, read_conditioning(source, least, most, settings.condition, settings.pad)


@torch.inference_mode()
def _encode(
    settings: Settings, vae: VideoVAE, clip: Conditioning | None, device: torch.device
) -> tuple[Tensor | None, tuple[int, int]]:
    """The clip's latents (1, C, T, h, w), and the latent size (h, w)."""
    if clip is None:
        return None, (settings.size[0] // 8, settings.size[1] // 8)
    pixels = clip.pixels().to(device)
    noise = posterior_noise(f"{settings.seed}") if settings.posterior == "sample" else None
    latents = vae.encode(pixels, noise).clone()
    return latents, (latents.shape[-2], latents.shape[-1])


def _fresh_state(
    settings: Settings,
    schedule: Schedule,
    loop: rectified_flow.ReplacementLoop | None,
    latents: Tensor | None,
    shape: tuple[int, int, int, int],
    networks: Networks,
    clip: Conditioning | None,
) -> WindowState:
    precision = networks.precision
    conditioning = latents
    if loop is not None:
        conditioning = None
    elif latents is not None and settings.condition == "first":
        used = progressive.num_conditioning_latents(schedule, latents.shape[2])
        conditioning = latents[:, :, :used]
    return progressive.start(
        schedule,
        conditioning,
        shape=shape,
        seeds=(settings.seed,),
        prompts=(_as_trained(settings),),
        chunk_seconds=settings.chunk_frames / settings.fps,
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
            **networks.fingerprints,
            "tile": precision.tile,
            "reencode": settings.loop.reencode,
            "loop": _loop_text(settings.loop),
        },
    )


@torch.inference_mode()
def _reencode(vae: VideoVAE, seed: int, loop: int, latents: Tensor) -> Tensor:
    """`latents`, whole pieces, as the VAE sees them again, with posterior noise of this loop's own."""
    noise = posterior_noise(f"{seed}/{loop}")
    return vae.encode(vae.decode(latents), noise).clone()


def texts_of(settings: Settings) -> tuple[str, ...]:
    """The texts that the text encoder will see, for encoding those of many videos at once."""
    return _as_trained(settings).texts


def _as_trained(settings: Settings) -> PromptSchedule:
    """The prompt with its scores, cleaned as the captions were that the network learned from."""
    return settings.prompt.map(
        lambda text: captions.preprocess(text, settings.aesthetic, settings.motion, settings.camera)
    )


def _all_texts(state: WindowState) -> list[str]:
    """Every text that the run can read: those still in the window of a saved state, too."""
    texts = chain(*(p.texts for p in state.prompts), *state.window_texts, state.clean_texts or ())
    return list(dict.fromkeys(texts))


def _velocity(
    settings: Settings, networks: Networks, texts: list[str], monitor: Monitor, team: Team | None
) -> Velocity:
    _begin(monitor, "encoding the prompt")
    embeddings = networks.embeddings(texts)
    _begin(monitor, "loading the STDiT3")
    asked = VelocitySettings(settings.guidance_scale, settings.size, settings.fps, networks.fingerprints["model"])
    load = partial(load_velocity, networks)
    return load(embeddings, asked) if team is None else lead(team, load, embeddings, asked)


def load_velocity(networks: Networks, embeddings: Mapping[str, Tensor], settings: VelocitySettings) -> GuidedVelocity:
    """The STDiT3 under guidance, ready for these texts. Raises InputError for another network than `settings` names."""
    check_model(settings, networks.fingerprints["model"])
    device = networks.precision.device
    return GuidedVelocity(
        networks.stdit,
        {text: embedding.to(device) for text, embedding in embeddings.items()},
        guidance_scale=settings.guidance_scale,
        size=settings.size,
        fps=settings.fps,
    )


def _record(settings: Settings, state: WindowState, plan: Plan) -> dict[str, Any]:
    """What the video file says about itself.

    clip_frames: its first frames, which show the clip. chunk_frames: of each chunk after them; of the VAE's pieces,
    where the seams are, if chunks are no whole pieces.
    """
    whole_pieces = state.schedule.chunk_latents % PIECE_LATENTS == 0
    return {
        "version": __version__,
        "prompt": str(settings.prompt),
        "seed": settings.seed,
        "clip_frames": plan.clip_frames + plan.decoded_frames - plan.new_frames,
        "chunk_frames": state.schedule.chunk_latents // PIECE_LATENTS * PIECE_FRAMES if whole_pieces else PIECE_FRAMES,
        "window_chunks": state.schedule.window_chunks,
        "chunk_latents": state.schedule.chunk_latents,
        "steps": state.schedule.steps,
        "overlap": state.schedule.overlap,
        "variable_length": state.schedule.variable_length,
        "shift": state.schedule.shift,
        **state.settings,
    }
