"""Demo Clip: a clip of the world that the pack's small model knows, for workflows that need no file and no download."""

from __future__ import annotations

import comfy.utils
import torch
from comfy_api.latest import io

from pavdm.training.world import HELD_OUT, check_clip, draw, make_scene

from .host import check_interrupted, schema

FRAMES_AT_ONCE = 32


class DemoClip(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="PAVDM_DemoClip",
            display_name="Demo Clip",
            description="Draws a clip of coloured shapes that move over a background, and says what it shows. The "
            "small model that comes with the pack was trained on this world and knows no other.",
            search_aliases=["procedural world", "test clip"],
            inputs=[
                io.Int.Input(
                    "seed",
                    default=7,
                    min=0,
                    max=2**31 - 1,
                    control_after_generate=True,
                    tooltip="Decides shapes, colours, motions, background and light. Equal seeds give equal clips; "
                    "none of them was trained on.",
                ),
                io.Float.Input(
                    "seconds",
                    default=3.0,
                    min=0.8,
                    max=60.0,
                    step=0.1,
                    tooltip="Length of the clip in seconds. Encode Clip uses its last 17 frames.",
                ),
                io.Int.Input(
                    "width", default=96, min=16, max=1024, step=8, tooltip="Pixels; the small model's are 96."
                ),
                io.Int.Input(
                    "height", default=64, min=16, max=1024, step=8, tooltip="Pixels; the small model's are 64."
                ),
                io.Float.Input(
                    "fps",
                    default=24.0,
                    min=1.0,
                    max=240.0,
                    step=0.001,
                    tooltip="Frames per second; the model's are 24.",
                ),
            ],
            outputs=[
                io.Image.Output(display_name="images", tooltip="For Encode Clip."),
                io.String.Output(display_name="caption", tooltip="What is to be seen, for the text of Encode Prompt."),
                io.Float.Output(display_name="fps", tooltip="For source_fps of Encode Clip."),
            ],
        )

    @classmethod
    def execute(cls, seed: int, seconds: float, width: int, height: int, fps: float) -> io.NodeOutput:
        num_frames, size = max(1, round(seconds * fps)), (height, width)
        check_clip(num_frames, size, fps)
        scene = make_scene(HELD_OUT + seed, width / height)
        progress = comfy.utils.ProgressBar(num_frames)
        images = torch.empty(num_frames, height, width, 3)
        for start in range(0, num_frames, FRAMES_AT_ONCE):
            check_interrupted()
            part = images[start : start + FRAMES_AT_ONCE]
            part.copy_(torch.from_numpy(draw(scene, len(part), size, fps, start))).div_(255)
            progress.update(len(part))
        return io.NodeOutput(images, scene.caption, fps)
