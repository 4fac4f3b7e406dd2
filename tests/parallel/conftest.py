"""Teams of real processes on this machine, forked from the test: gloo, no launcher."""

from __future__ import annotations

import multiprocessing
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

RunTeam = Callable[..., tuple[Any, list[int]]]
SECONDS = 120


@pytest.fixture
def run_team(tmp_path: Path) -> RunTeam:
    """run_team(size, body, *arguments) -> (what body(rank, *arguments) returned in process 0, all exit statuses)."""
    context = multiprocessing.get_context("fork")

    def run(size: int, body: Callable[..., Any], *arguments: Any) -> tuple[Any, list[int]]:
        result = tmp_path / "result.pt"
        result.unlink(missing_ok=True)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]

        def main(rank: int) -> None:
            torch.set_num_threads(1)  # a thread pool does not survive a fork
            place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": size, "MASTER_PORT": port}
            os.environ.update({name: str(value) for name, value in place.items()}, MASTER_ADDR="127.0.0.1")
            value = body(rank, *arguments)
            if rank == 0:
                torch.save(value, result)

        processes = [context.Process(target=main, args=(rank,)) for rank in range(size)]
        for process in processes:
            process.start()
        for process in processes:
            process.join(SECONDS)
        stuck = [process for process in processes if process.is_alive()]
        for process in stuck:
            process.kill()
        assert not stuck, f"{len(stuck)} of {size} processes had not ended after {SECONDS} s"
        value = torch.load(result) if result.exists() else None
        return value, [process.exitcode or 0 for process in processes]

    return run
