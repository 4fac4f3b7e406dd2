"""Write workflows/*.json, workflows/api/*.json and subgraphs/*.json: python scripts/make_workflows.py --server URL.

The server is a ComfyUI with this pack; it says what the pack's nodes look like. Run it after changing a node, or
`workflow_sources.py`, where the workflows are described.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from blueprint_file import blueprint
from workflow_files import Drawing
from workflow_sources import PUBLISHED, all_flows, one_node

from pavdm import __version__
from pavdm.comfyui.client import Client, ServerError

ROOT = Path(__file__).resolve().parent.parent


def files(schemas: Mapping[str, Any]) -> dict[str, str]:
    """The content of every file, by its path in the repository."""
    made = {}
    for flow in all_flows():
        drawing = Drawing(flow, schemas, __version__)
        made[f"workflows/{flow.name}.json"] = _text(drawing.ui())
        made[f"workflows/api/{flow.name}.json"] = _text(drawing.api())
    shelf = one_node(PUBLISHED)
    made[f"subgraphs/{shelf.name}.json"] = _text(
        blueprint(Drawing(shelf, schemas, __version__), ("video_decode", "video"))
    )
    return made


def _text(content: Mapping[str, Any]) -> str:
    return json.dumps(content, indent=2, ensure_ascii=False) + "\n"


async def _schemas(url: str) -> dict[str, Any]:
    async with Client(url) as client:
        return await client.object_info()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--server", required=True, metavar="URL")
    options = parser.parse_args()
    try:
        made = files(asyncio.run(_schemas(options.server)))
    except (ServerError, ValueError) as error:
        sys.exit(str(error))
    for name, text in made.items():
        path = ROOT / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8", newline="\n")
        print(name)


if __name__ == "__main__":
    main()
