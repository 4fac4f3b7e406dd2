"""What the scripts share that write files from what a server says of this pack's nodes."""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from pavdm.comfyui.client import Client, ServerError

ROOT = Path(__file__).resolve().parent.parent

Schemas = Mapping[str, Any]


def as_json(content: Mapping[str, Any]) -> str:
    return json.dumps(content, indent=2, ensure_ascii=False) + "\n"


def write(files: Callable[[Schemas], Mapping[str, str]], description: str | None) -> Schemas:
    """Write what `files` makes of the nodes at --server, and return these.

    files: /object_info -> the content of every file, by its path in the repository; it may raise ValueError.
    """
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--server", required=True, metavar="URL")
    options = parser.parse_args()
    try:
        schemas = asyncio.run(_schemas(options.server))
        made = files(schemas)
    except (ServerError, ValueError) as error:
        sys.exit(str(error))
    for name, text in made.items():
        path = ROOT / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8", newline="\n")
        print(name)
    return schemas


async def _schemas(url: str) -> dict[str, Any]:
    async with Client(url) as client:
        return await client.object_info()
