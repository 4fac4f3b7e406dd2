"""What a person sees of a batch while it runs: how many are done, and one line for each of all its processes."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from types import TracebackType
from typing import TYPE_CHECKING, Any, TextIO

from pavdm.batch.member import Member
from pavdm.batch.work import Job

if TYPE_CHECKING:
    from typing_extensions import Self

REDRAW_SECONDS = 1.0  # on a terminal, where the lines are drawn over
REPEAT_SECONDS = 30.0  # elsewhere, where they follow each other
_BAR = 20


class Display:
    """A context manager that shows the batch on `stream` until it is closed, at an end or by an error."""

    def __init__(self, jobs: Sequence[Job], member: Member, stream: TextIO | None = None, hidden: bool = False) -> None:
        self._open = {job.item.name: job for job in jobs if not job.work.is_settled(member.run)}
        self._total = len(jobs)
        self._done = sum(job.work.finished() is not None for job in jobs)
        self._failed = self._total - self._done - len(self._open)
        self._at_start = len(self._open)
        self._begun = time.monotonic()
        self._member = member
        self._stream = stream or sys.stderr
        self._hidden = hidden
        self._terminal = self._stream.isatty()
        self._drawn = 0  # lines that stand on the terminal and are drawn over
        self._repeated = 0.0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="display", daemon=True)

    def __enter__(self) -> Self:
        if not self._hidden:
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        if not self._hidden:
            self._thread.join()
            with suppress(OSError, ValueError):
                self._show(self._news(), [])

    def _run(self) -> None:
        with suppress(OSError, ValueError):  # a terminal or pipe that has gone away must not end the batch
            while True:
                news = self._news()
                members = self._member.everyone()
                due = self._terminal or time.monotonic() - self._repeated >= REPEAT_SECONDS
                if news or due:
                    self._show(news, [self._heading(members), *member_lines(members)] if due else [])
                if self._ended.wait(REDRAW_SECONDS):
                    return

    def _news(self) -> list[str]:
        """A sentence for every video that was settled since the last look."""
        news = []
        for name, job in list(self._open.items()):
            if (done := job.work.finished()) is not None:
                self._done += 1
                news.append(f"{job.work.video}: {done['frames']} frames in {done['seconds']:.1f} s by {done['by']}")
            elif (failed := job.work.failed(self._member.run)) is not None:
                self._failed += 1
                news.append(f"{name} failed: {failed['error'].splitlines()[0]} (see {job.work.log})")
            else:
                continue
            del self._open[name]
        return news

    def _heading(self, members: Sequence[dict[str, Any]]) -> str:
        text = f"{self._done} of {self._total} done, {self._failed} failed, {len(self._open)} to make"
        shares = [_share(task) or 0.0 for member in members for task in member.get("tasks", {}).values()]
        made = self._at_start - len(self._open) + sum(shares)
        if made > 0.1:
            waited = time.monotonic() - self._begun
            text += f"; about {_duration(waited * (self._at_start - made) / made)} left"
        return text

    def _show(self, news: Sequence[str], lines: Sequence[str]) -> None:
        if self._terminal:
            erase = f"\x1b[{self._drawn}F\x1b[J" if self._drawn else ""
            self._stream.write(erase + "".join(f"{line}\n" for line in [*news, *lines]))
            self._drawn = len(lines)
        else:
            self._stream.write("".join(f"{line}\n" for line in [*news, *lines]))
        if lines:
            self._repeated = time.monotonic()
        self._stream.flush()


def member_lines(members: Sequence[dict[str, Any]]) -> list[str]:
    """One line for each process, or each thing that it does at a time."""
    return [
        f"  {task} on {member.get('host', '?')}: {_doing(what)}"
        for member in members
        for task, what in (member.get("tasks") or {f"rank {member.get('rank', 0)}": {}}).items()
    ]


def _doing(what: dict[str, Any]) -> str:
    video, doing = what.get("video", ""), what.get("doing", "starting")
    share = _share(what)
    if share is None:
        return f"{video} {doing}".strip()
    filled = round(share * _BAR)
    speed = f", {what['fps']:.2f} frames/s" if what.get("fps") else ""
    return f"{video} |{'#' * filled}{'-' * (_BAR - filled)}| {share:.0%}, chunk {what['chunk']}{speed}"


def _share(what: dict[str, Any]) -> float | None:
    """How much of its video a process has made, 0 to 1."""
    call, calls = what.get("call"), what.get("calls")
    return min(1.0, call / calls) if call and calls else None


def _duration(seconds: float) -> str:
    minutes = round(seconds / 60)
    if minutes < 1:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60} min"
