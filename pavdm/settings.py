"""What a person can ask for: the video to make, and where and how precisely to compute it."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import torch

from pavdm.clip import Condition
from pavdm.errors import InputError
from pavdm.models.vae import MIN_TILE
from pavdm.prompts import PromptSchedule
from pavdm.sampling.schedule import Schedule
from pavdm.sampling.state import PromptSwitch

Method = Literal["progressive", "replacement"]
MAX_SECONDS = 24 * 3600


@dataclass(frozen=True)
class Settings:
    """What to make. The defaults are the paper's PA-VDM on Open-Sora v1.2, except where a field says otherwise.

    size: (height, width) in pixels that the model is told; the video has them rounded down to multiples of 8.
    seconds counts new video, total_seconds the whole output with the clip in it; exactly one is given.
    schedule: its `shift` is set from the size, unless `timestep_transform` is off.
    reencode: the published replacement loop: what a loop takes over is decoded and encoded again.
    condition: "last" goes on from the end of the clip and puts the clip's own frames in front; "first" is the
        published behaviour: from the clip's first chunk, which comes back decoded by the VAE, with nothing before it.
    posterior: "sample" draws the clip's latents from the VAE's posterior (published), "mode" the most likely ones.
    """

    prompt: PromptSchedule
    out: Path
    clip: Path | None = None
    clip_start: float = 0.0
    clip_end: float | None = None
    pad: bool = False
    seconds: float | None = None
    total_seconds: float | None = None
    size: tuple[int, int] = (240, 426)
    fps: float = 24.0
    schedule: Schedule = field(default_factory=Schedule)
    timestep_transform: bool = True
    method: Method = "progressive"
    guidance_scale: float = 7.0
    seed: int = 42
    aesthetic: float | None = 6.5
    motion: float | None = None
    camera: str | None = None
    prompt_switch: PromptSwitch = "chunk"
    reencode: bool = False
    condition: Condition = "last"
    posterior: Literal["sample", "mode"] = "sample"
    state_directory: Path | None = None
    override_state: bool = False
    overwrite: bool = False

    def __post_init__(self) -> None:
        if (self.seconds is None) == (self.total_seconds is None):
            raise InputError(
                "give either --seconds (new video) or --total-seconds (the whole output), not both or none"
            )
        length = self.total_seconds if self.seconds is None else self.seconds
        if length is None or not 0 < length <= MAX_SECONDS:
            raise InputError(f"the length must be above 0 and at most {MAX_SECONDS} seconds (a day): got {length}")
        if not 1 <= self.fps <= 240:
            raise InputError(f"fps must be between 1 and 240: got {self.fps:g}")
        for name, number in (
            ("guidance scale", self.guidance_scale),
            ("aesthetic score", self.aesthetic),
            ("motion score", self.motion),
        ):
            if number is not None and not math.isfinite(number):
                raise InputError(f"the {name} must be a finite number: got {number}")
        if self.reencode and self.method != "replacement":
            raise InputError("re-encoding belongs to the replacement loop: add --method replacement, or leave it out")
        if self.method == "replacement" and self.condition == "first":
            raise InputError(
                "the replacement loop goes on from the end of the clip: --condition first is progressive only"
            )


@dataclass(frozen=True)
class Precision:
    """Where and in what number format the networks run. With fp16, which the VAE overflows, the VAE keeps fp32."""

    device: torch.device
    dtype: torch.dtype
    text_dtype: torch.dtype = torch.float32  # the published default
    tile: int | None = None  # spatial tile of the VAE in latent pixels

    def __post_init__(self) -> None:
        if self.tile is not None and self.tile < MIN_TILE:
            raise InputError(f"a tile of the VAE needs at least {MIN_TILE} latent pixels (32 or more): got {self.tile}")

    @property
    def vae_dtype(self) -> torch.dtype:
        return torch.float32 if self.dtype == torch.float16 else self.dtype
