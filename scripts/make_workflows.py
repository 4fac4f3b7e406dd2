"""Write workflows/*.json, workflows/api/*.json and subgraphs/*.json: python scripts/make_workflows.py --server URL.

The server is a ComfyUI with this pack; it says what the pack's nodes look like. Run it after changing a node, or
`workflow_sources.py`, where the workflows are described.
"""

from __future__ import annotations

from blueprint_file import blueprint
from from_server import Schemas, as_json, write
from workflow_files import Drawing
from workflow_parts import PUBLISHED
from workflow_sources import all_flows, one_node

from pavdm import __version__


def files(schemas: Schemas) -> dict[str, str]:
    """The content of every file, by its path in the repository."""
    made = {}
    for flow in all_flows():
        drawing = Drawing(flow, schemas, __version__)
        made[f"workflows/{flow.name}.json"] = as_json(drawing.ui())
        made[f"workflows/api/{flow.name}.json"] = as_json(drawing.api())
    shelf = one_node(PUBLISHED)
    made[f"subgraphs/{shelf.name}.json"] = as_json(
        blueprint(Drawing(shelf, schemas, __version__), ("video_decode", "video"))
    )
    return made


if __name__ == "__main__":
    write(files, __doc__)
