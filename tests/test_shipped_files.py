"""What ComfyUI finds by name in this repository is whole: workflows in both formats, thumbnails, help, translations."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
NAMES = ["extend_a_clip", "text_to_long_video", "prompt_travel", "resume_from_a_saved_state", "beside_the_baseline"]
ALL = [prefix + name for prefix in ("", "demo_") for name in NAMES]
TITLE_BAR = 30  # of a node, above its place; ComfyUI's page draws it so
AFTER_A_SEED = {"fixed", "randomize", "increment", "decrement"}


def read(path: str) -> Any:
    return json.loads((ROOT / path).read_text(encoding="utf-8"))


def test_every_workflow_is_there_in_both_formats_with_a_thumbnail_and_nothing_else_is() -> None:
    folder = ROOT / "workflows"
    assert sorted(path.name for path in folder.iterdir()) == sorted(
        ["api", *(f"{name}{end}" for name in ALL for end in (".json", ".jpg"))]
    )
    assert sorted(path.name for path in (folder / "api").iterdir()) == sorted(f"{name}.json" for name in ALL)


@pytest.mark.parametrize("name", ALL)
def test_both_formats_say_the_same(name: str) -> None:
    page, api = read(f"workflows/{name}.json"), read(f"workflows/api/{name}.json")
    links = {link[0]: [str(link[1]), link[2]] for link in page["links"]}
    said = {}
    for node in page["nodes"]:
        if node["type"] == "MarkdownNote":
            continue
        values = iter(node["widgets_values"])
        inputs = {}
        for entry in node["inputs"]:
            if "widget" in entry:
                inputs[entry["name"]] = next(values)
                if entry["name"] in ("seed", "noise_seed"):
                    assert next(values) in AFTER_A_SEED
            if entry["link"] is not None:
                inputs[entry["name"]] = links[entry["link"]]
        assert list(values) == (["image"] if node["type"] == "LoadVideo" else [])
        said[str(node["id"])] = (node["type"], inputs)
    assert said == {number: (node["class_type"], node["inputs"]) for number, node in api.items()}


@pytest.mark.parametrize("name", ALL)
def test_links_have_two_ends_that_know_them_and_agree_on_the_type(name: str) -> None:
    page = read(f"workflows/{name}.json")
    nodes = {node["id"]: node for node in page["nodes"]}
    for number, origin, slot, target, entry, kind in page["links"]:
        assert number in nodes[origin]["outputs"][slot]["links"] and nodes[target]["inputs"][entry]["link"] == number
        assert nodes[origin]["outputs"][slot]["type"] == kind == nodes[target]["inputs"][entry]["type"]
    assert page["last_link_id"] == len(page["links"]) and page["last_node_id"] == max(nodes)
    assert page["version"] == 0.4


@pytest.mark.parametrize("name", ALL)
def test_no_two_nodes_overlap_and_every_node_is_in_a_group_with_a_note(name: str) -> None:
    page = read(f"workflows/{name}.json")
    boxes = [
        (node["pos"][0], node["pos"][1] - TITLE_BAR, node["pos"][0] + node["size"][0], node["pos"][1] + node["size"][1])
        for node in page["nodes"]
    ]
    for a, b in itertools.combinations(boxes, 2):
        assert a[2] <= b[0] or b[2] <= a[0] or a[3] <= b[1] or b[3] <= a[1], (a, b)
    outside = []
    noted = set()
    for node, box in zip(page["nodes"], boxes, strict=True):
        for group in page["groups"]:
            x, y, width, height = group["bounding"]
            if x <= box[0] and y <= box[1] and box[2] <= x + width and box[3] <= y + height:
                noted |= {group["title"]} if node["type"] == "MarkdownNote" else set()
                break
        else:
            outside.append(node["type"])
    assert outside == ["MarkdownNote"]  # what the workflow is
    assert noted == {group["title"] for group in page["groups"]}


@pytest.mark.parametrize("name", NAMES)
def test_every_file_that_has_to_be_downloaded_says_from_where_and_to_which_folder(name: str) -> None:
    declared = {}
    for node in read(f"workflows/{name}.json")["nodes"]:
        for model in node["properties"].get("models", []):
            assert model["url"].startswith("https://huggingface.co/") and model["url"].endswith(".safetensors")
            assert model["name"] == node["widgets_values"][0]
            declared[model["directory"]] = model["name"]
    assert declared.keys() == {"diffusion_models", "vae", "text_encoders"}


@pytest.mark.parametrize("name", [name for name in ALL if name.startswith("demo_")])
def test_the_demo_twins_name_no_download_and_no_file_of_the_user(name: str) -> None:
    nodes = read(f"workflows/{name}.json")["nodes"]
    assert not any(node["properties"].get("models") for node in nodes)
    assert "LoadVideo" not in {node["type"] for node in nodes}
    chosen = {value for node in nodes for value in node["widgets_values"] if str(value).endswith(".safetensors")}
    assert len(chosen) == 3 and all(file.startswith("pavdm-tiny-") for file in chosen)


@pytest.mark.parametrize("name", ALL)
def test_thumbnails_are_small_pictures_with_something_on_them(name: str) -> None:
    path = ROOT / "workflows" / f"{name}.jpg"
    picture = Image.open(path)
    assert picture.format == "JPEG" and path.stat().st_size < 60_000
    assert 300 <= picture.width <= 800
    assert max(high - low for low, high in picture.convert("RGB").getextrema()) > 60


def test_translations_and_help_are_of_the_same_nodes_and_inputs() -> None:
    english, chinese = read("locales/en/nodeDefs.json"), read("locales/zh/nodeDefs.json")
    assert {path.stem for path in (ROOT / "web" / "docs").iterdir()} == set(english) == set(chinese)
    for name, node in english.items():
        assert node["inputs"].keys() == chinese[name]["inputs"].keys()
        assert node["outputs"].keys() == chinese[name]["outputs"].keys()
        text = (ROOT / "web" / "docs" / f"{name}.md").read_text(encoding="utf-8")
        assert text.startswith(f"# {node['display_name']}\n")
        assert all(f"| **{key}**" in text for key in node["inputs"])


def test_the_chinese_texts_are_chinese() -> None:
    for name, node in read("locales/zh/nodeDefs.json").items():
        for text in (
            node["display_name"],
            node["description"],
            *(e.get("tooltip", "") for e in node["inputs"].values()),
        ):
            assert not text or any("\u4e00" <= letter <= "\u9fff" for letter in text), (name, text)


def test_the_blueprint_shows_each_of_its_widgets_on_the_node() -> None:
    page = read("subgraphs/Extend a Clip (PA-VDM).json")
    (outer,), (inner,) = page["nodes"], page["definitions"]["subgraphs"]
    assert outer["type"] == inner["id"]
    links = {link["id"]: link for link in inner["links"]}
    nodes = {str(node["id"]): node for node in inner["nodes"]}
    shown = iter(outer["properties"]["proxyWidgets"])
    for slot, (outside, inside) in enumerate(zip(outer["inputs"], inner["inputs"], strict=True)):
        (link,) = inside["linkIds"]
        assert links[link]["origin_id"] == -10 and links[link]["origin_slot"] == slot
        entry = nodes[str(links[link]["target_id"])]["inputs"][links[link]["target_slot"]]
        assert entry["link"] == link and entry["type"] == inside["type"] == outside["type"]
        if "widget" in outside:
            assert next(shown) == [str(links[link]["target_id"]), entry["widget"]["name"]]
    assert {"video", "text", "new_seconds", "noise_seed"} <= {entry["name"] for entry in inner["inputs"]}
    assert next(shown, None) is None
