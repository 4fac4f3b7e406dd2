"""The samplers as a run drives them: which text a loop reads, and what is refused before it is saved."""

from dataclasses import replace
from itertools import pairwise

import pytest
import torch

from pavdm.chunks import Monitor, Run, progressive_chunks, replacement_chunks
from pavdm.errors import InputError
from pavdm.prompts import PromptSchedule
from pavdm.sampling.progressive import Interrupted, start
from pavdm.sampling.rectified_flow import ReplacementLoop
from pavdm.sampling.schedule import Schedule
from pavdm.state_directory import StateDirectory

FPS = 24


def run(velocity, schedule, prompt="a", num_chunks=3, clip=None):
    state = start(
        schedule,
        shape=(1, 4, 2, 2),
        seeds=(0,),
        prompts=(PromptSchedule.parse(prompt),),
        chunk_seconds=schedule.chunk_latents * 17 / 5 / FPS,
        settings={"clip": clip},
    )
    return Run(state, velocity, None, num_chunks, torch.device("cpu"), Monitor())


@pytest.mark.parametrize(("clip", "starts"), [("a digest", [0, 34, 68, 102]), (None, [0, 51, 85, 119])])
def test_each_loop_reads_the_text_in_force_at_its_first_new_frame(clip, starts):
    seen = []

    def velocity(latents, timesteps, texts, frame_mask=None):
        seen.append(texts[0][0])
        return torch.zeros_like(latents)

    loop = ReplacementLoop(steps=1)
    conditioning = torch.zeros(1, 4, 5, 2, 2) if clip else None
    moments = [frame / FPS for frame in starts]
    for number, (before, moment) in enumerate(pairwise(moments), start=1):
        for at, text in ((moment, "new"), ((before + moment) / 2, "new"), (moment + 0.01, "old")):
            seen.clear()
            made = run(velocity, Schedule(1, loop.new_latents, 1), f"|0s| old |{at}s| new", 4, clip)
            list(replacement_chunks(made, loop, conditioning))
            assert seen[number] == text
            assert seen[number - 1] == "old"


def test_infinities_are_refused_before_anything_is_handed_on():
    made = run(lambda latents, *rest: latents * float("inf"), Schedule(2, 5, 2))
    with pytest.raises(InputError, match="no numbers"):
        next(progressive_chunks(made))


@pytest.mark.parametrize("should_stop", [False, True])  # at the end of a chunk, and in the middle of one
def test_nothing_is_written_into_a_state_directory_that_another_process_has_taken_over(tmp_path, should_stop):
    made = run(lambda latents, *rest: torch.zeros_like(latents), Schedule(2, 5, 2))
    made = replace(made, directory=StateDirectory(tmp_path))
    next(progressive_chunks(made))
    before = {path: path.read_bytes() for path in tmp_path.rglob("*.*")}
    assert len(before) == 2
    lost = Monitor(should_stop=lambda: should_stop, may_save=lambda: False)
    for chunks in (progressive_chunks, lambda run: replacement_chunks(run, ReplacementLoop(steps=1), None)):
        with pytest.raises(Interrupted):
            list(chunks(replace(made, monitor=lost)))
        assert {path: path.read_bytes() for path in tmp_path.rglob("*.*")} == before
