"""What can be typed after `pavdm train`. Heavy imports wait until they are needed.

What belongs to a task is in a module of its own (`stdit/options.py`, and so on); `tasks.py` lists
them.
"""

from __future__ import annotations

import argparse
import logging
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

from pavdm.errors import InputError
from pavdm.parallel.launch import is_leader
from pavdm.training import tasks
from pavdm.training.start_options import add_data_options, add_start_options
from pavdm.training.unused import refuse_unused

if TYPE_CHECKING:
    from pavdm.training.run_options import RunOptions
    from pavdm.training.task import Plan

logger = logging.getLogger(__name__)

EPILOG = """\
Several processes, on CPUs, too: accelerate launch --multi_gpu --num_processes 8 -m pavdm train ... (accelerate's own
options choose machines, GPUs and FSDP: --use_fsdp --fsdp_version 2 --fsdp_auto_wrap_policy TRANSFORMER_BASED_WRAP
--fsdp_transformer_layer_cls_to_wrap Block shards stdit). A file of options, as in a shell and with # for comments:
pavdm train @recipe.txt --out DIR; what follows it on the command line counts. The same command goes on from the newest
checkpoint in --out."""
WARMUP = 1000  # Open-Sora v1.2's steps of warm-up; a short run, which would end before, takes a tenth of its own


def add_train_command(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser(
        "train",
        help="train or fine-tune a network",
        description="Train a network from nothing or fine-tune one, whole or by LoRA.",
        epilog=EPILOG,
        fromfile_prefix_chars="@",
    )
    parser.convert_arg_line_to_args = _words  # type: ignore[method-assign]
    _add_options(parser)
    parser.set_defaults(command="train")


def plan_from(options: argparse.Namespace) -> Plan:
    """The training that was asked for, its options and data found fit. Raises InputError if they are not.

    Tells how many files are left out. Writes nothing.
    """
    from pavdm.training.data.clip_list import SKIPPED

    everything = argparse.ArgumentParser(add_help=False)
    _add_options(everything)
    defaults = vars(everything.parse_args(["--out", "", "--steps", "1"]))
    refuse_unused(options, defaults, tasks.owners())
    if options.seed < 0:
        raise InputError(f"--seed must be at least 0: got {options.seed}")
    _refuse_run(options.start)
    plan = tasks.TASKS[options.what].plan(options)
    if plan.skipped and is_leader():
        first = plan.skipped[0]
        logger.warning(
            "%d files are left out, such as %s (%s); the run lists them in %s",
            *(len(plan.skipped), first.path, first.reason, options.out / SKIPPED),
        )
    return plan


def _add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--what", choices=tuple(tasks.TASKS), default="stdit", help="the network (default stdit)")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="the run's folder: checkpoints, logs")
    parser.add_argument("--seed", type=int, default=42, help="decides all that chance decides (default 42)")
    parser.add_argument("--quiet", action="store_true", help="no progress, only the result and errors")
    parser.add_argument("--dry-run", action="store_true", help="check options and data, estimate the memory, stop")
    _add_run_options(parser)
    add_start_options(parser)
    add_data_options(parser)
    for task in tasks.TASKS.values():
        task.add_options(parser)


def _refuse_run(start: Path | None) -> None:
    """Raise InputError if --from names a run or one of its checkpoints, and not the network in it."""
    from pavdm.training.run_directory import PROGRESS, RunDirectory

    if start is None or not start.is_dir():
        return
    steps = RunDirectory(start).steps()
    checkpoint = RunDirectory(start).checkpoint(steps[-1]) if steps else start
    if (checkpoint / PROGRESS).is_file():
        raise InputError(f"{start} is the folder of a run: the network to go on from is in {checkpoint / 'model'}")


def _words(arg_line: str) -> list[str]:
    return shlex.split(arg_line, comments=True)


def _add_run_options(parser: argparse.ArgumentParser) -> None:
    run = parser.add_argument_group("run")
    run.add_argument("--steps", type=int, required=True, metavar="N", help="optimizer steps in all")
    run.add_argument("--batch-size", type=int, default=1, metavar="N", help="clips of a process at a time (default 1)")
    run.add_argument("--accumulation", type=int, default=1, metavar="N", help="batches of a step (default 1)")
    run.add_argument("--learning-rate", type=float, default=1e-4, metavar="X", help="default 1e-4")
    run.add_argument(
        "--warmup",
        type=int,
        metavar="N",
        help="steps in which it rises (default 1000, or a tenth of fewer than 10000)",
    )
    run.add_argument("--decay", choices=("constant", "cosine"), default="constant", help="then (default constant)")
    run.add_argument("--clip", type=float, default=1.0, metavar="X", help="largest gradient norm, 0: any (default 1)")
    run.add_argument(
        "--ema", type=float, default=0.99, metavar="X", help="decay of the average, 0: none (default 0.99)"
    )
    run.add_argument(
        "--optimizer",
        choices=("adamw", "muon"),
        default="adamw",
        help="muon learns small networks faster (default adamw)",
    )
    run.add_argument(
        "--betas", type=float, nargs=2, default=(0.9, 0.999), metavar="X", help="AdamW's (default 0.9 0.999)"
    )
    run.add_argument("--epsilon", type=float, default=1e-15, metavar="X", help="AdamW's, above 0 (default 1e-15)")
    run.add_argument("--weight-decay", type=float, default=0.0, metavar="X", help="AdamW's (default 0)")
    run.add_argument("--precision", choices=("no", "bf16", "fp16"), help="mixed precision (default: as launched)")
    run.add_argument("--checkpointing", action="store_true", help="compute activations twice, to save memory")
    run.add_argument("--workers", type=int, default=2, metavar="N", help="processes that prepare data (default 2)")
    run.add_argument("--save-every", type=int, default=1000, metavar="N", help="steps, 0: at the end (default 1000)")
    run.add_argument("--keep", type=int, default=2, metavar="N", help="newest checkpoints to keep (default 2)")
    run.add_argument("--sample-every", type=int, default=1000, metavar="N", help="steps, 0: never (default 1000)")
    run.add_argument("--cpu", action="store_true", help="train on the CPU though there is a GPU")


def _warmup(options: argparse.Namespace) -> int:
    """As typed, else that of the run that goes on, which may be made longer."""
    from pavdm.training.run_directory import RunDirectory

    begun = RunDirectory(options.out).newest() if options.warmup is None else None
    chosen = options.warmup if begun is None else begun.settings.get("warmup")
    return int(min(WARMUP, options.steps // 10) if chosen is None else chosen)


def run_options(options: argparse.Namespace) -> RunOptions:
    from pavdm.training.run_options import RunOptions

    if options.batch_size < 1:
        raise InputError(f"--batch-size must be at least 1: got {options.batch_size}")
    return RunOptions(
        steps=options.steps,
        learning_rate=options.learning_rate,
        warmup=_warmup(options),
        decay=options.decay,
        accumulation=options.accumulation,
        clip=options.clip,
        ema=options.ema,
        optimizer=options.optimizer,
        betas=tuple(options.betas),
        epsilon=options.epsilon,
        weight_decay=options.weight_decay,
        precision=options.precision,
        checkpointing=options.checkpointing,
        workers=options.workers,
        save_every=options.save_every,
        keep=options.keep,
        sample_every=options.sample_every,
        cpu=options.cpu,
    )
