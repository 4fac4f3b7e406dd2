"""The clean chunk that the network makes itself: what it is made of, and what it changes."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from memory_source import WIDTH, MemorySource
from torch import Tensor

from pavdm.models.stdit3 import STDiT3, STDiT3Config, initialize_weights
from pavdm.sampling.schedule import Schedule, timestep_shift
from pavdm.training.data.source import Clips
from pavdm.training.stdit.noising import ProgressiveWindows
from pavdm.training.stdit.objective import Noised
from pavdm.training.stdit.resampling import STEPS, history_of, resampled
from pavdm.training.stdit.task import NoisedClips, STDiTObjective
from pavdm.training.stdit.windows import TrainingWindows
from pavdm.training.task import Share

SCHEDULE = Schedule(window_chunks=2, chunk_latents=2, steps=4)
ALWAYS = ProgressiveWindows(TrainingWindows(SCHEDULE, partial_share=0.0, resampled_share=1.0))
NUMBERS = range(3)


@pytest.fixture(scope="module")
def clips() -> Clips:
    return MemorySource(latents=12, batch_size=len(NUMBERS)).clips(Share())[0]


def resampled_step(clips: Clips) -> tuple[Noised, slice]:
    """A window that does not begin with the clip, and the frames that it shows."""
    step = next(step for step in range(20) if ALWAYS(clips, 0, step, NUMBERS).history is not None)
    return ALWAYS(clips, 0, step, NUMBERS), ALWAYS.frames(clips, 0, step)


def test_the_true_velocity_brings_the_real_chunk_back(clips: Clips) -> None:
    window, frames = resampled_step(clips)
    assert window.history is not None
    n = SCHEDULE.chunk_latents
    begin = frames.start + n
    clean = clips.latents[:, :, begin : begin + n]
    level = window.history.timesteps[:, None, n:, None, None] / 1000
    noise = (window.history.latents[:, :, n:] - (1 - level) * clean) / level
    velocity = torch.cat([torch.zeros_like(clean), clean - noise], dim=2)
    nothing = replace(window, latents=torch.cat([torch.zeros_like(clean), window.latents[:, :, n:]], dim=2))
    made = resampled(nothing, window.history, lambda shown: velocity)
    torch.testing.assert_close(made.latents, window.latents, atol=1e-5, rtol=0)
    assert made.history is None


def test_the_network_sees_the_chunk_before_and_a_level_of_its_own_for_each_clip(clips: Clips) -> None:
    window, frames = resampled_step(clips)
    assert window.history is not None
    n = SCHEDULE.chunk_latents
    torch.testing.assert_close(window.history.latents[:, :, :n], clips.latents[:, :, frames.start : frames.start + n])
    seen: list[Tensor] = []

    def velocity(shown: Noised) -> Tensor:
        seen.append(shown.timesteps)
        return torch.zeros_like(shown.latents)

    resampled(window, window.history, velocity)
    assert len(seen) == STEPS
    for step, timesteps in enumerate(seen):
        assert (timesteps[:, :n] == 0).all()
        torch.testing.assert_close(timesteps, window.history.timesteps * (1 - step / STEPS))
    assert window.history.timesteps[:, n].unique().numel() == len(NUMBERS)


def test_most_levels_are_low_and_they_are_shifted_as_the_window_is(clips: Clips) -> None:
    two = clips.latents[:1, :, :4].expand(400, -1, -1, -1, -1)
    ratio = timestep_shift(*clips.size, SCHEDULE.window_latents)
    plain, moved = (history_of(two, 0, range(400), shift).timesteps[:, -1] / 1000 for shift in (None, ratio))
    assert 0.2 < plain.median() < 0.26 and plain.max() > 0.9  # 0.3 t / (1 - 0.7 t)
    torch.testing.assert_close(moved, ratio * plain / (1 + (ratio - 1) * plain))


def test_the_loss_is_that_of_the_window_behind_the_chunk_that_the_network_made(clips: Clips) -> None:
    """Also where the text changes from latent to latent: history and window read those of their own frames."""
    config = STDiT3Config(hidden_size=32, depth=1, num_heads=2, caption_channels=WIDTH, model_max_length=8)
    network = STDiT3(config)
    generator = torch.Generator().manual_seed(0)
    initialize_weights(network, generator)
    for weights in network.parameters():  # those that begin at zero, too: nothing would reach the window
        weights.data += 0.1 * torch.randn(weights.shape, generator=generator)
    objective = STDiTObjective(network)
    window, frames = resampled_step(clips)
    assert window.history is not None
    texts = torch.arange(frames.stop - frames.start)[None] % len(clips.embeddings)
    texts = texts.expand(len(NUMBERS), -1)
    dropped = torch.tensor([False, True, False])
    batch = NoisedClips(window, clips.embeddings, dropped, clips.fps, clips.size, texts)
    loss, _ = objective(batch)

    def velocity(noised: Noised, texts: Tensor) -> Tensor:
        kwargs = {"fps": clips.fps, "size": clips.size, "texts": texts, "dropped": dropped}
        return objective.velocity(noised, clips.embeddings, **kwargs)

    n = SCHEDULE.chunk_latents
    made = resampled(window, window.history, lambda shown: velocity(shown, texts[:, : 2 * n]))
    torch.testing.assert_close(loss, made.loss(velocity(made, texts[:, n:])).mean())
    assert not torch.isclose(loss, window.loss(velocity(window, texts[:, n:])).mean(), rtol=1e-3)
    assert not made.latents.requires_grad and loss.requires_grad
    with torch.autocast("cpu", torch.bfloat16):
        objective(batch)[0].backward()
    assert all(weights.grad is not None for weights in network.temporal_blocks[0].parameters())


def test_the_share_counts_windows_that_have_a_chunk_before_them() -> None:
    windows = TrainingWindows(SCHEDULE, text_only_share=0.3, resampled_share=0.5)
    generator = torch.Generator().manual_seed(0)
    plans = [windows.plan(12, generator) for _ in range(2000)]
    assert not any(plan.resampled for plan in plans if plan.start == 0 or not plan.clean)
    could = [plan.resampled for plan in plans if plan.start > 0 and plan.clean]
    assert sum(could) / len(could) == pytest.approx(0.5, abs=0.05)
