"""Which value of a node's widgets belongs to which input.

A workflow as the page saves it keeps a node's widget values as a list without names; the order is that of the node's
schema on the server (/object_info), with some values between that belong to the page alone.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any

# Kinds of input that the page draws a widget for. A list of options in place of the kind is a combo, too.
WIDGETS = {"INT", "FLOAT", "STRING", "BOOLEAN", "COMBO", "COLOR", "COLORS", "BOUNDING_BOX", "CURVE", "RANGE"}
DYNAMIC_COMBO = "COMFY_DYNAMICCOMBO_V3"
UPLOADS = ("image_upload", "video_upload", "audio_upload", "file_upload")
# What the page does with a seed after a run: a value of its own behind the seed's.
AFTER_RUN = {"fixed", "increment", "decrement", "randomize"}
SEEDS = {"seed", "noise_seed"}

Schema = Mapping[str, Any]


def inputs_of(schema: Schema) -> Iterator[tuple[str, Any, Mapping[str, Any]]]:
    """(name, kind, options) of every input of a schema, required ones first. kind: a type, or a list of options."""
    for group in ("required", "optional"):
        for name, spec in (schema.get(group) or {}).items():
            yield name, spec[0], (spec[1] if len(spec) > 1 and isinstance(spec[1], dict) else {})


def options_of(kind: Any, options: Mapping[str, Any]) -> list[Any]:
    """What a combo offers, in either way of writing it."""
    return list(kind) if isinstance(kind, list) else list(options.get("options") or [])


def is_upload(options: Mapping[str, Any]) -> bool:
    """Whether the page offers to upload a file for this input."""
    return any(options.get(flag) for flag in UPLOADS)


def named_widgets(node: Mapping[str, Any], schema: Schema) -> dict[str, Any]:
    """The widget values of a saved node by input name. Inputs that the list is too short for are left out."""
    values = node.get("widgets_values") or []
    if isinstance(values, dict):
        return dict(values)
    shown = {entry["widget"]["name"] for entry in node.get("inputs") or [] if entry.get("widget")}
    rest = list(values)
    named: dict[str, Any] = {}
    _take(schema, "", rest, shown, named)
    return named


def _take(schema: Schema, prefix: str, rest: list[Any], shown: set[str], named: dict[str, Any]) -> None:
    uploads = any(is_upload(spec[1]) for spec in (schema.get("required") or {}).values() if len(spec) > 1)
    required = len(schema.get("required") or {})
    for index, (name, kind, options) in enumerate(inputs_of(schema)):
        if index == required and uploads and rest:
            rest.pop(0)  # the upload button
        full = prefix + name
        if not has_widget(full, kind, options, shown) or not rest:
            continue
        value = named[full] = rest.pop(0)
        if kind == DYNAMIC_COMBO:
            chosen = [option["inputs"] for option in options.get("options", []) if option["key"] == value]
            for inner in chosen:
                _take(inner, f"{full}.", rest, shown, named)
        elif (options.get("control_after_generate") or name in SEEDS) and rest and rest[0] in AFTER_RUN:
            rest.pop(0)
            if kind != "INT" and rest and isinstance(rest[0], str):
                rest.pop(0)  # a combo's filter


def has_widget(name: str, kind: Any, options: Mapping[str, Any], shown: Collection[str] = ()) -> bool:
    """Whether the page draws a widget for an input. shown: inputs of which the saved node says so."""
    if options.get("forceInput") or options.get("rawLink"):
        return False
    return isinstance(kind, list) or kind in WIDGETS or kind == DYNAMIC_COMBO or name in shown


def default_of(kind: Any, options: Mapping[str, Any]) -> Any:
    """What the page shows in a new node's widget, None where nothing is known."""
    if "default" in options:
        return options["default"]
    offered = options_of(kind, options)
    if not offered:
        return None
    return offered[0]["key"] if kind == DYNAMIC_COMBO else offered[0]
