"""A workflow as the page saves it (UI format 0.4) -> what the server runs (API format).

What exists on the page alone is dissolved on the way: reroutes, primitive values, notes, subgraphs, and nodes that are
muted (left out) or bypassed (their inputs passed on).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pavdm.comfyui.client import Graph
from pavdm.comfyui.widgets import default_of, has_widget, inputs_of, named_widgets
from pavdm.errors import InputError

MUTED, BYPASSED = 2, 4
SUBGRAPH_INPUTS, SUBGRAPH_OUTPUTS = -10, -20  # the two ends of a subgraph, as ids of nodes
PAGE_ONLY = {"Note", "MarkdownNote", "Reroute", "PrimitiveNode"}
ANY = {"*", "", None}
Needed = Mapping[str, "type | tuple[type, ...]"]
# What each part of a saved workflow has to have to be read at all.
NODE_PARTS: Needed = {"id": (int, str), "type": str}
SUBGRAPH_PARTS: Needed = {"id": str, "nodes": list}
NAMED: Needed = {"name": str}
LINK_PARTS = ("id", "origin_id", "origin_slot", "target_id", "target_slot")

Node = Mapping[str, Any]


def read_workflow(path: Path) -> dict[str, Any]:
    """The content of a workflow file, in either format. Raises InputError for anything else."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from error
    except ValueError as error:
        raise InputError(f"{path} is no workflow: expected JSON, {error}") from error
    if not (is_api(content) or is_ui(content)):
        raise InputError(
            f"{path} is no workflow: expected one that ComfyUI saved (Save, or Export (API)), got JSON without nodes"
        )
    return content


def is_api(content: Any) -> bool:
    nodes = list(content.values()) if isinstance(content, dict) else []
    return bool(nodes) and all(isinstance(node, dict) and "class_type" in node for node in nodes)


def is_ui(content: Any) -> bool:
    return isinstance(content, dict) and isinstance(content.get("nodes"), list) and "links" in content


def to_api(workflow: Mapping[str, Any], schemas: Mapping[str, Any]) -> Graph:
    """A UI workflow in API format. schemas: of the server's nodes, as /object_info gives them.

    Nodes in subgraphs get the ids that the page gives them, "subgraph node:node". Raises InputError for nodes that the
    server does not have, and for a workflow with parts that the page would not have saved.
    """
    definitions = workflow.get("definitions") or {}
    subgraphs = {part["id"]: part for part in _parts(definitions.get("subgraphs"), "subgraph", SUBGRAPH_PARTS)}
    for definition in (workflow, *subgraphs.values()):
        _check(definition)
    _check_depth(workflow, subgraphs)
    top = _Scope.of(workflow, subgraphs)
    graph: Graph = {}
    missing = set()
    for scope, node in top.walk():
        kind = node["type"]
        if kind in PAGE_ONLY and kind not in schemas:
            continue
        if kind not in schemas:
            missing.add(kind)
            continue
        graph[scope.name(node)] = {
            "class_type": kind,
            "inputs": _inputs(scope, node, schemas[kind]["input"]),
            "_meta": {"title": node.get("title") or schemas[kind].get("display_name") or kind},
        }
    if missing:
        raise InputError(
            f"the server does not have {', '.join(sorted(missing))}: install the pack that this workflow needs into it"
        )
    for content in graph.values():  # links to what is muted or exists on the page alone lead nowhere
        content["inputs"] = {
            name: value for name, value in content["inputs"].items() if not _is_link(value) or value[0] in graph
        }
    return graph


def _parts(listed: Any, name: str, needed: Needed) -> list[dict[str, Any]]:
    """`listed`, each a dict with what is `needed`, of these types; InputError names the first that is not."""
    for number, part in enumerate(listed or [], 1):
        for key, kinds in needed.items():
            if not isinstance(part, dict) or not isinstance(part.get(key), kinds):
                got = f"{key!r} is {part[key]!r}" if isinstance(part, dict) and key in part else f"it has no {key!r}"
                raise InputError(f"{name} {number} of the workflow is damaged: {got}. Save it again in ComfyUI's page")
    return list(listed or [])


def _check(definition: Mapping[str, Any]) -> None:
    """Raises InputError unless nodes, inputs, outputs and links of a level of the graph are such as can be followed."""
    _parts(definition.get("inputs"), "subgraph input", NAMED)
    for node in _parts(definition["nodes"], "node", NODE_PARTS):
        _parts(node.get("inputs"), f"node {node['id']} ({node['type']}): input", NAMED)
        _parts(node.get("outputs"), f"node {node['id']} ({node['type']}): output", {})
    for number, link in enumerate(definition.get("links") or [], 1):
        ends = [link.get(key) for key in LINK_PARTS] if isinstance(link, dict) else link
        if (
            not isinstance(ends, list)
            or len(ends) < len(LINK_PARTS)
            or not all(isinstance(e, int | str) for e in ends[:5])
        ):
            raise InputError(f"link {number} of the workflow is damaged: {link!r}. Save it again in ComfyUI's page")


def _check_depth(workflow: Mapping[str, Any], subgraphs: Mapping[str, Mapping[str, Any]]) -> None:
    """Raises InputError if a subgraph holds itself, at any depth."""

    def descend(definition: Mapping[str, Any], around: tuple[str, ...]) -> None:
        for kind in {node["type"] for node in definition["nodes"] if node["type"] in subgraphs}:
            if kind in around:
                name = subgraphs[kind].get("name") or kind
                raise InputError(f"the subgraph {name!r} of the workflow holds itself, so it has no end")
            descend(subgraphs[kind], (*around, kind))

    descend(workflow, ())


def _is_link(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2 and isinstance(value[0], str) and isinstance(value[1], int)


def _inputs(scope: _Scope, node: Node, schema: Mapping[str, Any]) -> dict[str, Any]:
    values = named_widgets(node, schema)
    values.update(scope.promoted.get(str(node["id"]), {}))
    for name, kind, options in inputs_of(schema):  # such as were added to the node since the workflow was saved
        if name not in values and has_widget(name, kind, options):
            default = default_of(kind, options)
            if default is not None:
                values[name] = default
    # A list would be read as a link.
    values = {name: {"__value__": value} if isinstance(value, list) else value for name, value in values.items()}
    for entry in node.get("inputs") or []:
        try:
            found = None if entry.get("link") is None else scope.source(entry["link"])
        except RecursionError:
            raise InputError(f"the links to {entry['name']!r} of {node['type']} {node['id']} go in a circle") from None
        if found is not None:
            values[entry["name"]] = found.value if isinstance(found, _Literal) else [found.node, found.slot]
    return values


@dataclass(frozen=True)
class _Output:
    """Output `slot` of a node, named as in the API format."""

    node: str
    slot: int


@dataclass(frozen=True)
class _Literal:
    """A value of a primitive node, or of a widget that a subgraph shows."""

    value: Any


@dataclass
class _Scope:
    """One level of the graph: the workflow itself, or a subgraph where it is used.

    instance: the node that stands for the subgraph, in `parent`. promoted: values for widgets inside that are set on
    that node, by id and name. shown: values for the subgraph's own inputs, by name.
    """

    nodes: dict[str, Node]
    links: dict[int, tuple[int, int, int, int]]  # origin node and slot, target node and slot
    subgraphs: Mapping[str, Mapping[str, Any]]
    definition: Mapping[str, Any]
    parent: _Scope | None = None
    instance: Node | None = None
    promoted: dict[str, dict[str, Any]] = field(default_factory=dict)
    shown: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        definition: Mapping[str, Any],
        subgraphs: Mapping[str, Mapping[str, Any]],
        parent: _Scope | None = None,
        instance: Node | None = None,
    ) -> _Scope:
        links = {}
        for link in definition.get("links") or []:
            if isinstance(link, dict):
                ends = (link["origin_id"], link["origin_slot"], link["target_id"], link["target_slot"])
                links[link["id"]] = ends
            else:
                links[link[0]] = (link[1], link[2], link[3], link[4])
        nodes = {str(node["id"]): node for node in definition["nodes"]}
        scope = cls(nodes, links, subgraphs, definition, parent, instance)
        if instance is not None:
            values = instance.get("widgets_values") or []
            pairs = (instance.get("properties") or {}).get("proxyWidgets") or []
            for (inner, name), value in zip(pairs, values if isinstance(values, list) else [], strict=False):
                if value is not None and str(inner) == "-1":
                    scope.shown[name] = value
                elif value is not None:
                    scope.promoted.setdefault(str(inner), {})[name] = value
        return scope

    def name(self, node: Node) -> str:
        """A node's id in API format."""
        if self.parent is None or self.instance is None:
            return str(node["id"])
        return f"{self.parent.name(self.instance)}:{node['id']}"

    def walk(self) -> Iterator[tuple[_Scope, Node]]:
        """Every node that runs, those of subgraphs included."""
        for node in self.nodes.values():
            if node.get("mode") in (MUTED, BYPASSED):
                continue
            if node["type"] in self.subgraphs:
                yield from self.inside(node).walk()
            else:
                yield self, node

    def inside(self, instance: Node) -> _Scope:
        return _Scope.of(self.subgraphs[instance["type"]], self.subgraphs, self, instance)

    def source(self, link: int) -> _Output | _Literal | None:
        """What a link carries, followed through everything that exists on the page alone."""
        if link not in self.links:
            return None
        origin, slot, _, _ = self.links[link]
        if origin == SUBGRAPH_INPUTS:
            return self._from_outside(slot)
        node = self.nodes.get(str(origin))
        if node is None or node.get("mode") == MUTED:
            return None
        if node.get("mode") == BYPASSED:
            return self._around(node, slot)
        if node["type"] == "Reroute":
            return self._input(node, 0)
        if node["type"] == "PrimitiveNode":
            values = node.get("widgets_values") or []
            return _Literal(values[0]) if values else None
        if node["type"] in self.subgraphs:
            inner = self.inside(node)
            ends = [
                key for key, (_, _, target, index) in inner.links.items() if (target, index) == (SUBGRAPH_OUTPUTS, slot)
            ]
            return inner.source(ends[0]) if ends else None
        return _Output(self.name(node), slot)

    def _input(self, node: Node, index: int) -> _Output | _Literal | None:
        entries = node.get("inputs") or []
        link = entries[index].get("link") if index < len(entries) else None
        return None if link is None else self.source(link)

    def _from_outside(self, slot: int) -> _Output | _Literal | None:
        known = self.definition.get("inputs") or []
        if slot >= len(known) or self.parent is None or self.instance is None:
            return None
        name = known[slot]["name"]
        entries = self.instance.get("inputs") or []
        for index, entry in enumerate(entries):
            if entry["name"] == name and entry.get("link") is not None:
                return self.parent._input(self.instance, index)
        return _Literal(self.shown[name]) if name in self.shown else None

    def _around(self, node: Node, slot: int) -> _Output | _Literal | None:
        """What a bypassed node passes on: its input of the output's type, that at the same place first."""
        outputs, inputs = node.get("outputs") or [], node.get("inputs") or []
        kind = outputs[slot].get("type") if slot < len(outputs) else None
        for index in (slot, *range(len(inputs))):
            offered = inputs[index].get("type") if index < len(inputs) else None
            if index < len(inputs) and (offered == kind or kind in ANY or offered in ANY):
                found = self._input(node, index)
                if found is not None:
                    return found
        return None
