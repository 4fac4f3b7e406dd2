"""A video made step by step: Start, Extend, Finish, and its state on disk.

A state is a value: it may feed several nodes (branches), be saved, and go on with another guider (prompt, guidance,
LoRA).
"""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import comfy.samplers
import latent_preview
import torch
from comfy_api.latest import io
from torch import Tensor

from pavdm.clip import PIECE_FRAMES, PIECE_LATENTS
from pavdm.errors import InputError
from pavdm.models.vae import pixel_frames
from pavdm.sampling.progressive import Progress
from pavdm.sampling.video_state import VideoState, begin, extend, load_video_state, prompted, save_video_state

from .autosave import DEFAULT, autosave_of, next_file, saved_files, work_of
from .host import schema
from .layout import LAYOUT, Layout, latent_seconds, layout_of
from .model import make_room
from .sampling import autosave_input, num_known_latents, require_progressive
from .velocity import GuiderVelocity, prompt_of, require_model

State = io.Custom("PAVDM_STATE")


class StepSampler(comfy.samplers.Sampler):
    """Takes a video some chunks further inside the host's guider.

    length: of new video, seconds (float) or chunks (int); None to end it. prefix: of the states kept meanwhile, ""
    keeps none.
    """

    def __init__(self, video: VideoState, length: float | int | None, prefix: str) -> None:
        self.video = video
        self.length = length
        self.prefix = prefix

    def sample(
        self,
        model_wrap: Any,
        sigmas: Tensor,
        extra_args: dict[str, Any],
        callback: Any,
        noise: Tensor,
        latent_image: Tensor | None = None,
        denoise_mask: Tensor | None = None,
        disable_pbar: bool = False,
    ) -> Tensor:
        make_room(model_wrap.model_patcher, noise.shape)
        prompt = prompt_of(model_wrap)
        schedule = self.video.schedule
        chunk_seconds = latent_seconds(schedule.chunk_latents, prompt.fps)
        video = prompted(self.video, prompt.schedule, prompt.embeddings, chunk_seconds)
        assert video.window is not None
        first_call = video.window.call
        new_chunks = self.length
        if isinstance(new_chunks, float):
            latents = math.ceil(round(new_chunks * prompt.fps) * PIECE_LATENTS / PIECE_FRAMES)
            new_chunks = math.ceil(latents / schedule.chunk_latents)
        last_chunk = None if new_chunks is None else num_made(video) + new_chunks
        kept = autosave_of(self.prefix, work_of(model_wrap), self.video, self.length is None)
        if kept is not None:
            longest = None if last_chunk is None else last_chunk - video.window.first_chunk
            last = kept.last(None if longest is None else longest * schedule.chunk_latents)
            if last is not None and last.window is not None:
                video = last
        velocity = GuiderVelocity(model_wrap, extra_args, video.embeddings, prompt.fps)

        def progress(done: Progress) -> None:
            if velocity.denoised is not None and done.calls is not None:
                front = velocity.denoised[:, :, : schedule.chunk_latents]
                callback(done.call - first_call - 1, front, front, done.calls - first_call)

        missing = None if last_chunk is None else last_chunk - num_made(video)
        done = missing == 0 if missing is not None else kept is not None and video.window.row is None
        if not done:
            video = extend(
                video,
                velocity,
                missing,
                device=noise.device,
                progress=progress,
                on_chunk=None if kept is None else kept.keep,
            )
        self.video = video
        return noise


def num_made(video: VideoState) -> int:
    """How many new chunks have left the window."""
    return 0 if video.window is None else max(0, video.window.next_chunk)


def advance(guider: Any, video: VideoState, length: float | int | None, prefix: str) -> VideoState:
    """`video` taken further by the host's guider (its model loaded, patched and watched for Cancel by the host)."""
    model = guider.model_patcher.model
    if video.window is None and not video.clip.shape[2]:  # from text: as Empty Video made it, without a model
        shape = list(video.clip.shape)
        shape[1] = model.latent_format.latent_channels
        video = replace(video, clip=video.clip.new_zeros(shape), finished=video.finished.new_zeros(shape))
    require_model(model, video.clip)
    window = torch.zeros(*video.clip.shape[:2], video.schedule.window_latents, *video.clip.shape[3:])
    sampler = StepSampler(video, length, prefix)
    callback = latent_preview.prepare_callback(guider.model_patcher, 1)
    guider.sample(window, window, sampler, torch.tensor([1.0, 0.0]), callback=callback, seed=video.seed)
    return sampler.video


class Start(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="PAVDM_Start",
            display_name="Start Long Video",
            description="Begins a video that Extend takes further, step by step.",
            inputs=[
                io.Sampler.Input("sampler", tooltip="Of Progressive Sampler: its settings hold for the whole video."),
                io.Latent.Input(
                    "latent",
                    tooltip="Of Encode Clip to go on from a clip, or of Empty Video to start from text. What is masked "
                    "as new is not used here: Extend says how long.",
                ),
                io.Int.Input(
                    "noise_seed",
                    default=42,
                    min=0,
                    max=2**63 - 1,
                    control_after_generate=True,
                    tooltip="Decides each chunk's noise, in however many steps the video is made.",
                ),
            ],
            outputs=[State.Output(display_name="state", tooltip="For Extend.")],
        )

    @classmethod
    def execute(cls, sampler: Any, latent: dict[str, Tensor], noise_seed: int) -> io.NodeOutput:
        require_progressive(sampler)
        samples, mask = latent["samples"], latent.get("noise_mask")
        known = samples.shape[2] if mask is None else num_known_latents(mask)
        schedule, layout = sampler.schedule_for(samples), layout_of(latent)
        video = begin(schedule, samples[:, :, :known], noise_seed, sampler.prompt_switch)
        of_its_end = layout is not None and layout.clip is not None and layout.clip.shape[2] == known
        return io.NodeOutput(replace(video, from_clip_end=of_its_end))


class Extend(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="PAVDM_Extend",
            display_name="Extend Long Video",
            description="Takes a video further. Between two Extend nodes the prompt, the guidance and the LoRAs may "
            "change: chunks that are already in the window keep their text.",
            inputs=[
                io.Guider.Input("guider", tooltip="Model, prompt and guidance for this part, such as CFG Guider."),
                State.Input("state", tooltip="Of Start, Extend or Load State. It may feed several nodes: branches."),
                io.Float.Input(
                    "seconds",
                    default=10.0,
                    min=0.1,
                    max=86400.0,
                    step=0.1,
                    tooltip="New video to finish, in seconds, rounded up to whole chunks. Not used if chunks is set.",
                ),
                io.Int.Input(
                    "chunks",
                    default=0,
                    min=0,
                    max=1_000_000,
                    tooltip="New video to finish, in chunks (of 17 frames, with 5 latents a chunk). 0: by seconds.",
                    optional=True,
                ),
                autosave_input(),
            ],
            outputs=[
                State.Output(display_name="state", tooltip="For Extend, Finish or Save State."),
                io.Latent.Output(display_name="new_latent", tooltip="What this node finished, for Decode to Video."),
            ],
        )

    @classmethod
    def execute(
        cls, guider: Any, state: VideoState, seconds: float, chunks: int = 0, autosave: str = DEFAULT
    ) -> io.NodeOutput:
        after = advance(guider, state, chunks or float(seconds), autosave.strip())
        return io.NodeOutput(after, {"samples": after.finished[:, :, state.finished.shape[2] :]})


class Finish(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="PAVDM_Finish",
            display_name="Finish Long Video",
            description="The latents of the whole video, clip first. With a guider, the chunks that are still half "
            "denoised in the window are brought to rest first and belong to it; without one they are left out.",
            inputs=[
                State.Input("state", tooltip="Of Extend or Load State."),
                io.Guider.Input(
                    "guider", optional=True, tooltip="Brings the window to rest: window_chunks - 1 chunks more."
                ),
                autosave_input(),
            ],
            outputs=[io.Latent.Output(display_name="latent", tooltip="For Decode to Video.")],
        )

    @classmethod
    def execute(cls, state: VideoState, guider: Any = None, autosave: str = DEFAULT) -> io.NodeOutput:
        if guider is not None:
            state = advance(guider, state, None, autosave.strip())
        samples = state.latents
        clip = state.clip if state.from_clip_end else None
        return io.NodeOutput(
            {"samples": samples, LAYOUT: Layout(samples.shape[2], pixel_frames(samples.shape[2]), clip)}
        )


class SaveState(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="PAVDM_SaveState",
            display_name="Save State",
            description="Writes a state to the output folder as the next numbered file. A few megabytes per minute of "
            "video at 240p.",
            is_output_node=True,
            inputs=[
                State.Input("state", tooltip="Of Start, Extend or Load State."),
                io.String.Input(
                    "filename_prefix",
                    default="pavdm/state",
                    tooltip="Folder and name in the output folder; a number and .safetensors are added.",
                ),
            ],
            outputs=[State.Output(display_name="state", tooltip="The same state, once it is on disk.")],
        )

    @classmethod
    def execute(cls, state: VideoState, filename_prefix: str) -> io.NodeOutput:
        save_video_state(state, next_file(filename_prefix))
        return io.NodeOutput(state)


class NothingSaved(InputError):
    """There is no saved state of that name."""


def saved_file(filename_prefix: str, number: int) -> Path:
    """The state file `number` under a prefix in the output folder, 0 for the last one.

    Raises NothingSaved if there is none, InputError if the prefix leads out of the output folder.
    """
    found = saved_files(filename_prefix, number)
    if not found:
        which = f"number {number}" if number else "file"
        raise NothingSaved(
            f"no saved state: there is no {which} under {filename_prefix!r} in the output folder. Save one first"
        )
    return found[-1]


class LoadState(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="PAVDM_LoadState",
            display_name="Load State",
            description="Reads a state that Save State wrote, to go on from it. With a state connected, that one is "
            "taken while nothing is saved: the same workflow then begins a video and, run again, goes on with it.",
            inputs=[
                io.String.Input(
                    "filename_prefix", default="pavdm/state", tooltip="As in Save State: folder and name in output."
                ),
                io.Int.Input("number", default=0, min=0, max=99999, tooltip="Number of the file; 0 for the last one."),
                State.Input(
                    "state",
                    optional=True,
                    tooltip="Taken while no file is there, such as of Start. Without it: an error.",
                ),
            ],
            outputs=[State.Output(display_name="state", tooltip="For Extend or Finish.")],
        )

    @classmethod
    def fingerprint_inputs(cls, filename_prefix: str, number: int, state: VideoState | None = None) -> str:
        try:
            file = saved_file(filename_prefix, number)
        except NothingSaved:
            return "nothing saved"
        return f"{file} {file.stat().st_mtime_ns}"

    @classmethod
    def execute(cls, filename_prefix: str, number: int, state: VideoState | None = None) -> io.NodeOutput:
        try:
            return io.NodeOutput(load_video_state(saved_file(filename_prefix, number)))
        except NothingSaved:
            if state is None:
                raise
            return io.NodeOutput(state)
