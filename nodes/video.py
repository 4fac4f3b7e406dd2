"""Decode to Video: latents -> a file, one piece after the other, in memory that does not grow with the length."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import comfy.utils
import folder_paths
import numpy as np
import torch
from comfy_api.input_impl import VideoFromFile
from comfy_api.latest import io
from torch import Tensor

from pavdm.clip import PIECE_LATENTS
from pavdm.errors import InputError
from pavdm.video_writer import VideoWriter

from .host import check_interrupted, schema
from .vae import require_open_sora


def decode_to_file(vae: Any, latents: Tensor, path: Path, fps: float, crf: float) -> None:
    """Decode latents (1, C, T, h, w) into an H.264 file, 5 latents (17 frames) at a time."""
    pieces = latents.split(PIECE_LATENTS, dim=2)
    progress = comfy.utils.ProgressBar(len(pieces))
    size = tuple(n * vae.spacial_compression_decode() for n in latents.shape[-2:])
    with VideoWriter(path, (size[0], size[1]), fps, crf=crf) as writer:
        for piece in pieces:
            check_interrupted()
            images = vae.decode(piece)[0]  # (F, H, W, 3) in 0..1
            writer.write((images * 255).round().clamp(0, 255).to(torch.uint8).cpu().numpy().astype(np.uint8))
            progress.update(1)


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
                io.Latent.Input("latent", tooltip="Video latents; 5 become 17 frames."),
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
            ],
            outputs=[io.Video.Output(display_name="video", tooltip="For Save Video, which copies it as it is.")],
        )

    @classmethod
    def execute(cls, vae: Any, latent: dict[str, Tensor], fps: float, crf: float) -> io.NodeOutput:
        require_open_sora(vae)
        latents = latent["samples"]
        if latents.ndim != 5 or latents.shape[0] != 1 or latents.shape[1] != vae.latent_channels:
            raise InputError(
                f"expected the latents of one video (1, {vae.latent_channels}, T, h, w), got {tuple(latents.shape)}: "
                "take one of a batch with Latent From Batch, and no latents of images"
            )
        folder, name, counter, _, _ = folder_paths.get_save_image_path("pavdm", folder_paths.get_temp_directory())
        path = Path(folder) / f"{name}_{counter:05}_.mp4"
        decode_to_file(vae, latents, path, fps, crf)
        return io.NodeOutput(VideoFromFile(str(path)))
