"""A real ComfyUI server with this pack in custom_nodes and small random models, for the tests in this folder."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from cache import fetched
from host_graphs import ROOT, shipped, small

from pavdm.comfyui.core import fetch
from pavdm.errors import InputError

PACK = "pavdm"
PROBE = "pavdm_probe"  # tests/host/probe, nodes that make things happen
SECONDS_TO_START = 500
SECONDS_PER_RUN = 500

Graph = dict[str, dict[str, Any]]


class RunFailed(Exception):
    """The server ran a workflow and reported an error; the text is what the UI shows."""


@dataclass
class Server:
    """A running ComfyUI; `base` holds its models, input, output and temp folders, `log` what it printed.

    described: what /object_info said when it had started.
    """

    process: subprocess.Popen[bytes]
    url: str
    base: Path
    log: Path
    described: dict[str, Any] = field(default_factory=dict)

    def get(self, path: str, data: dict[str, Any] | None = None) -> Any:
        request = urllib.request.Request(self.url + path, None if data is None else json.dumps(data).encode())
        try:
            with urllib.request.urlopen(request, timeout=120) as answer:
                body = answer.read()
        except urllib.error.HTTPError as error:
            body = error.read()
        return json.loads(body) if body else None

    def queue(self, graph: Graph) -> str:
        """Queue a workflow in API format and return its id; RunFailed if the server refuses it."""
        answer = self.get("/prompt", {"prompt": graph})
        if "prompt_id" not in answer or answer.get("node_errors"):
            raise RunFailed(json.dumps(answer))
        return answer["prompt_id"]

    def wait(self, prompt_id: str) -> dict[str, Any]:
        """Outputs by node id, once the workflow is done; RunFailed with the node's message if it failed."""
        end = time.monotonic() + SECONDS_PER_RUN
        while time.monotonic() < end:
            assert self.process.poll() is None, f"the server ended:\n{self.log.read_text()[-3000:]}"
            entry = self.get(f"/history/{prompt_id}").get(prompt_id)
            if entry:
                for kind, content in entry["status"]["messages"]:
                    if kind in ("execution_error", "execution_interrupted"):
                        raise RunFailed(content.get("exception_message", kind))
                return entry["outputs"]
            time.sleep(0.1)
        raise AssertionError(f"no end after {SECONDS_PER_RUN} s:\n{self.log.read_text()[-3000:]}")

    def run(self, graph: Graph) -> dict[str, Any]:
        return self.wait(self.queue(graph))

    def watch(self, graph: Graph) -> tuple[list[dict[str, Any]], list[bytes]]:
        """Run a workflow as the page does: all that the server said of it, and the previews (JPEG files) it sent."""
        return asyncio.run(self._watch(graph))

    async def _watch(self, graph: Graph) -> tuple[list[dict[str, Any]], list[bytes]]:
        import aiohttp

        client = uuid.uuid4().hex
        said: list[dict[str, Any]] = []
        previews: list[bytes] = []
        ends = ("execution_success", "execution_error", "execution_interrupted")
        async with (
            aiohttp.ClientSession() as session,
            session.ws_connect(f"{self.url}/ws?clientId={client}", max_msg_size=0) as socket,
        ):
            answer = await session.post(f"{self.url}/prompt", json={"prompt": graph, "client_id": client})
            assert answer.status == 200, await answer.text()
            while not said or said[-1]["type"] not in ends:
                message = await socket.receive(SECONDS_PER_RUN)
                if message.type == aiohttp.WSMsgType.BINARY:
                    start = message.data.find(b"\xff\xd8\xff")  # after a header that depends on the host
                    previews += [message.data[start:]] if start >= 0 else []
                else:
                    said.append(json.loads(message.data))
        return said, previews

    def noted(self, name: str) -> list[str]:
        """What the probe nodes noted under a name."""
        place = self.base / "output" / "probe" / f"{name}.txt"
        return place.read_text().splitlines() if place.exists() else []

    def files(self, outputs: dict[str, Any], node: str) -> list[Path]:
        """The files that an output node names."""
        listed = [file for group in outputs[node].values() if isinstance(group, list) for file in group]
        return [self.base / f["type"] / f["subfolder"] / f["filename"] for f in listed if isinstance(f, dict)]


@pytest.fixture(scope="session")
def core() -> Path:
    """The folder of a ComfyUI: COMFYUI_PATH, else the pinned one, fetched once."""
    if path := os.environ.get("COMFYUI_PATH"):
        return Path(path)
    try:
        return fetch(fetched())
    except InputError as error:
        pytest.fail(f"no ComfyUI to test on: {error}", pytrace=False)


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory, models: Path, carphone: Path) -> Path:
    """ComfyUI's base folder: this pack, the small models, and clip.mp4 (120 frames, 29.97 fps) as input.

    There is no models/loras: tests make it once the server is up.
    """
    folder = tmp_path_factory.mktemp("comfyui")
    places = {"stdit": "diffusion_models/tiny", "vae": "vae/tiny", "text_encoder": "text_encoders/tiny"}
    for network, place in places.items():
        shutil.copytree(models / network, folder / "models" / place)
    (folder / "input").mkdir()
    shutil.copy(carphone, folder / "input" / "clip.mp4")
    (folder / "custom_nodes").mkdir()
    (folder / "custom_nodes" / PACK).symlink_to(ROOT, target_is_directory=True)
    (folder / "custom_nodes" / PROBE).symlink_to(Path(__file__).parent / "probe", target_is_directory=True)
    return folder


@pytest.fixture(scope="session")
def server(core: Path, base: Path) -> Iterator[Server]:
    with serving(core, base) as running:
        yield running


@contextmanager
def serving(core: Path, base: Path, *options: str) -> Iterator[Server]:
    """A ComfyUI on `base`, up; `options` beside those that every test wants."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = base / f"server-{port}.log"
    command = [sys.executable, str(core / "main.py"), "--cpu", "--disable-auto-launch", "--disable-api-nodes"]
    command += ["--database-url", "sqlite:///:memory:", "--base-directory", str(base), "--port", str(port)]
    command += ["--use-pytorch-cross-attention", "--preview-method", "latent2rgb"]
    command += ["--disable-all-custom-nodes", "--whitelist-custom-nodes", PACK, PROBE, *options]
    with log.open("wb") as output:
        process = subprocess.Popen(command, cwd=core, stdout=output, stderr=subprocess.STDOUT)
    running = Server(process, f"http://127.0.0.1:{port}", base, log)
    try:
        _wait_until_up(running)
        yield running
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@pytest.fixture
def another_server(core: Path, base: Path) -> Any:
    """A function: a server of its own, as a context manager, for what ends one or needs other options."""
    return partial(serving, core, base)


def _wait_until_up(server: Server) -> None:
    end = time.monotonic() + SECONDS_TO_START
    while time.monotonic() < end:
        if server.process.poll() is not None:
            break
        try:
            server.described = server.get("/object_info")
            return
        except (urllib.error.URLError, ConnectionError):
            time.sleep(0.2)
    pytest.fail(f"ComfyUI did not start:\n{server.log.read_text()[-3000:]}", pytrace=False)


@pytest.fixture
def workflow() -> Any:
    """A function: a shipped workflow in API format, made small for the tiny models."""

    def load(name: str, new_seconds: float = 2.0, stock_clip: bool = False) -> Graph:
        return small(shipped(name), new_seconds, stock_clip)

    return load


def with_model(graph: Graph, node: dict[str, Any]) -> Graph:
    """`graph` with a node, whose `model` input is the loaded one, between loader and guider."""
    loader, guider = by_class(graph, "PAVDM_LoadModel"), by_class(graph, "CFGGuider")
    node = {**node, "inputs": {"model": [loader, 0], **node["inputs"]}}
    own = {**graph[guider], "inputs": {**graph[guider]["inputs"], "model": ["patched", 0]}}
    return {**graph, "patched": node, guider: own}


def step_by_step(graph: Graph, parts: list[int]) -> Graph:
    """The sampling nodes of `graph` replaced by Start, an Extend for each of `parts` (in chunks), Finish, Save Latent."""
    guider, sampler = [by_class(graph, "CFGGuider"), 0], [by_class(graph, "PAVDM_ProgressiveSampler"), 0]
    latent = graph[by_class(graph, "SamplerCustomAdvanced")]["inputs"]["latent_image"]
    drop = ("SamplerCustomAdvanced", "PAVDM_DecodeToVideo", "SaveVideo", "RandomNoise")
    graph = {number: node for number, node in graph.items() if node["class_type"] not in drop}
    start = {"sampler": sampler, "latent": latent, "noise_seed": 7}
    graph["start"] = {"class_type": "PAVDM_Start", "inputs": start}
    state = ["start", 0]
    for number, chunks in enumerate(parts):
        inputs = {"guider": guider, "state": state, "seconds": 1.0, "chunks": chunks, "autosave": ""}
        graph[f"extend{number}"] = {"class_type": "PAVDM_Extend", "inputs": inputs}
        state = [f"extend{number}", 0]
    graph["finish"] = {"class_type": "PAVDM_Finish", "inputs": {"state": state, "guider": guider, "autosave": ""}}
    saved = {"samples": ["finish", 0], "filename_prefix": f"latents/{uuid.uuid4().hex}"}
    graph["latents"] = {"class_type": "SaveLatent", "inputs": saved}
    return graph


def sampled_latents(server: Server, graph: Graph, node: str = "", output: int = 0) -> Any:
    """Run `graph` up to a LATENT output (default: of Sampler Custom Advanced) and return its latents."""
    from safetensors.torch import load_file

    node = node or by_class(graph, "SamplerCustomAdvanced")
    saved = {"samples": [node, output], "filename_prefix": f"latents/{uuid.uuid4().hex}"}
    drop = ("PAVDM_DecodeToVideo", "SaveVideo")
    graph = {number: node for number, node in graph.items() if node["class_type"] not in drop}
    graph = {**graph, "saved": {"class_type": "SaveLatent", "inputs": saved}}
    (path,) = [p for p in server.files(server.run(graph), "saved") if p.suffix == ".latent"]
    return load_file(path)["latent_tensor"]


def by_class(graph: Graph, class_type: str) -> str:
    """Id of the only node of a class."""
    (found,) = [number for number, node in graph.items() if node["class_type"] == class_type]
    return found


@pytest.fixture
def find() -> Any:
    return by_class


@pytest.fixture(scope="session")
def schemas(server: Any, base: Path) -> dict[str, Any]:
    """Of a server that also has the small model's files, random ones where the pack brings none."""
    files = {"diffusion_models": "stdit", "vae": "vae", "text_encoders": "text-encoder"}
    for folder, name in files.items():
        shipped = ROOT / "pavdm" / "bundled" / folder / f"pavdm-tiny-{name}.safetensors"
        if not shipped.exists():
            shutil.copy(
                base / "models" / folder / "tiny" / "model.safetensors", base / "models" / folder / shipped.name
            )
            for file in (base / "models" / folder / "tiny").glob("tokenizer*.json"):
                shutil.copy(file, base / "models" / folder)
    return server.get("/object_info")


@pytest.fixture
def patched() -> Any:
    return with_model


@pytest.fixture
def latents_of() -> Any:
    return sampled_latents


@pytest.fixture
def in_steps() -> Any:
    return step_by_step
