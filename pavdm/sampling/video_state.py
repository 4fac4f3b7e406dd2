"""A video in the making as one value: its clip, its window, what left the window, and the texts that are being read.

`begin` and `extend` give new values and leave the old one as it is, so a video can branch, be saved, and go on with
another prompt or another velocity.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from pavdm.errors import InputError
from pavdm.prompts import PromptSchedule
from pavdm.sampling import progressive
from pavdm.sampling.progressive import Progress, Velocity
from pavdm.sampling.schedule import Schedule
from pavdm.sampling.state import PromptSwitch, WindowState, check_state, from_header, header_of, save_tensors

METADATA_KEY = "pavdm_video"


@dataclass(frozen=True)
class VideoState:
    """clip: latents (1, C, T, h, w) to go on from, T = 0 for none. window: None before the first `extend`.

    finished: latents (1, C, T, h, w) that left the window so far. embeddings: of each text that the window still reads.
    from_clip_end: whether the video goes on where a clip of the user's ends, so that it can be shown after it.
    """

    schedule: Schedule
    clip: Tensor
    seed: int
    prompt_switch: PromptSwitch
    window: WindowState | None
    finished: Tensor
    embeddings: Mapping[str, Tensor] = field(default_factory=dict)
    from_clip_end: bool = False

    @property
    def latents(self) -> Tensor:
        """All that is finished, clip first, (1, C, T, h, w); the clip's chunks that were re-noised are in it once."""
        warm = 0 if self.window is None else -self.window.first_chunk * self.schedule.chunk_latents
        return torch.cat([self.clip[:, :, : self.clip.shape[2] - warm], self.finished], dim=2)


def begin(schedule: Schedule, clip: Tensor, seed: int, prompt_switch: PromptSwitch) -> VideoState:
    """A video that goes on from `clip`, (1, C, T, h, w), T = 0 for one that starts from text."""
    if clip.shape[0] != 1:
        raise InputError(f"a state holds one video, but the latents are a batch of {clip.shape[0]}: take one of them")
    clip = clip.detach().float().cpu()
    return VideoState(schedule, clip, seed, prompt_switch, None, clip[:, :, :0])


def prompted(
    video: VideoState, prompt: PromptSchedule, embeddings: Mapping[str, Tensor], chunk_seconds: float
) -> VideoState:
    """The same video, steered by `prompt` from the next chunk that enters its window; its positions count from the
    beginning of the new video. Starts the window if there is none yet. Raises InputError for a clip too short for it.
    """
    if video.window is None:
        window = progressive.start(
            video.schedule,
            video.clip if video.clip.shape[2] else None,
            shape=(*video.clip.shape[:2], *video.clip.shape[3:]),
            seeds=(video.seed,),
            prompts=(prompt,),
            chunk_seconds=chunk_seconds,
            prompt_switch=video.prompt_switch,
        )
    else:
        window = replace(video.window.with_prompts((prompt,)), chunk_seconds=chunk_seconds)
    read = {text for row in (*window.window_texts, window.clean_texts or ()) for text in row}
    kept = {text: embedding for text, embedding in video.embeddings.items() if text in read}
    own = {text: embedding.detach().cpu() for text, embedding in embeddings.items()}
    return replace(video, window=window, embeddings={**kept, **own})


def extend(
    video: VideoState,
    velocity: Velocity,
    num_chunks: int | None,
    *,
    device: torch.device | str = "cpu",
    progress: Callable[[Progress], None] | None = None,
    on_chunk: Callable[[int, Callable[[], VideoState]], None] | None = None,
) -> VideoState:
    """`video` (see `prompted`) with `num_chunks` more chunks finished; None ends it: all in its window get clean.

    on_chunk: gets, after every chunk, the number of finished latents, and a function that gives the video, to save it.

    The clip's own chunks that the schedule re-noises at the start are finished besides.
    Raises InputError if the video has ended, or, for None, if its schedule never brings the window to rest.
    """
    window = video.window
    assert window is not None
    if window.row is None:
        raise InputError("this video has ended: its window is empty. Extend it before Finish, or branch from there")
    if num_chunks is None:
        if not video.schedule.variable_length:
            raise InputError(
                "a schedule without variable length never brings its window to rest: take the latents as they are"
            )
        window = progressive.finish(window)
    else:
        num_chunks += max(0, -window.next_chunk)
    state = window.to(device)
    chunks = [video.finished]

    def made(state: WindowState) -> VideoState:
        return replace(video, window=state.to("cpu"), finished=torch.cat(chunks, dim=2))

    for after, chunk in progressive.sample(state, velocity, num_chunks=num_chunks, progress=progress):
        state = after
        chunks.append(chunk.cpu())
        if on_chunk is not None:
            on_chunk(sum(part.shape[2] for part in chunks), partial(made, state))
    return made(state)


def save_video_state(video: VideoState, path: str | os.PathLike[str]) -> None:
    """Write `video` to `path` (safetensors with a JSON header), atomically. Raises InputError if it cannot."""
    header: dict[str, Any] = {
        "schedule": {name: getattr(video.schedule, name) for name in Schedule.__dataclass_fields__},
        "seed": video.seed,
        "prompt_switch": video.prompt_switch,
        "window": None if video.window is None else header_of(video.window),
        "texts": list(video.embeddings),
        "from_clip_end": video.from_clip_end,
    }
    tensors = {"clip": video.clip.contiguous(), "finished": video.finished.contiguous()}
    for number, embedding in enumerate(video.embeddings.values()):
        tensors[f"text.{number}"] = embedding.contiguous()
    if video.window is not None:
        tensors["window"] = video.window.window.contiguous()
        if video.window.clean is not None:
            tensors["clean"] = video.window.clean.contiguous()
    save_tensors(tensors, path, {METADATA_KEY: json.dumps(header)})


def finished_latents(path: str | os.PathLike[str]) -> int:
    """How many latents are finished in a file of `save_video_state`, from its header alone. Raises InputError as
    `load_video_state`.
    """
    try:
        with safe_open(path, framework="pt") as file:
            return int(file.get_slice("finished").get_shape()[2])
    except (OSError, SafetensorError, IndexError) as error:
        raise InputError(f"{path} is no readable video state (damaged or cut short?): {error}") from error


def load_video_state(path: str | os.PathLike[str]) -> VideoState:
    """Read what `save_video_state` wrote. Raises InputError for another or a damaged file, and for a header that
    contradicts its tensors.
    """
    path = Path(path)
    try:
        with safe_open(path, framework="pt") as file:
            metadata = (file.metadata() or {}).get(METADATA_KEY)
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        if metadata is None:
            raise InputError(f"{path} is no video state: its header has no {METADATA_KEY!r}")
        header = json.loads(metadata)
        video = VideoState(
            schedule=Schedule(**header["schedule"]),
            clip=tensors["clip"],
            seed=header["seed"],
            prompt_switch=header["prompt_switch"],
            window=None if header["window"] is None else from_header(header["window"], tensors),
            finished=tensors["finished"],
            embeddings={text: tensors[f"text.{number}"] for number, text in enumerate(header["texts"])},
            from_clip_end=header.get("from_clip_end", False),
        )
        _check(video)
    except (OSError, SafetensorError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputError(f"{path} is no readable video state (damaged or cut short?): {error}") from error
    return video


def _check(video: VideoState) -> None:
    """Raise InputError for parts that contradict each other."""
    parts = {"clip": video.clip, "finished": video.finished}
    if video.window is not None:
        check_state(video.window)
        parts |= {"window": video.window.window}
        if video.window.clean is not None:
            parts |= {"clean chunk": video.window.clean}
        finished = (video.window.next_chunk - video.window.first_chunk) * video.schedule.chunk_latents
        if video.window.schedule != video.schedule or video.finished.shape[2] != finished:
            raise InputError(f"{video.finished.shape[2]} latents are finished where its window says {finished}")
    for name, latents in parts.items():
        if latents.ndim != 5 or _picture(latents) != _picture(video.clip):
            raise InputError(f"its {name} of shape {tuple(latents.shape)} does not fit its clip")


def _picture(latents: Tensor) -> tuple[int, ...]:
    return (latents.shape[1], *latents.shape[3:])
