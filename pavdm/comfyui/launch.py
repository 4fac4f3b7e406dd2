"""A ComfyUI of one's own: find an installation, start it without its page, stop it again."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from pavdm.comfyui.client import Client, ServerError
from pavdm.comfyui.core import default_cache, fetch
from pavdm.errors import InputError

VARIABLE = "COMFYUI_PATH"
PACK = Path(__file__).resolve().parent.parent.parent  # the folder that ComfyUI loads as a pack of nodes
SECONDS_TO_START = 600.0
SECONDS_TO_STOP = 20.0
LINES_SHOWN = 15
# ComfyUI does not look for itself whether there is anything but a CPU.
_HAS_ACCELERATOR = (
    "import torch, sys; a = getattr(torch, 'accelerator', None); "
    "sys.exit(0 if torch.cuda.is_available() or (a is not None and a.is_available()) else 3)"
)


@dataclass(frozen=True)
class Installation:
    """A ComfyUI. python: the one that it runs in. base: its models, input and output folders, where not its own."""

    folder: Path
    python: Path
    base: Path | None = None


def is_comfyui(folder: Path) -> bool:
    return all((folder / name).is_file() for name in ("main.py", "nodes.py", "comfy/model_management.py"))


def find_installation(folder: Path | None = None, may_fetch: bool = False) -> Installation:
    """The ComfyUI at `folder`, else at COMFYUI_PATH, else the one that this pack is in, else the pinned core.

    may_fetch: whether the pinned core may be downloaded. Raises InputError where there is none.
    """
    named = folder or (Path(os.environ[VARIABLE]) if os.environ.get(VARIABLE) else None)
    if named is not None:
        for place in (named, named / "ComfyUI"):  # the portable build has it one level down
            if is_comfyui(place):
                return Installation(place.resolve(), _python_of(place.resolve()))
        raise InputError(f"{named} holds no ComfyUI: expected the folder with its main.py")
    around = Path(__file__).absolute().parents[3]
    for place in (around, PACK.parent):
        if place.name == "custom_nodes" and is_comfyui(place.parent):
            return Installation(place.parent, _python_of(place.parent))
    if may_fetch:
        cache = default_cache()
        return Installation(fetch(cache), Path(sys.executable), cache / "comfyui-base")
    raise InputError(
        f"no ComfyUI to run this on: give --server URL, --comfyui DIR or {VARIABLE}, or have one downloaded with "
        "--fetch-comfyui"
    )


def _python_of(folder: Path) -> Path:
    """The environment in ComfyUI's folder, or the portable build's beside it; else the Python that runs this."""
    tail = "Scripts/python.exe" if sys.platform == "win32" else "bin/python"
    places = [folder / name / tail for name in ("venv", ".venv")]
    places.append(folder.parent / "python_embeded" / "python.exe")
    return next((place for place in places if place.is_file()), Path(sys.executable))


@asynccontextmanager
async def running(installation: Installation, arguments: Sequence[str] = ()) -> AsyncIterator[str]:
    """Start ComfyUI on a free port of this machine and yield its address; it is stopped in any case.

    arguments: more of ComfyUI's own. Raises ServerError with the end of its log if it does not come up.
    """
    with tempfile.TemporaryDirectory(prefix="pavdm-comfyui-") as scratch:
        log = Path(scratch, "comfyui.log")
        port = _free_port()
        command = _command(installation, port, Path(scratch), arguments)
        with log.open("wb") as output:
            process = await asyncio.create_subprocess_exec(
                *command,
                cwd=installation.folder,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C is for us; we stop it then
            )
        try:
            url = f"http://127.0.0.1:{port}"
            await _until_up(url, process, log, installation)
            try:
                yield url
            except ServerError as error:
                if process.returncode is not None:
                    raise ServerError(f"{error}\nComfyUI has ended. {_end_of(log)}") from error
                raise
        finally:
            await _stop(process)


def base_folder(installation: Installation, arguments: Sequence[str]) -> Path:
    """Where a ComfyUI started with `arguments` has its models, input and output folders."""
    if "--base-directory" in arguments:
        return Path(arguments[list(arguments).index("--base-directory") + 1])
    return installation.base or installation.folder


def _command(installation: Installation, port: int, scratch: Path, arguments: Sequence[str]) -> list[str]:
    base = base_folder(installation, arguments)
    command = [str(installation.python), str(installation.folder / "main.py"), "--port", str(port)]
    command += ["--listen", "127.0.0.1", "--disable-auto-launch", "--database-url", "sqlite:///:memory:"]
    if installation.base is not None:
        command += ["--base-directory", str(installation.base)]
    (base / "custom_nodes").mkdir(parents=True, exist_ok=True)  # ComfyUI does not start without
    command += _with_pack(base / "custom_nodes", scratch)
    if "--cpu" not in arguments and not _has_accelerator(installation.python):
        command.append("--cpu")
    return [*command, *arguments]


def _with_pack(custom_nodes: Path, scratch: Path) -> list[str]:
    """Arguments that let ComfyUI load this pack where its custom_nodes has none, and nothing that lies beside it."""
    packs = [place for place in custom_nodes.glob("*") if place.is_dir()]
    if any((place / "pavdm" / "__init__.py").is_file() and (place / "nodes").is_dir() for place in packs):
        return []
    if not (PACK / "nodes" / "__init__.py").is_file():
        raise InputError(f"the PA-VDM nodes are not in {custom_nodes}: put the repository there")
    config = scratch / "paths.yaml"
    config.write_text(json.dumps({"pavdm": {"custom_nodes": str(PACK.parent)}}), encoding="utf-8")  # JSON is YAML
    names = [place.name for place in packs if not place.name.startswith((".", "__"))]
    allowed = ["--disable-all-custom-nodes", "--whitelist-custom-nodes", PACK.name, *names]
    return ["--extra-model-paths-config", str(config), *allowed]


def _has_accelerator(python: Path) -> bool:
    done = subprocess.run([python, "-c", _HAS_ACCELERATOR], capture_output=True, check=False)
    return done.returncode == 0


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


async def _until_up(url: str, process: asyncio.subprocess.Process, log: Path, installation: Installation) -> None:
    end = time.monotonic() + SECONDS_TO_START
    async with Client(url) as client:
        while time.monotonic() < end and process.returncode is None:
            if await client.is_up():
                return
            await asyncio.sleep(0.3)
    advice = ""
    if "ModuleNotFoundError" in log.read_text(encoding="utf-8", errors="replace"):
        requirements = installation.folder / "requirements.txt"
        advice = f"\nIt needs its packages: {installation.python} -m pip install -r {requirements}"
    raise ServerError(f"ComfyUI at {installation.folder} did not start. {_end_of(log)}{advice}")


def _end_of(log: Path) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()[-LINES_SHOWN:]
    return "The end of its log:\n" + "\n".join(f"    {line}" for line in lines)


async def _stop(process: asyncio.subprocess.Process) -> None:
    if process.returncode is not None:
        return
    process.terminate()
    try:
        await asyncio.wait_for(process.wait(), SECONDS_TO_STOP)
    except (asyncio.TimeoutError, asyncio.CancelledError):
        process.kill()
        await process.wait()
