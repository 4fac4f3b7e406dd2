"""One process of a batch as the others see it: a small file that it rewrites as long as it lives.

Nothing but the shared folder connects the processes, so any of them can die, and others can join at any time. Whether
one lives is read from its file: on the same machine its process can be asked for, and otherwise a file that has not
been written for LEASE_SECONDS is that of a dead one. Ages are taken by the folder's own clock, not the machines'.
"""

from __future__ import annotations

import hashlib
import json
import os
import socket
import sys
import threading
import time
import uuid
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from pavdm.files import temporary_beside

if TYPE_CHECKING:
    from typing_extensions import Self

BEAT_SECONDS = 1.0
AGREEING_BEATS = 30  # after which those that began at the same moment, on several machines, have seen each other
ATTEMPTS, RETRY_SECONDS = 4, 0.1  # to read a file
LEASE_SECONDS = 120.0  # longer than network file systems keep attributes in their caches


@dataclass(frozen=True)
class Launch:
    """What torchrun says of this process; rank 0 of 1 without it.

    run: the same for all processes of one launch on a machine, so that what failed in it is not tried again by another
    rank; `Member` agrees on one with other machines.
    """

    rank: int = 0
    local_rank: int = 0
    world_size: int = 1
    run: str = ""

    @classmethod
    def from_environment(cls) -> Launch:
        if "TORCHELASTIC_RUN_ID" not in os.environ:
            return cls(run=uuid.uuid4().hex[:12])
        rank, local_rank, world_size = (int(os.environ.get(k, "0")) for k in ("RANK", "LOCAL_RANK", "WORLD_SIZE"))
        # --rdzv-id may be the same in every launch; the process of torchrun itself is not, and outlives its restarts
        run = f"{os.environ['TORCHELASTIC_RUN_ID']}-{socket.gethostname()}-{os.getppid()}"
        return cls(rank, local_rank, max(1, world_size), hashlib.sha256(run.encode()).hexdigest()[:12])

    def device(self, chosen: str) -> str:
        """The GPU of this rank where several were started on a machine and none was chosen, else what was."""
        import torch

        if self.world_size > 1 and chosen in ("auto", "cuda") and torch.cuda.is_available():
            return f"cuda:{self.local_rank % torch.cuda.device_count()}"
        return chosen


class Member:
    """A context manager: this process is one of the batch while it is open.

    folder: of the members' files. who: what the others show of it, such as {"rank": 0, "device": "cuda:0"}.
    `report` tells them what it is doing, in one line for each of the things that it does at a time.
    """

    def __init__(self, folder: Path, launch: Launch, who: dict[str, Any]) -> None:
        self.folder = folder
        self.token = f"{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:6]}"
        self.file = folder / f"{self.token}.json"
        self.run = launch.run
        self._who = {**who, "token": self.token, "host": socket.gethostname(), **_process(os.getpid())}
        self._tasks: dict[str, dict[str, Any]] = {}
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="heartbeat", daemon=True)

    def __enter__(self) -> Self:
        self.folder.mkdir(parents=True, exist_ok=True)
        self._join(self.others())  # a process that joins a batch under way belongs to its launch
        self._write()
        self._thread.start()
        return self

    def _join(self, others: list[dict[str, Any]]) -> None:
        """Belong to the launch of the first of `others`, by token, if there are any."""
        known = [other for other in others if other.get("run") and other.get("token")]
        if known:
            self.run = str(min(known, key=lambda other: str(other["token"]))["run"])

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        self._thread.join()
        self.file.unlink(missing_ok=True)

    def report(self, task: str, **what: Any) -> None:
        """Say what `task` is doing; nothing ends it. The others see it within BEAT_SECONDS."""
        with self._lock:
            if what:
                self._tasks[task] = what
            else:
                self._tasks.pop(task, None)

    def now(self) -> float:
        """The time by the folder's clock, in seconds."""
        self.file.touch()
        return self.file.stat().st_mtime

    def lives(self, token: str) -> bool:
        """Whether the process behind a member's token is at work."""
        return token == self.token or self._alive(self.folder / f"{token}.json") is not None

    def others(self) -> list[dict[str, Any]]:
        """What every other living member says of itself, by name of its file."""
        files = sorted(self.folder.glob("*.json")) if self.folder.is_dir() else []
        found = (self._alive(file) for file in files if file != self.file)
        return [content for content in found if content is not None]

    def everyone(self) -> list[dict[str, Any]]:
        """What all living members say of themselves, this one included, by rank."""
        with self._lock:
            own = {**self._who, "tasks": dict(self._tasks)}
        return sorted([own, *self.others()], key=lambda member: (str(member.get("run")), member.get("rank", 0)))

    def is_older_than_a_lease(self, file: Path) -> bool:
        try:
            written = file.stat().st_mtime
        except FileNotFoundError:
            return True
        except OSError:  # it is there, and the file system has a bad moment
            return False
        return self._clock() - written > LEASE_SECONDS

    def _clock(self) -> float:
        if self.file.exists():
            return self.now()
        probe = self.folder / f".{self.token}.clock"  # before this process has a file of its own
        probe.touch()
        written = probe.stat().st_mtime
        probe.unlink()
        return written

    def _alive(self, file: Path) -> dict[str, Any] | None:
        """What it says of itself; nothing where that cannot be read at the moment; None if it is dead."""
        try:
            content = read_json(file)
        except (OSError, ValueError):
            return None if self.is_older_than_a_lease(file) else {}
        if content is None:
            return None
        if sys.platform != "win32" and content.get("machine") == self._who["machine"]:
            return content if _process(content["pid"]) == {k: content[k] for k in ("machine", "pid", "began")} else None
        return None if self.is_older_than_a_lease(file) else content

    def _beat(self) -> None:
        beats = 0
        while not self._ended.wait(BEAT_SECONDS):
            beats += 1
            try:
                if beats <= AGREEING_BEATS:  # whoever saw whom at first, all come to the launch of the first by token
                    self._join([other for other in self.others() if str(other.get("token", "")) < self.token])
                self._write()
            except OSError:  # the folder is away for a moment; if it stays away, the work itself fails
                continue

    def _write(self) -> None:
        with self._lock:
            content = {**self._who, "run": self.run, "tasks": dict(self._tasks)}
        write_json(self.file, content)


def write_json(path: Path, content: Any) -> None:
    """Write a file under a temporary name and rename it."""
    temporary = temporary_beside(path)
    temporary.write_text(json.dumps(content, indent=1, ensure_ascii=False), encoding="utf-8")
    temporary.replace(path)


def read_json(path: Path) -> dict[str, Any] | None:
    """What a file that others replace holds; None if there is none. Raises OSError or ValueError if it stays so.

    On a network file system a reader whose file is replaced gets an error (ESTALE) once, and the new file then.
    """
    for attempt in range(ATTEMPTS):
        try:
            content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
            return content
        except FileNotFoundError:
            return None
        except (OSError, ValueError):
            if attempt == ATTEMPTS - 1:
                raise
            time.sleep(RETRY_SECONDS)
    raise AssertionError("the last attempt has returned or raised")


def _process(pid: int) -> dict[str, Any]:
    """A process of this machine. `machine` tells containers apart, `began` a process from a later one of its number."""
    return {"machine": _machine(), "pid": pid, "began": _began(pid)}


def _machine() -> str:
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot}/{Path('/proc/self/ns/pid').stat().st_ino}"
    except OSError:
        return f"{socket.gethostname()}/{uuid.getnode()}"


def _began(pid: int) -> str | None:
    """When a process began, in ticks of its machine; "?" where that cannot be told, None if it has ended."""
    if sys.platform == "win32":  # there a signal of 0 is no question but Ctrl-C; only leases are used
        return "?"
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return None if fields[0] in "ZX" else fields[19]
    except FileNotFoundError:
        if Path("/proc/self/stat").exists():
            return None
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return None
    except PermissionError:
        pass
    return "?"
