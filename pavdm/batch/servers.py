"""Videos made by ComfyUI servers: each gets the next one when it is free, and what a dying one had goes to another."""

from __future__ import annotations

import asyncio
import hashlib
import json
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pavdm
from pavdm.batch.graphs import Graph, check_expressible, filled
from pavdm.batch.member import Member
from pavdm.batch.work import Job, Unavailable, work_through
from pavdm.chunks import Monitor
from pavdm.comfyui.client import Client, RunFailed, ServerError, Update
from pavdm.comfyui.convert import is_api, read_workflow
from pavdm.engine import Outcome
from pavdm.errors import InputError
from pavdm.sampling.progressive import Interrupted, Progress
from pavdm.settings import Settings
from pavdm.video_reader import probe

SHIPPED = Path(pavdm.__file__).parent.parent / "workflows" / "api"
LOOK_SECONDS = 0.5  # between two looks at whether to stop
REACH_SECONDS = 10.0


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
        check_expressible(settings)
        return filled(self._graphs[clip is not None], settings, clip)

    @property
    def identity(self) -> str:
        return hashlib.sha256(json.dumps(list(self._graphs.values()), sort_keys=True).encode()).hexdigest()[:16]


class ServerMaker:
    """A `work.Maker` behind an address. others: all servers of this batch, so that each knows if it is the last."""

    def __init__(self, url: str, workflows: Workflows, others: list[ServerMaker]) -> None:
        self.url = self.task = Client(url).url
        self.fit = True
        self._workflows = workflows
        self._others = others

    def prepare(self) -> None:
        """The server loads its networks when it first needs them."""

    def make(self, settings: Settings, monitor: Monitor) -> Outcome:
        try:
            return asyncio.run(self._make(settings, monitor))
        except RunFailed:
            raise
        except ServerError as error:
            self.fit = False
            raise Unavailable(str(error)) from error

    def is_fit(self) -> bool:
        try:
            asyncio.run(self._reach())
            self.fit = True
        except ServerError:
            self.fit = False
        return self.fit

    def is_alone(self) -> bool:
        return not any(maker.fit for maker in self._others if maker is not self)

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
            graph = self._workflows.graph(settings, clip)
            run = asyncio.create_task(client.run(graph, _progress_of(settings, graph, monitor)))
            while not run.done():
                await asyncio.wait({run}, timeout=LOOK_SECONDS)
                if not run.done() and monitor.should_stop():
                    run.cancel()
                    with suppress(asyncio.CancelledError):
                        await run
                    raise Interrupted
            suffix = settings.out.suffix
            videos = [f for f in run.result().files if f.kind == "output" and Path(f.filename).suffix == suffix]
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
    """`work_through` on all servers at once. Raises InputError if none can be reached at the start, Interrupted,
    or NobodyLeft."""
    makers: list[ServerMaker] = []
    makers += [ServerMaker(url, workflows, makers) for url in dict.fromkeys(urls)]
    reached = [maker for maker in makers if maker.is_fit()]
    if jobs and not reached:
        raise InputError(
            f"no ComfyUI answers at {', '.join(maker.url for maker in makers)}: start it, or mend the address"
        )
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
