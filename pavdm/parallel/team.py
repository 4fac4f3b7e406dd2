"""The processes that make one video together: how they find each other, talk, and end together.

Process 0 leads: it runs the engine as a single process does, holds the window and all files, and speaks to the user.
The others follow its messages. What they say to each other goes two ways: tensors through torch.distributed, and
through the launcher's key-value store a sign of life, and the reason if one fails. So no process waits for ever for
one that failed, froze or vanished, however long a model call or a decoding may take.
"""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from types import TracebackType
from typing import Any

import torch
import torch.distributed as dist
from safetensors.torch import load, save
from torch import Tensor
from torch.distributed.distributed_c10d import PrefixStore, Store

from pavdm.errors import InputError, RunLost
from pavdm.parallel.launch import local_place, place

LONGEST_CALL = timedelta(hours=1)  # between two exchanges of one model call
LONGEST_WAIT = timedelta(days=1)  # for the next model call
START_SECONDS = 600.0  # for the first sign of life: processes may start at different times
GRACE_SECONDS = 5.0  # to end by itself, for a process that is told of a failure elsewhere
_ATTEMPT = "TORCHELASTIC_RESTART_COUNT"
_FACTS = "facts"


class ProcessLost(RunLost):
    """Another process of the run has ended, or the connection to it."""


@contextmanager
def communicating() -> Iterator[None]:
    """torch.distributed reports a peer that has gone as a RuntimeError among others: here it is a ProcessLost."""
    try:
        yield
    except RuntimeError as error:
        reason = str(error).splitlines()[0]
        raise ProcessLost(f"another process of this run has ended or does not answer ({reason})") from error


@dataclass(frozen=True)
class Message:
    """What process 0 tells the others: tensors (on the CPU) and facts that JSON can hold."""

    kind: str
    tensors: dict[str, Tensor]
    facts: dict[str, Any]


class Team:
    """A context manager: the run of `size` processes that this one belongs to (see `pavdm.parallel.launch`).

    several: whether the processes that were started may make several teams; they are numbered through.
    lost_after: seconds without a sign of life after which a process that has given one is taken for lost.
    give_up: called from a thread, with the reason, if this process does not end by itself after another has failed; it
    must end the process.

    When the body ends, so do all processes: followers are dismissed by the leader, a failure is told to the others.
    """

    def __init__(self, size: int, lost_after: float, give_up: Callable[[str], None], several: bool = False) -> None:
        if not lost_after > 0:
            raise InputError(f"--lost-after must be above 0 seconds: got {lost_after:g}")
        self.size = size
        self._first, self.rank = _team_of(place(size, several), size)
        self.stop_requested = False  # by any process, as of the last model call
        self._lost_after = lost_after
        self._give_up = give_up
        self._in_order = False  # connected, and no message half way
        self._over = threading.Event()
        self._watcher = threading.Thread(target=self._watch, name="pavdm team", daemon=True)

    @property
    def in_order(self) -> bool:
        """Leader: whether the others wait for what it says next."""
        return self._in_order

    @property
    def leads(self) -> bool:
        return self.rank == 0

    def __enter__(self) -> Team:
        with communicating():
            prefix = f"pavdm/{os.environ.get(_ATTEMPT, '0')}/{self._first}"
            self._store = PrefixStore(prefix, _launchers_store(self._first + self.rank))
        self._watcher.start()
        return self

    def connect(self, device: torch.device, guided: bool) -> None:
        """Make the groups: two of half the size each if there is a guidance pair to split, else one of all.

        device: cuda (of this process's own, then NCCL carries the tokens) or cpu (gloo). guided: whether a model call
        computes a pair at all. An odd number of processes shares the tokens of the unsplit pair.
        Raises ProcessLost if not all processes come.
        """
        self.halves = 2 if guided and self.size % 2 == 0 else 1
        self.group_size = self.size // self.halves
        self.half, self.group_place = divmod(self.rank, self.group_size)
        if device.type == "cuda":
            torch.cuda.set_device(device)
        backend = "nccl" if device.type == "cuda" else "gloo"
        with communicating():
            dist.init_process_group("gloo", timeout=LONGEST_WAIT)
            for first in range(0, dist.get_world_size(), self.size):  # every process takes part in making every group
                control = dist.new_group(range(first, first + self.size), timeout=LONGEST_WAIT, backend="gloo")
                starts = range(first, first + self.size, self.group_size)
                groups = [
                    dist.new_group(range(start, start + self.group_size), timeout=LONGEST_CALL, backend=backend)
                    for start in starts
                ]
                if first == self._first:
                    self._control, self.group = control, groups[self.half]
        self._in_order = True

    def send(self, kind: str, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
        """Leader: tell all others. The tensors may be on any device."""
        text = torch.frombuffer(bytearray(json.dumps({"kind": kind, **facts}).encode()), dtype=torch.uint8)
        content = save({_FACTS: text, **{name: tensor.cpu().contiguous() for name, tensor in tensors.items()}})
        with communicating():
            dist.broadcast(torch.tensor([len(content)]), src=self._first, group=self._control)
            dist.broadcast(
                torch.frombuffer(bytearray(content), dtype=torch.uint8), src=self._first, group=self._control
            )

    def receive(self) -> Message:
        """Follower: wait for what the leader says next."""
        with communicating():
            size = torch.zeros(1, dtype=torch.int64)
            dist.broadcast(size, src=self._first, group=self._control)
            content = torch.empty(int(size), dtype=torch.uint8)
            dist.broadcast(content, src=self._first, group=self._control)
        tensors = load(content.numpy().tobytes())
        facts = json.loads(tensors.pop(_FACTS).numpy().tobytes())
        return Message(facts.pop("kind"), tensors, facts)

    @contextmanager
    def in_step(self) -> Iterator[None]:
        """Leader: from a message to the others' answer. Raises RunLost with what another process failed of."""
        self._in_order = False
        try:
            yield
        except ProcessLost as lost:
            raise RunLost(self._failure() or str(lost)) from lost
        self._in_order = True

    def agree_on_stop(self, requested: bool) -> None:
        """All: after a model call, whether any process was asked to stop."""
        flag = torch.tensor([requested], dtype=torch.uint8)
        with communicating():
            dist.all_reduce(flag, op=dist.ReduceOp.MAX, group=self._control)
        self.stop_requested = bool(flag)

    def other_half(self, mine: Tensor) -> Tensor | None:
        """All, where the pair is split: the first process gets the second half's result, of the same shape as its own.

        The others of each half have the same result as its first, and get None.
        """
        if self.rank == self.group_size:
            with communicating():
                dist.send(mine.cpu().contiguous(), dst=self._first, group=self._control)
        if not self.leads:
            return None
        arriving = torch.empty(mine.shape, dtype=mine.dtype)
        with communicating():
            dist.recv(arriving, src=self._first + self.group_size, group=self._control)
        return arriving.to(mine.device)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with suppress(ProcessLost):
            if self._in_order and self.leads:
                self.send("end", {}, {})
            elif error is not None and not isinstance(error, ProcessLost):
                self._fail(error)
        if dist.is_initialized():
            dist.destroy_process_group()
        with suppress(RuntimeError):
            if self.leads:
                self._store.set("ended", "")
            elif error is not None:  # the leader tells the user before the launcher ends it for our exit status
                self._store.wait(["ended"], timedelta(seconds=GRACE_SECONDS))
        self._over.set()
        self._watcher.join()

    def _fail(self, error: BaseException) -> None:
        what = "was interrupted" if isinstance(error, KeyboardInterrupt) else f"failed: {error or type(error).__name__}"
        with communicating():
            self._store.compare_set("failed", "", f"process {self.rank} of {self.size} {what}")

    def _failure(self) -> str | None:
        """What a process has failed of, if one has."""
        with suppress(RuntimeError):
            if self._store.check(["failed"]):
                return self._store.get("failed").decode()
        return None

    def _watch(self) -> None:
        """In a thread: give signs of life, look for those of the others, and end the process if it cannot go on."""
        others = range(1, self.size) if self.leads else range(1)
        heard = {other: (0, time.monotonic()) for other in others}
        pause = min(1.0, self._lost_after / 4)
        reason = None
        while reason is None and not self._over.wait(pause):
            try:
                self._store.add(f"alive/{self.rank}", 1)
                for other in others:
                    signs = self._store.add(f"alive/{other}", 0)
                    if signs != heard[other][0]:
                        heard[other] = (signs, time.monotonic())
                        continue
                    patience = self._lost_after if signs else max(self._lost_after, START_SECONDS)
                    if time.monotonic() - heard[other][1] > patience:
                        reason = f"process {other} of {self.size} gave no sign of life for {patience:g} s"
                reason = self._failure() or reason
            except RuntimeError as error:
                reason = f"the launcher of this run has gone ({str(error).splitlines()[0]})"
        if reason is not None and not self._over.wait(GRACE_SECONDS):
            self._give_up(reason)


def _team_of(number: int, size: int) -> tuple[int, int]:
    """Of process `number` of all: the number of its team's first process, and its place in the team."""
    return number - number % size, number % size


def _launchers_store(rank: int) -> Store:
    """A connection of our own to the store that torchrun has, or that process 0 gets with torch.distributed."""
    hosts = rank == 0 and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True"
    address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    return dist.TCPStore(  # type: ignore[attr-defined]
        address, port, is_master=hosts, multi_tenant=True, wait_for_workers=False
    )


def own_device(name: str) -> str:
    """Which device --device means in this process: the CPU, or the GPU of its place on this machine.

    Raises InputError if that GPU is not there, or one was named for all.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cpu":
        return name
    if name != "cuda":
        raise InputError(f"with --context-parallel, --device is cpu, or cuda for a GPU for each process: got {name!r}")
    number, count = local_place(), torch.cuda.device_count()
    if number >= count:
        raise InputError(f"{number + 1} or more processes on a machine with {count} GPUs: start one for each GPU")
    return f"cuda:{number}"
