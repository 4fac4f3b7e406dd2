"""Videos made by ComfyUI servers: each gets the next one when it is free, and what a dying one had goes to another."""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pavdm
from pavdm.batch.graphs import filled, lacking, with_autosave
from pavdm.batch.member import Member
from pavdm.batch.work import Job, Unavailable, work_through
from pavdm.chunks import Monitor
from pavdm.comfyui.client import Client, Graph, RunFailed, RunInterrupted, RunRefused, ServerError, Update
from pavdm.comfyui.convert import is_api, read_workflow
from pavdm.engine import Outcome
from pavdm.errors import InputError
from pavdm.sampling.progressive import Interrupted, Progress
from pavdm.settings import Settings
from pavdm.video_reader import probe

logger = logging.getLogger(__name__)

SHIPPED = Path(pavdm.__file__).parent.parent / "workflows" / "api"
LOOK_SECONDS = 0.5  # between two looks at whether to stop
REACH_SECONDS = 60.0  # a server that computes may be slow to describe its nodes


class Workflows:
    """Which workflow makes a video: `given` for all of them, else those that come with the nodes.

    Raises InputError for a file that is no workflow in API format.
    """

    def __init__(self, given: Path | None) -> None:
        self._graphs = {
            with_clip: _read(given or SHIPPED / name)
            for with_clip, name in ((True, "extend_a_clip.json"), (False, "text_to_long_video.json"))
        }

    def check(self, settings: Settings) -> None:
        """Raise InputError if the workflow cannot be asked for this video."""
        self.graph(settings, None if settings.clip is None else settings.clip.name)

    def graph(self, settings: Settings, clip: str | None) -> Graph:
        """clip: the name of the uploaded clip."""
        return filled(self._graphs[clip is not None], settings, clip)

    def used(self, jobs: Sequence[Job]) -> list[Graph]:
        """Those that the videos are made with, without their settings."""
        kinds = {job.item.settings.clip is not None for job in jobs}
        return [graph for with_clip, graph in self._graphs.items() if with_clip in kinds]

    @property
    def identity(self) -> str:
        return hashlib.sha256(json.dumps(list(self._graphs.values()), sort_keys=True).encode()).hexdigest()[:16]


class ServerMaker:
    """A `work.Maker` behind an address.

    others: all servers of this batch, so that each knows if it is the last. needed: workflows that it must be able to
    run. lacks: why it cannot make videos at the moment, "" if it can.
    """

    def __init__(self, url: str, workflows: Workflows, others: list[ServerMaker], needed: Sequence[Graph]) -> None:
        self.url = self.task = Client(url).url
        self.lacks = ""
        self._workflows = workflows
        self._others = others
        self._needed = list(needed)

    def prepare(self) -> None:
        """The server loads its networks when it first needs them."""

    def make(self, settings: Settings, monitor: Monitor) -> Outcome:
        try:
            return asyncio.run(self._make(settings, monitor))
        except RunInterrupted as error:  # by a person there, who had nothing against the video
            raise Unavailable(str(error)) from error
        except RunFailed:
            raise
        except ServerError as error:
            self.lacks = str(error)
            raise Unavailable(str(error)) from error

    def is_fit(self) -> bool:
        try:
            schemas = asyncio.run(self._reach())
        except ServerError as error:
            self.lacks = str(error)
        else:
            self.lacks = _said(self.url, [lack for graph in self._needed for lack in lacking(graph, schemas)])
        return not self.lacks

    def is_alone(self) -> bool:
        return all(maker.lacks for maker in self._others if maker is not self)

    async def _reach(self) -> dict[str, Any]:
        async with Client(self.url) as client:
            try:
                return await asyncio.wait_for(client.object_info(), REACH_SECONDS)
            except asyncio.TimeoutError as error:
                raise ServerError(f"{self.url} does not answer") from error

    async def _make(self, settings: Settings, monitor: Monitor) -> Outcome:
        async with Client(self.url) as client:
            monitor.stage(f"sending the workflow to {self.url}")
            clip = None if settings.clip is None else await client.upload(settings.clip, "pavdm")
            name = settings.out.parent.name  # a video has a folder of its name
            graph = with_autosave(self._workflows.graph(settings, clip), f"pavdm/batch/{name}")
            run = asyncio.create_task(client.run(graph, _progress_of(settings, graph, monitor)))
            while not run.done():
                await asyncio.wait({run}, timeout=LOOK_SECONDS)
                if not run.done() and monitor.should_stop():
                    run.cancel()
                    with suppress(asyncio.CancelledError):
                        await run
                    raise Interrupted
            try:
                outcome = run.result()
            except RunRefused as refused:
                if lacks := _said(self.url, lacking(graph, await client.object_info())):
                    self._needed.append(graph)
                    raise ServerError(lacks) from refused
                raise  # it has all that is asked for: the video's settings are to blame
            suffix = settings.out.suffix
            videos = [f for f in outcome.files if f.kind == "output" and Path(f.filename).suffix == suffix]
            if len(videos) != 1:
                raise InputError(f"the workflow should save one {suffix} file: it saved {len(videos)}")
            monitor.stage("downloading the video")
            await client.download(videos[0], settings.out)
        info = await asyncio.to_thread(probe, settings.out)
        return Outcome(settings.out, info.num_frames, round((settings.seconds or 0) * settings.fps), float(info.fps))


def work_on_servers(
    urls: Sequence[str],
    workflows: Workflows,
    jobs: Sequence[Job],
    member: Member,
    should_stop: Callable[[], bool],
) -> None:
    """`work_through` on all servers at once. Raises InputError if none can make videos at the start, Interrupted,
    or NobodyLeft."""
    makers: list[ServerMaker] = []
    makers += [ServerMaker(url, workflows, makers, workflows.used(jobs)) for url in dict.fromkeys(urls)]
    reached = [maker for maker in makers if maker.is_fit()]
    unfit = [maker.lacks for maker in makers if maker not in reached]
    if jobs and not reached:
        raise InputError("no server can make these videos:\n  " + "\n  ".join(unfit))
    for lacks in unfit:
        logger.warning("left out as long as it is so: %s", lacks)
    ended: list[BaseException] = []

    def work(maker: ServerMaker) -> None:
        try:
            work_through(jobs, maker, member, lambda: should_stop() or bool(ended), fit=maker in reached)
        except Interrupted as error:
            if should_stop():
                ended.append(error)
        except Exception as error:  # a thread's own would be printed and forgotten
            ended.append(error)

    threads = [threading.Thread(target=work, args=(maker,), name=maker.url) for maker in makers]
    for thread in threads:
        thread.start()
    for thread in threads:
        while thread.is_alive():  # in pieces, so that signals are heard
            thread.join(LOOK_SECONDS)
    for error in ended:
        raise error


def _said(url: str, lacks: list[str]) -> str:
    return f"{url} lacks {', '.join(dict.fromkeys(lacks))}" if lacks else ""


def _progress_of(settings: Settings, graph: Graph, monitor: Monitor) -> Callable[[Update], None]:
    """Reports a sampler's steps as model calls, and the other nodes by name."""
    schedule = settings.schedule
    told: list[str] = []

    def report(update: Update) -> None:
        if update.node is None:
            return
        node = graph.get(update.node, {})
        if "Sampler" in node.get("class_type", "") and update.total > 1:
            chunk = max(0, (update.step - 1) // schedule.calls_per_chunk - schedule.window_chunks + 1)
            monitor.progress(Progress(update.step, update.total, chunk))
            return
        title = str(node.get("_meta", {}).get("title", node.get("class_type", update.node)))
        if title not in told:
            told.append(title)
            monitor.stage(title)

    return report


def _read(path: Path) -> Graph:
    if not path.is_file() and path.parent == SHIPPED:
        raise InputError(
            f"{path} is not there, this is no whole copy of the repository: give a workflow with --workflow"
        )
    content = read_workflow(path)
    if not is_api(content):
        raise InputError(f"{path} is no workflow in API format: export it from ComfyUI by File > Export (API)")
    return content
