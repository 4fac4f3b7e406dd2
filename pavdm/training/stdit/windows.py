"""Progressive training batches: the windows that the sampler will show to the network, cut from clean clips.

The sampler's table (`pavdm.sampling.schedule`) says which noise levels stand side by side in a window. Training takes a
random row of it, moves the levels a little (the noise patterns), and asks for the velocity of the noisy chunks.

Chance is a value: `plan` (how long a window, from where) and `draw` (levels and noise) come from local CPU generators,
`noised` is a pure function of them. Draws of another program can be fed in their place.

Where the paper, the published code and common sense differ:
- Variable length. The paper trains windows of every length: growing ones see the tail of the ramp, shrinking ones its
  head (section 3.2). The published code has the slices, but nothing switches them on, and its ramp is laid out for
  whatever length comes first. Here they are slices of the full window's ramp.
- The sampler keeps the timestep transform of the full window while the window is shorter; the published training would
  take that of the short clip. Here the caller gives the ratio; give `timestep_shift` of the full window.
- Chunks. The published linear, linear-variance and linear-variance-shift patterns give every latent its own level even
  where latents enter in chunks; only linear-shift knows chunks. Here a chunk has one level in all four, and
  `Schedule(chunk_latents=1)` is the per-latent ramp.
- Draws. The published code draws row, direction and variances once for the whole batch; here each clip has its own.
- Upper bound. linear-shift is clamped to 999 in the code, the others to 1000, the author says 1000 (issue 3 of
  desaixie/pa_vdm). Kept as in the code: it is 0.3 after the transform.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, get_args

import torch
from torch import Tensor

from pavdm.errors import InputError
from pavdm.sampling.schedule import NUM_TIMESTEPS, Schedule
from pavdm.training.chance import integer
from pavdm.training.stdit.objective import Noised, add_noise, transformed

NoisePattern = Literal["linear", "linear-variance", "linear-variance-shift", "linear-shift"]

MISLEADING_CHUNKS = 2  # at the start of a clip


@dataclass(frozen=True)
class WindowPlan:
    """What all clips of a batch share: `num_chunks` noisy chunks, cut from chunk `start` of the clips on.

    clean: the first chunk cut is the clean one, in front of the noisy ones. resampled: the network makes it anew, with
    the chunk before it in front (`resampling.py`).
    """

    num_chunks: int
    start: int = 0
    clean: bool = True
    resampled: bool = False


@dataclass(frozen=True, eq=False)
class WindowDraw:
    """What chance decides for each clip of a batch.

    stage: (B,) int, model calls since a chunk entered, 0 .. calls_per_chunk - 1.
    first: (B,) int, the place of the front noisy chunk in the full window's ramp, 0 .. window_chunks - num_chunks: 0 is
        the head (a shrinking window), the highest is the tail (a growing one).
    variance: (B, num_chunks) and shift: (B,), unit normal; read by the patterns that have them.
    noise: (B, C, T, H, W) unit normal, of the noisy latents.
    """

    stage: Tensor
    first: Tensor
    variance: Tensor
    shift: Tensor
    noise: Tensor


@dataclass(frozen=True)
class TrainingWindows:
    """How windows are drawn and noised.

    schedule: of the sampler to train for. Its `shift` is not read (the ratio belongs to the clip's size).
    pattern: linear leaves the ramp as it is; variance moves each chunk by its own normal, shift the whole window by
        one, in units of their scale times the gap of the ramp, 1000 / steps. The paper has linear-shift 0.4.
    partial_share: how often a window shorter than the full one is drawn, each length alike, if the schedule has
        variable length. The paper does not say; 0.5 keeps the steady window, most of a long run, well trained.
    partial_place: "ends": tail or head of the ramp, as in the paper. "anywhere": also between, where the window stands
        when a whole video is shorter than it.
    text_only_share: how often the clean chunk is left out and the window grows, as at a start from text alone (the
        paper mentions such a start; the published code has none).
    resampled_share: how often the network makes the clean chunk anew, where the clip has a chunk before it: in full
        windows of clips that are a chunk longer than these. Not in the paper.

    Raises InputError for values outside these.
    """

    schedule: Schedule
    pattern: NoisePattern = "linear-shift"
    variance_scale: float = 0.4
    shift_scale: float = 0.4
    partial_share: float = 0.5
    partial_place: Literal["ends", "anywhere"] = "ends"
    text_only_share: float = 0.0
    resampled_share: float = 0.0

    def __post_init__(self) -> None:
        if self.pattern not in get_args(NoisePattern):
            raise InputError(f"noise pattern must be one of {', '.join(get_args(NoisePattern))}: got {self.pattern!r}")
        if self.partial_place not in ("ends", "anywhere"):
            raise InputError(f"partial windows are taken from the ends or anywhere: got {self.partial_place!r}")
        if min(self.variance_scale, self.shift_scale) < 0:
            raise InputError(f"noise scales must be at least 0: got {self.variance_scale} and {self.shift_scale}")
        for name in ("partial", "text-only", "resampled"):
            share = getattr(self, f"{name.replace('-', '_')}_share")
            if not 0 <= share <= 1:
                raise InputError(f"the share of {name} windows must lie in 0..1: got {share}")
        if self.resampled_share and not self.schedule.overlap:
            raise InputError("without overlapped conditioning there is no clean chunk to resample: the share must be 0")

    def latents(self, num_chunks: int) -> int:
        """Of a window of so many noisy chunks, with its clean one unless all windows are from text alone."""
        schedule = self.schedule
        return (num_chunks + (schedule.overlap and self.text_only_share < 1)) * schedule.chunk_latents

    @property
    def least_latents(self) -> int:
        """Of clips that hold a window whatever chance decides."""
        return self.latents(1 if self.schedule.variable_length else self.schedule.window_chunks)

    def plan(self, clip_latents: int, generator: torch.Generator) -> WindowPlan:
        """Length and place of the window in clips of `clip_latents`; places are whole chunks, as the VAE codes them.

        Without a clean chunk it does not begin with the clip's first two where it need not: the first may show
        something else than its text says, and the second how that is put right (`pavdm.training.world_change`); no
        video from text alone should begin like that.
        With several processes, give all of them generators in the same state: their steps then take equally long.
        Raises InputError for clips of fewer than `least_latents`.
        """
        if clip_latents < self.least_latents:
            raise InputError(f"training needs clips of at least {self.least_latents} latents: got {clip_latents}")
        schedule = self.schedule
        available = clip_latents // schedule.chunk_latents
        clean = schedule.overlap and not _chance(self.text_only_share, generator)
        longest = min(schedule.window_chunks, available - clean)
        num_chunks = longest
        if schedule.variable_length and longest > 1 and _chance(self.partial_share, generator):
            shorter = longest if longest < schedule.window_chunks else longest - 1
            num_chunks = 1 + integer(shorter, generator)
        places = available - clean - num_chunks + 1
        skipped = 0 if clean else min(MISLEADING_CHUNKS, places - 1)
        start = skipped + integer(places - skipped, generator)
        resampled = clean and start > 0 and _chance(self.resampled_share, generator)
        return WindowPlan(num_chunks, start, clean, resampled)

    def draw(self, plan: WindowPlan, shape: tuple[int, ...], generator: torch.Generator) -> WindowDraw:
        """Levels and noise for clips of `shape` (B, C, T, H, W), on the CPU."""
        batch, channels, _, height, width = shape
        schedule, n = self.schedule, plan.num_chunks
        tail = schedule.window_chunks - n
        if schedule.overlap and not plan.clean:
            first = torch.full((batch,), tail)
        elif self.partial_place == "anywhere":
            first = torch.randint(tail + 1, (batch,), generator=generator)
        else:
            first = tail * torch.randint(2, (batch,), generator=generator)
        return WindowDraw(
            stage=torch.randint(schedule.calls_per_chunk, (batch,), generator=generator),
            first=first,
            variance=torch.randn(batch, n, generator=generator),
            shift=torch.randn(batch, generator=generator),
            noise=torch.randn(batch, channels, n * schedule.chunk_latents, height, width, generator=generator),
        )

    def timesteps(self, plan: WindowPlan, draw: WindowDraw) -> Tensor:
        """Timesteps of the noisy chunks before the transform, (B, num_chunks) fp32."""
        schedule = self.schedule
        chunks = draw.first[:, None] + torch.arange(plan.num_chunks)
        levels = (chunks + 1) * schedule.calls_per_chunk - draw.stage[:, None]
        ramp = replace(schedule, shift=None).timesteps
        t = ramp[levels]
        moved = torch.zeros_like(t)
        # ramp[1] and 1000 / steps are one gap; they differ in the last bit, and the published code has both
        if "variance" in self.pattern:
            moved = moved + draw.variance * ramp[1] * self.variance_scale
        if "shift" in self.pattern:
            moved = moved + draw.shift[:, None] * (NUM_TIMESTEPS / schedule.steps) * self.shift_scale
        return (t + moved).clamp(0, NUM_TIMESTEPS - (self.pattern == "linear-shift"))

    def noised(
        self, latents: Tensor, plan: WindowPlan, draw: WindowDraw, shift: float | Tensor | None = None
    ) -> Noised:
        """The window that `plan` cuts from clean clips (B, C, T, H, W), noised to the levels of `draw`.

        shift: see `pavdm.training.stdit.objective.transformed`; that of the full window, whatever the plan's length.
        """
        n = self.schedule.chunk_latents
        begin, length = plan.start * n, (plan.num_chunks + plan.clean) * n
        window = latents[:, :, begin : begin + length].float()
        clean, x0 = window.split([plan.clean * n, plan.num_chunks * n], dim=2)
        noise = draw.noise.to(x0)
        t = transformed(self.timesteps(plan, draw).repeat_interleave(n, dim=1).to(x0.device), shift)
        no_noise = t.new_zeros(t.shape[0], clean.shape[2])
        timesteps = torch.cat([no_noise, t], dim=1)
        counted = torch.cat([no_noise.bool(), torch.ones_like(t, dtype=torch.bool)], dim=1)
        target = torch.cat([torch.zeros_like(clean), x0 - noise], dim=2)
        return Noised(torch.cat([clean, add_noise(x0, noise, t)], dim=2), timesteps, target, counted)


def _chance(probability: float, generator: torch.Generator) -> bool:
    return bool(torch.rand(1, generator=generator) < probability)
