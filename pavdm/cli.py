"""The `pavdm` command: runs what `options` understood, and turns errors into sentences and an exit status."""

from __future__ import annotations

import argparse
import logging
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from pavdm.errors import InputError
from pavdm.options import models_from, parser, precision_from, schedule_from, settings_from, size_from

if TYPE_CHECKING:
    from pavdm.settings import Settings

EXIT_INPUT = 2
EXIT_INTERRUPTED = 130
_OUT_OF_MEMORY = (
    "the memory does not suffice: try a smaller --size, --tile 32, --dtype bf16 or fewer --window-chunks. What was "
    "saved with --state is kept"
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; the exit status: 0 done, 1 doctor found something amiss, 2 bad input, 130 interrupted."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")
    options = parser().parse_args(arguments)
    try:
        status = _COMMANDS[options.command](options)
        sys.stdout.flush()
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return EXIT_INTERRUPTED
    except BrokenPipeError:  # the reader of a pipe, such as head, has gone; only the printing commands get here
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (InputError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_INPUT
    except (MemoryError, RuntimeError) as error:
        if not _is_out_of_memory(error):
            raise
        print(f"error: {_OUT_OF_MEMORY} ({str(error).splitlines()[0]})", file=sys.stderr)
        return EXIT_INPUT
    return status


def _is_out_of_memory(error: Exception) -> bool:
    """torch has a type of its own for CUDA; for the CPU only the text tells."""
    text = str(error)
    signs = ("out of memory", "not enough memory", "can't allocate memory")
    return isinstance(error, MemoryError) or any(sign in text for sign in signs)


def _run_video(options: argparse.Namespace) -> int:
    settings, files, precision = settings_from(options), models_from(options), precision_from(options)

    from pavdm.chunks import Monitor
    from pavdm.engine import make_video
    from pavdm.progress_bar import ProgressBar
    from pavdm.sampling.progressive import Interrupted

    chunk_frames = 34 if settings.method == "replacement" else settings.schedule.chunk_latents * 17 / 5
    with (
        ProgressBar(settings.fps, chunk_frames, hidden=options.quiet) as bar,
        _asked_to_stop("this model call") as should_stop,
    ):
        try:
            outcome = make_video(settings, files, precision, Monitor(bar.stage, bar.progress, should_stop))
        except Interrupted:
            bar.close()
            print(f"interrupted; {_what_is_left(settings)}", file=sys.stderr)
            return EXIT_INTERRUPTED
    seconds = outcome.num_frames / outcome.fps
    with suppress(OSError):  # the video is there, whether or not anyone can be told
        print(
            f"{outcome.path}: {outcome.num_frames} frames, {seconds:.2f} s at {outcome.fps:g} fps, "
            f"{outcome.new_frames} of them new",
            flush=True,
        )
    return 0


def _what_is_left(settings: Settings) -> str:
    from pavdm.video_writer import partial_path

    partial = partial_path(settings.out)
    kept = f"what is finished is in {partial}. " if partial.exists() else ""
    if settings.state_directory is None:
        return f"{kept}With --state DIR a run can be continued"
    return f"{kept}The same command goes on from {settings.state_directory}"


@contextmanager
def _asked_to_stop(finished_first: str) -> Iterator[Callable[[], bool]]:
    """A function that says whether Ctrl-C was pressed or the process asked to end; a second time ends it at once.

    But not one of several processes: what launched them passes on a Ctrl-C that has reached them already.
    """
    asked = False
    several = int(os.environ.get("WORLD_SIZE", "1")) > 1

    def handle(number: int, frame: object) -> None:
        nonlocal asked
        if asked and not several:
            raise KeyboardInterrupt
        asked = True
        print(f"\nstopping after {finished_first}; once more to stop at once", file=sys.stderr)

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _run_train(options: argparse.Namespace) -> int:
    from pavdm.training.options import run_options
    from pavdm.training.run import RunInterrupted, check_installed, train
    from pavdm.training.tasks import estimate_memory, make_task

    run = run_options(options)
    check_installed()
    main_process = os.environ.get("RANK", "0") == "0"
    if main_process and (options.dry_run or not options.quiet) and (estimate := estimate_memory(options)):
        print(
            "memory of one process:", *estimate.lines(), sep="\n  ", file=sys.stdout if options.dry_run else sys.stderr
        )
    if options.dry_run:
        return 0
    with _asked_to_stop("this step") as should_stop:
        try:
            checkpoint = train(make_task(options), run, options.out, should_stop=should_stop, quiet=options.quiet)
        except RunInterrupted as stopped:
            if main_process:
                kept = f"{stopped}; the same command goes on from {stopped.checkpoint}"
                print(f"interrupted: {kept}", file=sys.stderr)
            return EXIT_INTERRUPTED
    if main_process:
        print(f"{checkpoint}: {options.steps} steps; the weights to use are in {checkpoint / 'model'}")
    return 0


def _run_schedule(options: argparse.Namespace) -> int:
    from dataclasses import replace

    from pavdm.sampling.schedule import timestep_shift
    from pavdm.schedule_plot import MOST_CALLS, format_table, plot

    if options.chunks < 1:
        raise InputError(f"--chunks must be at least 1: got {options.chunks}")
    schedule = schedule_from(options)
    if not options.no_timestep_transform:
        schedule = replace(schedule, shift=timestep_shift(*size_from(options), schedule.window_latents))
    calls = schedule.num_calls(options.chunks)
    if calls > MOST_CALLS:
        raise InputError(
            f"{calls} model calls are too many to print and plot: at most {MOST_CALLS}; fewer --chunks or --steps"
        )
    plot(schedule, options.chunks, options.plot)
    for line in format_table(schedule, options.chunks):
        print(line)
    print(f"plot: {options.plot}")
    return 0


def _run_info(options: argparse.Namespace) -> int:
    from pavdm.info import describe

    print(describe(options.file))
    return 0


def _run_new_model(options: argparse.Namespace) -> int:
    from pavdm.new_model import create

    create(options.directory, options.size, options.seed)
    print(f"{options.directory}: a {options.size} set with random weights (seed {options.seed})")
    return 0


def _run_doctor(options: argparse.Namespace) -> int:
    from pavdm.doctor import report

    overrides = {
        "stdit": options.stdit,
        "vae": options.vae,
        "text_encoder": options.text_encoder,
        "spatial_vae": options.spatial_vae,
    }
    lines, ok = report(options.models, overrides)
    print("\n".join(lines))
    return 0 if ok else 1


def _run_preprocess(options: argparse.Namespace) -> int:
    from pavdm.data_commands import ClipCounter, run_preprocess
    from pavdm.training.preprocess import Stopped

    with ClipCounter(hidden=options.quiet) as counter, _asked_to_stop("this clip") as should_stop:
        try:
            outcome = run_preprocess(options, counter.show, should_stop)
        except Stopped:
            counter.close()
            print("interrupted; the same command goes on at the first shard that is missing", file=sys.stderr)
            return EXIT_INTERRUPTED
    kept = f", {outcome.found} were there already" if outcome.found else ""
    print(f"{options.out}: {outcome.encoded} clips encoded{kept}, {outcome.skipped} skipped")
    if not outcome.complete:
        print("shards of the other processes are still missing; whoever ends last writes the index")
    return 0


def _run_world(options: argparse.Namespace) -> int:
    from pavdm.training.world_files import write_clips

    size, first = size_from(options), options.seed
    made = write_clips(options.out, options.count, options.seconds, size, options.fps, first, options.overwrite)
    for path, caption in made:
        print(f"{path}: {caption}", flush=True)
    return 0


_COMMANDS = {
    "world": _run_world,
    "preprocess": _run_preprocess,
    "video": _run_video,
    "schedule": _run_schedule,
    "info": _run_info,
    "new_model": _run_new_model,
    "train": _run_train,
    "doctor": _run_doctor,
}
