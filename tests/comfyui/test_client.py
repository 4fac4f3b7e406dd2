"""The client against a server of this test's own that speaks ComfyUI's protocol, and misbehaves on demand."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from pavdm.comfyui.client import Client, OutputFile, RunFailed, RunRefused, ServerError, Update

aiohttp = pytest.importorskip("aiohttp")
web = pytest.importorskip("aiohttp.web")

GRAPH: Any = {"7": {"class_type": "Make", "inputs": {}, "_meta": {"title": "My node"}}}
FILE = {"filename": "a.mp4", "subfolder": "", "type": "output"}


class Fake:
    """script: what happens to a queued run, told to its websocket. history: what /history then says."""

    def __init__(self, script: Callable[[Fake, Any, str], Any], history: Any = None) -> None:
        self.script, self.history = script, history
        self.ended: dict[str, Any] = {}
        self.running: str | None = None
        self.posted: list[tuple[str, Any]] = []
        self.sockets: list[Any] = []
        self.tasks: list[Any] = []

    async def socket(self, request: Any) -> Any:
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        self.sockets.append(socket)
        async for _ in socket:
            pass
        return socket

    async def prompt(self, request: Any) -> Any:
        job = await request.json()
        if job["prompt"] == {}:
            error = {"type": "x", "message": "Prompt has no outputs", "details": ""}
            return web.json_response({"error": error, "node_errors": {}}, status=400)
        self.running = job["prompt_id"]
        self.tasks.append(asyncio.create_task(self.script(self, self.sockets[-1], job["prompt_id"])))
        return web.json_response({"prompt_id": job["prompt_id"], "number": 1, "node_errors": {}})

    async def post(self, request: Any) -> Any:
        self.posted.append((request.path, await request.json()))
        return web.Response()

    async def queue(self, request: Any) -> Any:
        return web.json_response({"queue_running": [[0, self.running]] if self.running else [], "queue_pending": []})

    async def past(self, request: Any) -> Any:
        return web.json_response(self.ended)

    async def view(self, request: Any) -> Any:
        if request.query["filename"] != "a.mp4":
            return web.Response(status=404)
        answer = web.StreamResponse(headers={"Content-Length": "10"})
        await answer.prepare(request)
        await answer.write(b"whole")
        if request.query["subfolder"] == "cut":
            request.transport.close()
            return answer
        await answer.write(b" file")
        return answer

    def end(self, prompt_id: str) -> None:
        self.running = None
        self.ended[prompt_id] = self.history or {"outputs": {"7": {"images": [FILE], "animated": [True]}}, "status": {}}

    @asynccontextmanager
    async def serve(self) -> AsyncIterator[str]:
        app = web.Application()
        app.add_routes([web.get("/ws", self.socket), web.post("/prompt", self.prompt), web.get("/queue", self.queue)])
        app.add_routes([web.post("/queue", self.post), web.post("/interrupt", self.post), web.get("/view", self.view)])
        app.add_routes([web.get("/history/{id}", self.past)])
        runner = web.AppRunner(app, shutdown_timeout=0.1)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        try:
            yield f"http://127.0.0.1:{runner.addresses[0][1]}"
        finally:
            await runner.cleanup()


async def told(socket: Any, kind: str, **data: Any) -> None:
    await socket.send_str(json.dumps({"type": kind, "data": data}))


async def goes_well(fake: Fake, socket: Any, prompt_id: str) -> None:
    await socket.send_bytes(b"a preview")
    await told(socket, "progress", node="7", value=9, max=9, prompt_id="another's")
    await told(socket, "executing", node="7", prompt_id=prompt_id)
    await told(socket, "progress", node="7", value=1, max=2, prompt_id=prompt_id)
    fake.end(prompt_id)
    await told(socket, "execution_success", prompt_id=prompt_id)


async def loses_its_socket(fake: Fake, socket: Any, prompt_id: str) -> None:
    await socket.close()
    fake.end(prompt_id)


async def forgets(fake: Fake, socket: Any, prompt_id: str) -> None:
    fake.running = None
    await socket.close()


async def goes_on_for_ever(fake: Fake, socket: Any, prompt_id: str) -> None:
    await told(socket, "executing", node="7", prompt_id=prompt_id)


def run(fake: Fake, graph: Any = GRAPH) -> tuple[Any, list[Update]]:
    updates: list[Update] = []

    async def go() -> Any:
        async with fake.serve() as url, Client(url) as client:
            return await client.run(graph, updates.append)

    return asyncio.run(go()), updates


def test_progress_of_this_run_is_reported_and_its_files_are_named_once() -> None:
    outcome, updates = run(Fake(goes_well))
    assert updates == [Update("7", 0, 0), Update("7", 1, 2)]
    assert outcome.files == [OutputFile("7", "a.mp4", "", "output")]


def test_a_lost_websocket_loses_no_run() -> None:
    outcome, _ = run(Fake(loses_its_socket))
    assert outcome.files


def test_a_server_that_was_started_anew_is_noticed() -> None:
    with pytest.raises(ServerError, match="knows nothing of the run"):
        run(Fake(forgets))


def test_a_failed_node_is_named_with_its_error() -> None:
    error = ["execution_error", {"node_id": "7", "exception_message": "no film in the camera"}]
    with pytest.raises(RunFailed, match=r"My node \(Make, node 7\): no film in the camera") as raised:
        run(Fake(goes_well, {"outputs": {}, "status": {"messages": [error]}}))
    assert raised.value.node == "7"


def test_a_refused_workflow_is_an_error() -> None:
    with pytest.raises(RunRefused, match="refuses the workflow: Prompt has no outputs"):
        run(Fake(goes_well), {})


def test_a_run_that_is_given_up_is_stopped_on_the_server() -> None:
    fake = Fake(goes_on_for_ever)

    async def go() -> str | None:
        async with fake.serve() as url, Client(url) as client:
            task = asyncio.create_task(client.run(GRAPH))
            while fake.running is None:
                await asyncio.sleep(0.01)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            return fake.running

    prompt_id = asyncio.run(go())
    assert fake.posted == [("/queue", {"delete": [prompt_id]}), ("/interrupt", {"prompt_id": prompt_id})]


def test_a_download_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    async def go() -> None:
        async with Fake(goes_well).serve() as url, Client(url) as client:
            await client.download(OutputFile("7", "a.mp4", "", "output"), tmp_path / "good.mp4")
            for bad in (OutputFile("7", "a.mp4", "cut", "output"), OutputFile("7", "none.mp4", "", "output")):
                with pytest.raises(ServerError):
                    await client.download(bad, tmp_path / "bad.mp4")

    asyncio.run(go())
    assert [path.name for path in tmp_path.iterdir()] == ["good.mp4"]
    assert (tmp_path / "good.mp4").read_bytes() == b"whole file"


def test_nothing_listening_is_said_plainly() -> None:
    async def go() -> None:
        async with Client("http://127.0.0.1:9") as client:
            await client.object_info()

    with pytest.raises(ServerError, match="is ComfyUI running there"):
        asyncio.run(go())
