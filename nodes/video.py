"""Decode to Video: latents -> a file, one piece after the other, in memory that does not grow with the length."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import comfy.utils
import folder_paths
from comfy_api.input_impl import VideoFromFile
from comfy_api.latest import io
from torch import Tensor

from pavdm.buckets import size_of_latents
from pavdm.clip import PIECE_FRAMES, PIECE_LATENTS, resampled
from pavdm.errors import InputError
from pavdm.video_codecs import CODECS
from pavdm.video_writer import VideoWriter

from .conditioning import fitted
from .host import check_interrupted, schema, to_uint8
from .layout import Layout, layout_of
from .vae import require_open_sora


@dataclass(frozen=True, eq=False)
class OwnFrames:
    """Frames that are shown as they are: those of `images` (F, H, W, 3) at `places`, fitted to the video's size."""

    images: Tensor
    places: list[int]
    size: tuple[int, int]

    def pieces(self) -> Iterator[Tensor]:
        for start in range(0, len(self.places), PIECE_FRAMES):
            yield fitted(self.images[self.places[start : start + PIECE_FRAMES], ..., :3], self.size)


def decode_to_file(
    vae: Any, latents: Tensor, writer: VideoWriter, own: OwnFrames | None, num_frames: int | None
) -> None:
    """Write the clip's own frames, if any, and latents (1, C, T, h, w) after them.

    5 latents (17 frames) are decoded at a time; num_frames of theirs are written, all if None. Nothing is left of a
    video that is not completed.
    """
    pieces = latents.split(PIECE_LATENTS, dim=2)
    num_own = 0 if own is None else math.ceil(len(own.places) / PIECE_FRAMES)
    progress = comfy.utils.ProgressBar(num_own + len(pieces))
    try:
        with writer:
            for images in own.pieces() if own is not None else ():
                check_interrupted()
                writer.write(to_uint8(images))
                progress.update(1)
            limit = None if num_frames is None else writer.num_frames + num_frames
            for piece in pieces:
                check_interrupted()
                frames = to_uint8(vae.decode(piece)[0])
                writer.write(frames if limit is None else frames[: limit - writer.num_frames])
                progress.update(1)
    except BaseException:
        writer.partial_path.unlink(missing_ok=True)
        raise


def own_frames(
    clip: Tensor, clip_fps: float, fps: float, layout: Layout | None, latents: Tensor
) -> tuple[OwnFrames, int]:
    """What is shown of a clip that the latents (1, C, T, h, w) go on from, and how many of them it stands for.

    Raises InputError if the latents do not say which of them are the clip's.
    """
    if layout is None or layout.clip is None:
        raise InputError(
            "the latents do not say which of them are the end of a clip: connect latents that came from Encode Clip, "
            "whole, or nothing to the clip input"
        )
    kept = layout.kept_latents(latents) // PIECE_LATENTS * PIECE_LATENTS
    remade = math.ceil((layout.clip.shape[2] - kept) / PIECE_LATENTS) * PIECE_FRAMES
    places = resampled(len(clip), clip_fps, fps)
    return OwnFrames(clip, places[: len(places) - remade], size_of_latents(*latents.shape[-2:])), kept


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
                    max=63.0,
                    step=1.0,
                    tooltip="Constant rate factor: a smaller one looks better and makes a larger file. h264 and hevc "
                    "(0 to 51): 17 is hard to tell from the original, 28 is small. vp9 (0 to 63): 20 and 40.",
                ),
                io.Combo.Input(
                    "codec",
                    options=list(CODECS),
                    default="h264",
                    tooltip="h264 plays everywhere and is the fastest; hevc and vp9 make smaller files, and not every "
                    "browser shows hevc. Leave codec at auto in Save Video, which encodes anew otherwise.",
                    optional=True,
                ),
                io.Image.Input(
                    "clip",
                    optional=True,
                    tooltip="The clip that the video goes on from, as Encode Clip got it: all of its frames go in as "
                    "they are, in place of the latents that its end was encoded to. What the sampler made anew of it "
                    "(with overlap or variable_length off) is shown as it was made. Leave it open for condition first.",
                ),
                io.Float.Input(
                    "clip_fps",
                    default=24.0,
                    min=1.0,
                    max=1000.0,
                    step=0.001,
                    optional=True,
                    tooltip="Frames per second of the clip: connect fps of Get Video Components.",
                ),
            ],
            outputs=[io.Video.Output(display_name="video", tooltip="For Save Video, which copies it as it is.")],
        )

    @classmethod
    def execute(
        cls,
        vae: Any,
        latent: dict[str, Any],
        fps: float,
        crf: float,
        codec: str = "h264",
        clip: Tensor | None = None,
        clip_fps: float = 24.0,
    ) -> io.NodeOutput:
        require_open_sora(vae)
        latents: Tensor = latent["samples"]
        if latents.ndim != 5 or latents.shape[0] != 1 or latents.shape[1] != vae.latent_channels:
            raise InputError(
                f"expected the latents of one video (1, {vae.latent_channels}, T, h, w), got {tuple(latents.shape)}: "
                "take one of a batch with Latent From Batch, and no latents of images"
            )
        layout = layout_of(latent)
        own, kept = None, 0
        if clip is not None:
            own, kept = own_frames(clip, clip_fps, fps, layout, latents)
        num_frames = None if layout is None else layout.frames - kept // PIECE_LATENTS * PIECE_FRAMES
        folder, name, counter, _, _ = folder_paths.get_save_image_path("pavdm", folder_paths.get_temp_directory())
        path = Path(folder) / f"{name}_{counter:05}_.mp4"
        height, width = (n * vae.spacial_compression_decode() for n in latents.shape[-2:])
        writer = VideoWriter(path, (height, width), fps, crf=crf, codec=codec)
        decode_to_file(vae, latents[:, :, kept:], writer, own, num_frames)
        return io.NodeOutput(VideoFromFile(str(path)))
