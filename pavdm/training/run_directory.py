"""A run on disk.

    OUT/step-000123/model/               the averaged weights as published networks are laid out: the ones to use
    OUT/step-000123/raw/                 the weights of the last step, the same way (not without an average)
    OUT/step-000123/state.safetensors    weights, average and optimizer, in full precision, to go on from
    OUT/step-000123/progress.json        the step, the settings, the scale of fp16
    OUT/loss.jsonl                       one line per step (`pavdm.training.run_log`)
    OUT/skipped.csv                      files that are not trained on, and why, if there are any
    OUT/samples/, OUT/tensorboard/

A checkpoint is written under a temporary name and renamed when it is whole, so the newest one there can be used.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from pavdm.errors import InputError
from pavdm.models.write import write_json, write_state_dict
from pavdm.training.data.clip_list import SKIPPED, Skipped, add_skipped

STATE, PROGRESS = "state.safetensors", "progress.json"
_NAME = re.compile(r"step-(\d{6,})")
_TEMPORARY = re.compile(r"\.step-\d{6,}\.[0-9a-f]{8}\.tmp")


def step_name(step: int) -> str:
    return f"step-{step:06d}"


@dataclass(frozen=True)
class Progress:
    """Where a run stands: `step` optimizer steps are done, made with `settings`. scaler: state of fp16's loss scale."""

    step: int
    settings: Mapping[str, Any]
    scaler: Mapping[str, Any] = field(default_factory=dict)


class RunDirectory:
    """See the module. Only the main process writes, but for `list_skipped`. Raises InputError if it cannot be made."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.samples = directory / "samples"

    def make(self) -> None:
        """Make the folder, and remove what a killed run left half-written."""
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
            for path in self.directory.iterdir():
                if _TEMPORARY.fullmatch(path.name):
                    shutil.rmtree(path)
        except OSError as error:
            raise InputError(f"cannot write to the run's folder {self.directory}: {error.strerror or error}") from error

    def list_skipped(self, skipped: Sequence[Skipped]) -> list[Skipped]:
        """Add to the list what is not trained on and not in it yet; what was added. Any process may.

        Raises InputError if it cannot be written."""
        return add_skipped(self.directory / SKIPPED, skipped) if skipped else []

    def steps(self) -> list[int]:
        """Steps of the checkpoints there, rising."""
        if not self.directory.is_dir():
            return []
        found = (_NAME.fullmatch(path.name) for path in self.directory.iterdir())
        return sorted(int(match[1]) for match in found if match)

    def checkpoint(self, step: int) -> Path:
        return self.directory / step_name(step)

    def has_sample(self, step: int) -> bool:
        """Whether there is a finished one: half a video is `step-000123.partial.mp4`."""
        return any(path.stem == step_name(step) for path in self.samples.glob("*"))

    def newest(self) -> Progress | None:
        """Progress of the newest checkpoint, None where there is none. Raises InputError if it is damaged."""
        if not (steps := self.steps()):
            return None
        file = self.checkpoint(steps[-1]) / PROGRESS
        try:
            content = json.loads(file.read_text("utf-8"))
            return Progress(content["step"], content["settings"], content["scaler"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InputError(
                f"{file} is missing or damaged ({error}), so the run cannot go on from it. Remove {file.parent} to go "
                "on from the checkpoint before, or give another --out"
            ) from error

    def load_state(self, step: int) -> dict[str, Tensor]:
        """Tensors of checkpoint `step`, on the CPU. Raises InputError if they are damaged."""
        file = self.checkpoint(step) / STATE
        try:
            return load_file(file)
        except (OSError, SafetensorError) as error:
            raise InputError(
                f"{file} is missing or damaged ({error}). Remove {file.parent} to go on from the checkpoint before"
            ) from error

    def save(
        self, progress: Progress, state: Mapping[str, Tensor], networks: Mapping[str, Callable[[Path], None]]
    ) -> Path:
        """Write a checkpoint; networks: folders in it, each with what fills it. Raises InputError on a full disk."""
        target = self.checkpoint(progress.step)
        temporary = self.directory / f".{target.name}.{uuid.uuid4().hex[:8]}.tmp"
        try:
            temporary.mkdir()
            for name, write in networks.items():
                (temporary / name).mkdir()
                write(temporary / name)
            write_state_dict(temporary / STATE, state)
            content = {"step": progress.step, "settings": progress.settings, "scaler": progress.scaler}
            write_json(temporary / PROGRESS, content)
            for path in (*temporary.rglob("*"), temporary):
                _sync(path)
            temporary.rename(target)
            _sync(self.directory)
        except OSError as error:
            raise InputError(f"cannot write the checkpoint {target}: {error.strerror or error}") from error
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
        return target

    def keep(self, count: int) -> None:
        """Remove all but the `count` newest checkpoints."""
        for step in self.steps()[:-count]:
            hidden = self.directory / f".{step_name(step)}.{uuid.uuid4().hex[:8]}.tmp"
            self.checkpoint(step).rename(hidden)  # first, so that no half-removed one has a valid name
            shutil.rmtree(hidden)


def check_settings(saved: Mapping[str, Any], now: Mapping[str, Any], directory: Path) -> None:
    """Raise InputError, naming what differs, if what was begun with `saved` settings would go on with others."""
    present = json.loads(json.dumps(now))  # as they would be read back: tuples are lists
    names = sorted(saved.keys() | present.keys())
    differing = [name for name in names if saved.get(name) != present.get(name)]
    if differing:
        listed = "; ".join(f"{name}: {saved.get(name)!r} there, {present.get(name)!r} now" for name in differing)
        raise InputError(
            f"{directory} was begun with other settings ({listed}). Give the same ones to go on, or another --out to "
            "start anew"
        )


def _sync(path: Path) -> None:
    """Bring a file, or the names in a folder, to the disk, where the system can."""
    if os.name == "posix":
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
