"""Which frames of the output come from where, and how many chunks that takes: arithmetic, before anything is loaded."""

from __future__ import annotations

import math
from dataclasses import dataclass

from pavdm.clip import PIECE_FRAMES, PIECE_LATENTS, Conditioning
from pavdm.errors import InputError
from pavdm.sampling import progressive
from pavdm.sampling.rectified_flow import ReplacementLoop
from pavdm.sampling.schedule import Schedule
from pavdm.settings import Settings


@dataclass(frozen=True)
class Plan:
    """How the frames of the output come about.

    clip_frames of the clip go in as they are; then `decoded_frames` come from the VAE, after `padding` frames that
    stand for none of the clip's own: the clip's latents `lead`, which share a piece with re-noised ones (or are asked
    for decoded), and `num_chunks` chunks that leave the window. new_frames of the decoded ones are new video.
    """

    clip_frames: int
    padding: int
    decoded_frames: int
    new_frames: int
    lead: slice
    num_chunks: int


def plan_output(
    settings: Settings, schedule: Schedule, loop: ReplacementLoop | None, clip: Conditioning | None
) -> Plan:
    """The plan of a video that goes on from `clip`, or begins with text alone (None).

    Raises InputError if the length asked for leaves no new frame.
    """
    lead = slice(0, 0)
    clip_frames = replaced_frames = padding = 0
    whole_first = clip is None or bool(settings.loop.mask_strategy)  # all of the loop's first clip is new
    if clip is not None and not settings.loop.mask_strategy:
        latents = len(clip.frames) // PIECE_FRAMES * PIECE_LATENTS
        # The loop takes the clip's end as it is; the window starts with some of the clip's chunks in it, re-noised.
        warm = 0 if loop is not None else progressive.num_warm_chunks(schedule, latents) * schedule.chunk_latents
        if settings.condition == "first":
            used = progressive.num_conditioning_latents(schedule, latents)
            lead = slice(0, used - warm)
            replaced_frames = _in_whole_pieces(used)
        else:
            replaced_frames = _in_whole_pieces(warm)
            lead = slice(latents - replaced_frames // PIECE_FRAMES * PIECE_LATENTS, latents - warm)
            clip_frames = max(0, clip.num_frames - replaced_frames)
        padding = max(0, replaced_frames - clip.num_frames)
    new_frames = _new_frames(settings, clip_frames + replaced_frames - padding)
    latents = math.ceil((replaced_frames + new_frames) / PIECE_FRAMES) * PIECE_LATENTS - (lead.stop - lead.start)
    if loop is not None and whole_first:
        latents = max(loop.new_latents, latents - loop.condition_latents)
    num_chunks = math.ceil(latents / schedule.chunk_latents)
    return Plan(clip_frames, padding, replaced_frames - padding + new_frames, new_frames, lead, num_chunks)


def _new_frames(settings: Settings, of_the_clip: int) -> int:
    """New frames of an output that holds `of_the_clip` of the clip's."""
    if settings.seconds is not None:
        frames, own = round(settings.seconds * settings.fps), ""
    else:
        frames = round((settings.total_seconds or 0) * settings.fps) - of_the_clip
        own = f", beside the clip's {of_the_clip / settings.fps:.2f} s"
    if frames < 1:
        raise InputError(f"that length leaves no new frame at {settings.fps:g} fps{own}: ask for more seconds")
    return frames


def _in_whole_pieces(latents: int) -> int:
    """Frames of the pieces that `latents` latents lie in."""
    return math.ceil(latents / PIECE_LATENTS) * PIECE_FRAMES
