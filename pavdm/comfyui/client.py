"""A client of one ComfyUI server: upload, queue, follow, download. Many runs may be under way at a time.

    async with Client("http://127.0.0.1:8188") as client:
        outcome = await client.run(graph, on_progress=print)
        for file in outcome.files:
            await client.download(file, Path(file.filename))

graph: a workflow in ComfyUI's API format, {node id: {"class_type", "inputs", "_meta": {"title"}}}.
"""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from pavdm.errors import InputError
from pavdm.files import temporary_beside

if TYPE_CHECKING:
    import aiohttp

Graph = dict[str, dict[str, Any]]
SECONDS_PER_ANSWER = 120.0
SECONDS_BETWEEN_LOOKS = 5.0  # how often the history is asked while the websocket is silent
ATTEMPTS_TO_RECONNECT = 5
BLOCK = 2**20


class ServerError(RuntimeError):
    """The server cannot be reached, refuses a workflow, or is gone."""


class RunFailed(ServerError):
    """A node failed, or the run was interrupted; the text names the node and gives its error.

    node: its id in the graph, None where it is not known.
    """

    def __init__(self, message: str, node: str | None = None) -> None:
        super().__init__(message)
        self.node = node


class RunRefused(RunFailed):
    """The server would not take the workflow: nothing of it has run."""


class RunInterrupted(RunFailed):
    """Somebody stopped the run on the server."""


@dataclass(frozen=True)
class OutputFile:
    """A file that an output node left on the server. kind: output, temp or input, the server's folder."""

    node: str
    filename: str
    subfolder: str
    kind: str


@dataclass(frozen=True)
class Update:
    """Where a run is. node: id of the one at work, step of total within it. queued: runs in the server's queue, this
    one included; 0 while one of its nodes is at work."""

    node: str | None
    step: int
    total: int
    queued: int = 0


@dataclass(frozen=True)
class Outcome:
    """A finished run: what every output node reports to the page, and the files among that."""

    outputs: Mapping[str, Mapping[str, Any]]

    @property
    def files(self) -> list[OutputFile]:
        """Every file once, in the order of the nodes."""
        found = []
        for node, groups in self.outputs.items():
            for group in groups.values():
                for item in group if isinstance(group, list) else []:
                    if isinstance(item, dict) and "filename" in item:
                        kind, folder = item.get("type", "output"), item.get("subfolder", "")
                        found.append(OutputFile(node, item["filename"], folder, kind))
        return list(dict.fromkeys(found))


def copied(graph: Graph) -> Graph:
    """The same workflow; its inputs can be set without changing this one's."""
    return {number: {**node, "inputs": dict(node["inputs"])} for number, node in graph.items()}


def node_name(graph: Graph, node: str | None) -> str:
    """How a node is named to a person: its title, class and id."""
    content = graph.get(node or "", {})
    class_type = content.get("class_type", "?")
    title = content.get("_meta", {}).get("title") or class_type
    return f"{title} ({class_type}, node {node})" if title != class_type else f"{title} (node {node})"


class Client:
    """An async context manager. Every method raises ServerError where the server cannot be reached or says no."""

    def __init__(self, url: str) -> None:
        """url: of the server, such as http://127.0.0.1:8188."""
        if not url.startswith(("http://", "https://")):
            raise InputError(f"a server is given by its address, such as http://127.0.0.1:8188: got {url!r}")
        self.url = url.rstrip("/")
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Client:
        aiohttp = require_aiohttp()
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=30, sock_read=SECONDS_PER_ANSWER)
        self._session = aiohttp.ClientSession(timeout=timeout)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._session is not None:
            await self._session.close()

    async def is_up(self) -> bool:
        """Whether a ComfyUI answers."""
        try:
            return "system" in await self._json("GET", "/system_stats")
        except ServerError:
            return False

    async def object_info(self) -> dict[str, Any]:
        """The schema of every node that the server has, by class."""
        return await self._json("GET", "/object_info")

    async def upload(self, file: Path, folder: str = "") -> str:
        """Put a file into the server's input folder; the name under which a loading node finds it.

        A file of that name and other content stays: the server then picks a free name. Raises InputError for a file
        that cannot be read.
        """
        aiohttp = require_aiohttp()
        try:
            content = file.open("rb")
        except OSError as error:
            raise InputError(f"cannot read {file}: {error.strerror or error}") from error
        with content:
            form = aiohttp.FormData()
            form.add_field("image", content, filename=file.name, content_type="application/octet-stream")
            form.add_field("type", "input")
            form.add_field("subfolder", folder)
            answer = await self._json("POST", "/upload/image", data=form)
        return "/".join(part for part in (answer.get("subfolder"), answer["name"]) if part)

    async def run(
        self,
        graph: Graph,
        on_progress: Callable[[Update], None] | None = None,
        workflow: Mapping[str, Any] | None = None,
    ) -> Outcome:
        """Queue a workflow and wait for its end. A run that is given up (the task cancelled) is stopped on the server.

        workflow: the same in UI format, for the metadata of what is saved. Raises RunFailed with the node's error,
        RunRefused or RunInterrupted.
        """
        client_id, prompt_id = uuid.uuid4().hex, str(uuid.uuid4())
        report = on_progress or (lambda update: None)
        extra = {"extra_pnginfo": {"workflow": workflow}} if workflow else {}
        job = {"prompt": graph, "client_id": client_id, "prompt_id": prompt_id, "extra_data": extra}
        socket = await self._connect(client_id)
        try:
            answer = await self._json("POST", "/prompt", graph=graph, json=job)
            if answer.get("node_errors"):  # some outputs would run, others not: all or nothing
                await self._stop(answer["prompt_id"])
                raise RunRefused(refusal(answer, graph))
            prompt_id = answer["prompt_id"]
            try:
                return await self._follow(socket, client_id, prompt_id, graph, report)
            except (asyncio.CancelledError, KeyboardInterrupt):
                with suppress(ServerError):
                    await self._stop(prompt_id)
                raise
        finally:
            await socket.close()

    async def download(self, file: OutputFile, path: Path) -> None:
        """Copy a file from the server to `path`, which appears whole or not at all."""
        aiohttp = require_aiohttp()
        query = {"filename": file.filename, "subfolder": file.subfolder, "type": file.kind}
        temporary = temporary_beside(path)
        try:
            async with self._open().get(f"{self.url}/view", params=query) as answer:
                if answer.status != 200:
                    raise ServerError(f"{self.url} does not give {file.filename}: {answer.status} {answer.reason}")
                with temporary.open("wb") as out:
                    async for block in answer.content.iter_chunked(BLOCK):
                        out.write(block)
            temporary.replace(path)
        except (aiohttp.ClientError, asyncio.TimeoutError) as error:
            raise self._unreachable(error) from error
        finally:
            temporary.unlink(missing_ok=True)

    async def _follow(
        self,
        socket: aiohttp.ClientWebSocketResponse[bool],
        client_id: str,
        prompt_id: str,
        graph: Graph,
        report: Callable[[Update], None],
    ) -> Outcome:
        """Read the websocket until the run has ended; where it is silent or breaks, the history tells."""
        aiohttp = require_aiohttp()
        ends = {"execution_success", "execution_error", "execution_interrupted"}
        while True:
            try:
                message = await socket.receive(timeout=SECONDS_BETWEEN_LOOKS)
            except asyncio.TimeoutError:
                message = None
            ended = False
            if message is not None and message.type == aiohttp.WSMsgType.TEXT:
                kind, data = _read(message.data)
                if kind == "status":
                    report(Update(None, 0, 0, data.get("status", {}).get("exec_info", {}).get("queue_remaining", 0)))
                    continue
                if data.get("prompt_id") != prompt_id:
                    continue
                ended = kind in ends or (kind == "executing" and data.get("node") is None)
                if kind == "executing" and data.get("node") is not None:
                    report(Update(str(data["node"]), 0, 0))
                elif kind == "progress":
                    report(Update(str(data.get("node")), int(data.get("value", 0)), int(data.get("max", 0))))
                if not ended:
                    continue
            elif message is not None and message.type == aiohttp.WSMsgType.BINARY:  # a preview
                continue
            elif message is not None:
                await socket.close()
                socket = await self._connect(client_id, ATTEMPTS_TO_RECONNECT)
            outcome = await self._outcome(prompt_id, graph)
            if outcome is not None:
                return outcome
            if not ended and not await self._is_queued(prompt_id):
                outcome = await self._outcome(prompt_id, graph)  # it may have ended between the two questions
                if outcome is None:
                    raise ServerError(f"{self.url} knows nothing of the run any more: was it started anew?")
                return outcome
            if ended:  # the history is written just after the message
                await asyncio.sleep(0.05)

    async def _outcome(self, prompt_id: str, graph: Graph) -> Outcome | None:
        entry = (await self._json("GET", f"/history/{prompt_id}")).get(prompt_id)
        if entry is None:
            return None
        for kind, content in entry.get("status", {}).get("messages", []):
            if kind == "execution_interrupted":
                raise RunInterrupted("the run was interrupted on the server", str(content.get("node_id")))
            if kind == "execution_error":
                node = str(content.get("node_id"))
                text = str(content.get("exception_message", "no message")).strip()
                raise RunFailed(f"{node_name(graph, node)}: {text}", node)
        return Outcome(entry.get("outputs", {}))

    async def _is_queued(self, prompt_id: str) -> bool:
        queue = await self._json("GET", "/queue")
        return any(item[1] == prompt_id for part in ("queue_running", "queue_pending") for item in queue.get(part, []))

    async def _stop(self, prompt_id: str) -> None:
        """Take a run out of the queue, or interrupt it if it is the one at work."""
        await self._send("/queue", {"delete": [prompt_id]})
        running = (await self._json("GET", "/queue")).get("queue_running", [])
        if any(item[1] == prompt_id for item in running):
            await self._send("/interrupt", {"prompt_id": prompt_id})

    async def _connect(self, client_id: str, attempts: int = 1) -> aiohttp.ClientWebSocketResponse[bool]:
        aiohttp = require_aiohttp()
        while True:
            attempts -= 1
            try:
                return await self._open().ws_connect(
                    f"{self.url}/ws", params={"clientId": client_id}, heartbeat=30.0, max_msg_size=0
                )
            except (aiohttp.ClientError, asyncio.TimeoutError, OSError) as error:
                if not attempts:
                    raise self._unreachable(error) from error
                await asyncio.sleep(1.0)

    async def _send(self, path: str, content: Mapping[str, Any]) -> None:
        aiohttp = require_aiohttp()
        try:
            async with self._open().post(self.url + path, json=content):
                pass
        except (aiohttp.ClientError, asyncio.TimeoutError, OSError) as error:
            raise self._unreachable(error) from error

    async def _json(self, method: str, path: str, graph: Graph | None = None, **content: Any) -> dict[str, Any]:
        aiohttp = require_aiohttp()
        try:
            async with self._open().request(method, self.url + path, **content) as answer:
                body = await answer.text()
                status, reason = answer.status, answer.reason
        except (aiohttp.ClientError, asyncio.TimeoutError, OSError) as error:
            raise self._unreachable(error) from error
        try:
            parsed = json.loads(body)
        except ValueError:
            parsed = None
        if not isinstance(parsed, dict):
            raise ServerError(f"{self.url}{path} answered {status} {reason}, and nothing that a ComfyUI would say")
        if status >= 400:
            if graph is None or status >= 500:
                raise ServerError(f"{self.url}{path} answered {status} {reason}: {_complaint(parsed)}")
            raise RunRefused(refusal(parsed, graph))
        return parsed

    def _open(self) -> aiohttp.ClientSession:
        if self._session is None:
            raise RuntimeError("use the client as a context manager: async with Client(url) as client")
        return self._session

    def _unreachable(self, error: BaseException) -> ServerError:
        return ServerError(f"no answer from {self.url} ({error or type(error).__name__}): is ComfyUI running there?")


def refusal(answer: Mapping[str, Any], graph: Graph) -> str:
    """What the server has against a workflow, node by node, from its answer to /prompt."""
    lines = []
    for node, content in (answer.get("node_errors") or {}).items():
        name = node_name(graph, node) if node in graph else f"{content.get('class_type', '?')} (node {node})"
        lines += [f"{name}: {e.get('message')}: {e.get('details')}" for e in content.get("errors", [])]
    return "the server refuses the workflow: " + ("; ".join(lines) or _complaint(answer))


def _complaint(answer: Mapping[str, Any]) -> str:
    error = answer.get("error", answer)
    parts = (error.get("message"), error.get("details")) if isinstance(error, dict) else (error,)
    return ": ".join(str(part) for part in parts if part) or json.dumps(dict(answer))


def _read(text: str) -> tuple[str, dict[str, Any]]:
    message = json.loads(text)
    data = message.get("data")
    return message.get("type", ""), data if isinstance(data, dict) else {}


def require_aiohttp() -> Any:
    """The module aiohttp; InputError where it is not installed."""
    try:
        import aiohttp
    except ImportError as error:
        raise InputError(
            "talking to a ComfyUI server needs the package aiohttp, which ComfyUI itself installs: "
            "pip install 'pavdm[client]', or run this in ComfyUI's Python"
        ) from error
    return aiohttp
