"""A video in the making: in steps, in branches, over a file."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from pavdm.errors import InputError
from pavdm.prompts import PromptSchedule
from pavdm.sampling.schedule import Schedule
from pavdm.sampling.video_state import VideoState, begin, extend, load_video_state, prompted, save_video_state

EMBEDDINGS = {"a": torch.ones(2, 3), "b": torch.zeros(4, 3)}


def velocity(latents: Tensor, timesteps: Tensor, texts: object, frame_mask: Tensor | None = None) -> Tensor:
    return torch.sin(latents.mean(dim=2, keepdim=True)) - 0.1 * latents


def started(text: str = "a") -> VideoState:
    clip = torch.randn(1, 4, 5, 2, 2, generator=torch.Generator().manual_seed(3))
    return read(begin(Schedule(3, 5, 6), clip, seed=9, prompt_switch="chunk"), text)


def read(video: VideoState, text: str) -> VideoState:
    return prompted(video, PromptSchedule((text,)), {text: EMBEDDINGS[text]}, 1.0)


def test_steps_with_a_file_between_give_what_one_go_gives(tmp_path: Path) -> None:
    once = extend(extend(started(), velocity, 3), velocity, None)
    first = extend(started(), velocity, 1)
    save_video_state(first, tmp_path / "state.safetensors")
    again = read(load_video_state(tmp_path / "state.safetensors"), "a")
    steps = extend(extend(again, velocity, 2), velocity, None)
    assert torch.equal(once.latents, steps.latents)
    assert once.latents.shape[2] == 5 + 15 + 10  # the clip, three chunks, two that were in the window


@pytest.mark.parametrize("number", [0, 1])
def test_what_is_kept_after_a_chunk_goes_on_to_the_same_video(number: int) -> None:
    kept: list[VideoState] = []
    lengths: list[int] = []

    def keep(num_latents: int, video: Callable[[], VideoState]) -> None:
        lengths.append(num_latents)
        kept.append(video())

    whole = extend(started(), velocity, 3, on_chunk=keep)
    assert [video.finished.shape[2] for video in kept] == lengths == [5, 10, 15]
    assert torch.equal(extend(kept[number], velocity, 2 - number).latents, whole.latents)


def test_a_state_stays_as_it_is_when_it_is_extended() -> None:
    video = extend(started(), velocity, 1)
    left, right = extend(video, velocity, 1), extend(read(video, "b"), velocity, 2)
    assert video.finished.shape[2] == 5
    assert (left.finished.shape[2], right.finished.shape[2]) == (10, 15)


def test_texts_that_the_window_still_reads_keep_their_embeddings() -> None:
    video = extend(read(extend(started("a"), velocity, 1), "b"), velocity, 1)
    assert set(read(video, "b").embeddings) == {"a", "b"}
    later = read(extend(video, velocity, 4), "b")
    assert set(later.embeddings) == {"b"}


def test_an_ended_video_is_not_extended() -> None:
    with pytest.raises(InputError, match="has ended"):
        extend(extend(extend(started(), velocity, 1), velocity, None), velocity, 1)


def test_another_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.safetensors").write_bytes(b"nothing")
    with pytest.raises(InputError, match="no readable video state"):
        load_video_state(tmp_path / "x.safetensors")


def test_a_model_that_overflows_is_stopped_before_a_state_is_kept() -> None:
    kept: list[object] = []
    with pytest.raises(InputError, match="no numbers"):
        extend(started(), lambda latents, *_: latents * torch.inf, 2, on_chunk=lambda *given: kept.append(given))
    assert not kept


def set_call(header: dict[str, Any], tensors: dict[str, Tensor]) -> None:
    header["window"]["call"] += 1


def cut_finished(header: dict[str, Any], tensors: dict[str, Tensor]) -> None:
    tensors["finished"] = tensors["finished"][:, :, :-1].clone()


def other_size(header: dict[str, Any], tensors: dict[str, Tensor]) -> None:
    tensors["clip"] = torch.zeros(1, 4, 5, 3, 2)


def no_window(header: dict[str, Any], tensors: dict[str, Tensor]) -> None:
    header["window"] = "gone"


@pytest.mark.parametrize("change", [set_call, cut_finished, other_size, no_window])
def test_a_header_that_contradicts_its_tensors_is_refused(tmp_path: Path, change: Callable[..., None]) -> None:
    path = tmp_path / "state.safetensors"
    save_video_state(extend(started(), velocity, 2), path)
    with safe_open(path, framework="pt") as file:
        header = json.loads(file.metadata()["pavdm_video"])
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    change(header, tensors)
    save_file(tensors, path, {"pavdm_video": json.dumps(header)})
    with pytest.raises(InputError, match="no readable video state"):
        load_video_state(path)
