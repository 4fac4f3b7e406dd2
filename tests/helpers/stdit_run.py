"""A few steps of a real STDiT3: `python stdit_run.py OUT`, for tests that need processes of their own."""

from __future__ import annotations

import argparse
import os
import sys
from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

import torch
from memory_source import WIDTH, MemorySource

from pavdm.models.stdit3 import STDiT3, STDiT3Config, initialize_weights
from pavdm.sampling.schedule import Schedule
from pavdm.training.run import train
from pavdm.training.run_options import RunOptions
from pavdm.training.stdit.noising import ProgressiveWindows
from pavdm.training.stdit.task import STDiTTask
from pavdm.training.stdit.windows import TrainingWindows

CONFIG = STDiT3Config(hidden_size=32, depth=1, num_heads=2, caption_channels=WIDTH, model_max_length=8)
WINDOWS = ProgressiveWindows(TrainingWindows(Schedule(window_chunks=3, chunk_latents=2, steps=6), resampled_share=0.5))
# With the usual epsilon AdamW makes whole steps of gradients that are nothing but rounding.
OPTIONS = RunOptions(
    steps=4, learning_rate=2e-3, warmup=0, epsilon=1e-3, ema=0.5, clip=0.5, save_every=2, keep=9, cpu=True
)


def run(out: Path, batch_size: int, steps: int) -> Path:
    network = STDiT3(CONFIG)
    initialize_weights(network, torch.Generator().manual_seed(0))
    task = STDiTTask(network, MemorySource(latents=12, batch_size=batch_size), WINDOWS, text_dropout=0.5)
    return train(task, replace(OPTIONS, steps=steps), out, quiet=True)


def shard_on_cpu() -> None:
    """accelerate takes its FSDP for GPUs alone, torch for CPUs, too: let accelerate believe that these are some."""
    from accelerate import PartialState
    from accelerate.utils import DistributedType

    os.environ |= {
        "ACCELERATE_USE_FSDP": "true",
        "FSDP_VERSION": "2",
        "FSDP_AUTO_WRAP_POLICY": "TRANSFORMER_BASED_WRAP",
        "FSDP_TRANSFORMER_CLS_TO_WRAP": "Block",
    }
    prepare = PartialState.__init__

    def prepared(self: PartialState, *arguments: object, **keywords: object) -> None:
        prepare(self, *arguments, **keywords)
        PartialState._shared_state["distributed_type"] = DistributedType.MULTI_GPU

    patch.object(PartialState, "__init__", prepared).start()


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("out", type=Path)
    parser.add_argument("--batch-size", type=int, default=2)
    parser.add_argument("--steps", type=int, default=4, help="in all; goes on from what is in OUT")
    parser.add_argument("--sharded", action="store_true")
    given = parser.parse_args(arguments)
    torch.set_num_threads(1)
    if given.sharded:
        shard_on_cpu()
    run(given.out, given.batch_size, given.steps)


if __name__ == "__main__":
    main(sys.argv[1:])
