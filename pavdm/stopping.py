"""Ctrl-C and SIGTERM as a question that long work asks between two steps."""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def asked_to_stop(after: str | None = "this model call") -> Iterator[Callable[[], bool]]:
    """A function that says whether Ctrl-C was pressed or the process asked to end; a second time ends it at once.

    Within a second it counts as the same: torchrun passes on the Ctrl-C that its processes get from the terminal, too.
    after: what is finished first, told to the user; None tells nothing.
    """
    asked: float | None = None

    def handle(number: int, frame: object) -> None:
        nonlocal asked
        if asked is not None:
            if time.monotonic() - asked < 1:
                return
            raise KeyboardInterrupt
        asked = time.monotonic()
        if after is not None:
            sys.stderr.write(f"\nstopping after {after}; once more to stop at once\n")

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: asked is not None
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
