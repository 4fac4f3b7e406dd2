"""A LoRA that training wrote, in the host's own LoRA loader."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from pavdm.training.lora import add_lora, merged, save_lora
from pavdm.training.start import from_checkpoint

pytestmark = pytest.mark.host


def sampled(server: Any, graph: Any, find: Any) -> Tensor:
    saved = {"samples": [find(graph, "SamplerCustomAdvanced"), 0], "filename_prefix": f"latents/{uuid4().hex}"}
    graph = {**graph, "saved": {"class_type": "SaveLatent", "inputs": saved}}
    (path,) = [p for p in server.files(server.run(graph), "saved") if p.suffix == ".latent"]
    return load_file(path)["latent_tensor"]


def test_a_trained_lora_gives_what_the_trained_network_gives(
    server: Any, workflow: Any, find: Any, base: Path, models: Path
) -> None:
    """Every layer that training changes counts, and alpha is not the rank."""
    network, _ = from_checkpoint(models / "stdit")
    draw = torch.Generator().manual_seed(0)
    add_lora(network, 4, 6.0, draw)
    for name, parameter in network.named_parameters():  # as after many steps: no change is left at zero
        if name.endswith("lora_B.weight"):
            parameter.data.copy_(0.1 * torch.randn(parameter.shape, generator=draw))
    (base / "models" / "loras").mkdir(exist_ok=True)
    save_lora(base / "models" / "loras" / "trained.safetensors", network.state_dict(), 6.0)
    save_file(merged(network.state_dict(), 6.0), base / "models" / "diffusion_models" / "trained.safetensors")

    graph = workflow("text_to_long_video", new_seconds=1.0)
    plain = sampled(server, graph, find)
    loader, guider = find(graph, "PAVDM_LoadModel"), find(graph, "CFGGuider")
    inputs = {"model": [loader, 0], "lora_name": "trained.safetensors", "strength_model": 1.0}
    graph["lora"] = {"class_type": "LoraLoaderModelOnly", "inputs": inputs}
    graph[guider]["inputs"]["model"] = ["lora", 0]
    patched = sampled(server, graph, find)
    assert "not loaded" not in server.log.read_text()  # the host's word for keys it does not know

    whole = workflow("text_to_long_video", new_seconds=1.0)
    whole[find(whole, "PAVDM_LoadModel")]["inputs"]["model_name"] = "trained.safetensors"
    torch.testing.assert_close(patched, sampled(server, whole, find), rtol=1e-4, atol=1e-4)
    assert not torch.allclose(patched, plain, atol=1e-2)
