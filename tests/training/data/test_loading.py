"""Items made ahead by worker processes: their order, and how errors and signals reach the main process."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest
from torch.utils.data import Dataset

from pavdm.errors import InputError
from pavdm.training.data.loading import items


class Squares(Dataset[Any]):
    """broken, missing: numbers whose item raises. signalled: the one whose process gets Ctrl-C."""

    def __init__(self, broken: int = -1, missing: int = -1, signalled: int = -1) -> None:
        self.broken, self.missing, self.signalled = broken, missing, signalled

    def __getitem__(self, number: int) -> int:
        if number == self.broken:
            raise InputError(f"clip {number} does not decode")
        if number == self.missing:
            Path("nowhere").read_bytes()
        if number == self.signalled:
            os.kill(os.getpid(), signal.SIGINT)
        return number**2


@pytest.mark.parametrize("workers", [0, 1])
def test_an_error_in_any_process_is_one_sentence(workers: int) -> None:
    made = items(Squares(broken=5), [3, 5], workers)
    assert next(made) == 9
    with pytest.raises(InputError) as error:
        next(made)
    assert str(error.value) == "clip 5 does not decode"
    with pytest.raises(InputError) as error:
        next(items(Squares(missing=2), [2], workers))
    assert "nowhere" in str(error.value) and "Traceback" not in str(error.value)


def test_ctrl_c_ends_no_worker_and_says_nothing_there(capfd: pytest.CaptureFixture[str]) -> None:
    def said(number: int, frame: object) -> None:
        os.write(1, b"stopping after this clip")

    before = signal.signal(signal.SIGINT, said)
    try:
        assert list(items(Squares(signalled=4), [7, 4, 1], 1)) == [49, 16, 1]
    finally:
        signal.signal(signal.SIGINT, before)
    assert capfd.readouterr().out == ""
