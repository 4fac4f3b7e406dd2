"""The `pavdm` command: runs what `options` understood, and turns errors into sentences and an exit status."""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout, suppress
from functools import partial
from io import TextIOWrapper
from pathlib import Path
from typing import TYPE_CHECKING

from pavdm.errors import OUT_OF_MEMORY, InputError, RunLost, is_out_of_memory
from pavdm.options import (
    models_from,
    parser,
    precision_from,
    refuse_unused,
    schedule_from,
    settings_from,
    size_from,
)
from pavdm.parallel.launch import is_leader, place
from pavdm.stopping import asked_to_stop

if TYPE_CHECKING:
    from pavdm.networks import Networks
    from pavdm.parallel.team import Team
    from pavdm.settings import Settings

EXIT_FAILED = 1
EXIT_INPUT = 2
EXIT_INTERRUPTED = 130
_OUT_OF_MEMORY_TRAINING = (
    "the memory does not suffice: try --checkpointing, --precision bf16, a smaller --batch-size with more "
    "--accumulation, or a --lora. The checkpoints in --out are kept"
)


_OUT_OF_MEMORY_ENCODING = (
    "the memory does not suffice: try smaller clips (--bucket, --size, --frames), --dtype bf16 or --tile 32. "
    "Finished shards in --out are kept, and other settings need another --out"
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; the exit status: 0 done, 2 bad input, 130 interrupted; 1 doctor found something amiss, a
    workflow failed on its server, a video of a batch failed, or another process of the run did.
    """
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")
    if isinstance(sys.stdout, TextIOWrapper):  # which may be unable to spell a file's name or a prompt
        sys.stdout.reconfigure(errors="backslashreplace")
    with _silent_unless_leader():  # what is wrong with the arguments is wrong in all processes
        options = parser().parse_args(arguments)
    speaks = is_leader(getattr(options, "context_parallel", 1))
    try:
        status = _COMMANDS[options.command](options)
        sys.stdout.flush()
    except KeyboardInterrupt:
        if speaks:
            print("interrupted", file=sys.stderr)
        return EXIT_INTERRUPTED
    except BrokenPipeError:  # the reader of a pipe, such as head, has gone; only the printing commands get here
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (InputError, OSError) as error:
        if speaks:
            print(f"error: {error}", file=sys.stderr)
        return EXIT_FAILED if isinstance(error, RunLost) else EXIT_INPUT
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        if speaks:
            advices = {"train": _OUT_OF_MEMORY_TRAINING, "preprocess": _OUT_OF_MEMORY_ENCODING}
            advice = advices.get(options.command, OUT_OF_MEMORY)
            print(f"error: {advice} ({str(error).splitlines()[0]})", file=sys.stderr)
        return EXIT_INPUT
    return status


@contextmanager
def _silent_unless_leader() -> Iterator[None]:
    with ExitStack() as stack:
        if not is_leader():
            nowhere = stack.enter_context(Path(os.devnull).open("w"))
            stack.enter_context(redirect_stdout(nowhere))
            stack.enter_context(redirect_stderr(nowhere))
        yield


def _run_video(options: argparse.Namespace) -> int:
    if options.context_parallel == 1:
        _refuse_team_options(options)
        place(1)
        return _make_video(options, None)
    return _together(options, partial(_make_video, options))


def _refuse_team_options(options: argparse.Namespace) -> None:
    refuse_unused(options, ("lost_after",), "without --context-parallel")


def _networks(options: argparse.Namespace) -> Networks:
    from pavdm.networks import Networks

    return Networks(models_from(options), precision_from(options))


def _together(options: argparse.Namespace, work: Callable[[Team], int], several: bool = False) -> int:
    """Do `work` in the leader of a team, and what it asks for in the other processes (`pavdm.parallel`)."""
    from pavdm.engine import load_velocity
    from pavdm.parallel.team import Team, own_device
    from pavdm.parallel.velocity import follow

    def give_up(reason: str) -> None:
        if team.leads:
            print(f"\nerror: {reason}", file=sys.stderr, flush=True)
        os._exit(EXIT_FAILED)  # the main thread waits for a process that does not answer

    team = Team(options.context_parallel, options.lost_after, give_up, several)
    with team:
        options.device = own_device(options.device)
        networks = _networks(options)
        team.connect(networks.precision.device, guided=options.guidance != 1)
        status = 0
        if team.leads:
            status = work(team)
        else:
            with asked_to_stop(after=None) as should_stop:
                follow(team, partial(load_velocity, networks), should_stop)
    if several:  # torch may abort at the end of a process that was connected to one of another team which has died
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    return status


def _make_video(options: argparse.Namespace, team: Team | None) -> int:
    from pavdm.chunks import Monitor
    from pavdm.engine import make_video
    from pavdm.progress_bar import ProgressBar
    from pavdm.sampling.progressive import Interrupted

    settings, networks = settings_from(options), _networks(options)
    with ProgressBar(settings.fps, settings.chunk_frames, hidden=options.quiet) as bar, asked_to_stop() as should_stop:
        monitor = Monitor(bar.stage, bar.progress, _or_of_team(should_stop, team))
        try:
            outcome = make_video(settings, networks, monitor, team)
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


def _or_of_team(should_stop: Callable[[], bool], team: Team | None) -> Callable[[], bool]:
    return should_stop if team is None else lambda: should_stop() or team.stop_requested


def _run_batch(options: argparse.Namespace) -> int:
    from pavdm.batch.command import run_batch

    def work(team: Team | None) -> int:
        with asked_to_stop() as should_stop:
            return run_batch(options, _or_of_team(should_stop, team), team)

    if options.context_parallel == 1:
        _refuse_team_options(options)
        return work(None)
    if options.server:
        raise InputError("--context-parallel is about processes here, and --server about others: give one of them")
    return _together(options, work, several=True)


def _run_cut(options: argparse.Namespace) -> int:
    from pavdm.batch.cut import run_cut

    outcome = run_cut(options)
    there = f", {outcome.found} were there already" if outcome.found else ""
    print(f"{outcome.list}: {outcome.cut} clips cut{there}")
    return 0


def _run_train(options: argparse.Namespace) -> int:
    from pavdm.training.options import plan_from, run_options
    from pavdm.training.run_options import check_installed

    run = run_options(options)
    check_installed()
    plan = plan_from(options)
    if is_leader() and (options.dry_run or not options.quiet):
        lines = ["memory of one process:", *plan.estimate().lines()] if plan.estimate else []
        print(*lines, sep="\n  ", file=sys.stdout if options.dry_run else sys.stderr)
    if options.dry_run:
        print("options and data are fit to train with; nothing was trained or written")
        return 0

    from pavdm.training.run import RunInterrupted, train

    with asked_to_stop("this step") as should_stop:
        try:
            checkpoint = train(
                plan.make(), run, options.out, skipped=plan.skipped, should_stop=should_stop, quiet=options.quiet
            )
        except RunInterrupted as stopped:
            if is_leader():
                kept = f"{stopped}; the same command goes on from {stopped.checkpoint}"
                print(f"interrupted: {kept}", file=sys.stderr)
            return EXIT_INTERRUPTED
    if is_leader():
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


def _run_eval(options: argparse.Namespace) -> int:
    from pavdm.evaluation.command import run

    return run(options, lambda line: print(line, flush=True))


def _run_workflow(options: argparse.Namespace) -> int:
    from pavdm.comfyui.client import ServerError
    from pavdm.comfyui.command import run

    try:
        paths = run(options)
    except ServerError as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_FAILED
    print("\n".join(map(str, paths)) or "done; the workflow saved nothing")
    return 0


def _run_preprocess(options: argparse.Namespace) -> int:
    from pavdm.data_commands import run_preprocess
    from pavdm.progress_bar import ClipCounter
    from pavdm.training.data.preprocess import Stopped

    with ClipCounter(hidden=options.quiet) as counter, asked_to_stop("this clip") as should_stop:
        try:
            outcome = run_preprocess(options, counter.show, should_stop)
        except Stopped:
            counter.close()
            print("interrupted; the same command goes on at the first shard that is missing", file=sys.stderr)
            return EXIT_INTERRUPTED
    counts = [f"{outcome.encoded} clips encoded"]
    if outcome.found:
        counts.append(f"{outcome.found} were there already")
    counts.append(f"{outcome.skipped} skipped")
    if outcome.unusable:
        counts.append(f"{outcome.unusable} files left out from the start")
    print(f"{options.out}: {', '.join(counts)}")
    if not outcome.complete:
        print("shards of the other processes are still missing; the process that ends last writes the index")
    elif outcome.skipped or outcome.unusable:
        print(f"what is not in it, and why: {options.out / 'skipped.csv'}")
    return 0


def _run_demo(options: argparse.Namespace) -> int:
    from pavdm import small_model
    from pavdm.chunks import Monitor
    from pavdm.clip import PIECE_FRAMES
    from pavdm.demo import run_demo
    from pavdm.progress_bar import ProgressBar
    from pavdm.sampling.progressive import Interrupted

    precision = precision_from(options)
    with (
        ProgressBar(small_model.FPS, PIECE_FRAMES, hidden=options.quiet) as bar,
        asked_to_stop() as should_stop,
    ):
        monitor = Monitor(bar.stage, bar.progress, should_stop)
        try:
            demo = run_demo(options.out, options.seconds, options.seed, precision, monitor, options.overwrite)
        except Interrupted:
            bar.close()
            print(f"interrupted; what is finished is in {options.out}", file=sys.stderr)
            return EXIT_INTERRUPTED
    print("\n".join(demo.lines()))
    return 0


def _run_world(options: argparse.Namespace) -> int:
    from pavdm.training.world_files import write_clips

    size, first = size_from(options), options.seed
    made = write_clips(options.out, options.count, options.seconds, size, options.fps, first, options.overwrite)
    for path, caption in made:
        print(f"{path}: {caption}", flush=True)
    return 0


_COMMANDS = {
    "demo": _run_demo,
    "cut": _run_cut,
    "batch": _run_batch,
    "world": _run_world,
    "preprocess": _run_preprocess,
    "video": _run_video,
    "schedule": _run_schedule,
    "info": _run_info,
    "new_model": _run_new_model,
    "eval": _run_eval,
    "train": _run_train,
    "doctor": _run_doctor,
    "workflow": _run_workflow,
}
