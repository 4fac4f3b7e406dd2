"""What a video is made from: prompt -> CONDITIONING, clip or nothing -> LATENT."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import Any

import comfy.model_management as mm
import comfy.utils
import torch
from comfy_api.latest import io
from torch import Tensor

from pavdm import captions
from pavdm.buckets import ASPECTS, RESOLUTIONS, bucket_size
from pavdm.clip import PIECE_FRAMES, resampled
from pavdm.errors import InputError
from pavdm.prompts import PromptSchedule

from .host import schema
from .layout import LAYOUT, with_new_latents
from .vae import require_open_sora
from .velocity import PROMPT, Prompt

logger = logging.getLogger(__name__)

SPATIAL_FACTOR = 8
LATENT_CHANNELS = 4  # of empty latents: the host gives these the model's number
PAD = 0
MAX_TOKENS = 300  # what the published models were trained with, the end-of-text token included
CUSTOM = "custom"


def encode_text(clip: Any, text: str) -> Tensor:
    """T5 features (tokens, width) of `text`: real tokens only, at most 300.

    Raises InputError if `clip` is no T5 text encoder.
    """
    tokens = clip.tokenize(text, disable_weights=True)
    if "t5xxl" not in tokens:
        raise InputError(
            f"expected a T5 text encoder, got one that reads {', '.join(tokens)}: connect Load Text Encoder (T5), or "
            "Load CLIP with type pixart"
        )
    real = [pair for pair in tokens["t5xxl"][0] if not (isinstance(pair[0], int) and pair[0] == PAD)]
    if len(real) > MAX_TOKENS:
        logger.warning("the prompt has %d tokens; the model reads %d: %r is cut", len(real), MAX_TOKENS, text)
        real = [*real[: MAX_TOKENS - 1], real[-1]]
    features, _ = clip.encode_from_tokens({"t5xxl": [real]}, return_pooled=True)
    return features[0]


class EncodePrompt(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="PAVDM_EncodePrompt",
            display_name="Encode Prompt",
            description="Encodes a prompt, or a schedule of prompts, as the model was trained: scores appended, text "
            "cleaned, at most 300 tokens. The negative output is Open-Sora's learned embedding of no text; the stock "
            "CLIP Text Encode gives a negative prompt in words instead.",
            search_aliases=["prompt travel", "prompt schedule"],
            inputs=[
                io.Clip.Input("clip", tooltip="T5 text encoder: Load Text Encoder (T5), or Load CLIP, type pixart."),
                io.String.Input(
                    "text",
                    multiline=True,
                    default="a lighthouse by the sea, waves roll in",
                    tooltip="What the video shows. '|0| first |3| then' changes the text at new chunk 3, "
                    "'|0s| first |12s| then' after 12 seconds of new video.",
                ),
                io.Float.Input(
                    "aesthetic",
                    default=6.5,
                    min=-1.0,
                    max=10.0,
                    step=0.1,
                    tooltip="Aesthetic score, 1 to 10, appended to the text; 6.5 counts as high. -1 leaves it out.",
                ),
                io.Float.Input(
                    "motion",
                    default=-1.0,
                    min=-1.0,
                    max=100.0,
                    step=0.1,
                    tooltip="Motion score (mean optical flow in pixels per frame) appended to the text; 0 is a still "
                    "picture. -1 leaves it out.",
                ),
                io.String.Input(
                    "camera",
                    default="",
                    tooltip="Camera motion appended to the text, such as 'pan left', 'zoom in'. Empty leaves it out.",
                ),
                io.Float.Input(
                    "fps",
                    default=24.0,
                    min=1.0,
                    max=240.0,
                    step=0.001,
                    tooltip="Frames per second that the model is told, and that seconds in a prompt schedule count by.",
                ),
            ],
            outputs=[
                io.Conditioning.Output(display_name="positive", tooltip="For CFG Guider."),
                io.Conditioning.Output(
                    display_name="negative", tooltip="For CFG Guider: the learned embedding of no text."
                ),
            ],
        )

    @classmethod
    def execute(cls, clip: Any, text: str, aesthetic: float, motion: float, camera: str, fps: float) -> io.NodeOutput:
        scores = (aesthetic if aesthetic >= 0 else None, motion if motion >= 0 else None, camera.strip() or None)
        schedule = PromptSchedule.parse(text).map(lambda part: captions.preprocess(part, *scores))
        embeddings = {part: encode_text(clip, part) for part in dict.fromkeys(schedule.texts)}
        first = embeddings[schedule.texts[0]][None]
        prompt = Prompt(schedule, embeddings, fps)
        positive = [[first, {"pavdm_role": "prompt", PROMPT: prompt, "frame_rate": fps}]]
        negative = [[torch.zeros_like(first), {"pavdm_role": "null", "frame_rate": fps}]]
        return io.NodeOutput(positive, negative)


def size_inputs() -> list[Any]:
    return [
        io.Combo.Input(
            "resolution",
            options=[*RESOLUTIONS, CUSTOM],
            default="240p",
            tooltip="Open-Sora bucket that the model was trained on, or custom for width and height in pixels.",
        ),
        io.Combo.Input(
            "aspect",
            options=list(ASPECTS),
            default="9:16",
            tooltip="Height to width of the bucket: 9:16 is landscape. Not used with resolution custom.",
        ),
        io.Int.Input(
            "width", default=424, min=16, max=4096, step=8, tooltip="Pixels. Used with resolution custom only."
        ),
        io.Int.Input(
            "height", default=240, min=16, max=4096, step=8, tooltip="Pixels. Used with resolution custom only."
        ),
        io.Float.Input("fps", default=24.0, min=1.0, max=240.0, step=0.001, tooltip="Frames per second of the video."),
        io.Float.Input(
            "new_seconds",
            default=10.0,
            min=0.0,
            max=86400.0,
            step=0.1,
            tooltip="Length of the new video in seconds. Latents come in whole pieces of 17 frames; Decode to Video "
            "leaves out what is too much, stock decode nodes show it.",
        ),
    ]


def video_size(resolution: str, aspect: str, width: int, height: int) -> tuple[int, int]:
    """(height, width) in pixels; a bucket's need not be multiples of 8, its latents are then rounded down."""
    return (height, width) if resolution == CUSTOM else bucket_size(resolution, aspect)


def fitted(images: Tensor, size: tuple[int, int]) -> Tensor:
    """IMAGE (F, H, W, 3) scaled to cover `size`, its centre cropped to it, and that cut to whole latent positions."""
    height, width = size
    scaled = comfy.utils.common_upscale(images.movedim(-1, 1), width, height, "lanczos", "center").movedim(1, -1)
    return scaled[:, : height // SPATIAL_FACTOR * SPATIAL_FACTOR, : width // SPATIAL_FACTOR * SPATIAL_FACTOR]


class EncodeClip(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="PAVDM_EncodeClip",
            display_name="Encode Clip",
            description="Encodes the end (or the start) of a clip as the beginning of a video, with room for the new "
            "part after it. The clip is resampled to fps, scaled to cover the size and cropped around its centre.",
            search_aliases=["extend video", "video to latent"],
            inputs=[
                io.Vae.Input("vae", tooltip="Of Load Open-Sora VAE."),
                io.Image.Input("images", tooltip="Frames of the clip, such as of Get Video Components."),
                io.Float.Input(
                    "source_fps",
                    default=24.0,
                    min=1.0,
                    max=1000.0,
                    step=0.001,
                    tooltip="Frames per second of the images: connect fps of Get Video Components.",
                ),
                *size_inputs(),
                io.Combo.Input(
                    "condition",
                    options=["last", "first"],
                    default="last",
                    tooltip="Which end of the clip to use: go on from its last frames, or from its first.",
                ),
                io.Int.Input(
                    "pieces",
                    default=1,
                    min=1,
                    max=4096,
                    tooltip="How many pieces of 17 frames (at fps) of the clip to use; the video begins with them. One "
                    "is enough unless variable_length is off in the sampler.",
                ),
                io.Combo.Input(
                    "posterior",
                    options=["sample", "mode"],
                    default="sample",
                    optional=True,
                    tooltip="Draw the clip's latents from the VAE's posterior (sample, as published and as the pavdm "
                    "command does), or take the most likely ones (mode, as the stock VAE Encode does).",
                ),
                io.Int.Input(
                    "posterior_seed",
                    default=42,
                    min=0,
                    max=2**63 - 1,
                    optional=True,
                    tooltip="Seed of that draw. Not used for mode.",
                ),
            ],
            outputs=[
                io.Latent.Output(display_name="latent", tooltip="5 latents for every 17 frames; new ones are masked.")
            ],
        )

    @classmethod
    def execute(
        cls,
        vae: Any,
        images: Tensor,
        source_fps: float,
        resolution: str,
        aspect: str,
        width: int,
        height: int,
        fps: float,
        new_seconds: float,
        condition: str,
        pieces: int,
        posterior: str = "sample",
        posterior_seed: int = 42,
    ) -> io.NodeOutput:
        require_open_sora(vae)
        order = resampled(len(images), source_fps, fps)
        needed = pieces * PIECE_FRAMES
        if len(order) < needed:
            raise InputError(
                f"the clip has {len(order)} frames at {fps:g} fps, {needed} are needed ({pieces} x {PIECE_FRAMES}): "
                "give a longer clip, or ask for fewer pieces"
            )
        used = images[order[-needed:] if condition == "last" else order[:needed], ..., :3]
        encoded = fitted(used, video_size(resolution, aspect, width, height))
        latents = vae.encode_with_bar(encoded, None if posterior == "mode" else posterior_seed)
        video = with_new_latents(latents, new_seconds, fps)
        if condition == "first":
            video[LAYOUT] = replace(video[LAYOUT], clip=None)
        return io.NodeOutput(video)


class EmptyVideo(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="PAVDM_EmptyVideo",
            display_name="Empty Video",
            description="Room for a video that starts from text alone.",
            search_aliases=["empty latent video"],
            inputs=[
                *size_inputs(),
                io.Int.Input("batch_size", default=1, min=1, max=64, tooltip="Videos that are made together."),
            ],
            outputs=[io.Latent.Output(display_name="latent", tooltip="5 latents for every 17 frames, all to be made.")],
        )

    @classmethod
    def execute(
        cls,
        resolution: str,
        aspect: str,
        width: int,
        height: int,
        fps: float,
        new_seconds: float,
        batch_size: int,
    ) -> io.NodeOutput:
        if new_seconds == 0:
            raise InputError("an empty video needs a length: set new_seconds above 0")
        size = (side // SPATIAL_FACTOR for side in video_size(resolution, aspect, width, height))
        shape = (batch_size, LATENT_CHANNELS, 0, *size)
        nothing = torch.zeros(shape, device=mm.intermediate_device())
        return io.NodeOutput(with_new_latents(nothing, new_seconds, fps))
