"""While a workflow runs: progress, previews, Cancel, a crash, and the server's memory."""

from __future__ import annotations

import io
import signal
import time
from typing import Any
from uuid import uuid4

import numpy as np
import pytest
import torch
from PIL import Image

from pavdm.sampling.schedule import Schedule

pytestmark = pytest.mark.host

STEPS, WINDOW = 6, 3  # of the workflows that the tests run
CALLS_PER_CHUNK = STEPS // WINDOW
MEGABYTE = 2**20
SECONDS_PER_RUN = 300


def progress_of(said: list[dict[str, Any]], node: str) -> tuple[list[int], set[int]]:
    """The values that a node's bar went through, and the lengths that it had."""
    reports = [m["data"] for m in said if m["type"] == "progress" and m["data"]["node"] == node]
    return [report["value"] for report in reports], {report["max"] for report in reports}


@pytest.mark.parametrize("way", ["sampler", "steps"])
def test_one_bar_runs_over_all_calls_and_previews_show_the_video(
    server: Any, workflow: Any, find: Any, in_steps: Any, way: str
) -> None:
    graph = workflow("text_to_long_video", new_seconds=2.0)
    graph[find(graph, "PAVDM_LoadModel")]["inputs"]["vae"] = [find(graph, "PAVDM_LoadVAE"), 0]
    decode, node, calls = find(graph, "PAVDM_DecodeToVideo"), find(graph, "SamplerCustomAdvanced"), 0
    if way == "sampler":
        calls = Schedule(WINDOW, 5, STEPS).num_calls(3)
    else:
        graph, node, calls = in_steps(graph, [3]), "extend0", STEPS + 2 * CALLS_PER_CHUNK
    said, previews = server.watch(graph)
    assert said[-1]["type"] == "execution_success", said[-1]
    values, lengths = progress_of(said, node)
    assert lengths == {calls} and values == sorted(values) and values[-1] == calls
    if way == "sampler":
        assert progress_of(said, decode)[1] == {3}
    pictures = [np.asarray(Image.open(io.BytesIO(preview))) for preview in previews]
    assert len(pictures) >= calls // 2
    assert all(8 * picture.shape[0] == 6 * picture.shape[1] for picture in pictures)  # the latents are 6 x 8
    assert np.std([picture.mean(axis=(0, 1)) for picture in pictures]) > 0


def test_cancel_ends_the_run_before_the_next_call(server: Any, workflow: Any, patched: Any) -> None:
    name = uuid4().hex
    probe = {"class_type": "Probe_Model", "inputs": {"name": name, "interrupt_at": 4}}
    with pytest.raises(Exception, match="interrupted"):
        server.run(patched(workflow("text_to_long_video", new_seconds=30.0), probe))
    assert len(server.noted(name)) == 4


@pytest.mark.parametrize("way", ["sampler", "steps"])
def test_a_cancelled_run_queued_again_goes_on_from_its_last_chunk_to_the_same_latents(
    server: Any, workflow: Any, find: Any, patched: Any, in_steps: Any, latents_of: Any, way: str
) -> None:
    def graph(autosave: str, **probe: Any) -> Any:
        made = workflow("extend_a_clip", new_seconds=3.0)
        if way == "steps":
            made = in_steps(made, [4])
            made["extend0"]["inputs"]["autosave"] = made["finish"]["inputs"]["autosave"] = autosave
        else:
            made[find(made, "PAVDM_ProgressiveSampler")]["inputs"]["autosave"] = autosave
        return patched(made, {"class_type": "Probe_Model", "inputs": probe})

    node = "finish" if way == "steps" else ""
    whole, cut, again = uuid4().hex, uuid4().hex, uuid4().hex
    expected = latents_of(server, graph("", name=whole), node)
    with pytest.raises(Exception, match="interrupted"):
        latents_of(server, graph(f"kept/{cut}", name=cut, interrupt_at=11), node)
    kept = [path.name for path in (server.base / "output" / "kept").iterdir() if path.name.startswith(cut)]
    assert len(kept) == 1 and kept[0].endswith("_.safetensors")
    assert torch.equal(latents_of(server, graph(f"kept/{cut}", name=again), node), expected)
    made_twice = len(server.noted(cut)) + len(server.noted(again)) - len(server.noted(whole))
    assert 0 < made_twice <= CALLS_PER_CHUNK

    other = graph(f"kept/{cut}", name=uuid4().hex)
    other[find(other, "CFGGuider")]["inputs"]["cfg"] = 3.0
    assert not torch.equal(latents_of(server, other, node), expected)


@pytest.mark.parametrize("way", ["sampler", "steps"])
def test_a_cancelled_run_goes_on_without_anything_having_been_typed(
    server: Any, workflow: Any, find: Any, patched: Any, in_steps: Any, latents_of: Any, way: str
) -> None:
    def graph(**probe: Any) -> Any:
        made = workflow("text_to_long_video", new_seconds=3.0)
        if way == "steps":
            made = in_steps(made, [4])
        for node in made.values():
            node["inputs"].pop("autosave", None)
        return patched(made, {"class_type": "Probe_Model", "inputs": probe})

    node = "finish" if way == "steps" else ""
    cut, again = uuid4().hex, uuid4().hex
    with pytest.raises(Exception, match="interrupted"):
        latents_of(server, graph(name=cut, interrupt_at=11), node)
    assert list((server.base / "output" / "pavdm").glob("autosave-*_.safetensors"))
    latents_of(server, graph(name=again), node)
    assert len(server.noted(again)) < Schedule(WINDOW, 5, STEPS).num_calls(5) - 4


def test_less_asked_for_leaves_the_longer_state_alone(
    server: Any, workflow: Any, find: Any, patched: Any, in_steps: Any, latents_of: Any
) -> None:
    prefix = f"kept/{uuid4().hex}"

    def made(num_chunks: int) -> tuple[Any, int]:
        name = uuid4().hex
        graph = in_steps(workflow("text_to_long_video"), [num_chunks])
        graph["extend0"]["inputs"]["autosave"] = prefix
        del graph["finish"], graph["latents"]
        graph = patched(graph, {"class_type": "Probe_Model", "inputs": {"name": name}})
        return latents_of(server, graph, "extend0", 1), len(server.noted(name))

    longer, calls = made(4)
    shorter, _ = made(2)
    again, no_calls = made(4)
    assert torch.equal(shorter, longer[:, :, :10])
    assert torch.equal(again, longer)
    assert calls > 0 and no_calls == 0


@pytest.mark.parametrize("input_name", ["video", "images"])
def test_a_report_says_how_far_it_is(server: Any, input_name: str) -> None:
    graph: dict[str, Any] = {
        "load": {"class_type": "LoadVideo", "inputs": {"file": "clip.mp4"}},
        "parts": {"class_type": "GetVideoComponents", "inputs": {"video": ["load", 0]}},
    }
    settings = {"fps": 24.0, "chunk_frames": 0, "clip_frames": 0}
    source = {"video": ["load", 0]} if input_name == "video" else {"images": ["parts", 0]}
    graph["report"] = {"class_type": "PAVDM_DriftReport", "inputs": {**settings, **source}}
    graph["text"] = {"class_type": "PreviewAny", "inputs": {"source": ["report", 1]}}
    values, lengths = progress_of(server.watch(graph)[0], "report")
    assert lengths == {120} and values == sorted(values) and values[-1] == 120


def test_clips_say_how_far_they_are(server: Any, workflow: Any, find: Any) -> None:
    graph = workflow("extend_a_clip", new_seconds=1.0)
    encode = find(graph, "PAVDM_EncodeClip")
    demo = {"seed": 7, "seconds": 4.0, "width": 64, "height": 48, "fps": 24.0}
    graph["demo"] = {"class_type": "PAVDM_DemoClip", "inputs": demo}
    graph[encode]["inputs"].update({"images": ["demo", 0], "source_fps": 24.0, "pieces": 5})
    saved = {"samples": [encode, 0], "filename_prefix": f"latents/{uuid4().hex}"}
    graph["latents"] = {"class_type": "SaveLatent", "inputs": saved}
    graph = {number: node for number, node in graph.items() if node["class_type"] not in ("SaveVideo",)}
    said, _ = server.watch(graph)
    assert said[-1]["type"] == "execution_success", said[-1]
    for node, length in (("demo", 96), (encode, 85)):
        values, lengths = progress_of(said, node)
        assert lengths == {length} and values[0] < values[-1] == length  # newer hosts leave quick ones out


def test_a_run_whose_server_died_goes_on_on_another_one(
    server: Any, another_server: Any, workflow: Any, find: Any, patched: Any, latents_of: Any
) -> None:
    name = uuid4().hex

    def graph(**probe: Any) -> Any:
        made = workflow("text_to_long_video", new_seconds=3.0)
        made[find(made, "PAVDM_ProgressiveSampler")]["inputs"]["autosave"] = f"kept/{name}"
        return patched(made, {"class_type": "Probe_Model", "inputs": probe})

    with another_server() as dying:
        dying.queue(graph(name=name, kill_at=9))
        assert dying.process.wait(120) == -signal.SIGKILL
    resumed = latents_of(server, graph(name=f"{name}-again"))
    plain = graph(name=f"{name}-whole")
    plain[find(plain, "PAVDM_ProgressiveSampler")]["inputs"]["autosave"] = ""
    assert torch.equal(resumed, latents_of(server, plain))
    assert 0 < len(server.noted(f"{name}-again")) < len(server.noted(f"{name}-whole"))


def test_a_run_cut_by_interrupt_and_queued_again_gives_the_latents_of_one_that_was_not(
    server: Any, workflow: Any, find: Any, patched: Any, latents_of: Any
) -> None:
    """As the page's Cancel and other programs do it: over the server's own interface."""
    name = uuid4().hex

    def graph(autosave: str, note: str) -> Any:
        made = workflow("text_to_long_video", new_seconds=20.0)
        made[find(made, "PAVDM_ProgressiveSampler")]["inputs"]["autosave"] = autosave
        return patched(made, {"class_type": "Probe_Model", "inputs": {"name": note}})

    running = server.queue(graph(f"kept/{name}", name))
    end = time.monotonic() + SECONDS_PER_RUN
    while len(server.noted(name)) < STEPS + CALLS_PER_CHUNK and time.monotonic() < end:
        time.sleep(0.01)
    server.get("/interrupt", {})
    begun = len(server.noted(name))
    with pytest.raises(Exception, match="interrupted"):
        server.wait(running)
    assert len(server.noted(name)) <= begun + 1
    resumed = latents_of(server, graph(f"kept/{name}", f"{name}-again"))
    assert torch.equal(resumed, latents_of(server, graph("", f"{name}-whole")))
    assert 0 < len(server.noted(f"{name}-again")) < len(server.noted(f"{name}-whole"))


def test_ten_prompts_in_the_queue_do_not_grow_the_memory(server: Any, workflow: Any, find: Any) -> None:
    import psutil  # the host needs it, too

    memory = psutil.Process(server.process.pid)

    def queued(seed: int) -> str:
        graph = workflow("text_to_long_video", new_seconds=1.0)
        graph[find(graph, "RandomNoise")]["inputs"]["noise_seed"] = seed
        return server.queue(graph)

    for seed in range(3):
        server.wait(queued(seed))
    before = memory.memory_info().rss
    ten = [queued(seed) for seed in range(3, 13)]
    waiting = server.get("/queue")
    assert len(waiting["queue_running"]) + len(waiting["queue_pending"]) > 1
    after = []
    for number in ten:
        server.wait(number)
        after.append(memory.memory_info().rss)
    # Ten sets of the small networks would be 40 MB; the allocator breathes by some.
    assert after[-1] - before < 16 * MEGABYTE, [(n - before) // MEGABYTE for n in after]
