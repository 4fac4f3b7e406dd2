"""What a person can ask for: the video to make, and where and how precisely to compute it."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import torch

from pavdm.clip import PIECE_FRAMES, PIECE_LATENTS, Condition
from pavdm.devices import usable_device
from pavdm.errors import InputError
from pavdm.models.vae import MIN_TILE
from pavdm.prompts import PromptSchedule
from pavdm.sampling.rectified_flow import MaskRule, ReplacementLoop, parse_mask_strategy
from pavdm.sampling.schedule import Schedule
from pavdm.sampling.state import PromptSwitch

Method = Literal["progressive", "replacement"]
MAX_SECONDS = 24 * 3600


@dataclass(frozen=True)
class LoopSettings:
    """What only the replacement loop has; the defaults are RN-O-base's.

    condition_latents: latents that each loop keeps from the one before (`condition_frame_length`), whole pieces of the
    VAE. edit_ratio: 0 keeps them as they are, up to 1 lets the model work on them from that share of the noise on
    (`condition_frame_edit`). align: where a mask strategy's starts are rounded to. reencode: what a loop takes over is
    decoded and encoded again, as published.
    mask_strategy: Open-Sora's: groups of loop,reference,reference_start,target_start,length,edit_ratio, separated by
    ';'. It alone then says where the clip, reference 0, goes; the output is what the loops made, whole.
    """

    condition_latents: int = 5
    edit_ratio: float = 0.0
    align: int | None = 5
    reencode: bool = False
    mask_strategy: str = ""

    def __post_init__(self) -> None:
        if self.condition_latents < 1 or self.condition_latents % PIECE_LATENTS:
            raise InputError(
                f"the latents kept from loop to loop must be a multiple of {PIECE_LATENTS}, which the VAE codes "
                f"together: got {self.condition_latents}"
            )
        if not 0 <= self.edit_ratio <= 1:
            raise InputError(f"the edit ratio must be between 0 and 1: got {self.edit_ratio}")
        if self.align is not None and self.align < 1:
            raise InputError(f"starts are aligned to 1 latent or more, or to none: got {self.align}")
        for rule in self.rules:
            if rule.reference != 0:
                raise InputError(
                    f"a mask strategy can place the clip only, which is reference 0: got reference {rule.reference}"
                )

    @property
    def rules(self) -> list[MaskRule]:
        return parse_mask_strategy(self.mask_strategy)


@dataclass(frozen=True)
class Settings:
    """What to make. The defaults are the paper's PA-VDM on Open-Sora v1.2, except where a field says otherwise.

    size: (height, width) in pixels that the model is told; the video has them rounded down to multiples of 8.
    seconds counts new video, total_seconds the whole output with the clip in it; exactly one is given.
    schedule: its `shift` is set from the size, unless `timestep_transform` is off.
    loop: of the replacement loop.
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
    loop: LoopSettings = field(default_factory=LoopSettings)
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
        if self.loop != LoopSettings() and self.method != "replacement":
            raise InputError(
                "re-encoding, mask strategy, condition length, edit ratio and alignment belong to the replacement "
                "loop: add --method replacement, or leave them out"
            )
        if self.loop.mask_strategy and self.clip is None:
            raise InputError("a mask strategy says where a clip goes, and there is none: leave it out")
        if self.method == "replacement" and self.condition == "first":
            raise InputError(
                "the replacement loop goes on from the end of the clip: --condition first is progressive only"
            )

    @property
    def chunk_frames(self) -> float:
        """New frames that come with every chunk, or loop."""
        latents = self.schedule.chunk_latents
        if self.method == "replacement":
            latents = ReplacementLoop.clip_latents - self.loop.condition_latents
        return latents * PIECE_FRAMES / PIECE_LATENTS


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

    @classmethod
    def named(cls, device: str, dtype: str, text_dtype: str, tile: int | None = None) -> Precision:
        """From what is typed: device "auto" is the best there is; dtypes fp32, bf16, fp16, dtype also "auto".

        Raises InputError for a device that cannot be used here.
        """
        found = usable_device(device)
        dtypes = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
        chosen = dtypes.get(dtype, torch.bfloat16 if found.type == "cuda" else torch.float32)
        return cls(found, chosen, dtypes[text_dtype], tile)

    @property
    def vae_dtype(self) -> torch.dtype:
        return torch.float32 if self.dtype == torch.float16 else self.dtype
