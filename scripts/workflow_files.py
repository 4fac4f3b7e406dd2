"""A flow of `workflow_sources` as ComfyUI's two kinds of files: laid out for the page, and bare for the API.

What a node looks like (sockets, widgets, outputs) comes from a server for the pack's nodes. For ComfyUI's own it stands
here, as it was in the oldest version that is supported: newer ones read that, too.
"""

from __future__ import annotations

import math
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from workflow_parts import Flow, Group, Node, Out, Outside

from pavdm.comfyui.convert import SUBGRAPH_INPUTS
from pavdm.comfyui.widgets import default_of, has_widget, inputs_of

NOTE_WIDTH, NODE_WIDTH, GAP, MARGIN, HEADING, TITLE = 340, 340, 60, 25, 60, 30
SOCKET, WIDGET, MULTILINE, PREVIEW = 20, 24, 110, 260
COLOUR = "#3f789e"
NAMESPACE = uuid.UUID("6ba7b811-9dad-11d1-80b4-00c04fd430c8")


@dataclass(frozen=True)
class Spec:
    """sockets, outputs: (name, type). widgets: (name, type, default, is a seed, is a long text), in their order."""

    title: str
    sockets: tuple[tuple[str, str], ...] = ()
    widgets: tuple[tuple[str, str, Any, bool, bool], ...] = ()
    outputs: tuple[tuple[str, str], ...] = ()
    preview: bool = False
    optional: frozenset[str] = frozenset()


STOCK: Mapping[str, Spec] = {
    "LoadVideo": Spec(
        "Load Video", widgets=(("file", "COMBO", None, False, False),), outputs=(("VIDEO", "VIDEO"),), preview=True
    ),
    "GetVideoComponents": Spec(
        "Get Video Components",
        (("video", "VIDEO"),),
        outputs=(("images", "IMAGE"), ("audio", "AUDIO"), ("fps", "FLOAT")),
    ),
    "CLIPLoader": Spec(
        "Load CLIP",
        widgets=(
            ("clip_name", "COMBO", None, False, False),
            ("type", "COMBO", None, False, False),
            ("device", "COMBO", "default", False, False),
        ),
        outputs=(("CLIP", "CLIP"),),
    ),
    "CFGGuider": Spec(
        "CFG Guider",
        (("model", "MODEL"), ("positive", "CONDITIONING"), ("negative", "CONDITIONING")),
        (("cfg", "FLOAT", 8.0, False, False),),
        (("GUIDER", "GUIDER"),),
    ),
    "RandomNoise": Spec("RandomNoise", widgets=(("noise_seed", "INT", 0, True, False),), outputs=(("NOISE", "NOISE"),)),
    "SamplerCustomAdvanced": Spec(
        "Sampler Custom Advanced",
        (
            ("noise", "NOISE"),
            ("guider", "GUIDER"),
            ("sampler", "SAMPLER"),
            ("sigmas", "SIGMAS"),
            ("latent_image", "LATENT"),
        ),
        outputs=(("output", "LATENT"), ("denoised_output", "LATENT")),
    ),
    "SaveVideo": Spec(
        "Save Video",
        (("video", "VIDEO"),),
        (
            ("filename_prefix", "STRING", None, False, False),
            ("format", "COMBO", "auto", False, False),
            ("codec", "COMBO", "auto", False, False),
        ),
        preview=True,
    ),
}


def spec_from(schema: Mapping[str, Any]) -> Spec:
    """The look of a node from what a server says of it in /object_info."""
    sockets, widgets = [], []
    for name, kind, options in inputs_of(schema["input"]):
        if has_widget(name, kind, options):
            seed, text = bool(options.get("control_after_generate")), bool(options.get("multiline"))
            shown = "COMBO" if isinstance(kind, list) else kind
            widgets.append((name, shown, default_of(kind, options), seed, text))
        else:
            sockets.append((name, kind))
    outputs = tuple(zip(schema["output_name"], schema["output"], strict=True))
    optional = frozenset(schema["input"].get("optional") or {})
    return Spec(schema["display_name"], tuple(sockets), tuple(widgets), outputs, optional=optional)


class Drawing:
    """Both files of one flow. schemas: of the pack's nodes, from /object_info."""

    def __init__(self, flow: Flow, schemas: Mapping[str, Any], version: str) -> None:
        self.flow = flow
        self.version = version
        self.specs = {
            node.key: STOCK[node.kind] if node.kind in STOCK else spec_from(schemas[node.kind]) for node in flow.nodes
        }
        self.numbers = {node.key: index for index, node in enumerate(flow.nodes, 1)}
        for node in flow.nodes:
            known = {name for name, *_ in (*self.specs[node.key].sockets, *self.specs[node.key].widgets)}
            if unknown := set(node.inputs) - known:
                raise ValueError(f"{flow.name}: {node.kind} has no {', '.join(sorted(unknown))}")

    def api(self) -> dict[str, Any]:
        graph = {}
        for node in self.flow.nodes:
            spec = self.specs[node.key]
            inputs: dict[str, Any] = {}
            for name, *_ in spec.sockets:
                if name in node.inputs:
                    inputs[name] = self._link_end(node.inputs[name])
            for name, _, default, *_ in spec.widgets:
                value = node.inputs.get(name, default)
                inputs[name] = self._link_end(value) if isinstance(value, Out) else value
            graph[str(self.numbers[node.key])] = {
                "class_type": node.kind,
                "inputs": inputs,
                "_meta": {"title": node.title or spec.title},
            }
        return graph

    def _link_end(self, out: Out) -> list[Any]:
        return [str(self.numbers[out.node]), self._slot(out)]

    def _slot(self, out: Out) -> int:
        return [name for name, _ in self.specs[out.node].outputs].index(out.output)

    def ui(self) -> dict[str, Any]:
        links: list[list[Any]] = []
        nodes = {node.key: self._node(node, links) for node in self.flow.nodes}
        for link, origin, slot, *_ in links:
            if origin != SUBGRAPH_INPUTS:
                nodes[self.flow.nodes[origin - 1].key]["outputs"][slot]["links"].append(link)
        notes, groups = self._place(nodes)
        every = [*nodes.values(), *notes]
        return {
            "id": str(uuid.uuid5(NAMESPACE, f"pavdm/{self.flow.name}")),
            "revision": 0,
            "last_node_id": max(node["id"] for node in every),
            "last_link_id": len(links),
            "nodes": every,
            "links": links,
            "groups": groups,
            "config": {},
            "extra": {"workflowRendererVersion": "LG"},
            "version": 0.4,
        }

    def _outside(self, value: Outside) -> tuple[int, int]:
        names = [found.name for node in self.flow.nodes for found in node.inputs.values() if isinstance(found, Outside)]
        return SUBGRAPH_INPUTS, names.index(value.name)

    def _node(self, node: Node, links: list[list[Any]]) -> dict[str, Any]:
        spec, number = self.specs[node.key], self.numbers[node.key]
        entries, values = [], []
        for name, kind in spec.sockets:
            entry: dict[str, Any] = {"name": name, "type": kind, "link": None}
            if name in spec.optional:
                entry["shape"] = 7
            entries.append(entry)
        for name, kind, default, seed, _ in spec.widgets:
            value = node.inputs.get(name, default)
            entries.append({"name": name, "type": kind, "widget": {"name": name}, "link": None})
            value = value.value if isinstance(value, Outside) else value
            values.append("" if isinstance(value, Out) else value)
            if seed:
                values.append("fixed")
        for slot, entry in enumerate(entries):
            value = node.inputs.get(entry["name"])
            if isinstance(value, Out | Outside):
                entry["link"] = len(links) + 1
                origin = (
                    (self.numbers[value.node], self._slot(value)) if isinstance(value, Out) else self._outside(value)
                )
                links.append([len(links) + 1, *origin, number, slot, entry["type"]])
        if node.kind == "LoadVideo":
            values.append("image")  # the upload button
        properties: dict[str, Any] = {"Node name for S&R": node.kind}
        if node.kind in STOCK:
            properties |= {"cnr_id": "comfy-core", "ver": "0.3.75"}
        else:
            properties |= {"cnr_id": "pavdm", "ver": self.version}
        downloads = [{"name": m.name, "url": m.url, "directory": m.directory} for m in node.models if m.url]
        if downloads:
            properties["models"] = downloads
        content = {
            "id": number,
            "type": node.kind,
            "pos": [0, 0],
            "size": [NODE_WIDTH, self._height(spec)],
            "flags": {},
            "order": number - 1,
            "mode": 0,
            "inputs": entries,
            "outputs": [{"name": name, "type": kind, "links": []} for name, kind in spec.outputs],
            "properties": properties,
            "widgets_values": values,
        }
        return {**content, "title": node.title} if node.title else content

    @staticmethod
    def _height(spec: Spec) -> int:
        rows = max(len(spec.sockets), len(spec.outputs)) * SOCKET
        rows += sum(WIDGET * (2 if seed else 1) + (MULTILINE if text else 0) for *_, seed, text in spec.widgets)
        return rows + (PREVIEW if spec.preview else 0) + 16

    def _place(self, nodes: dict[str, dict[str, Any]]) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        """Set the nodes' places, a column for each group, and return the notes and the groups' frames."""
        notes, frames = [], []
        intro = self._note(self.flow.intro, len(self.numbers) + 1, NOTE_WIDTH)
        intro["pos"] = [0, TITLE]
        notes.append(intro)
        left = NOTE_WIDTH + GAP
        for index, group in enumerate(self.flow.groups):
            note = self._note(group.note, len(self.numbers) + 2 + index, NODE_WIDTH)
            notes.append(note)
            bottom = self._stack(left + MARGIN, [note, *(nodes[node.key] for node in group.nodes)])
            frames.append(self._frame(index, group, left, bottom))
            left += NODE_WIDTH + 2 * MARGIN + GAP
        return notes, frames

    @staticmethod
    def _stack(x: int, column: list[dict[str, Any]]) -> int:
        y = HEADING
        for node in column:
            node["pos"] = [x, y + TITLE]  # a node's place is below its title
            y += TITLE + node["size"][1] + GAP // 2
        return y

    @staticmethod
    def _frame(index: int, group: Group, left: int, bottom: int) -> dict[str, Any]:
        return {
            "id": index + 1,
            "title": group.title,
            "bounding": [left, 0, NODE_WIDTH + 2 * MARGIN, bottom],
            "color": COLOUR,
            "font_size": 24,
            "flags": {},
        }

    @staticmethod
    def _note(text: str, number: int, width: int) -> dict[str, Any]:
        lines = sum(max(1, math.ceil(len(line) / 56)) for line in text.split("\n"))
        return {
            "id": number,
            "type": "MarkdownNote",
            "title": "Note",
            "pos": [0, 0],
            "size": [width, 46 + 19 * lines],
            "flags": {},
            "order": number - 1,
            "mode": 0,
            "inputs": [],
            "outputs": [],
            "properties": {},
            "widgets_values": [text],
            "color": "#432",
            "bgcolor": "#653",
        }
