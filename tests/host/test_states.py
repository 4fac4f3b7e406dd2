"""A video made step by step on a real ComfyUI."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

pytestmark = pytest.mark.host


def latents(server: Any, graph: Any) -> Tensor:
    (path,) = [p for p in server.files(server.run(graph), "latents") if p.suffix == ".latent"]
    return load_file(path)["latent_tensor"]


def test_steps_give_the_latents_of_one_go(server: Any, workflow: Any, find: Any, in_steps: Any) -> None:
    once = latents(server, in_steps(workflow("extend_a_clip"), [3]))
    steps = latents(server, in_steps(workflow("extend_a_clip"), [1, 2]))
    assert once.shape == (1, 4, 5 + 15 + 10, 6, 8)  # the clip's chunk, three, and two that were in the window
    assert torch.equal(once, steps)


def test_a_saved_state_goes_on_as_if_nothing_had_been(
    server: Any, workflow: Any, find: Any, in_steps: Any, base: Path
) -> None:
    whole = latents(server, in_steps(workflow("extend_a_clip"), [1, 1]))
    name = f"states/{uuid4().hex}"
    first = in_steps(workflow("extend_a_clip"), [1])
    del first["finish"], first["latents"]
    save = {"state": ["extend0", 0], "filename_prefix": name}
    first["save"] = {"class_type": "PAVDM_SaveState", "inputs": save}
    server.run(first)
    assert [path.name for path in (base / "output" / "states").glob(f"{Path(name).name}*")] == [
        f"{Path(name).name}_00001_.safetensors"
    ]
    second = in_steps(workflow("extend_a_clip"), [1])
    second["load"] = {"class_type": "PAVDM_LoadState", "inputs": {"filename_prefix": name, "number": 0}}
    second["extend0"]["inputs"]["state"] = ["load", 0]
    del second["start"]
    assert torch.equal(latents(server, second), whole)


def test_a_new_prompt_changes_the_chunks_that_enter_and_leaves_the_others(
    server: Any, workflow: Any, find: Any, in_steps: Any
) -> None:
    graph = in_steps(workflow("extend_a_clip"), [2, 2])
    plain = latents(server, graph)
    prompt, guider = find(graph, "PAVDM_EncodePrompt"), find(graph, "CFGGuider")
    other = {**graph[prompt], "inputs": {**graph[prompt]["inputs"], "text": "deep snow on a mountain"}}
    own = {**graph[guider], "inputs": {**graph[guider]["inputs"], "positive": ["other", 0], "negative": ["other", 1]}}
    changed = {**graph, "other": other, "own": own}
    changed["extend1"] = {**graph["extend1"], "inputs": {**graph["extend1"]["inputs"], "guider": ["own", 0]}}
    changed["finish"] = {**graph["finish"], "inputs": {**graph["finish"]["inputs"], "guider": ["own", 0]}}
    changed["latents"] = {"class_type": "SaveLatent", "inputs": {"samples": ["finish", 0]}}
    changed["latents"]["inputs"]["filename_prefix"] = f"latents/{uuid4().hex}"
    travelled = latents(server, changed)
    first = 5 + 2 * 5  # the clip's chunk and the two of the first Extend
    assert torch.equal(travelled[:, :, :first], plain[:, :, :first])
    assert not torch.allclose(travelled[:, :, first:], plain[:, :, first:], atol=1e-3)


def with_guider(graph: Any, node: str, **inputs: Any) -> Any:
    """`graph` with a guider of its own, changed in `inputs`, for one node."""
    (shared,) = [number for number, entry in graph.items() if entry["class_type"] == "CFGGuider"]
    own = {"class_type": "CFGGuider", "inputs": {**graph[shared]["inputs"], **inputs}}
    changed = {**graph[node], "inputs": {**graph[node]["inputs"], "guider": [f"guider of {node}", 0]}}
    return {**graph, f"guider of {node}": own, node: changed}


def test_guidance_and_a_lora_may_change_between_two_steps(
    server: Any, workflow: Any, find: Any, in_steps: Any, base: Path
) -> None:
    graph = in_steps(workflow("text_to_long_video"), [2, 1])
    first, plain = 2 * 5, latents(server, graph)
    weights = load_file(base / "models" / "diffusion_models" / "tiny" / "model.safetensors")
    rows, columns = weights["temporal_blocks.1.mlp.fc1.weight"].shape
    draw = torch.Generator().manual_seed(0)
    halves = {"A": torch.randn(4, columns, generator=draw), "B": torch.randn(rows, 4, generator=draw)}
    (base / "models" / "loras").mkdir(exist_ok=True)
    layer = "diffusion_model.temporal_blocks.1.mlp.fc1"
    save_file(
        {f"{layer}.lora_{half}.weight": tensor for half, tensor in halves.items()},
        base / "models" / "loras" / "between.safetensors",
    )
    inputs = {"lora_name": "between.safetensors", "strength_model": 1.0, "model": [find(graph, "PAVDM_LoadModel"), 0]}
    graph["lora"] = {"class_type": "LoraLoaderModelOnly", "inputs": inputs}
    found = []
    for change in ({"cfg": 2.0}, {"model": ["lora", 0]}):
        made = latents(server, with_guider(graph, "extend1", **change))
        assert torch.equal(made[:, :, :first], plain[:, :, :first])  # what the first step finished
        assert not torch.allclose(made[:, :, first:], plain[:, :, first:], atol=1e-3)
        found.append(made)
    weaker = {**graph, "lora": {"class_type": "LoraLoaderModelOnly", "inputs": {**inputs, "strength_model": 0.0}}}
    torch.testing.assert_close(latents(server, with_guider(weaker, "extend1", model=["lora", 0])), plain)
    assert not torch.allclose(*found, atol=1e-3)


def test_one_state_feeds_two_branches_as_if_each_were_alone(
    server: Any, workflow: Any, find: Any, in_steps: Any
) -> None:
    graph = in_steps(workflow("text_to_long_video"), [1, 2])
    other = with_guider(graph, "extend1", cfg=2.0)
    alone = [latents(server, each) for each in (graph, other)]
    both = {**other, "extend0": {**graph["extend0"], "inputs": {**graph["extend0"]["inputs"], "autosave": " "}}}
    both |= {"branch": graph["extend1"], "branch finish": graph["finish"], "branch latents": graph["latents"]}
    for node, source in (("branch finish", "branch"), ("branch latents", "branch finish")):
        socket = "state" if node == "branch finish" else "samples"
        both[node] = {**both[node], "inputs": {**both[node]["inputs"], socket: [source, 0]}}
    outputs = server.run(both)  # nothing of it comes from the cache: " " is another input, and the same
    for expected, node in zip(alone, ("branch latents", "latents"), strict=True):
        (path,) = [path for path in server.files(outputs, node) if path.suffix == ".latent"]
        assert torch.equal(load_file(path)["latent_tensor"], expected)
    assert not torch.allclose(*alone, atol=1e-3)


def test_seconds_are_rounded_up_to_the_chunks_that_can_be_asked_for(
    server: Any, workflow: Any, find: Any, in_steps: Any
) -> None:
    graph = in_steps(workflow("text_to_long_video"), [2])
    by_chunks = latents(server, graph)
    for seconds, num_chunks in ((17 / 24 + 0.05, 2), (2 * 17 / 24, 2), (2 * 17 / 24 + 0.05, 3)):
        graph["extend0"]["inputs"].update({"chunks": 0, "seconds": seconds})
        graph["latents"]["inputs"]["filename_prefix"] = f"latents/{uuid4().hex}"
        made = latents(server, graph)
        assert made.shape[2] == by_chunks.shape[2] + 5 * (num_chunks - 2)
        assert torch.equal(made[:, :, :10], by_chunks[:, :, :10])


@pytest.mark.parametrize(
    ("node", "inputs", "message"),
    [
        ("load", {"filename_prefix": "nothing/here"}, "no saved state"),
        ("load", {"filename_prefix": "../../secret"}, "leads out of the output folder"),
    ],
)
def test_a_state_that_cannot_be_loaded_is_said_plainly(
    server: Any, workflow: Any, find: Any, in_steps: Any, node: str, inputs: dict[str, Any], message: str
) -> None:
    graph = in_steps(workflow("text_to_long_video"), [1])
    graph[node] = {"class_type": "PAVDM_LoadState", "inputs": {"number": 0, **inputs}}
    graph["extend0"]["inputs"]["state"] = [node, 0]
    with pytest.raises(Exception, match=message):
        server.run(graph)
    assert server.get("/system_stats")
