"""The chunks of a run, one by one: sampled, saved if there is a state directory, and handed on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from pavdm.errors import InputError
from pavdm.sampling import progressive, rectified_flow
from pavdm.sampling.progressive import Interrupted, Progress, Velocity
from pavdm.sampling.state import WindowState
from pavdm.state_directory import StateDirectory


@dataclass(frozen=True)
class Monitor:
    """What the caller hears of a run: `stage` of each step with a sentence, `progress` after each model call."""

    stage: Callable[[str], None] = lambda message: None
    progress: Callable[[Progress], None] = lambda progress: None
    should_stop: Callable[[], bool] = lambda: False


@dataclass(frozen=True)
class Run:
    """What both samplers need: chunks leave `state` until `num_chunks` have; `directory` is where to save them."""

    state: WindowState
    velocity: Velocity
    directory: StateDirectory | None
    num_chunks: int
    device: torch.device
    monitor: Monitor

    def save(self, number: int, chunk: Tensor, state: WindowState) -> None:
        """Raises InputError, before anything is written, for a chunk that holds infinities or no numbers."""
        if not chunk.isfinite().all():
            raise InputError(
                f"chunk {number} came out with values that are no numbers: the guidance scale is too large, the number "
                "format too narrow (try --dtype bf16 or fp32), or the weights are damaged"
            )
        if self.directory is not None:
            self.directory.save_chunk(number, chunk)
            self.directory.save(state)

    def save_interrupted(self, state: WindowState) -> None:
        if self.directory is not None:
            self.directory.save(state)


def progressive_chunks(run: Run) -> Iterator[Tensor]:
    number = run.state.next_chunk - run.state.first_chunk
    sampled = progressive.sample(
        run.state.to(run.device),
        run.velocity,
        num_chunks=run.num_chunks - number,
        progress=run.monitor.progress,
        should_stop=run.monitor.should_stop,
    )
    try:
        for state, chunk in sampled:
            run.save(number, chunk, state)
            number += 1
            yield chunk
    except Interrupted as stop:
        if stop.state is not None:
            run.save_interrupted(stop.state)
        raise


def replacement_chunks(run: Run, loop: rectified_flow.ReplacementLoop, conditioning: Tensor | None) -> Iterator[Tensor]:
    state = run.state
    batch, channels, _, height, width = state.window.shape
    if state.clean is not None:
        conditioning = state.clean

    def noise(index: int, step: int | None, shape: tuple[int, ...]) -> Tensor:
        name = f"{state.seeds[0]}/{index}" if step is None else f"{state.seeds[0]}/{index}/{step}"
        return progressive.named_noise(name, shape).to(run.device)

    def on_step(index: int, step: int) -> None:
        if run.monitor.should_stop():  # the loop that was begun is done again
            run.save_interrupted(state)
            raise Interrupted(state)
        run.monitor.progress(Progress(index * loop.steps + step + 1, run.num_chunks * loop.steps, index))

    # From text alone the first loop is longer by what the others take over, so they begin that much later.
    later = 0.0 if state.settings.get("clip") else loop.condition_latents / loop.new_latents

    clips = rectified_flow.extend(
        loop,
        run.velocity,
        None if conditioning is None else conditioning.to(run.device),
        shape=(batch, channels, height, width),
        texts_for=lambda index: state.texts_for(index + later if index else 0),
        noise=noise,
        first_loop=state.next_chunk,
        on_step=on_step,
    )
    for number, latents in zip(range(state.next_chunk, run.num_chunks), clips, strict=False):
        state = replace(state, call=state.call + loop.steps, clean=latents[:, :, -loop.new_latents :])
        run.save(number, latents, state)
        yield latents
