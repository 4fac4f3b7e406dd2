"""`pavdm workflow`: one workflow on a ComfyUI, from the files of this machine to a video on this machine."""

from __future__ import annotations

import argparse
import asyncio
import signal
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Any

from tqdm import tqdm

from pavdm.comfyui.client import Client, Graph, OutputFile, ServerError, Update, require_aiohttp
from pavdm.comfyui.convert import is_api, read_workflow, to_api
from pavdm.comfyui.destination import check_content, check_place, instead_of, is_one_file, on_server, places
from pavdm.comfyui.launch import base_folder, find_installation, running
from pavdm.comfyui.settings import apply, uploads
from pavdm.errors import InputError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("workflow", type=Path, metavar="FILE", help="a workflow that ComfyUI saved, in either format")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="NODE.input=value",
        dest="settings",
        help="another value for an input; NODE is a node's number, title or class. A file of this machine is uploaded. "
        "May be given several times",
    )
    parser.add_argument(
        "--out",
        type=Path,
        default=Path(),
        metavar="DIR",
        help="where the videos go (default: here). A name that ends in .mp4 or the like is one file; they stay in "
        "ComfyUI's output folder, too",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace the output file if it exists")
    parser.add_argument("--quiet", action="store_true", help="no progress")
    server = parser.add_argument_group("ComfyUI", "Without --server one is started, and stopped at the end.")
    server.add_argument("--server", metavar="URL", help="a running one, such as http://127.0.0.1:8188")
    server.add_argument("--comfyui", type=Path, metavar="DIR", help="start this one (default: $COMFYUI_PATH)")
    server.add_argument(
        "--fetch-comfyui",
        action="store_true",
        help="download one (0.3.75, 8 MB) into the user's cache directory, pavdm/ there, if there is no other; its "
        "models, input and output folders are in pavdm/comfyui-base",
    )
    server.add_argument(
        "--comfyui-arg",
        action="append",
        default=[],
        metavar="ARG",
        help="an argument for the ComfyUI that is started, such as --comfyui-arg=--lowvram. May be given several times",
    )


def run(options: argparse.Namespace) -> list[Path]:
    """Run the workflow and download what it saved; the files. Raises InputError, ServerError or RunFailed."""
    require_aiohttp()
    content = read_workflow(options.workflow)
    target: Path = options.out
    check_place(target, options.overwrite)
    if options.server and (options.comfyui or options.fetch_comfyui or options.comfyui_arg):
        raise InputError("--server is a ComfyUI that runs already: leave out --comfyui, --fetch-comfyui, --comfyui-arg")
    with _terminated_as_interrupted():
        return asyncio.run(_run(options, content, target))


async def _run(options: argparse.Namespace, content: dict[str, Any], target: Path) -> list[Path]:
    async with _server(options) as (url, place), Client(url) as client:
        schemas = await client.object_info()
        graph: Graph = content if is_api(content) else to_api(content, schemas)
        graph, chosen = apply(graph, options.settings, schemas)
        check_content(graph, target, schemas)
        for upload in list(uploads(graph, chosen, schemas)):
            graph[upload.node]["inputs"][upload.name] = await client.upload(upload.file)
        with _Display(graph, options.quiet) as display:
            outcome = await client.run(graph, display.show, None if is_api(content) else content)
        saved = [file for file in outcome.files if file.kind == "output"]
        return await _download(client, saved, target, place)


async def _download(client: Client, saved: list[OutputFile], target: Path, place: str) -> list[Path]:
    """The paths of the files on this machine. Where one cannot be had, the error says that all are still in `place`."""
    paths = places(saved, target)
    if is_one_file(target) and paths != [target]:
        print(f"what was saved is not one {target.suffix} file: it goes to {instead_of(target)}", file=sys.stderr)
    try:
        for file, path in zip(saved, paths, strict=True):
            path.parent.mkdir(parents=True, exist_ok=True)
            await client.download(file, path)
    except (ServerError, OSError) as error:
        raise ServerError(f"{error}\nThe run is done: {on_server(saved)} of {place} has what it saved") from error
    return paths


@asynccontextmanager
async def _server(options: argparse.Namespace) -> AsyncIterator[tuple[str, str]]:
    """Address of a running server, and how the place of its folders is named to a person."""
    if options.server:
        yield options.server, f"the ComfyUI at {options.server}"
        return
    installation = find_installation(options.comfyui, options.fetch_comfyui)
    if not options.quiet:
        print(f"starting ComfyUI in {installation.folder} ...", file=sys.stderr, flush=True)
    async with running(installation, options.comfyui_arg) as url:
        yield url, str(base_folder(installation, options.comfyui_arg))


class _Display:
    """A bar for the node at work, on the terminal's error stream."""

    def __init__(self, graph: Graph, hidden: bool) -> None:
        self._graph = graph
        self._hidden = hidden
        self._node: str | None = None
        self._bar: tqdm[Any] | None = None

    def __enter__(self) -> _Display:
        return self

    def __exit__(self, *error: object) -> None:
        self._close()

    def show(self, update: Update) -> None:
        if self._hidden:
            return
        if update.node is None:
            if update.queued > 1 and self._node is None:
                self._write(f"waiting: {update.queued} runs in the server's queue")
            return
        if update.node != self._node:
            self._close()
            self._node = update.node
            self._write(self._title(update.node))
        if update.total > 1:
            if self._bar is None or self._bar.total != update.total:
                self._close()
                interval = 0.1 if sys.stderr.isatty() else 10.0
                form = "{l_bar}{bar}| {n_fmt}/{total_fmt}, {remaining} left"
                self._bar = tqdm(
                    total=update.total, file=sys.stderr, ascii=" -=#", mininterval=interval, bar_format=form
                )
            self._bar.update(update.step - self._bar.n)

    def _title(self, node: str) -> str:
        content = self._graph.get(node, {})
        return str(content.get("_meta", {}).get("title") or content.get("class_type") or f"node {node}")

    def _write(self, line: str) -> None:
        with suppress(OSError):
            tqdm.write(line, file=sys.stderr)

    def _close(self) -> None:
        if self._bar is not None:
            with suppress(OSError):
                self._bar.close()
            self._bar = None


@contextmanager
def _terminated_as_interrupted() -> Iterator[None]:
    """A request to end counts as Ctrl-C, so that a ComfyUI that was started is stopped, too."""

    def handle(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, handle)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
