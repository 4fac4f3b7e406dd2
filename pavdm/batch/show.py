"""What a person sees of a batch while it runs: how many are done, and one line for each of all its processes."""

from __future__ import annotations

import os
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
MOST_LOOKS = 500  # at videos in one second: each opens two files, as a rule on a network file system
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
                self._show(self._news(most=None), [])

    def _run(self) -> None:
        while True:
            try:
                news, members = self._news(), self._member.everyone()
            except (OSError, ValueError):  # the shared folder has a bad moment; who works there says so if it stays
                news, members = [], []
            due = bool(members) and (self._terminal or time.monotonic() - self._repeated >= REPEAT_SECONDS)
            if news or due:
                try:
                    self._show(news, [self._heading(members), *member_lines(members)] if due else [])
                except (OSError, ValueError):  # the terminal or pipe has gone away, which must not end the batch
                    return
            if self._ended.wait(REDRAW_SECONDS):
                return

    def _news(self, most: int | None = MOST_LOOKS) -> list[str]:
        """A sentence for every video that was found settled. most: how many are looked at, those of longest ago."""
        news = []
        for name in list(self._open)[:most]:
            job = self._open[name]
            if (done := job.work.finished()) is not None:
                self._done += 1
                news.append(f"{job.work.video}: {done['frames']} frames in {done['seconds']:.1f} s by {done['by']}")
            elif (failed := job.work.failed(self._member.run)) is not None:
                self._failed += 1
                news.append(f"{name} failed: {failed['error'].splitlines()[0]} (see {job.work.log})")
            else:
                self._open[name] = self._open.pop(name)  # behind the others
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
            lines = _fitting(lines, *self._size())
            erase = f"\x1b[{self._drawn}F\x1b[J" if self._drawn else ""
            self._stream.write(erase + "".join(f"{line}\n" for line in [*news, *lines]))
            self._drawn = len(lines)
        else:
            self._stream.write("".join(f"{line}\n" for line in [*news, *lines]))
        if lines:
            self._repeated = time.monotonic()
        self._stream.flush()

    def _size(self) -> tuple[int, int]:
        """Columns and rows of the terminal; the usual ones where it does not say."""
        try:
            columns, rows = os.get_terminal_size(self._stream.fileno())
        except (OSError, ValueError):
            return 80, 24
        return columns or 80, rows or 24  # 0: not known


def _fitting(lines: Sequence[str], columns: int, rows: int) -> list[str]:
    """Lines that stand on a terminal without breaking or scrolling, so that they can be drawn over."""
    most = max(1, rows - 2)
    if len(lines) > most:
        lines = [*lines[: most - 1], f"  and {len(lines) - most + 1} more"]
    return [line[: columns - 1] for line in lines]


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
