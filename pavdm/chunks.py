"""The chunks of a run, one by one: sampled, saved if there is a state directory, and handed on."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice

import torch
from torch import Tensor

from pavdm.sampling import progressive, rectified_flow
from pavdm.sampling.progressive import Interrupted, Progress, Velocity
from pavdm.sampling.rectified_flow import MaskRule
from pavdm.sampling.state import WindowState
from pavdm.state_directory import StateDirectory


@dataclass(frozen=True)
class Monitor:
    """What the caller hears of a run: `stage` of each step with a sentence, `progress` after each model call."""

    stage: Callable[[str], None] = lambda message: None
    progress: Callable[[Progress], None] = lambda progress: None
    should_stop: Callable[[], bool] = lambda: False
    may_save: Callable[[], bool] = lambda: True  # False once somebody else goes on from the same state directory


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
        """Raises Interrupted, before anything is written, if the directory is another's now."""
        if self.directory is not None:
            if not self.monitor.may_save():
                raise Interrupted
            self.directory.save_chunk(number, chunk)
            self.directory.save(state)

    def save_interrupted(self, state: WindowState) -> None:
        if self.directory is not None and self.monitor.may_save():
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


def replacement_chunks(
    run: Run, loop: rectified_flow.ReplacementLoop, conditioning: Tensor | None, rules: Sequence[MaskRule] = ()
) -> Iterator[Tensor]:
    """The new latents of each loop; what the arguments mean is said at `rectified_flow.extend`."""
    state = run.state
    batch, channels, _, height, width = state.window.shape
    conditioning = None if conditioning is None else conditioning.to(run.device)
    before = None if state.clean is None else state.clean.to(run.device)
    if before is None and not rules:
        before = conditioning

    def noise(index: int, step: int | None, shape: tuple[int, ...]) -> Tensor:
        name = f"{state.seeds[0]}/{index}" if step is None else f"{state.seeds[0]}/{index}/{step}"
        return progressive.named_noise(name, shape).to(run.device)

    def on_step(index: int, step: int) -> None:
        if run.monitor.should_stop():  # the loop that was begun is done again
            run.save_interrupted(state)
            raise Interrupted(state)
        run.monitor.progress(Progress(index * loop.steps + step + 1, run.num_chunks * loop.steps, index))

    clips = rectified_flow.extend(
        loop,
        run.velocity,
        conditioning,
        shape=(batch, channels, height, width),
        texts_for=state.texts_for,
        noise=noise,
        rules=rules,
        first_loop=state.next_chunk,
        before=before,
        on_step=on_step,
    )
    for number, latents in enumerate(islice(clips, max(0, run.num_chunks - state.next_chunk)), state.next_chunk):
        known = latents if before is None else torch.cat([before, latents], dim=2)
        before = known[:, :, -loop.condition_latents :]
        state = replace(state, call=state.call + loop.steps, clean=before)
        run.save(number, latents, state)
        yield latents
