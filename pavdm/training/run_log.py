"""What a run says while it runs: a line per step in loss.jsonl, the same to TensorBoard, and one progress bar."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from tqdm import tqdm

from pavdm.errors import InputError
from pavdm.files import replacing

LOSSES = "loss.jsonl"
_FORMAT = "{desc} |{bar}| {n_fmt}/{total_fmt} steps, {remaining} left, {rate_fmt}{postfix}"


class RunLog:
    """Of the main process; a context manager.

    done: steps done already; what the files say of later ones (a run was killed after its last checkpoint) is dropped,
    so that the loss curve of a resumed run is the one that an unbroken run has.
    """

    def __init__(self, directory: Path, steps: int, done: int, hidden: bool = False) -> None:
        self._steps, self._done, self._hidden = steps, done, hidden
        self._file = directory / LOSSES
        self._board_folder = directory / "tensorboard"
        self._bar: tqdm[Any] | None = None

    def __enter__(self) -> RunLog:
        from torch.utils.tensorboard import SummaryWriter

        try:
            kept = _lines_until(self._file, self._done)
            with replacing(self._file) as temporary:
                temporary.write_text("".join(kept), "utf-8")
            self._losses = self._file.open("a", encoding="utf-8")
        except OSError as error:
            raise InputError(f"cannot write {self._file}: {error.strerror or error}") from error
        self._board = SummaryWriter(str(self._board_folder), purge_step=self._done + 1)
        self._bar = tqdm(
            total=self._steps,
            initial=self._done,
            desc="training",
            bar_format=_FORMAT,
            file=sys.stderr,
            ascii=" -=#",
            unit="step",
            mininterval=0.1 if sys.stderr.isatty() else 10,
            disable=self._hidden,
        )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.close()
        self._losses.close()
        self._board.close()

    def step(self, step: int, values: Mapping[str, float]) -> None:
        """Log optimizer step `step`, counted from 1. values: `loss` and others, by name."""
        self._losses.write(json.dumps({"step": step, **values}) + "\n")
        self._losses.flush()
        for name, value in values.items():
            self._board.add_scalar(name, value, step)
        if self._bar is not None:
            self._bar.set_postfix_str(f"loss {values['loss']:.4f}", refresh=False)
            self._bar.update(1)

    def sync(self) -> None:
        """Bring all lines to the disk, before a checkpoint that counts their steps."""
        self._losses.flush()
        os.fsync(self._losses.fileno())

    def say(self, message: str) -> None:
        if not self._hidden:
            tqdm.write(message, file=sys.stderr)


def _lines_until(file: Path, step: int) -> list[str]:
    """Lines of the steps up to `step`; half a line that a killed run left is dropped."""
    if not file.exists():
        return []
    kept = []
    for line in file.read_text("utf-8").splitlines(keepends=True):
        try:
            if json.loads(line)["step"] > step:
                break
        except (ValueError, KeyError, TypeError):
            break
        kept.append(line)
    return kept
