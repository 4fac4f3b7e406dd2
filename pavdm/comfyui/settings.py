"""`--set NODE.input=value`: which input of which node is meant, and what the typed text is as a value."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pavdm.comfyui.client import Graph, copied, node_name
from pavdm.comfyui.widgets import has_widget, inputs_of, is_upload, options_of
from pavdm.errors import InputError

_TRUTH = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}


@dataclass(frozen=True)
class Upload:
    """A file of this machine that has to be on the server before `node` can read it from `name`."""

    node: str
    name: str
    file: Path


def apply(graph: Graph, settings: list[str], schemas: Mapping[str, Any]) -> tuple[Graph, set[tuple[str, str]]]:
    """The graph with the values of `settings`, each "NODE.input=value", and what was set: (node id, input).

    NODE is an id, a title or a class; the whole left side may be in any case.
    Raises InputError for one that names no input, names several nodes, or has a value of the wrong kind.
    """
    graph = copied(graph)
    chosen = set()
    for setting in settings:
        left, separator, text = setting.partition("=")
        if not separator or "." not in left:
            raise InputError(f"--set {setting!r}: expected NODE.input=value, such as --set 'Random Noise.noise_seed=7'")
        number, name, kind, options = _find(graph, left, schemas)
        graph[number]["inputs"][name] = _value(left, text, kind, options)
        chosen.add((number, name))
    return graph, chosen


def uploads(graph: Graph, chosen: Collection[tuple[str, str]], schemas: Mapping[str, Any]) -> Iterator[Upload]:
    """Every input that names a file of this machine: always where it was `chosen`, else where the server has none."""
    for number, node in graph.items():
        for name, kind, options in inputs_of(schemas.get(node["class_type"], {}).get("input", {})):
            value = node["inputs"].get(name)
            if not is_upload(options) or not isinstance(value, str):
                continue
            wanted = (number, name) in chosen or value not in options_of(kind, options)
            if wanted and Path(value).is_file():
                yield Upload(number, name, Path(value))


def _find(graph: Graph, left: str, schemas: Mapping[str, Any]) -> tuple[str, str, Any, Mapping[str, Any]]:
    """Node and input of "NODE.input", with the input's kind and options. Both may have dots in their names."""
    parts = left.split(".")
    for cut in range(len(parts) - 1, 0, -1):
        named, name = ".".join(parts[:cut]), ".".join(parts[cut:])
        nodes = _nodes(graph, named)
        if len(nodes) > 1:
            listed = ", ".join(node_name(graph, number) for number in nodes)
            raise InputError(f"--set {left}: {named!r} is the name of several nodes: {listed}; name one by its number")
        if nodes:
            return nodes[0], name, *_spec(graph, nodes[0], name, schemas)
    listed = ", ".join(node_name(graph, number) for number in graph)
    raise InputError(f"--set {left}: the workflow has no such node; it has {listed}")


def _nodes(graph: Graph, named: str) -> list[str]:
    """Ids of the nodes that `named` is the id, else the title, else the class of."""
    if named in graph:
        return [named]
    wanted = named.casefold()
    titled = [n for n, node in graph.items() if node.get("_meta", {}).get("title", "").casefold() == wanted]
    return titled or [n for n, node in graph.items() if node["class_type"].casefold() == wanted]


def _spec(graph: Graph, number: str, name: str, schemas: Mapping[str, Any]) -> tuple[Any, Mapping[str, Any]]:
    node = graph[number]
    offered = {
        known: (kind, options)
        for known, kind, options in inputs_of(schemas.get(node["class_type"], {}).get("input", {}))
        if has_widget(known, kind, options)
    }
    if name in offered:
        return offered[name]
    if name in node["inputs"] and "." in name:  # of a dynamic combo: only the graph knows it
        return "STRING", {}
    raise InputError(
        f"--set {number}.{name}: {node_name(graph, number)} has no {name!r} to set; it has "
        f"{', '.join(offered) or 'nothing to set'}"
    )


def _value(left: str, text: str, kind: Any, options: Mapping[str, Any]) -> Any:
    try:
        if kind == "INT":
            return int(text)
        if kind == "FLOAT":
            return float(text)
        if kind == "BOOLEAN":
            return _TRUTH[text.strip().casefold()]
    except (ValueError, KeyError):
        expected = {"INT": "a whole number", "FLOAT": "a number", "BOOLEAN": "true or false"}[kind]
        raise InputError(f"--set {left}: expected {expected}, got {text!r}") from None
    return next((option for option in options_of(kind, options) if str(option) == text), text)
