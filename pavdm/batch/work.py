"""What every process of a batch does: take the next free video, make it, write down how it went; until all are done."""

from __future__ import annotations

import gc
import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from pavdm.batch.claims import Claim, Work
from pavdm.batch.items import Item
from pavdm.batch.member import Member
from pavdm.chunks import Monitor
from pavdm.engine import Outcome
from pavdm.sampling.progressive import Interrupted, Progress
from pavdm.settings import Settings

logger = logging.getLogger(__name__)

WAIT_SECONDS = 1.0  # between two looks at what the others have left
GIVE_UP_SECONDS = 60.0  # with nobody left who could make a video
OUT_OF_ORDER = "out of order"
MOST_LOSSES = 3  # of makers over one video: then it is to blame after all


@dataclass(frozen=True)
class Job:
    """One video of the batch. made_from: everything that decides it, as `claims.Work.check` compares it."""

    item: Item
    work: Work
    made_from: dict[str, str]


class Unavailable(Exception):
    """Whoever makes the videos is gone; the video itself is not to blame, and is tried elsewhere."""


class NobodyLeft(Exception):
    """There are videos to make, and nobody who could."""


class Maker(Protocol):
    """What makes videos: networks in this process, or a server elsewhere."""

    task: str  # how the others call it in what they show

    def prepare(self) -> None:
        """Get ready, at the first video. What it raises is no fault of that video, and ends this maker's work."""

    def make(self, settings: Settings, monitor: Monitor) -> Outcome:
        """Make the video as `pavdm.engine.make_video` does. Raises Unavailable if this maker is to blame."""

    def is_fit(self) -> bool:
        """After a failure: whether the next video can succeed. Asked again and again until it can."""

    def is_alone(self) -> bool:
        """Whether none of the other makers of this process can make videos."""


def work_through(
    jobs: Sequence[Job], maker: Maker, member: Member, should_stop: Callable[[], bool], fit: bool = True
) -> None:
    """Make videos until every job is settled, by this process or others.

    fit: whether the maker can be given a video at once; otherwise it is asked first (`Maker.is_fit`).

    Waiting for the others, too, has two reasons: what a dying process leaves is taken over, and torchrun ends all
    processes when one of them reports a failure.

    Raises Interrupted when `should_stop` answered True; what `maker.prepare` raises; NobodyLeft if the maker stays
    unfit for GIVE_UP_SECONDS and nobody else could make videos.
    """
    waiting = list(jobs)
    prepared = False
    unfit_since = None if fit else time.monotonic()
    while waiting := [job for job in waiting if not job.work.is_settled(member.run)]:
        if unfit_since is not None:
            if maker.is_fit():
                unfit_since = None
            elif time.monotonic() - unfit_since > GIVE_UP_SECONDS and maker.is_alone() and not _others_can(member):
                raise NobodyLeft(f"{maker.task} cannot be used any more, and {len(waiting)} videos are not made")
        claimed = None
        if unfit_since is None:
            claims = ((job, job.work.claim(member, job.made_from)) for job in waiting)
            claimed = next(((job, claim) for job, claim in claims if claim is not None), None)
        if claimed is None:
            member.report(maker.task, doing="waiting for the others" if unfit_since is None else OUT_OF_ORDER)
            _sleep(WAIT_SECONDS, should_stop)
            continue
        job, claim = claimed
        try:
            if job.work.losses(member.run) >= MOST_LOSSES:  # it may be what kills them: memory runs out, say
                job.work.fail({**_record(job, claim, maker, member), "error": f"{MOST_LOSSES} times its maker died"})
                continue
            if not prepared:
                member.report(maker.task, doing="getting ready", video=job.item.name)
                maker.prepare()
                prepared = True
            fit = _make(job, claim, maker, member, should_stop)
        except Unavailable:
            fit = False
        finally:
            claim.release()
            member.report(maker.task)
        unfit_since = None if fit else time.monotonic()


def _others_can(member: Member) -> bool:
    """Whether another process has anything to make videos with; those that are only out of order wait for this one."""
    return any(
        not (tasks := other.get("tasks")) or any(task.get("doing") != OUT_OF_ORDER for task in tasks.values())
        for other in member.others()
    )


def _make(job: Job, claim: Claim, maker: Maker, member: Member, should_stop: Callable[[], bool]) -> bool:
    """One video, with its log and its record; whether the maker can go on."""
    begun = time.monotonic()
    record = _record(job, claim, maker, member)
    with _log_to(job.work.log):
        logger.info("take %d of %s by %s", claim.take, job.item.name, member.token)
        try:
            settings = replace(
                job.item.settings,
                out=job.work.folder / f"take-{claim.take:04d}.mp4",
                state_directory=job.work.state,
                overwrite=True,
            )
            monitor = _monitor(job, claim, maker.task, member, should_stop)
            outcome = maker.make(settings, monitor)
            seconds = time.monotonic() - begun
            record |= {
                "frames": outcome.num_frames,
                "new_frames": outcome.new_frames,
                "fps": outcome.fps,
                "seconds": round(seconds, 2),
            }
            if not job.work.finish(claim, outcome.path, record):
                logger.warning("another process has taken this video over meanwhile: this one is dropped")
            logger.info("finished: %d frames in %.1f s", outcome.num_frames, seconds)
            return True
        except Interrupted:
            logger.info("stopped before the end")
            if should_stop():
                raise
            return True  # the claim is lost
        except Unavailable as error:
            logger.info("%s is gone: %s", maker.task, error)
            if job.work.note_loss(claim, member.run) >= MOST_LOSSES:
                job.work.fail({**record, "error": f"{MOST_LOSSES} times its maker was gone: {error}"})
            return False
        except Exception as error:  # whatever one video runs into must not end the others
            logger.info("failed", exc_info=True)
            reason = str(error) or type(error).__name__
            del error  # and what it holds on the device
            gc.collect()
            if not maker.is_fit():  # the maker broke, not the video: somebody else may have it
                if job.work.note_loss(claim, member.run) >= MOST_LOSSES:
                    job.work.fail({**record, "error": f"{MOST_LOSSES} times its maker broke: {reason}"})
                return False
            if claim.holds:
                job.work.fail({**record, "error": reason, "seconds": round(time.monotonic() - begun, 2)})
            return True


def _record(job: Job, claim: Claim, maker: Maker, member: Member) -> dict[str, Any]:
    """Who made the video, or tried to."""
    return {
        "run": member.run,
        "by": maker.task,
        "process": member.token,
        "take": claim.take,
        "seed": job.item.settings.seed,
    }


def _monitor(job: Job, claim: Claim, task: str, member: Member, should_stop: Callable[[], bool]) -> Monitor:
    name, settings = job.item.name, job.item.settings
    first: tuple[float, int] | None = None  # when the first call was reported, and its chunk

    def stage(message: str) -> None:
        logger.info("%s", message)
        member.report(task, doing=message, video=name)

    def progress(at: Progress) -> None:
        nonlocal first
        now = time.monotonic()
        first = first or (now, at.chunk)
        made = (at.chunk - first[1]) * settings.chunk_frames
        member.report(
            task,
            doing="sampling",
            video=name,
            chunk=at.chunk + 1,
            call=at.call,
            calls=at.calls,
            fps=round(made / (now - first[0]), 2) if made > 0 else None,
        )

    return Monitor(stage, progress, lambda: should_stop() or not claim.holds, lambda: claim.holds)


@contextmanager
def _log_to(path: Path) -> Iterator[None]:
    """What `pavdm` logs in this thread goes into this file, too."""
    path.parent.mkdir(parents=True, exist_ok=True)
    thread = threading.get_ident()
    handler = logging.FileHandler(path, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    handler.addFilter(lambda record: record.thread == thread)
    root = logging.getLogger("pavdm")
    root.addHandler(handler)
    try:
        yield
    finally:
        root.removeHandler(handler)
        handler.close()


def _sleep(seconds: float, should_stop: Callable[[], bool]) -> None:
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0:
        if should_stop():
            raise Interrupted
        time.sleep(min(0.1, left))
