"""A LoRA that training wrote, in the host's own LoRA loader."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from pavdm.training.start import from_checkpoint
from pavdm.training.stdit.lora import add_lora, merged, save_lora

pytestmark = pytest.mark.host


def test_a_trained_lora_gives_what_the_trained_network_gives(
    server: Any, workflow: Any, find: Any, patched: Any, latents_of: Any, base: Path, models: Path
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
    plain = latents_of(server, graph)
    inputs = {"lora_name": "trained.safetensors", "strength_model": 1.0}
    changed = latents_of(server, patched(graph, {"class_type": "LoraLoaderModelOnly", "inputs": inputs}))
    assert "not loaded" not in server.log.read_text()  # the host's word for keys it does not know

    whole = workflow("text_to_long_video", new_seconds=1.0)
    whole[find(whole, "PAVDM_LoadModel")]["inputs"]["model_name"] = "trained.safetensors"
    torch.testing.assert_close(changed, latents_of(server, whole), rtol=1e-4, atol=1e-4)
    assert not torch.allclose(changed, plain, atol=1e-2)
