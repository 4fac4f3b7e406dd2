"""A video made step by step on a real ComfyUI."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
import torch

pytestmark = pytest.mark.host


def test_steps_give_the_latents_of_one_go(server: Any, workflow: Any, in_steps: Any, latents_of: Any) -> None:
    once = latents_of(server, in_steps(workflow("extend_a_clip"), [3]), "finish")
    steps = latents_of(server, in_steps(workflow("extend_a_clip"), [1, 2]), "finish")
    assert once.shape == (1, 4, 5 + 15 + 10, 6, 8)  # the clip's chunk, three, and two that were in the window
    assert torch.equal(once, steps)


def test_a_saved_state_goes_on_as_if_nothing_had_been(
    server: Any, workflow: Any, in_steps: Any, latents_of: Any, base: Path
) -> None:
    whole = latents_of(server, in_steps(workflow("extend_a_clip"), [1, 1]), "finish")
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
    assert torch.equal(latents_of(server, second, "finish"), whole)


def test_a_new_prompt_changes_the_chunks_that_enter_and_leaves_the_others(
    server: Any, workflow: Any, find: Any, in_steps: Any, latents_of: Any
) -> None:
    graph = in_steps(workflow("extend_a_clip"), [2, 2])
    plain = latents_of(server, graph, "finish")
    prompt, guider = find(graph, "PAVDM_EncodePrompt"), find(graph, "CFGGuider")
    other = {**graph[prompt], "inputs": {**graph[prompt]["inputs"], "text": "deep snow on a mountain"}}
    own = {**graph[guider], "inputs": {**graph[guider]["inputs"], "positive": ["other", 0], "negative": ["other", 1]}}
    changed = {**graph, "other": other, "own": own}
    changed["extend1"] = {**graph["extend1"], "inputs": {**graph["extend1"]["inputs"], "guider": ["own", 0]}}
    changed["finish"] = {**graph["finish"], "inputs": {**graph["finish"]["inputs"], "guider": ["own", 0]}}
    travelled = latents_of(server, changed, "finish")
    first = 5 + 2 * 5  # the clip's chunk and the two of the first Extend
    assert torch.equal(travelled[:, :, :first], plain[:, :, :first])
    assert not torch.allclose(travelled[:, :, first:], plain[:, :, first:], atol=1e-3)


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
