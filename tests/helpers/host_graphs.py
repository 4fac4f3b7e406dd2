"""Workflows for the tests on a real ComfyUI: the shipped ones, and made small."""

from __future__ import annotations

import json
import uuid
from pathlib import Path
from typing import Any

from pavdm.comfyui.convert import to_api

ROOT = Path(__file__).resolve().parent.parent.parent
CHUNK_SECONDS = 17 / 24

Graph = dict[str, dict[str, Any]]


def page_file(path: str) -> Any:
    """The content of a JSON file of the repository."""
    return json.loads((ROOT / path).read_text(encoding="utf-8"))


def shipped(name: str, form: str = "api", schemas: dict[str, Any] | None = None) -> Graph:
    """A shipped workflow in API format, from that file or (form "ui", with the server's schemas) from the page's."""
    if form == "api":
        return page_file(f"workflows/api/{name}.json")
    assert schemas is not None
    return to_api(page_file(f"workflows/{name}.json"), schemas)


def small(graph: Graph, new_seconds: float = 3 * CHUNK_SECONDS, stock_clip: bool = False) -> Graph:
    """The graph with the tiny models' files, little work, and names of its own for what it saves.

    stock_clip: leave Load CLIP, which knows the published size only, as it is.
    """
    state, saved = f"states/{uuid.uuid4().hex}", f"tests/{uuid.uuid4().hex}"
    values = {
        "model_name": "tiny/model.safetensors",
        "vae_name": "tiny/model.safetensors",
        "resolution": "custom",
        "width": 64,
        "height": 48,
        "new_seconds": new_seconds,
        "seconds": CHUNK_SECONDS,
        "steps": 6,
        "window_chunks": 3,
        "autosave": "",  # each test makes its own videos
    }
    for number, node in graph.items():
        inputs = node["inputs"]
        if node["class_type"] == "CLIPLoader" and not stock_clip:
            node["class_type"] = "PAVDM_LoadTextEncoder"
            node["inputs"] = {"text_encoder_name": "tiny/model.safetensors"}
        if node["class_type"] != "PAVDM_DemoClip":
            inputs.update({key: value for key, value in values.items() if key in inputs})
        if "filename_prefix" in inputs:  # the host runs no output node twice on equal inputs
            inputs["filename_prefix"] = state if "State" in node["class_type"] else f"{saved}-{number}"
    return graph


def one_node_between(blueprint: Any, values: dict[str, Any]) -> Any:
    """A workflow in the page's format: Load Video, the node of a subgraph blueprint, Save Video.

    values: for the widgets that the blueprint shows on its node, by name; the others keep what the blueprint has. None
    given is the node as it comes from the shelf.
    """
    (outer,), (inner,) = blueprint["nodes"], blueprint["definitions"]["subgraphs"]
    nodes = {str(node["id"]): node for node in inner["nodes"]}
    outer = {**outer, "id": 102, "inputs": [dict(entry) for entry in outer["inputs"]]}
    (entry,) = [entry for entry in outer["inputs"] if entry["type"] == "VIDEO"]
    entry["link"] = 1
    if values:
        shown = [entry["name"] for entry in outer["inputs"] if "widget" in entry]
        places = outer["properties"]["proxyWidgets"]
        outer["widgets_values"] = [
            values.get(name, _widget(nodes[number], widget))
            for name, (number, widget) in zip(shown, places, strict=True)
        ]
    outer["outputs"] = [{**outer["outputs"][0], "links": [2]}]
    common: dict[str, Any] = {"flags": {}, "mode": 0, "properties": {}, "size": [300, 300]}
    load = {"id": 101, "type": "LoadVideo", "pos": [-400, 0], "order": 0, "widgets_values": ["clip.mp4", "image"]}
    load |= {"inputs": [], "outputs": [{"name": "VIDEO", "type": "VIDEO", "links": [1]}]}
    save = {"id": 103, "type": "SaveVideo", "pos": [800, 0], "order": 2, "outputs": []}
    save |= {"inputs": [{"name": "video", "type": "VIDEO", "link": 2}], "widgets_values": ["one_node", "auto", "auto"]}
    links = [[1, 101, 0, 102, outer["inputs"].index(entry), "VIDEO"], [2, 102, 0, 103, 0, "VIDEO"]]
    page = [common | load, outer | {"order": 1}, common | save]
    return {**blueprint, "nodes": page, "links": links, "last_node_id": 103, "last_link_id": 2}


def _widget(node: Any, name: str) -> Any:
    """The value of a widget of a saved node."""
    names = [entry["name"] for entry in node["inputs"] if "widget" in entry]
    return node["widgets_values"][names.index(name)]  # a seed's second value comes after the last that is asked for
