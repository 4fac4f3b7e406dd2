"""Drift Report: what happens to light, colour, sharpness, motion and seams over a video, as a picture and as text."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import comfy.utils
import numpy as np
import torch
from comfy_api.input_impl import VideoFromFile
from comfy_api.latest import io
from numpy.typing import NDArray
from torch import Tensor

from pavdm.errors import InputError
from pavdm.evaluation.curves import describe_latents, describe_video, draw_latents, draw_video
from pavdm.evaluation.latents import latent_statistics
from pavdm.evaluation.measurement import measure
from pavdm.video_reader import probe

from .host import check_interrupted, schema, to_uint8


class DriftReport(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="PAVDM_DriftReport",
            display_name="Drift Report",
            description="Measures seams between chunks, and the drift of light, colour, sharpness and motion over a "
            "video. Motion and cuts need OpenCV and PySceneDetect; without them the rest is measured.",
            search_aliases=["evaluate", "video quality", "measure"],
            inputs=[
                io.Image.Input("images", optional=True, tooltip="The frames of a video."),
                io.Video.Input(
                    "video", optional=True, tooltip="Instead of images: a video, read frame by frame from its file."
                ),
                io.Latent.Input(
                    "latent", optional=True, tooltip="Alone or beside the video: the latents that it was made of."
                ),
                io.Float.Input(
                    "fps", default=24.0, min=1.0, max=240.0, step=0.001, tooltip="Of the images, in frames per second."
                ),
                io.Int.Input(
                    "chunk_frames",
                    default=0,
                    min=0,
                    max=1000,
                    tooltip="Frames of a chunk; its seams are measured. 0: what the video records, else 17.",
                ),
                io.Int.Input(
                    "clip_frames",
                    default=-1,
                    min=-1,
                    max=1_000_000,
                    tooltip="Frames at the start that show the clip which was continued; they are not scored. -1: what "
                    "the video records, else 0.",
                ),
            ],
            outputs=[
                io.Image.Output(display_name="curves", tooltip="For Preview Image."),
                io.String.Output(display_name="text", tooltip="The numbers, for Preview as Text."),
            ],
        )

    @classmethod
    def execute(
        cls,
        fps: float,
        chunk_frames: int,
        clip_frames: int,
        images: Tensor | None = None,
        video: Any = None,
        latent: dict[str, Tensor] | None = None,
    ) -> io.NodeOutput:
        latents = None if latent is None else latent["samples"]
        if images is not None and video is not None:
            raise InputError("connect either images or a video, not both")
        if images is None and video is None:
            if latents is None:
                raise InputError("there is nothing to measure: connect images, a video or a latent")
            statistics = latent_statistics(latents)
            return io.NodeOutput(_image(draw_latents(statistics)), describe_latents(statistics))
        frames, rate, length = (_one_by_one(images), fps, len(images)) if images is not None else _frames_of(video)
        progress = comfy.utils.ProgressBar(length)

        def on_frame(number: int) -> None:
            check_interrupted()
            progress.update_absolute(number)

        found = measure(
            frames,
            fps=rate,
            chunk_frames=chunk_frames or None,
            clip_frames=None if clip_frames < 0 else clip_frames,
            latents=latents,
            on_frame=on_frame,
        )
        return io.NodeOutput(_image(draw_video(found)), describe_video(found))


def _frames_of(video: Any) -> tuple[str | Iterator[NDArray[np.uint8]], float | None, int]:
    """The path of a video that is a whole file, to be read frame by frame; else its frames and their rate. And how
    many frames there are.
    """
    trimmed = getattr(video, "get_active_trim_window", lambda: (0.0, 0.0))() != (0.0, 0.0)
    if isinstance(video, VideoFromFile) and not trimmed:
        source = video.get_stream_source()
        if isinstance(source, str):
            return source, None, probe(source).num_frames
    components = video.get_components()
    return _one_by_one(components.images), float(components.frame_rate), len(components.images)


def _one_by_one(images: Tensor) -> Iterator[NDArray[np.uint8]]:
    """(F, H, W, C) in 0..1 -> uint8 frames, one at a time."""
    for image in images:
        yield to_uint8(image[..., :3])


def _image(picture: Any) -> Tensor:
    return torch.from_numpy(np.asarray(picture, dtype=np.float32) / 255)[None]
