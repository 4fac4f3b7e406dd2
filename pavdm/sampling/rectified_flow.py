"""The baseline: Open-Sora v1.2's own sampler, and its autoregressive extension by replacement.

`sample` denoises a whole clip at one noise level, with Open-Sora's frame mask. `extend` is the naive loop on top: each
clip starts with the last latents of the one before and keeps them (`mask_strategy`, `condition_frame_length`, `align`
and the edit ratio have Open-Sora's meaning). PA-VDM is compared with it on the same weights (RN-O-base in
arXiv 2410.08151).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from pavdm.errors import InputError
from pavdm.sampling.progressive import Velocity, require_finite
from pavdm.sampling.schedule import NUM_TIMESTEPS, warp
from pavdm.sampling.state import Texts

# noise(step, shape) -> unit Gaussian noise drawn for sampling step `step`, 0 .. steps - 1
StepNoise = Callable[[int, tuple[int, ...]], Tensor]


def timesteps(steps: int, shift: float | None) -> Tensor:
    """The timestep of every step, (steps,) fp32, falling from 1000; `shift` as in `schedule.timestep_shift`."""
    t = torch.tensor([(1.0 - i / steps) * NUM_TIMESTEPS for i in range(steps)])
    return t if shift is None else warp(t, shift)


def sample(
    velocity: Velocity,
    latents: Tensor,
    texts: Texts,
    *,
    steps: int,
    shift: float | None = None,
    frame_mask: Tensor | None = None,
    noise: StepNoise | None = None,
    on_step: Callable[[int], None] | None = None,
) -> Tensor:
    """Open-Sora v1.2's rectified-flow sampler: latents (B, C, T, H, W) -> the same, clean.

    latents: noise, with the conditioning latents already in their frames. frame_mask (B, T): 1 generates a frame, 0
    keeps it, a value between (the edit ratio) lets it join once the timestep has fallen to that share of 1000, noised
    to that level; `noise` is needed then. on_step gets the step's number before every model call, and may raise.

    A kept frame is clean to the model. One noise tensor is asked for at every step, used or not, as published.
    """
    z = latents.float()
    schedule = timesteps(steps, shift).to(z.device)
    ends = torch.cat([schedule[1:], schedule.new_zeros(1)])
    generated = None if frame_mask is None else frame_mask == 1
    for i, (t, t_next) in enumerate(zip(schedule, ends, strict=True)):
        if on_step is not None:
            on_step(i)
        active = None
        if frame_mask is not None and generated is not None:
            assert noise is not None, "a frame mask needs noise"
            eps = noise(i, tuple(z.shape)).to(z)
            active = frame_mask * NUM_TIMESTEPS >= t
            joins = active & ~generated
            level = t / NUM_TIMESTEPS
            z = torch.where(joins[:, None, :, None, None], (1 - level) * z + level * eps, z)
            generated = active
        dt = (t - t_next) / NUM_TIMESTEPS
        moved = z + velocity(z, t.expand(z.shape[0], z.shape[2]), texts, active).float() * dt
        z = moved if active is None else torch.where(active[:, None, :, None, None], moved, z)
    return z


@dataclass(frozen=True)
class MaskRule:
    """One group of Open-Sora's `mask_strategy`: copy `length` latents of a reference into the clip of one loop."""

    loop: int = 0
    reference: int = 0
    reference_start: int = 0  # latents; negative counts from the end
    target_start: int = 0
    length: int = 1
    edit_ratio: float = 0.0


def parse_mask_strategy(text: str) -> list[MaskRule]:
    """Rules of `loop,reference,reference_start,target_start,length,edit_ratio;...`; missing fields take defaults.

    Raises InputError for a group that is empty, too long or not numeric.
    """
    rules = []
    for group in filter(None, (part.strip() for part in text.split(";"))):
        fields = group.split(",")
        try:
            if len(fields) > 6:
                raise ValueError
            rules.append(MaskRule(*(int(f) for f in fields[:5]), *(float(f) for f in fields[5:])))
        except ValueError as error:
            raise InputError(
                "a mask strategy is groups of up to 6 numbers, loop,reference,reference_start,target_start,length,"
                f"edit_ratio, separated by ';': got {group!r}"
            ) from error
    return rules


def apply_mask_strategy(
    latents: Tensor, references: list[Tensor], rules: list[MaskRule], loop: int, align: int | None = None
) -> tuple[Tensor, Tensor]:
    """Put the references of this loop into one clip: (C, T, H, W) -> (latents (C, T, H, W), frame mask (T,)).

    align: starts are rounded to a multiple of it (5: the latents that the VAE codes together).
    """
    latents = latents.clone()
    num_frames = latents.shape[1]
    mask = torch.ones(num_frames, device=latents.device)
    for rule in rules:
        if rule.loop != loop:
            continue
        if not -len(references) <= rule.reference < len(references):
            raise InputError(f"mask strategy names reference {rule.reference}, but there are {len(references)}")
        reference = references[rule.reference]
        source = _aligned(rule.reference_start, reference.shape[1], align)
        target = _aligned(rule.target_start, num_frames, align)
        length = min(rule.length, num_frames - target, reference.shape[1] - source)
        latents[:, target : target + length] = reference[:, source : source + length]
        mask[target : target + length] = rule.edit_ratio
    return latents, mask


def _aligned(start: int, length: int, align: int | None) -> int:
    start = start + length if start < 0 else start
    if align is None:
        return start
    groups, rest = divmod(start, align)
    if rest > align / 2 and groups < length // align - 1:
        groups += 1
    return groups * align


@dataclass(frozen=True)
class ReplacementLoop:
    """Settings of the extension by replacement; the defaults are RN-O-base's (51 frames a clip, 17 of them kept).

    clip_latents: latents of each clip. condition_latents: latents kept from the clip before (`condition_frame_length`).
    edit_ratio: 0 keeps them as they are (`condition_frame_edit`).
    reencode: reencode(loop, latents) -> latents, applied to the latents that a loop takes over from the one before; the
    published loop decodes the finished clip and encodes it again. None carries the latents.
    """

    clip_latents: int = 15
    condition_latents: int = 5
    steps: int = 30
    shift: float | None = None
    align: int | None = 5
    edit_ratio: float = 0.0
    reencode: Callable[[int, Tensor], Tensor] | None = None

    def __post_init__(self) -> None:
        if not 0 < self.condition_latents < self.clip_latents:
            raise InputError(
                f"the latents kept from clip to clip must be between 1 and {self.clip_latents - 1}: "
                f"got {self.condition_latents}"
            )
        if self.steps < 1:
            raise InputError(f"steps must be at least 1: got {self.steps}")

    @property
    def new_latents(self) -> int:
        """New latents of every loop."""
        return self.clip_latents - self.condition_latents


def extend(
    loop: ReplacementLoop,
    velocity: Velocity,
    conditioning: Tensor | None,
    *,
    shape: tuple[int, int, int, int],
    texts_for: Callable[[float], tuple[str, ...]],
    noise: Callable[[int, int | None, tuple[int, ...]], Tensor],
    rules: Sequence[MaskRule] = (),
    first_loop: int = 0,
    before: Tensor | None = None,
    on_step: Callable[[int, int], None] | None = None,
) -> Iterator[Tensor]:
    """Yield the new latents of one loop after the other, (B, C, n, H, W), without end.

    conditioning: latents (B, C, T, H, W) of the clip to go on from: the first loop keeps its last `condition_latents`.
        None starts from text, so that the first loop yields a whole clip. shape is (B, C, H, W).
    rules: Open-Sora's mask strategy. Then they alone say where the clip (reference 0) goes, in this loop and others,
        and the first loop yields a whole clip, too.
    texts_for(position) -> the text of each batch item; the position counts loops of `new_latents` from the first frame
        that is yielded, so that it has a fraction where the first loop is longer than the others.
    noise(loop, step, shape): step None is the clip's own noise.
    first_loop: number of the first loop, for going on; `before` then holds the last latents of the loop before it, as
        many as are kept or more. on_step(loop, step) is called before every model call.

    Raises InputError if the clip is shorter than what is kept of it, or if a loop comes out with values that are no
    numbers.
    """
    batch, channels, height, width = shape
    kept = loop.condition_latents
    whole_first = conditioning is None or bool(rules)
    later = kept / loop.new_latents if whole_first else 0.0
    index = first_loop
    while True:
        latents = noise(index, None, (batch, channels, loop.clip_latents, height, width))
        references, own = ([], []) if conditioning is None else ([conditioning], list(rules))
        if index or not whole_first:
            taken_over = before if index else conditioning
            if taken_over is None or taken_over.shape[2] < kept:
                came = 0 if taken_over is None else taken_over.shape[2]
                raise InputError(f"the loop keeps {kept} latents, but only {came} came")
            if index and loop.reencode is not None:  # what the first loop keeps was not generated
                taken_over = loop.reencode(index, taken_over[:, :, -kept:])
            own.append(MaskRule(index, len(references), -kept, 0, kept, loop.edit_ratio))
            references.append(taken_over)
        frame_mask = None
        if own:
            placed = [
                apply_mask_strategy(latents[b].to(references[0]), [z[b] for z in references], own, index, loop.align)
                for b in range(batch)
            ]
            latents = torch.stack([z for z, _ in placed])
            frame_mask = torch.stack([mask for _, mask in placed])
        clip = sample(
            velocity,
            latents,
            tuple((text,) * loop.clip_latents for text in texts_for(index + later if index else 0)),
            steps=loop.steps,
            shift=loop.shift,
            frame_mask=frame_mask,
            noise=partial(noise, index),
            on_step=None if on_step is None else partial(on_step, index),
        )
        require_finite(clip, index)
        yield clip if whole_first and not index else clip[:, :, kept:]
        before = clip
        index += 1
