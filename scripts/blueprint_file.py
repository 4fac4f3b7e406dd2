"""A flow as a subgraph blueprint: one node on the page's shelf, with the chain inside it."""

from __future__ import annotations

import uuid
from typing import Any

from workflow_files import NAMESPACE, NODE_WIDTH, Drawing
from workflow_parts import Outside

from pavdm.comfyui.convert import SUBGRAPH_INPUTS, SUBGRAPH_OUTPUTS

CATEGORY = "PA-VDM"
END_WIDTH, END_GAP, ROW = 120, 200, 20


def blueprint(drawing: Drawing, output: tuple[str, str]) -> dict[str, Any]:
    """The file's content. output: key of the node inside, and name of its output, that the whole gives."""
    inside = drawing.ui()
    identity = str(uuid.uuid5(NAMESPACE, f"pavdm/subgraph/{drawing.flow.name}"))
    key, name = output
    number, slot, kind = _end(drawing, key, name)
    last = len(inside["links"]) + 1
    links = [
        dict(zip(("id", "origin_id", "origin_slot", "target_id", "target_slot", "type"), link, strict=True))
        for link in inside["links"]
    ]
    links.append(
        {
            "id": last,
            "origin_id": number,
            "origin_slot": slot,
            "target_id": SUBGRAPH_OUTPUTS,
            "target_slot": 0,
            "type": kind,
        }
    )
    inside["nodes"][number - 1]["outputs"][slot]["links"].append(last)
    inputs, shown = _inputs(drawing, inside, identity)
    right = max(node["pos"][0] + node["size"][0] for node in inside["nodes"]) + END_GAP
    definition = {
        "id": identity,
        "version": 1,
        "state": {
            "lastGroupId": len(inside["groups"]),
            "lastNodeId": inside["last_node_id"],
            "lastLinkId": last,
            "lastRerouteId": 0,
        },
        "revision": 0,
        "config": {},
        "name": drawing.flow.name,
        "inputNode": {"id": SUBGRAPH_INPUTS, "bounding": [-END_GAP, 200, END_WIDTH, ROW * (len(inputs) + 2)]},
        "outputNode": {"id": SUBGRAPH_OUTPUTS, "bounding": [right, 200, END_WIDTH, ROW * 3]},
        "inputs": inputs,
        "outputs": [
            {
                "id": str(uuid.uuid5(NAMESPACE, f"{identity}/output/{name}")),
                "name": name,
                "type": kind,
                "linkIds": [last],
                "pos": [right + ROW, 200 + ROW],
            }
        ],
        "widgets": [],
        "nodes": inside["nodes"],
        "groups": inside["groups"],
        "links": links,
        "extra": inside["extra"],
        "category": CATEGORY,
        "description": drawing.flow.intro,
    }
    outer = {
        "id": inside["last_node_id"] + 1,
        "type": identity,
        "pos": [0, 0],
        "size": [NODE_WIDTH, 60 + 24 * len(inputs)],
        "flags": {},
        "order": 0,
        "mode": 0,
        "inputs": [
            {"name": entry["name"], "type": entry["type"], "link": None}
            | ({"widget": {"name": entry["name"]}} if entry["name"] in shown else {})
            for entry in inputs
        ],
        "outputs": [{"name": name, "type": kind, "links": []}],
        "properties": {"proxyWidgets": [[inner, widget] for inner, widget in shown.values()]},
        "widgets_values": [],
        "title": drawing.flow.name,
    }
    return {
        "id": str(uuid.uuid5(NAMESPACE, f"pavdm/blueprint/{drawing.flow.name}")),
        "revision": 0,
        "last_node_id": outer["id"],
        "last_link_id": last,
        "nodes": [outer],
        "links": [],
        "groups": [],
        "definitions": {"subgraphs": [definition]},
        "config": {},
        "extra": inside["extra"],
        "version": 0.4,
    }


def _end(drawing: Drawing, key: str, name: str) -> tuple[int, int, str]:
    outputs = drawing.specs[key].outputs
    slot = [output for output, _ in outputs].index(name)
    return drawing.numbers[key], slot, outputs[slot][1]


def _inputs(
    drawing: Drawing, inside: dict[str, Any], identity: str
) -> tuple[list[dict[str, Any]], dict[str, tuple[str, str]]]:
    """The subgraph's inputs, and of those with a widget which node's and which of its widgets it is."""
    inputs: list[dict[str, Any]] = []
    shown = {}
    for node in drawing.flow.nodes:
        for key, value in node.inputs.items():
            if not isinstance(value, Outside):
                continue
            number = drawing.numbers[node.key]
            (entry,) = [entry for entry in inside["nodes"][number - 1]["inputs"] if entry["name"] == key]
            if entry.get("widget"):
                shown[value.name] = (str(number), key)
            inputs.append(
                {
                    "id": str(uuid.uuid5(NAMESPACE, f"{identity}/input/{value.name}")),
                    "name": value.name,
                    "type": entry["type"],
                    "linkIds": [entry["link"]],
                    "pos": [-END_GAP + END_WIDTH - ROW, 200 + ROW * (len(inputs) + 1)],
                }
            )
    return inputs, shown
