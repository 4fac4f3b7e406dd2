"""States kept on the disk: which one the same work goes on from, which stay, and what is refused."""

from __future__ import annotations

import importlib
import os
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from pavdm.errors import InputError
from pavdm.prompts import PromptSchedule
from pavdm.sampling.schedule import Schedule
from pavdm.sampling.video_state import VideoState, begin, extend, prompted

NODES = Path(__file__).resolve().parent.parent / "nodes"


class Host(ModuleType):
    """What the module reads of ComfyUI's folder_paths."""

    def __init__(self, output: Path) -> None:
        super().__init__("folder_paths")
        self.output = output

    def get_output_directory(self) -> str:
        return str(self.output)

    def get_save_image_path(self, prefix: str, folder: str) -> tuple[str, str, int, str, str]:
        place = Path(folder, prefix)
        place.parent.mkdir(parents=True, exist_ok=True)
        numbers = [int(path.name.split("_")[-2]) for path in place.parent.glob(f"{place.name}_*_*")]
        return str(place.parent), place.name, max(numbers, default=0) + 1, "", prefix


@pytest.fixture
def module(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """nodes/autosave.py with a host whose output folder is tmp_path."""
    package = ModuleType("nodes_under_test")
    package.__path__ = [str(NODES)]
    monkeypatch.setitem(sys.modules, "nodes_under_test", package)
    monkeypatch.setitem(sys.modules, "folder_paths", Host(tmp_path))
    for name in ("autosave", "digest"):
        monkeypatch.delitem(sys.modules, f"nodes_under_test.{name}", raising=False)
    return importlib.import_module("nodes_under_test.autosave")


def velocity(latents: torch.Tensor, *_: object) -> torch.Tensor:
    return -0.1 * latents


def made(num_chunks: int) -> VideoState:
    clip = torch.zeros(1, 4, 0, 2, 2)
    video = prompted(begin(Schedule(2, 5, 2), clip, 1, "chunk"), PromptSchedule(("a",)), {"a": torch.ones(2, 3)}, 1.0)
    return extend(video, velocity, num_chunks)


def keep(module: Any, prefix: str, num_chunks: int, *work: Any) -> None:
    video = made(num_chunks)
    module.Autosave(prefix, *work).keep(video.finished.shape[2], lambda: video)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_longer_state_stays_beside_a_shorter_one_and_each_is_found_by_what_is_asked_for(
    module: Any, tmp_path: Path
) -> None:
    keep(module, "kept/a", 4, "work")
    keep(module, "kept/a", 2, "work")
    assert len(names(tmp_path / "kept")) == 2
    for at_most, found in ((20, 20), (19, 10), (10, 10), (None, 20)):
        assert module.Autosave("kept/a", "work").last(at_most).finished.shape[2] == found
    assert module.Autosave("kept/a", "work").last(9) is None
    assert module.Autosave("kept/a", "other work").last() is None
    keep(module, "kept/a", 5, "work")
    assert len(names(tmp_path / "kept")) == 1  # the shorter ones are in it


def test_a_state_is_put_together_only_when_it_has_grown_enough_to_be_written(module: Any) -> None:
    video = made(1)
    kept = module.Autosave("kept/a", "work")
    asked: list[int] = []

    def state(num_latents: int) -> VideoState:
        asked.append(num_latents)
        return video

    for number in range(1, 201):
        kept.keep(5 * number, lambda number=number: state(number))
    assert asked[:33] == list(range(1, 34)) and len(asked) < 100


def test_states_of_the_last_works_stay_and_other_files_are_left_alone(module: Any, tmp_path: Path) -> None:
    (tmp_path / "kept").mkdir()
    others = ["a_00001_.safetensors", "a-note.txt", "ab-000000000000_00001_.safetensors"]
    for name in others:
        (tmp_path / "kept" / name).write_bytes(b"")
    for number in range(module.KEPT_WORKS + 3):
        keep(module, "kept/a", 1, number)
        for path in (tmp_path / "kept").glob("a-*_.safetensors"):  # clocks of file systems are coarse
            if path.stat().st_mtime > 1e9:
                os.utime(path, (number, number))
    left = set(names(tmp_path / "kept"))
    assert set(others) <= left and len(left) == len(others) + module.KEPT_WORKS
    found = [module.Autosave("kept/a", number).last() is not None for number in range(module.KEPT_WORKS + 3)]
    assert found == [False] * 3 + [True] * module.KEPT_WORKS


def test_a_disk_that_takes_no_state_does_not_stop_the_run(
    module: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(*_: Any) -> None:
        raise InputError("no room")

    monkeypatch.setattr(module, "save_video_state", full)
    keep(module, "kept/a", 1, "work")
    assert "not kept: no room" in caplog.text


@pytest.mark.parametrize("prefix", ["../../kept", "/etc/kept", "", ".", "kept/../.."])
def test_names_outside_the_output_folder_are_refused(module: Any, prefix: str) -> None:
    with pytest.raises(InputError, match="out of the output folder"):
        module.saved_files(prefix)


@pytest.mark.parametrize("prefix", ["kept/%year%-%month%-%day%/state", "state%second%"])
def test_names_that_change_with_time_are_refused_as_they_would_not_be_found_again(module: Any, prefix: str) -> None:
    for use in (module.saved_files, module.next_file):
        with pytest.raises(InputError, match="found again"):
            use(prefix)


def test_no_name_keeps_nothing_and_work_that_cannot_be_told_apart_is_not_resumed(
    module: Any, caplog: pytest.LogCaptureFixture
) -> None:
    deep: Any = None
    for _ in range(100_000):
        deep = [deep]
    assert module.autosave_of("", "work") is None
    assert module.autosave_of("kept/a", deep) is None
    assert "no state is kept" in caplog.text
