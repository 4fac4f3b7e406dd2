"""Train a task: optimizer steps, checkpoints, samples and logs, on one process or many (Hugging Face accelerate).

    checkpoint = train(task, RunOptions(steps=1000), Path("runs/first"))

The same call again goes on from the newest checkpoint. How many processes there are, on which devices, and whether they
hold the weights whole (DDP) or in shards (FSDP) is for `accelerate launch` to say; all processes see one folder.
"""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule, register_fsdp_forward_method
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel
from torch.utils.checkpoint import checkpoint

from pavdm.errors import InputError
from pavdm.parallel.launch import started
from pavdm.training.data.clip_list import Skipped
from pavdm.training.data.loading import items
from pavdm.training.ema import WeightAverage
from pavdm.training.full_state import AVERAGE, gathered, part, restore, weights_in_full
from pavdm.training.muon import Muon
from pavdm.training.rank_order import add_in_rank_order
from pavdm.training.run_directory import Progress, RunDirectory, check_settings
from pavdm.training.run_log import RunLog
from pavdm.training.run_options import RunOptions, check_installed
from pavdm.training.task import Share, Task

if TYPE_CHECKING:
    from accelerate import Accelerator

logger = logging.getLogger(__name__)

ENTRY_POINTS = ("project_texts",)  # besides forward: methods that read a module's weights, which FSDP has to gather
PATIENCE = timedelta(hours=6)  # of processes that wait while the main one writes a checkpoint or a sample


class RunInterrupted(Exception):
    """The run was asked to stop, and has: `checkpoint` holds the point to go on from, after `step` steps."""

    def __init__(self, checkpoint: Path, step: int) -> None:
        super().__init__(f"stopped after step {step}")
        self.checkpoint = checkpoint
        self.step = step


def train(
    task: Task,
    options: RunOptions,
    out: Path,
    *,
    skipped: Sequence[Skipped] = (),
    should_stop: Callable[[], bool] = lambda: False,
    quiet: bool = False,
) -> Path:
    """Train `task` into the folder `out` (see `pavdm.training.run_directory`); the last checkpoint's folder.

    Goes on from the newest checkpoint in `out`. On one machine's CPU, a run that was killed and one that was not give
    the same losses and weights, bit for bit. The optimizer has all parameters of the objective that require gradients.
    skipped: files that the task does not train on, for the list in `out`.

    Raises RunInterrupted, with a checkpoint written, when `should_stop` answered True in any process; InputError for a
    folder made with other settings, a full disk, or a loss that is no number any more.
    """
    check_installed()
    _check_launch(os.environ)
    from accelerate import Accelerator, InitProcessGroupKwargs
    from accelerate.state import AcceleratorState, GradientState

    try:
        accelerator = Accelerator(
            gradient_accumulation_steps=options.accumulation,
            mixed_precision=options.precision,
            cpu=options.cpu or not torch.accelerator.is_available(),  # else accelerate forms no group of CPUs
            kwargs_handlers=[InitProcessGroupKwargs(timeout=PATIENCE)],
        )
    except ValueError as error:  # such as fp16 on a CPU, in older versions
        raise InputError(f"accelerate cannot train like this: {error}") from error
    try:
        if accelerator.num_processes != started():
            raise InputError(
                f"{started()} processes were launched, and accelerate sees {accelerator.num_processes}: each would "
                "train alone, all in one folder. Add --cpu, or launch one"
            )
        with ExitStack() as stack:
            run = _Run(accelerator, task, options, out, quiet, stack)
            if run.main:
                run.directory.list_skipped(skipped)
            return run.train(should_stop)
    finally:
        accelerator.end_training()
        AcceleratorState._reset_state(reset_partial_state=True)  # accelerate keeps it for the life of the process
        GradientState._reset_state()


def _check_launch(environment: Mapping[str, str]) -> None:
    """Raise InputError in the one process that `accelerate launch --num_processes N` starts where no GPU calls for
    several, without a word and whatever N is (huggingface/accelerate, issue 2741): a run on a part of the batch would
    look like the whole. Its mark is the address of a main process without a number for this one."""
    several = "ACCELERATE_USE_CPU" in environment and "MASTER_ADDR" in environment
    if several and "LOCAL_RANK" not in environment and "RANK" not in environment:
        raise InputError(
            "accelerate launch has started only one process here, however many were asked for. Launch several, on "
            "CPUs, too, with: accelerate launch --multi_gpu --num_processes N -m pavdm train ..."
        )


def checkpoint_blocks(blocks: Iterable[nn.Module]) -> None:
    """Let each of `blocks` forget its activations and compute them again in the backward pass."""
    for block in blocks:
        again = partial(checkpoint, block.forward, use_reentrant=False, preserve_rng_state=False)
        block.forward = again


class _Run:
    """A run in progress in one process."""

    def __init__(
        self, accelerator: Accelerator, task: Task, options: RunOptions, out: Path, quiet: bool, stack: ExitStack
    ) -> None:
        self.accelerator, self.task, self.options = accelerator, task, options
        self.main = accelerator.is_main_process
        self.directory = RunDirectory(out)
        self.share = Share(accelerator.process_index, accelerator.num_processes, options.accumulation)
        self.prefix = _prefix(task)
        self.settings = {
            "precision": accelerator.mixed_precision,
            "batches per step": options.accumulation * accelerator.num_processes,
            **options.settings(),
            **task.settings(),
        }
        if accelerator.mixed_precision == "fp16" and accelerator.device.type == "cpu":
            raise InputError("on a CPU, fp16 would be fp32 unnoticed: train there without --precision, or with bf16")
        if accelerator.distributed_type == "FSDP" and not accelerator.is_fsdp2:
            raise InputError("of FSDP, only version 2 is supported: accelerate launch --fsdp_version 2 ...")
        if accelerator.is_fsdp2 and options.optimizer == "muon":
            raise InputError(
                "Muon needs whole matrices, which FSDP cuts: train without FSDP, or with --optimizer adamw"
            )
        if self.main:
            self.directory.make()
        accelerator.wait_for_everyone()
        progress = self.directory.newest()
        if progress is not None:
            check_settings(progress.settings, self.settings, out)
        self.done = 0 if progress is None else progress.step
        if self.done > options.steps:
            raise InputError(f"the run in {out} has made {self.done} steps already: {options.steps} were asked for")

        if options.checkpointing:
            checkpoint_blocks(task.blocks())
        self.model, self.optimizer = _prepared(accelerator, task.objective, options)
        self.average = WeightAverage(_trained(self.model)) if options.ema else None
        self.log = stack.enter_context(RunLog(out, options.steps, self.done, quiet)) if self.main else None
        if progress is not None:
            restore(self.directory.load_state(self.done), self.model, self.optimizer.optimizer, self.average)
            if accelerator.scaler is not None:
                accelerator.scaler.load_state_dict(dict(progress.scaler))
            self.say(f"going on from {self.directory.checkpoint(self.done)}")

    def train(self, should_stop: Callable[[], bool]) -> Path:
        options = self.options
        batches = self._batches()
        saved = self.done
        if self._is_sample_missing():
            self._sample(self.done)
        for step in range(self.done, options.steps):
            stop = self._step(step, batches, should_stop)
            done = step + 1
            last = done == options.steps
            if last or stop or (options.save_every and done % options.save_every == 0):
                self._save(done)
                saved = done
            if self._is_sampled(done):
                self._sample(done)
            if stop and not last:
                raise RunInterrupted(self.directory.checkpoint(saved), done)
        return self.directory.checkpoint(options.steps)

    def say(self, message: str) -> None:
        if self.log is not None:
            self.log.say(message)

    def _batches(self) -> Iterator[Any]:
        first, end = (step * self.options.accumulation for step in (self.done, self.options.steps))
        return items(self.task.examples(self.share), range(first, end), self.options.workers)

    def _step(self, step: int, batches: Iterator[Any], should_stop: Callable[[], bool]) -> bool:
        """One optimizer step; whether any process was asked to stop."""
        from accelerate.utils import send_to_device

        accelerator, rate = self.accelerator, self.options.rate(step)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        values: list[Tensor] = []
        names: list[str] = []
        norm = torch.zeros(())
        for _ in range(self.options.accumulation):
            batch = next(batches)
            self._note_unreadable(getattr(batch, "skipped", ()))
            batch = send_to_device(batch, accelerator.device)
            with accelerator.accumulate(self.model):
                loss, logs = self.model(batch)
                accelerator.backward(loss)
                if accelerator.sync_gradients:
                    norm = accelerator.clip_grad_norm_(self.model.parameters(), self.options.clip or math.inf)
                self.optimizer.step()
                self.optimizer.zero_grad()
            names = ["loss", *logs]
            values.append(torch.stack([loss.detach().float(), *(value.detach().float() for value in logs.values())]))
        if self.average is not None:
            self.average.update(self.options.ema_decay(step))
        asked = torch.tensor([float(should_stop())], device=accelerator.device)
        means = accelerator.reduce(torch.cat([asked, torch.stack(values).mean(0)]), "mean").tolist()
        norm = norm.full_tensor() if isinstance(norm, DTensor) else norm  # every process, or none could
        scaled = accelerator.scaler is not None  # then a gradient without end is expected at times, and skipped
        for what, value in (("loss", means[1]), ("gradient norm", 0.0 if scaled else float(norm))):
            if not math.isfinite(value):
                raise InputError(
                    f"the {what} of step {step + 1} is {value}: the run has come apart. Go on from the last checkpoint "
                    "with a lower --learning-rate, in another --out"
                )
        if self.log is not None:
            losses = dict(zip(names, means[1:], strict=True))
            self.log.step(step + 1, {**losses, "learning_rate": rate, "gradient_norm": float(norm)})
        return means[0] > 0

    def _note_unreadable(self, skipped: Sequence[Skipped]) -> None:
        """List what could not be read when it was its turn, in whichever process; another clip stood in for it."""
        try:
            added: Sequence[Skipped] = self.directory.list_skipped(skipped)
        except InputError as error:  # no reason to end a run
            logger.warning("%s", error)
            added = skipped
        for item in added:
            logger.warning("%s is left out: %s", item.path, item.reason)

    def _save(self, done: int) -> None:
        raw = weights_in_full(self.model)
        state = gathered(self.model, self.optimizer.optimizer, self.average)
        if self.log is not None:
            self.log.sync()
            scaler = self.accelerator.scaler
            progress = Progress(done, self.settings, {} if scaler is None else scaler.state_dict())
            networks = {"model": partial(self.task.save, weights=self._of_network({**raw, **part(state, AVERAGE)}))}
            if self.average is not None:
                networks["raw"] = partial(self.task.save, weights=self._of_network(raw))
            self.directory.save(progress, state, networks)
            self.directory.keep(self.options.keep)
        self.accelerator.wait_for_everyone()

    def _is_sampled(self, done: int) -> bool:
        every = self.options.sample_every
        return every > 0 and (done == self.options.steps or done % every == 0)

    def _is_sample_missing(self) -> bool:
        """Whether the run ended between its newest checkpoint and the sample of that step. The main process tells all:
        another would perhaps look when that one has made it already."""
        missing = self.main and self.done > 0 and self._is_sampled(self.done)
        told = torch.tensor([float(missing and not self.directory.has_sample(self.done))])
        return bool(self.accelerator.reduce(told.to(self.accelerator.device), "sum").item())

    def _sample(self, done: int) -> None:
        if self.average is None:
            weights = weights_in_full(self.model)
        else:
            with self.average.in_place():
                weights = {name: tensor.clone() for name, tensor in weights_in_full(self.model).items()}
        if self.main:
            self.directory.samples.mkdir(exist_ok=True)
            self.task.sample(self.directory.samples, done, self._of_network(weights))
        self.accelerator.wait_for_everyone()

    def _of_network(self, weights: dict[str, Tensor]) -> dict[str, Tensor]:
        return part(weights, self.prefix)


def _prefix(task: Task) -> str:
    """What the names of the network's tensors begin with in the objective's state."""
    for name, module in task.objective.named_modules():
        if module is task.network:
            return f"{name}." if name else ""
    raise ValueError("the task's objective does not contain its network")


def _trained(model: nn.Module) -> list[nn.Parameter]:
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


def _prepared(accelerator: Accelerator, objective: nn.Module, options: RunOptions) -> tuple[nn.Module, Any]:
    """The objective, wrapped for the processes there are, and its optimizer."""

    def optimizer(model: nn.Module) -> torch.optim.Optimizer:
        trained = _trained(model)
        if options.optimizer == "muon":
            return Muon(trained, options.learning_rate, options.betas, options.epsilon, options.weight_decay)
        return torch.optim.AdamW(trained, options.learning_rate, options.betas, options.epsilon, options.weight_decay)

    if accelerator.is_fsdp2:  # makes the parameters anew, and the optimizer's with them
        model, prepared = accelerator.prepare(objective, optimizer(objective))
        for module in model.modules():
            sharded = isinstance(module, FSDPModule)  # by name: a type checker would forget that it is a Module
            for name in ENTRY_POINTS:
                if sharded and hasattr(module, name):
                    register_fsdp_forward_method(module, name)
    else:
        model = accelerator.prepare(objective)
        if accelerator.device.type == "cpu" and isinstance(model, DistributedDataParallel):
            add_in_rank_order(model)
        prepared = accelerator.prepare(optimizer(model))
    return model, prepared
