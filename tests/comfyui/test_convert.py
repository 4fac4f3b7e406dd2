"""What the page saves becomes what the page itself would queue. The graphs and their answers are written by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pavdm.comfyui.convert import read_workflow, to_api
from pavdm.comfyui.widgets import named_widgets
from pavdm.errors import InputError

SCHEMAS: dict[str, Any] = {
    "Source": {"input": {"required": {"seed": ["INT", {"control_after_generate": True}], "kind": [["a", "b"], {}]}}},
    "Filter": {"input": {"required": {"image": ["IMAGE"], "amount": ["FLOAT", {"default": 0.5}]}}},
    "Sink": {"input": {"required": {"image": ["IMAGE"], "name": ["STRING", {}]}, "optional": {"more": ["IMAGE"]}}},
}


def node(number: int, kind: str, values: Any = (), links: dict[str, int | None] | None = None, **more: Any) -> Any:
    inputs = [{"name": name, "type": "IMAGE", "link": link} for name, link in (links or {}).items()]
    content = {
        "id": number,
        "type": kind,
        "mode": 0,
        "inputs": inputs,
        "widgets_values": list(values),
        "properties": {},
    }
    content["outputs"] = [{"name": "IMAGE", "type": "IMAGE"}]
    return content | more


def graph(*nodes: Any, links: list[tuple[int, int, int, int, int]], **more: Any) -> Any:
    return {"nodes": list(nodes), "links": [[*link, "IMAGE"] for link in links], "version": 0.4, **more}


def inputs_of(converted: Any) -> dict[str, Any]:
    return {number: content["inputs"] for number, content in converted.items()}


def test_widgets_go_to_their_inputs_and_what_a_seed_does_after_a_run_goes_nowhere() -> None:
    flow = graph(
        node(1, "Source", [7, "randomize", "b"]), node(2, "Sink", ["out"], {"image": 1}), links=[(1, 1, 0, 2, 0)]
    )
    assert inputs_of(to_api(flow, SCHEMAS)) == {
        "1": {"seed": 7, "kind": "b"},
        "2": {"image": ["1", 0], "name": "out"},
    }


def test_reroutes_and_bypassed_nodes_pass_on_what_they_get() -> None:
    flow = graph(
        node(1, "Source", [7, "fixed", "a"]),
        node(2, "Reroute", [], {"": 1}),
        node(3, "Filter", [0.1], {"image": 2}, mode=4),
        node(4, "Sink", ["out"], {"image": 3}),
        links=[(1, 1, 0, 2, 0), (2, 2, 0, 3, 0), (3, 3, 0, 4, 0)],
    )
    assert inputs_of(to_api(flow, SCHEMAS)) == {"1": {"seed": 7, "kind": "a"}, "4": {"image": ["1", 0], "name": "out"}}


def test_a_muted_node_is_left_out_with_the_links_to_it() -> None:
    flow = graph(
        node(1, "Source", [7, "fixed", "a"]),
        node(2, "Source", [8, "fixed", "a"], mode=2),
        node(4, "Sink", ["out"], {"image": 1, "more": 2}),
        links=[(1, 1, 0, 4, 0), (2, 2, 0, 4, 1)],
    )
    assert inputs_of(to_api(flow, SCHEMAS)) == {"1": {"seed": 7, "kind": "a"}, "4": {"image": ["1", 0], "name": "out"}}


def test_a_primitive_gives_its_value_and_a_note_nothing() -> None:
    flow = graph(
        node(1, "PrimitiveNode", [3, "fixed"]),
        node(2, "MarkdownNote", ["read me"]),
        node(
            3,
            "Source",
            [7, "fixed", "a"],
            inputs=[{"name": "seed", "type": "INT", "widget": {"name": "seed"}, "link": 1}],
        ),
        links=[(1, 1, 0, 3, 0)],
    )
    assert inputs_of(to_api(flow, SCHEMAS)) == {"3": {"seed": 3, "kind": "a"}}


def test_subgraphs_are_dissolved_with_the_ids_of_the_page_and_the_values_of_the_node_outside() -> None:
    inner = {
        "id": "sub",
        "inputs": [{"name": "picture", "type": "IMAGE"}],
        "outputs": [{"name": "IMAGE", "type": "IMAGE"}],
        "nodes": [node(5, "Filter", [0.5], {"image": 1}), node(6, "Filter", [0.5], {"image": 2})],
        "links": [
            {"id": 1, "origin_id": -10, "origin_slot": 0, "target_id": 5, "target_slot": 0, "type": "IMAGE"},
            {"id": 2, "origin_id": 5, "origin_slot": 0, "target_id": 6, "target_slot": 0, "type": "IMAGE"},
            {"id": 3, "origin_id": 6, "origin_slot": 0, "target_id": -20, "target_slot": 0, "type": "IMAGE"},
        ],
    }
    instance = node(2, "sub", [0.9], {"picture": 1}, properties={"proxyWidgets": [["6", "amount"]]})
    flow = graph(
        node(1, "Source", [7, "fixed", "a"]),
        instance,
        node(3, "Sink", ["out"], {"image": 2}),
        links=[(1, 1, 0, 2, 0), (2, 2, 0, 3, 0)],
        definitions={"subgraphs": [inner]},
    )
    assert inputs_of(to_api(flow, SCHEMAS)) == {
        "1": {"seed": 7, "kind": "a"},
        "2:5": {"image": ["1", 0], "amount": 0.5},
        "2:6": {"image": ["2:5", 0], "amount": 0.9},
        "3": {"image": ["2:6", 0], "name": "out"},
    }


def test_the_parts_of_a_dynamic_combo_are_named_after_it() -> None:
    codec = ["COMFY_DYNAMICCOMBO_V3", {"options": [{"key": "auto", "inputs": {"required": {}}}]}]
    form = {"options": [{"key": "mp4", "inputs": {"required": {"codec": codec}}}]}
    schema = {"required": {"name": ["STRING", {}], "format": ["COMFY_DYNAMICCOMBO_V3", form], "crf": ["INT", {}]}}
    saved = {"widgets_values": ["out", "mp4", "auto", 17], "inputs": []}
    assert named_widgets(saved, schema) == {"name": "out", "format": "mp4", "format.codec": "auto", "crf": 17}


def test_the_upload_button_takes_no_value_of_an_input_after_it() -> None:
    schema = {"required": {"file": [["x.mp4"], {"video_upload": True}]}, "optional": {"start": ["FLOAT", {}]}}
    assert named_widgets({"widgets_values": ["x.mp4", "image", 1.5]}, schema) == {"file": "x.mp4", "start": 1.5}


def test_a_list_as_a_value_is_not_taken_for_a_link() -> None:
    flow = graph(node(1, "Sink", [["1", 0]]), links=[])
    assert inputs_of(to_api(flow, SCHEMAS)) == {"1": {"name": {"__value__": ["1", 0]}}}


def test_an_input_that_the_node_got_later_has_its_default() -> None:
    flow = graph(node(1, "Filter", [], {"image": None}), links=[])
    assert inputs_of(to_api(flow, SCHEMAS)) == {"1": {"amount": 0.5}}


def test_nodes_that_the_server_lacks_are_named() -> None:
    with pytest.raises(InputError, match="does not have Elsewhere"):
        to_api(graph(node(1, "Elsewhere"), links=[]), SCHEMAS)


DAMAGED = {
    "a node without a type": (graph({"id": 1}, links=[]), "node 1 .* has no 'type'"),
    "a node without an id": (graph({"type": "Source"}, links=[]), "node 1 .* has no 'id'"),
    "a node that is none": (graph(7, links=[]), "node 1 .* damaged"),
    "an input without a name": (graph(node(4, "Sink", inputs=[{"link": 1}]), links=[]), r"node 4 \(Sink\): input 1"),
    "half a link": ({**graph(node(1, "Sink"), links=[]), "links": [[1, 2]]}, "link 1 .* damaged"),
    "a subgraph without nodes": (graph(links=[], definitions={"subgraphs": [{"id": "sub"}]}), "subgraph 1 .* 'nodes'"),
    "a node inside without a type": (
        graph(links=[], definitions={"subgraphs": [{"id": "sub", "nodes": [{"id": 1}]}]}),
        "has no 'type'",
    ),
    "a reroute in a circle": (
        graph(
            node(1, "Reroute", [], {"": 1}),
            node(2, "Sink", ["out"], {"image": 2}),
            links=[(1, 1, 0, 1, 0), (2, 1, 0, 2, 0)],
        ),
        "'image' of Sink 2 go in a circle",
    ),
}


@pytest.mark.parametrize("case", DAMAGED)
def test_a_damaged_workflow_is_refused_with_the_place_of_the_damage(case: str) -> None:
    flow, message = DAMAGED[case]
    with pytest.raises(InputError, match=message):
        to_api(flow, SCHEMAS)


def test_a_subgraph_that_holds_itself_is_refused_and_one_that_is_used_twice_is_not() -> None:
    def flow(*inside: Any) -> Any:
        parts = [{"id": "a", "name": "A", "nodes": [node(1, "b")]}, {"id": "b", "name": "B", "nodes": list(inside)}]
        return graph(node(1, "a"), node(2, "b"), links=[], definitions={"subgraphs": parts})

    with pytest.raises(InputError, match="'[AB]' of the workflow holds itself"):
        to_api(flow(node(1, "a")), SCHEMAS)
    assert to_api(flow(node(1, "Source", [7, "fixed", "a"])), SCHEMAS).keys() == {"1:1:1", "2:1"}


@pytest.mark.parametrize("text", ["no json", "[]", "{}", '{"a": 1}', '{"1": {"class": "x"}}'])
def test_a_file_that_is_no_workflow_is_said_to_be_none(tmp_path: Path, text: str) -> None:
    (tmp_path / "flow.json").write_text(text)
    with pytest.raises(InputError, match="is no workflow"):
        read_workflow(tmp_path / "flow.json")


def test_both_formats_are_read(tmp_path: Path) -> None:
    for content in ({"1": {"class_type": "Sink", "inputs": {}}}, graph(links=[])):
        (tmp_path / "flow.json").write_text(json.dumps(content))
        assert read_workflow(tmp_path / "flow.json") == content
