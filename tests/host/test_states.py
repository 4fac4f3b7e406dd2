"""A video made step by step on a real ComfyUI."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
import torch
from safetensors.torch import load_file
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
