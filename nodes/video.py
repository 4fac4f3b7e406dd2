"""Decode to Video: latents -> a file, one piece after the other, in memory that does not grow with the length."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import comfy.utils
import folder_paths
import torch
from comfy_api.input_impl import VideoFromFile
from comfy_api.latest import io
from torch import Tensor

from pavdm.clip import PIECE_FRAMES, PIECE_LATENTS
from pavdm.errors import InputError
from pavdm.video_writer import VideoWriter

from .conditioning import LAYOUT, Layout
from .host import check_interrupted, schema
from .vae import require_open_sora


def decode_to_file(
    vae: Any, latents: Tensor, path: Path, fps: float, crf: float, own: Tensor | None, num_frames: int | None
) -> None:
    """Make an H.264 file of the clip's own frames (F, H, W, 3), if any, and of latents (1, C, T, h, w) after them.

    5 latents (17 frames) are decoded at a time; num_frames of theirs are written, all if None.
    """
    own_frames = () if own is None else own.split(PIECE_FRAMES)
    pieces = latents.split(PIECE_LATENTS, dim=2)
    progress = comfy.utils.ProgressBar(len(own_frames) + len(pieces))
    size = tuple(n * vae.spacial_compression_decode() for n in latents.shape[-2:])
    with VideoWriter(path, (size[0], size[1]), fps, crf=crf) as writer:
        for images in own_frames:
            check_interrupted()
            writer.write(to_uint8(images))
            progress.update(1)
        limit = None if num_frames is None else writer.num_frames + num_frames
        for piece in pieces:
            check_interrupted()
            frames = to_uint8(vae.decode(piece)[0])
            writer.write(frames if limit is None else frames[: limit - writer.num_frames])
            progress.update(1)


def to_uint8(images: Tensor) -> Any:
    """IMAGE (F, H, W, 3) in 0..1 -> the same as a uint8 array."""
    return (images * 255).round().clamp(0, 255).to(torch.uint8).cpu().numpy()


def clip_part(clip: Tensor, layout: Layout | None, size: tuple[int, int]) -> tuple[Tensor, int]:
    """The frames of `clip`, (F, H, W, 3), that are shown as they are, and how many latents they stand for.

    Raises InputError if the latents do not say where their clip ends, or it is not of this size.
    """
    if layout is None or not layout.clip_latents:
        raise InputError(
            "the latents do not say which of them are the clip's: connect latents that came from Encode Clip, whole, "
            "or nothing to the clip input"
        )
    if tuple(clip.shape[1:3]) != size:
        raise InputError(
            f"the clip's frames are {clip.shape[1]} x {clip.shape[2]} (height x width), the video's {size[0]} x "
            f"{size[1]}: connect the clip output of the Encode Clip that the latents came from"
        )
    kept = layout.kept_latents // PIECE_LATENTS * PIECE_LATENTS
    remade = math.ceil((layout.clip_latents - kept) / PIECE_LATENTS) * PIECE_FRAMES
    return clip[: len(clip) - remade], kept


class DecodeToVideo(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="PAVDM_DecodeToVideo",
            display_name="Decode to Video",
            description="Decodes latents into a video file piece by piece, so that memory stays the same however long "
            "the video is. Save Video stores it, with the workflow, without encoding it again.",
            search_aliases=["vae decode", "save video"],
            inputs=[
                io.Vae.Input("vae", tooltip="Of Load Open-Sora VAE."),
                io.Latent.Input(
                    "latent",
                    tooltip="Video latents; 5 become 17 frames. Of the last piece only the frames that were asked for "
                    "are shown.",
                ),
                io.Float.Input(
                    "fps", default=24.0, min=1.0, max=240.0, step=0.001, tooltip="Frames per second of the video."
                ),
                io.Float.Input(
                    "crf",
                    default=17.0,
                    min=0.0,
                    max=51.0,
                    step=1.0,
                    tooltip="H.264 constant rate factor: 0 loses nothing, 17 is hard to tell from it, 28 is small.",
                ),
                io.Image.Input(
                    "clip",
                    optional=True,
                    tooltip="The clip's own frames, of Encode Clip: they go in as they are, in place of the latents "
                    "that they were encoded to. Leave it open where overlap is off in the sampler: the clip's end "
                    "is made anew then.",
                ),
            ],
            outputs=[io.Video.Output(display_name="video", tooltip="For Save Video, which copies it as it is.")],
        )

    @classmethod
    def execute(
        cls, vae: Any, latent: dict[str, Any], fps: float, crf: float, clip: Tensor | None = None
    ) -> io.NodeOutput:
        require_open_sora(vae)
        latents: Tensor = latent["samples"]
        if latents.ndim != 5 or latents.shape[0] != 1 or latents.shape[1] != vae.latent_channels:
            raise InputError(
                f"expected the latents of one video (1, {vae.latent_channels}, T, h, w), got {tuple(latents.shape)}: "
                "take one of a batch with Latent From Batch, and no latents of images"
            )
        layout: Layout | None = latent.get(LAYOUT)
        if layout is not None and layout.latents != latents.shape[2]:  # cut, or joined to others, since
            layout = None
        own, kept = None, 0
        if clip is not None:
            size = tuple(n * vae.spacial_compression_decode() for n in latents.shape[-2:])
            own, kept = clip_part(clip, layout, (size[0], size[1]))
        num_frames = None if layout is None else layout.frames - kept // PIECE_LATENTS * PIECE_FRAMES
        folder, name, counter, _, _ = folder_paths.get_save_image_path("pavdm", folder_paths.get_temp_directory())
        path = Path(folder) / f"{name}_{counter:05}_.mp4"
        decode_to_file(vae, latents[:, :, kept:], path, fps, crf, own, num_frames)
        return io.NodeOutput(VideoFromFile(str(path)))
