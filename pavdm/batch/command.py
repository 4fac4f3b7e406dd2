"""`pavdm batch`: from what was typed to the exit status."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Callable
from contextlib import ExitStack, suppress
from itertools import chain
from pathlib import Path

from pavdm.batch.claims import Work
from pavdm.batch.items import described, read_items
from pavdm.batch.local import LocalMaker
from pavdm.batch.member import Launch, Member
from pavdm.batch.results import Result, table, write_results
from pavdm.batch.show import Display
from pavdm.batch.work import Job, work_through
from pavdm.engine import texts_of
from pavdm.errors import InputError
from pavdm.networks import Networks
from pavdm.options import models_from, precision_from
from pavdm.parallel.team import Team
from pavdm.sampling.progressive import Interrupted

EXIT_FAILED = 1
EXIT_INTERRUPTED = 130


def run_batch(options: argparse.Namespace, should_stop: Callable[[], bool], team: Team | None = None) -> int:
    """The exit status: 0 all are made, 1 some failed, 130 interrupted. Raises InputError before anything is begun.

    team: processes that share the model calls of every video that this one makes.
    """
    launch = Launch.from_environment()
    items = read_items(options)
    networks = Networks(models_from(options), precision_from(_on_own_device(options, launch)))
    made_by = {name: str(value) for name, value in networks.fingerprints.items()}
    made_by |= {"dtype": str(networks.precision.dtype), "text dtype": str(networks.precision.text_dtype)}
    made_by |= {"tile": str(networks.precision.tile)}
    jobs = [Job(item, Work(options.out, item.name), {**described(item.settings), **made_by}) for item in items]
    _make_folder(options.out)
    _check_all(jobs, options.out)
    _log_everything_to_files_only()

    leads = launch.rank == 0
    interrupted = False
    who = {"rank": launch.rank, "device": str(networks.precision.device)}
    with ExitStack() as stack:
        member = stack.enter_context(Member(options.out / "work" / "members", launch, who))
        stack.enter_context(Display(jobs, member, hidden=options.quiet or not leads))
        left = [job for job in jobs if not job.work.is_settled(member.run)]
        texts = chain.from_iterable(texts_of(job.item.settings) for job in left)
        maker = LocalMaker(networks, texts, f"rank {launch.rank}", team)
        try:
            work_through(left, maker, member, should_stop)
        except Interrupted:
            interrupted = True
    results = [Result.of(job) for job in jobs]
    write_results(results, options.out / "results.csv")
    if leads:
        with suppress(OSError):  # the videos are there, whether or not anyone can be told
            print("\n".join([*table(results), f"{options.out / 'results.csv'} has the details"]), flush=True)
    if interrupted:
        if leads:
            print("interrupted; the same command goes on from here", file=sys.stderr)
        return EXIT_INTERRUPTED
    return 0 if all(result.status == "done" for result in results) else EXIT_FAILED


def _on_own_device(options: argparse.Namespace, launch: Launch) -> argparse.Namespace:
    """The options with the GPU of this rank, where torchrun started several on a machine."""
    import torch

    if launch.world_size > 1 and options.device in ("auto", "cuda") and torch.cuda.is_available():
        options.device = f"cuda:{launch.local_rank % torch.cuda.device_count()}"
    return options


def _make_folder(out: Path) -> None:
    try:
        (out / "work").mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot make the folder {out}: {error.strerror or error}") from error


def _check_all(jobs: list[Job], out: Path) -> None:
    """Raise InputError if the folder holds videos, finished or begun, that were made otherwise."""
    wrong = []
    for job in jobs:
        try:
            job.work.check(job.made_from)
        except InputError as error:
            wrong.append(str(error))
    if wrong:
        more = f"\n  and {len(wrong) - 5} more" if len(wrong) > 5 else ""
        told = "\n  ".join(wrong[:5])
        raise InputError(
            f"{out} holds the work of another batch:\n  {told}{more}\nChoose another --out, or delete what shall be "
            f"made anew from {out} and {out / 'work'}"
        )


def _log_everything_to_files_only() -> None:
    """Notes go to the log of each video (`work`); the terminal gets warnings and errors, as before."""
    for handler in logging.getLogger().handlers:
        handler.setLevel(logging.WARNING)
    logging.getLogger("pavdm").setLevel(logging.INFO)
