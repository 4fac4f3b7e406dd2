"""Clips for training that are made on the spot, and the command with them: `python memory_source.py train ...`, for tests
that need processes of their own."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Mapping
from copy import copy
from typing import Any

import torch
from torch.utils.data import Dataset

from pavdm.training.data.source import Clips
from pavdm.training.task import Extent, Share

CHANNELS, WIDTH = 4, 64


class MemorySource(Dataset[Clips]):
    """A point that moves on, and how it is called; decided by the example's number.

    signal_at: the micro-step at which this process gets SIGINT, as from Ctrl-C.
    """

    channels, text_width = CHANNELS, WIDTH
    skipped = ()

    def __init__(
        self, latents: int = 10, size: tuple[int, int] = (32, 48), batch_size: int = 2, signal_at: int | None = None
    ) -> None:
        self.latents, self.size, self.batch_size, self.signal_at = latents, size, batch_size, signal_at
        self.share = Share()

    def clips(self, share: Share) -> Dataset[Clips]:
        of_the_share = copy(self)
        of_the_share.share = share
        return of_the_share

    def extents(self) -> list[Extent]:
        height, width = (side // 8 for side in self.size)
        return [Extent(self.batch_size, (CHANNELS, self.latents, height, width), self.size)]

    def settings(self) -> Mapping[str, Any]:
        return {"latents": self.latents}

    def __getitem__(self, index: int) -> Clips:
        if index == self.signal_at:
            os.kill(os.getpid(), signal.SIGINT)
        made = [self.clip(number) for number in self.share.examples(index, self.batch_size)]
        latents, embeddings = zip(*made, strict=True)
        return Clips(torch.stack(latents), embeddings, 24.0, self.size)

    def clip(self, number: int) -> tuple[torch.Tensor, torch.Tensor]:
        generator = torch.Generator().manual_seed(number)
        height, width = (side // 8 for side in self.size)
        latents = torch.zeros(CHANNELS, self.latents, height, width)
        place = int(torch.randint(width, (1,), generator=generator))
        for frame in range(self.latents):
            latents[:, frame, :, (place + frame) % width] = 2.0
        return latents, torch.randn(3 + number % 2, WIDTH, generator=generator)


def main(arguments: list[str]) -> int:
    from pavdm import cli
    from pavdm.training.stdit import options as stdit_options

    torch.set_num_threads(1)
    stdit_options.open_clips = lambda options: MemorySource(batch_size=options.batch_size)
    return cli.main(arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
