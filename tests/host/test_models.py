"""The host's own machinery works on the pack's models: LoRA, fp8, interruption; and the baseline sampler."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor

from pavdm import captions
from pavdm.models.checkpoint import load_stdit3
from pavdm.models.text_encoder import TextEncoder
from pavdm.sampling import rectified_flow
from pavdm.sampling.guidance import GuidedVelocity
from pavdm.sampling.progressive import named_noise
from pavdm.sampling.schedule import timestep_shift

pytestmark = pytest.mark.host


def sampled(server: Any, graph: Any, find: Any) -> Tensor:
    saved = {"samples": [find(graph, "SamplerCustomAdvanced"), 0], "filename_prefix": f"latents/{uuid4().hex}"}
    graph = {**graph, "saved": {"class_type": "SaveLatent", "inputs": saved}}
    (path,) = [p for p in server.files(server.run(graph), "saved") if p.suffix == ".latent"]
    return load_file(path)["latent_tensor"]


def test_a_lora_gives_what_the_merged_weights_give(server: Any, workflow: Any, find: Any, base: Path) -> None:
    folder = base / "models" / "diffusion_models"
    weights = load_file(folder / "tiny" / "model.safetensors")
    draw = torch.Generator().manual_seed(0)
    lora = {}
    for key in ("spatial_blocks.0.attn.qkv", "temporal_blocks.1.mlp.fc1", "spatial_blocks.1.cross_attn.kv_linear"):
        rows, columns = weights[f"{key}.weight"].shape
        down, up = torch.randn(4, columns, generator=draw) * 0.2, torch.randn(rows, 4, generator=draw) * 0.2
        lora |= {f"diffusion_model.{key}.lora_A.weight": down, f"diffusion_model.{key}.lora_B.weight": up}
        weights[f"{key}.weight"] = weights[f"{key}.weight"] + 0.5 * up @ down
    (base / "models" / "loras").mkdir(exist_ok=True)
    save_file(lora, base / "models" / "loras" / "test.safetensors")
    save_file(weights, folder / "merged.safetensors")

    graph = workflow("text_to_long_video", new_seconds=1.0)
    plain = sampled(server, graph, find)
    loader, guider = find(graph, "PAVDM_LoadModel"), find(graph, "CFGGuider")
    inputs = {"model": [loader, 0], "lora_name": "test.safetensors", "strength_model": 0.5}
    graph["lora"] = {"class_type": "LoraLoaderModelOnly", "inputs": inputs}
    graph[guider]["inputs"]["model"] = ["lora", 0]
    patched = sampled(server, graph, find)

    merged = workflow("text_to_long_video", new_seconds=1.0)
    merged[find(merged, "PAVDM_LoadModel")]["inputs"]["model_name"] = "merged.safetensors"
    torch.testing.assert_close(patched, sampled(server, merged, find), rtol=1e-4, atol=1e-4)
    assert not torch.allclose(patched, plain, atol=1e-2)


@pytest.mark.parametrize("weight_dtype", ["bf16", "fp8_e4m3fn", "fp8_e5m2"])
def test_smaller_weights_give_nearly_the_same_latents(server: Any, workflow: Any, find: Any, weight_dtype: str) -> None:
    graph = workflow("text_to_long_video", new_seconds=1.0)
    graph[find(graph, "CFGGuider")]["inputs"]["cfg"] = 1.0  # guidance would magnify the difference
    full = sampled(server, graph, find)
    graph[find(graph, "PAVDM_LoadModel")]["inputs"]["weight_dtype"] = weight_dtype
    less = sampled(server, graph, find)
    assert not torch.equal(less, full)
    assert (less - full).std() < 0.25 * full.std()


def test_replacement_sampler_equals_the_library(server: Any, workflow: Any, find: Any, models: Path) -> None:
    graph = workflow("text_to_long_video", new_seconds=3.0)  # 5 pieces: one clip of 15 latents and one of 10 new ones
    loop_inputs = {"steps": 4, "clip_latents": 15, "condition_latents": 5, "timestep_transform": True}
    sampler = find(graph, "PAVDM_ProgressiveSampler")
    graph[sampler] = {"class_type": "PAVDM_ReplacementSampler", "inputs": loop_inputs}
    text = captions.preprocess("a lighthouse by the sea, waves roll in")
    graph[find(graph, "PAVDM_EncodePrompt")]["inputs"]["text"] = "a lighthouse by the sea, waves roll in"
    theirs = sampled(server, graph, find)
    encoder = TextEncoder.load(models / "text_encoder", torch.device("cpu"), torch.float32, 300)
    network = load_stdit3(models / "stdit")
    embeddings = {text: encoder.encode([text])[0]}
    velocity = GuidedVelocity(network, embeddings, guidance_scale=7.0, size=(48, 64), fps=24.0)
    noise = torch.randn(1, 4, 25, 6, 8, generator=torch.Generator().manual_seed(42))

    def place(index: int, step: int | None, shape: tuple[int, ...]) -> Tensor:
        return noise[:, :, index * 10 : index * 10 + 15] if step is None else named_noise("unused", shape)

    loop = rectified_flow.ReplacementLoop(15, 5, 4, timestep_shift(48, 64, 15))
    clips = rectified_flow.extend(
        loop, velocity, None, shape=(1, 4, 6, 8), texts_for=lambda index: (text,), noise=place
    )
    ours = torch.cat([next(clips), next(clips)], dim=2)
    torch.testing.assert_close(theirs, ours, rtol=1e-5, atol=1e-5)


def test_schedule_plot_is_a_picture(server: Any, workflow: Any, find: Any) -> None:
    graph = workflow("text_to_long_video")
    inputs = {"sampler": [find(graph, "PAVDM_ProgressiveSampler"), 0], "num_chunks": 4}
    inputs["latent"] = [find(graph, "PAVDM_EmptyVideo"), 0]
    graph["plot"] = {"class_type": "PAVDM_SchedulePlot", "inputs": inputs}
    save = {"images": ["plot", 0], "filename_prefix": f"plot/{uuid4().hex}"}
    graph["png"] = {"class_type": "SaveImage", "inputs": save}
    (path,) = server.files(server.run(graph), "png")
    picture = np.asarray(Image.open(path))
    assert picture.shape[2] == 3 and picture.std() > 10


def test_an_interrupt_ends_a_long_run_and_the_server_goes_on(server: Any, workflow: Any, find: Any) -> None:
    graph = workflow("text_to_long_video", new_seconds=3600.0)
    running = server.queue(graph)
    while not server.get("/queue")["queue_running"]:
        time.sleep(0.05)
    time.sleep(2)
    server.get("/interrupt", {})
    before = time.monotonic()
    with pytest.raises(Exception, match="interrupted"):
        server.wait(running)
    assert time.monotonic() - before < 10
    assert server.run(workflow("text_to_long_video", new_seconds=1.0))


def test_the_stock_text_encode_is_read_as_a_prompt_and_as_a_negative_prompt(
    server: Any, workflow: Any, find: Any
) -> None:
    graph = workflow("text_to_long_video", new_seconds=1.0)
    clip, guider = [find(graph, "PAVDM_LoadTextEncoder"), 0], graph[find(graph, "CFGGuider")]["inputs"]
    prompt = graph[find(graph, "PAVDM_EncodePrompt")]["inputs"]
    prompt.update({"text": "deep snow", "aesthetic": -1.0})
    own = sampled(server, graph, find)
    graph["positive"] = {"class_type": "CLIPTextEncode", "inputs": {"clip": clip, "text": "deep snow"}}
    guider["positive"] = ["positive", 0]
    torch.testing.assert_close(sampled(server, graph, find), own, rtol=1e-5, atol=1e-5)
    graph["negative"] = {"class_type": "CLIPTextEncode", "inputs": {"clip": clip, "text": "a very long bad film"}}
    guider["negative"] = ["negative", 0]
    assert not torch.allclose(sampled(server, graph, find), own, atol=1e-2)
