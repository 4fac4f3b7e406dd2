"""`pavdm batch`: from what was typed to the exit status."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from itertools import chain
from pathlib import Path

from pavdm.batch.claims import Work
from pavdm.batch.items import described, read_items
from pavdm.batch.local import LocalMaker, check_texts, made_by
from pavdm.batch.member import Launch, Member
from pavdm.batch.results import Result, table, write_results
from pavdm.batch.servers import Workflows, work_on_servers
from pavdm.batch.show import Display
from pavdm.batch.work import Job, NobodyLeft, work_through
from pavdm.comfyui.client import require_aiohttp
from pavdm.engine import texts_of
from pavdm.errors import InputError
from pavdm.networks import Networks
from pavdm.options import models_from, precision_from, refuse_unused
from pavdm.parallel.team import Team
from pavdm.sampling.progressive import Interrupted

logger = logging.getLogger(__name__)

EXIT_FAILED = 1
EXIT_INTERRUPTED = 130
_OF_OWN_NETWORKS = ("device", "dtype", "text_dtype", "tile", "models", "stdit", "vae", "text_encoder", "spatial_vae")


def run_batch(options: argparse.Namespace, should_stop: Callable[[], bool], team: Team | None = None) -> int:
    """The exit status: 0 all are made, 1 some failed, 130 interrupted. Raises InputError before anything is begun.

    team: processes that share the model calls of every video that this one makes.
    """
    launch = Launch.from_environment()
    backend = _Servers(options) if options.server else _OwnNetworks(options, launch, team)
    items = read_items(options, backend.check)
    made_by = backend.identity()
    jobs = [Job(item, Work(options.out, item.name), {**described(item.settings), **made_by}) for item in items]
    _make_folder(options.out)
    _check_all(jobs, options.out)

    leads = launch.rank == 0
    interrupted = False
    with ExitStack() as stack:
        stack.enter_context(_notes_for_the_logs())
        member = stack.enter_context(Member(options.out / "work" / "members", launch, {"rank": launch.rank}))
        stack.enter_context(Display(jobs, member, hidden=options.quiet or not leads))
        left = [job for job in jobs if not job.work.is_settled(member.run)]
        try:
            backend.work(left, member, should_stop)
        except Interrupted:
            interrupted = True
        except NobodyLeft as error:
            logger.error("%s", error)
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


class _OwnNetworks:
    """The networks of this machine, loaded when the first video is begun."""

    def __init__(self, options: argparse.Namespace, launch: Launch, team: Team | None) -> None:
        self._task = f"rank {launch.rank}"
        self._team = team
        options.device = launch.device(options.device)
        self._networks = Networks(models_from(options), precision_from(options))
        self.check = check_texts

    def identity(self) -> dict[str, str]:
        return made_by(self._networks)

    def work(self, jobs: list[Job], member: Member, should_stop: Callable[[], bool]) -> None:
        texts = chain.from_iterable(texts_of(job.item.settings) for job in jobs)
        work_through(jobs, LocalMaker(self._networks, texts, self._task, self._team), member, should_stop)


class _Servers:
    """ComfyUI servers, which have networks of their own."""

    def __init__(self, options: argparse.Namespace) -> None:
        require_aiohttp()
        refuse_unused(options, _OF_OWN_NETWORKS, "with --server, which has networks of its own")
        self._urls = options.server
        self._workflows = Workflows(options.workflow)
        self.check = self._workflows.check

    def identity(self) -> dict[str, str]:
        return {"workflow": self._workflows.identity}

    def work(self, jobs: list[Job], member: Member, should_stop: Callable[[], bool]) -> None:
        work_on_servers(self._urls, self._workflows, jobs, member, should_stop)


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


@contextmanager
def _notes_for_the_logs() -> Iterator[None]:
    """Lets notes through to the log of each video (`work`); the terminal gets warnings and errors only, as before."""
    package, handlers = logging.getLogger("pavdm"), list(logging.getLogger().handlers)
    levels = package.level, [handler.level for handler in handlers]
    package.setLevel(logging.INFO)
    for handler in handlers:
        handler.setLevel(max(handler.level, logging.WARNING))
    try:
        yield
    finally:
        package.setLevel(levels[0])
        for handler, level in zip(handlers, levels[1], strict=True):
            handler.setLevel(level)
