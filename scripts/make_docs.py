"""Write what follows from the nodes' schemas: python scripts/make_docs.py --server URL.

- the tables of inputs and outputs in web/docs/<node>.md; what stands around them is written by hand
- locales/en/nodeDefs.json, and locales/zh/nodeDefs.json with the texts of scripts/texts/zh.json

The server is a ComfyUI with this pack. Run it after changing a node.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from from_server import ROOT, Schemas, as_json, write

from pavdm.comfyui.widgets import default_of, inputs_of, options_of

CHINESE = Path(__file__).resolve().parent / "texts" / "zh.json"
INPUTS, OUTPUTS, BY_HAND = "## Inputs\n", "## Outputs\n", "## Example\n"
# Characters that the page's translations give a meaning; a tooltip with one of them stays as the node has it.
SPECIAL = frozenset("|{}@$")


def files(schemas: Schemas) -> dict[str, str]:
    """The content of every file, by its path in the repository. Raises ValueError naming texts that are missing."""
    own = {name: schema for name, schema in sorted(schemas.items()) if name.startswith("PAVDM_")}
    missing: list[str] = []
    made = {f"web/docs/{name}.md": page(name, schema, missing) for name, schema in own.items()}
    made["locales/en/nodeDefs.json"] = as_json({name: english(schema) for name, schema in own.items()})
    texts = json.loads(CHINESE.read_text(encoding="utf-8"))
    made["locales/zh/nodeDefs.json"] = as_json({name: chinese(name, own[name], texts, missing) for name in own})
    if missing:
        raise ValueError("to be written by hand: " + "; ".join(missing))
    return made


def page(name: str, schema: Schemas, missing: list[str]) -> str:
    """A help page with its tables made anew."""
    path = ROOT / "web" / "docs" / f"{name}.md"
    old = path.read_text(encoding="utf-8") if path.is_file() else ""
    if not (old.startswith("# ") and INPUTS in old and BY_HAND in old):
        missing.append(f"web/docs/{name}.md with a heading, an empty '{INPUTS.strip()}' and an '{BY_HAND.strip()}'")
        return old
    head, tail = old[: old.index(INPUTS)], old[old.index(BY_HAND) :]
    rows = ["| input | what it is | values | default |", "|---|---|---|---|"]
    for key, kind, options in inputs_of(schema["input"]):
        optional = " (optional)" if key in (schema["input"].get("optional") or {}) else ""
        values, default = _values(key, kind, options)
        rows.append(f"| **{key}**{optional} | {_cell(options.get('tooltip', ''))} | {values} | {default} |")
    outputs = ["| output | type | for |", "|---|---|---|"]
    for key, kind, tooltip in zip(schema["output_name"], schema["output"], schema["output_tooltips"], strict=True):
        outputs.append(f"| **{key}** | {kind} | {_cell(tooltip)} |")
    body = "\n".join([INPUTS, *rows, "", OUTPUTS, *outputs, "", ""])
    return f"{head}{body}{tail}"


def _values(key: str, kind: Any, options: Mapping[str, Any]) -> tuple[str, str]:
    """What an input takes, and its default, for a table."""
    if isinstance(kind, list) or kind == "COMBO":
        if key.endswith("_name"):  # which ones, depends on the machine
            return "files found", ""
        return ", ".join(map(str, options_of(kind, options))), _cell(default_of(kind, options))
    if "min" in options:
        return f"{_number(options['min'])} to {_number(options['max'])}", _number(options.get("default", ""))
    if kind == "BOOLEAN":
        return "on, off", "on" if options.get("default") else "off"
    return (kind, _cell(options.get("default", ""))) if kind == "STRING" else (f"{kind} socket", "")


def _number(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _cell(text: Any) -> str:
    return " ".join(str(text).replace("|", "\\|").split())


def english(schema: Schemas) -> dict[str, Any]:
    """The translation entry in the nodes' own words."""
    inputs = {key: _entry(key, options.get("tooltip", "")) for key, _, options in inputs_of(schema["input"])}
    outputs = zip(schema["output_name"], schema["output_tooltips"], strict=True)
    return {
        "display_name": schema["display_name"],
        "description": schema["description"],
        "inputs": inputs,
        "outputs": {str(index): _entry(*output) for index, output in enumerate(outputs)},
    }


def chinese(name: str, schema: Schemas, texts: Mapping[str, Any], missing: list[str]) -> dict[str, Any]:
    own, shared = texts.get(name, {}), texts["*"]["inputs"]
    inputs, outputs = {}, {}
    for key, _, _ in inputs_of(schema["input"]):
        found = own.get("inputs", {}).get(key) or shared.get(key)
        if found is None:
            missing.append(f"{CHINESE.name}: {name}, input {key}")
        else:
            inputs[key] = _entry(*found)
    for index, key in enumerate(schema["output_name"]):
        if index >= len(own.get("outputs", [])):
            missing.append(f"{CHINESE.name}: {name}, output {key}")
        else:
            outputs[str(index)] = _entry(*own["outputs"][index])
    heading = {key: own.get(key, "") for key in ("display_name", "description")}
    missing.extend(f"{CHINESE.name}: {name}, {key}" for key, text in heading.items() if not text)
    return {**heading, "inputs": inputs, "outputs": outputs}


def _entry(label: str, tooltip: str) -> dict[str, str]:
    return {"name": label} if SPECIAL & set(tooltip) else {"name": label, "tooltip": tooltip}


def stale(schemas: Schemas) -> Iterator[str]:
    """Help pages of nodes that are no more."""
    known = {f"{name}.md" for name in schemas}
    yield from (f"web/docs/{path.name}" for path in (ROOT / "web" / "docs").glob("*.md") if path.name not in known)


if __name__ == "__main__":
    for page_of_no_node in stale(write(files, __doc__)):
        print(f"stale, to be deleted: {page_of_no_node}")
