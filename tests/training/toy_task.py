"""The smallest task there is, and a command that trains it: `python toy_task.py OUT`, for tests that need
processes of their own."""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.utils.data import Dataset

from pavdm.training.run import train
from pavdm.training.run_options import RunOptions
from pavdm.training.task import Share

WIDTH = 6
OPTIONS = RunOptions(steps=6, learning_rate=1e-2, warmup=2, ema=0.9, save_every=2, sample_every=3, cpu=True)


class ToyExamples(Dataset[Any]):
    """Random vectors, decided by their number; killed_at: the micro-step at which the process kills itself."""

    def __init__(self, share: Share, batch_size: int, killed_at: int | None = None) -> None:
        self.share, self.batch_size, self.killed_at = share, batch_size, killed_at

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        if index == self.killed_at:
            os.kill(os.getpid(), signal.SIGKILL)
        numbers = self.share.examples(index, self.batch_size)
        rows = [torch.randn(WIDTH, generator=torch.Generator().manual_seed(number)) for number in numbers]
        return {"x": torch.stack(rows)}


class ToyObjective(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(1)
        self.network = nn.Sequential(nn.Linear(WIDTH, 8), nn.Tanh(), nn.Linear(8, WIDTH), nn.BatchNorm1d(WIDTH))
        self.network[3].eval().requires_grad_(False)
        with torch.no_grad():
            for parameter in self.network.parameters():
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)

    def forward(self, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        error = (self.network(batch["x"]) - batch["x"].flip(1)).square()
        return error.mean(), {"largest": error.detach().max()}


class ToyTask:
    def __init__(self, batch_size: int = 2, killed_at: int | None = None, seed: int = 0) -> None:
        self.objective = ToyObjective()
        self.network = self.objective.network
        self.batch_size, self.killed_at, self.seed = batch_size, killed_at, seed

    def examples(self, share: Share) -> Dataset[Any]:
        return ToyExamples(share, self.batch_size, self.killed_at)

    def settings(self) -> Mapping[str, Any]:
        return {"seed": self.seed}

    def blocks(self) -> Iterable[nn.Module]:
        return [self.network[1]]

    def save(self, directory: Path, weights: Mapping[str, Tensor]) -> None:
        save_file(dict(weights), directory / "model.safetensors")

    def sample(self, directory: Path, step: int, weights: Mapping[str, Tensor]) -> None:
        (directory / f"step-{step:06d}.txt").write_text(f"{float(weights['0.weight'].sum())!r}")


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("out", type=Path)
    parser.add_argument("--batch-size", type=int, default=2)
    parser.add_argument("--killed-at", type=int)
    given = parser.parse_args(arguments)
    torch.set_num_threads(1)
    train(ToyTask(given.batch_size, given.killed_at), OPTIONS, given.out, quiet=True)


if __name__ == "__main__":
    main(sys.argv[1:])
