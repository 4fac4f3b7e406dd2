"""Every shipped workflow on a real ComfyUI, and the texts that its page shows."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from extending import frames_of
from host_graphs import CHUNK_SECONDS, ROOT, one_node_between, page_file, shipped, small

from pavdm.comfyui.convert import to_api
from pavdm.comfyui.widgets import has_widget, inputs_of

pytestmark = pytest.mark.host

NAMES = ["extend_a_clip", "text_to_long_video", "prompt_travel", "resume_from_a_saved_state", "beside_the_baseline"]
PIECE = 17  # frames
CLIP = 96  # frames of clip.mp4 at 24 fps: 120 at 29.97
# Of the small settings below: clip + 3 pieces; 3 pieces; 2 parts of a chunk and 2 that were in the window; ...
FRAMES = {
    "extend_a_clip": [CLIP + 3 * PIECE],
    "text_to_long_video": [3 * PIECE],
    "prompt_travel": [(1 + 1 + 2) * PIECE],
    "resume_from_a_saved_state": [(1 + 2) * PIECE],
    "beside_the_baseline": [PIECE + 3 * PIECE] * 2,
}


def videos(server: Any, graph: Any) -> list[Path]:
    outputs = server.run(graph)
    return [path for node in sorted(outputs) for path in server.files(outputs, node) if path.suffix == ".mp4"]


@pytest.mark.parametrize("form", ["ui", "api"])
@pytest.mark.parametrize("name", NAMES)
def test_a_workflow_leaves_playable_videos_of_the_right_length(
    server: Any, schemas: dict[str, Any], name: str, form: str
) -> None:
    graph = small(shipped(name, form, schemas))
    paths = videos(server, graph)
    found = [frames_of(path) for path in paths]
    assert [frames.shape for frames in found] == [(number, 48, 64, 3) for number in FRAMES[name]]
    assert all(frames.std() > 1 for frames in found)
    for path in paths:
        with av.open(str(path)) as video:
            assert video.streams.video[0].average_rate == 24
            assert json.loads(video.metadata["prompt"]).keys() == graph.keys()


def wiring(graph: Any) -> Any:
    """Of every class of node: its inputs, with links as class and output instead of numbers."""

    def end(value: Any) -> Any:
        return (graph[value[0]]["class_type"], value[1]) if isinstance(value, list) else value

    return {node["class_type"]: {key: end(v) for key, v in node["inputs"].items()} for node in graph.values()}


def test_the_blueprint_is_the_chain_of_extend_a_clip_and_runs_as_one_node(server: Any, schemas: dict[str, Any]) -> None:
    blueprint = page_file("subgraphs/Extend a Clip (PA-VDM).json")
    graph = to_api(one_node_between(blueprint, {"new_seconds": 1.5, "text": "a boat"}), schemas)
    chain = shipped("extend_a_clip", "ui", schemas)
    for node in chain.values():
        own = {"PAVDM_EncodeClip": {"new_seconds": 1.5}, "PAVDM_EncodePrompt": {"text": "a boat"}}
        node["inputs"] |= own.get(node["class_type"], {})
        if node["class_type"] == "SaveVideo":
            node["inputs"]["filename_prefix"] = "one_node"
    assert wiring(graph) == wiring(chain)
    (path,) = videos(server, small(graph))
    assert frames_of(path).shape == (CLIP + 3 * PIECE, 48, 64, 3)


@pytest.mark.parametrize("name", NAMES)
def test_a_demo_runs_on_the_files_it_names_and_gives_the_same_video_in_both_formats(
    server: Any, schemas: dict[str, Any], name: str
) -> None:
    made = []
    for form in ("ui", "api"):
        graph = shipped(f"demo_{name}", form, schemas)
        for node in graph.values():
            if node["class_type"] != "PAVDM_DemoClip":  # shorter, and nothing else
                short = {"new_seconds": 2 * CHUNK_SECONDS, "seconds": CHUNK_SECONDS}
                node["inputs"].update({key: value for key, value in short.items() if key in node["inputs"]})
            if "filename_prefix" in node["inputs"]:  # under other names, so that the second run is a run
                node["inputs"]["filename_prefix"] = f"demo/{form}/{node['inputs']['filename_prefix']}"
            if "autosave" in node["inputs"]:
                node["inputs"]["autosave"] = f"demo/{form}/kept"
        made.append([frames_of(path) for path in videos(server, graph)])
    for first, second in zip(*made, strict=True):
        assert first.shape[1:] == (64, 96, 3) and len(first) >= 2 * PIECE
        assert np.array_equal(first, second)


def test_resuming_goes_on_with_what_the_run_before_left(server: Any, schemas: dict[str, Any]) -> None:
    graph = small(shipped("resume_from_a_saved_state", "api", schemas))
    (first,) = videos(server, graph)
    (second,) = videos(server, graph)  # the very same workflow once more
    before, after = frames_of(first), frames_of(second)
    assert len(before) == 3 * PIECE and len(after) == 4 * PIECE
    assert np.abs(after[:PIECE].astype(int) - before[:PIECE]).max() <= 2  # encoded anew, the same picture


@pytest.mark.parametrize("name", [prefix + name for prefix in ("", "demo_") for name in NAMES])
def test_both_formats_agree_and_know_no_input_that_the_nodes_do_not(schemas: dict[str, Any], name: str) -> None:
    page, api = shipped(name, "ui", schemas), shipped(name, "api", schemas)
    for number, node in api.items():
        known = {key: (kind, options) for key, kind, options in inputs_of(schemas[node["class_type"]]["input"])}
        assert node["inputs"].keys() <= known.keys(), node["class_type"]
        assert page[number]["class_type"] == node["class_type"]
        if node["class_type"] == "SaveVideo":  # newer hosts have its codec as a part of its format
            continue
        assert page[number]["inputs"] == node["inputs"]
        if node["class_type"].startswith("PAVDM_"):  # nothing is left to a default that may change
            assert {key for key, spec in known.items() if has_widget(key, *spec)} <= node["inputs"].keys()


def test_the_shipped_files_are_what_their_sources_make(
    schemas: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    import make_docs
    import make_workflows

    for name, text in {**make_docs.files(schemas), **make_workflows.files(schemas)}.items():
        assert (ROOT / name).read_text(encoding="utf-8") == text, f"{name}: see CONTRIBUTING.md"
    assert not list(make_docs.stale(schemas))


def test_the_page_is_given_templates_help_translations_and_the_blueprint(server: Any) -> None:
    def raw(path: str) -> bytes:
        with urllib.request.urlopen(server.url + path, timeout=30) as answer:
            return answer.read()

    assert sorted(server.get("/workflow_templates")["pavdm"]) == sorted([*NAMES, *(f"demo_{name}" for name in NAMES)])
    assert raw("/api/workflow_templates/pavdm/extend_a_clip.jpg").startswith(b"\xff\xd8")
    assert raw("/extensions/pavdm/docs/PAVDM_EncodePrompt.md").startswith(b"# Encode Prompt")
    translations = server.get("/i18n")
    assert translations["en"]["nodeDefs"]["PAVDM_Extend"]["display_name"] == "Extend Long Video"
    assert translations["zh"]["nodeDefs"]["PAVDM_Extend"]["display_name"] == "继续长视频"
    blueprints = [entry["name"] for entry in server.get("/global_subgraphs").values()]
    assert "Extend a Clip (PA-VDM)" in blueprints


def pavdm(*arguments: Any, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pavdm", "workflow", *map(str, arguments)]
    environment = {"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"}
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False, env=environment)


def test_the_command_uploads_runs_and_downloads(
    server: Any, schemas: dict[str, Any], tmp_path: Path, carphone: Path
) -> None:
    shutil.copy(carphone, tmp_path / "my clip.mp4")
    file = ROOT / "workflows" / "extend_a_clip.json"
    (tmp_path / "small.json").write_text(json.dumps(small(shipped("extend_a_clip", "api", schemas))))
    sets = ["--set", "Load Video.file=my clip.mp4", "--set", f"PAVDM_EncodeClip.new_seconds={CHUNK_SECONDS}"]
    done = pavdm("small.json", *sets, "--server", server.url, "--out", "made.mp4", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "made.mp4\n" and "Sampler Custom Advanced" in done.stderr
    assert len(frames_of(tmp_path / "made.mp4")) == CLIP + PIECE
    again = pavdm("small.json", "--server", server.url, "--out", "made.mp4", cwd=tmp_path)
    assert again.returncode == 2 and "exists" in again.stderr

    failed = pavdm("small.json", "--set", "Progressive Sampler.steps=7", "--server", server.url, cwd=tmp_path)
    assert failed.returncode == 1 and "Progressive Sampler (PAVDM_ProgressiveSampler, node" in failed.stderr
    assert "steps must be a multiple" in failed.stderr and "Traceback" not in failed.stderr
    refused = pavdm(file, "--server", server.url, cwd=tmp_path)  # the published weights are not there
    assert refused.returncode == 1 and "refuses the workflow" in refused.stderr and "not in" in refused.stderr
    two = pavdm(ROOT / "workflows" / "beside_the_baseline.json", "--server", server.url, "--out", "x.mp4", cwd=tmp_path)
    assert two.returncode == 2 and "the workflow saves 2: Save PA-VDM" in two.stderr  # known before anything is queued
    assert sorted(path.name for path in tmp_path.iterdir()) == ["made.mp4", "my clip.mp4", "small.json"]


def test_the_command_starts_a_comfyui_of_its_own_and_stops_it(
    core: Path, base: Path, schemas: dict[str, Any], tmp_path: Path
) -> None:
    folder = tmp_path / "own"
    shutil.copytree(base / "models", folder / "models")
    (tmp_path / "small.json").write_text(json.dumps(small(shipped("text_to_long_video", "api", schemas))))
    arguments = [f"--comfyui-arg={a}" for a in ("--base-directory", folder, "--disable-api-nodes")]
    done = pavdm("small.json", "--comfyui", core, *arguments, "--out", "out", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    (video,) = (tmp_path / "out").iterdir()
    assert len(frames_of(video)) == 3 * PIECE
    running = subprocess.run(["ps", "-A", "-o", "args"], capture_output=True, text=True, check=True).stdout
    assert str(folder) not in running
