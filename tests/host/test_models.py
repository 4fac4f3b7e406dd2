"""The host's own machinery works on the pack's models: LoRA, fp8, interruption; and the baseline sampler."""

from __future__ import annotations

import shutil
from dataclasses import replace
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
from pavdm.sampling.schedule import Schedule, timestep_shift

pytestmark = pytest.mark.host


def by_formats(layer: str, down: Tensor, up: Tensor) -> dict[str, dict[str, Tensor]]:
    """One layer's LoRA under the names of each format."""
    kohya, peft = "lora_unet_" + layer.replace(".", "_"), f"base_model.model.{layer}"
    alpha = {f"{kohya}.alpha": torch.tensor(float(len(down)))}
    formats = {
        "generic": {f"diffusion_model.{layer}.lora_A.weight": down, f"diffusion_model.{layer}.lora_B.weight": up},
        "kohya": {f"{kohya}.lora_down.weight": down, f"{kohya}.lora_up.weight": up, **alpha},
        "peft": {f"{peft}.lora_A.default.weight": down, f"{peft}.lora_B.default.weight": up},
    }
    separate = formats["separate"] = {}
    if layer.endswith("attn.qkv"):  # three LoRAs with the same first half
        for letter, part in zip("qkv", up.chunk(3), strict=True):
            name = peft.replace("qkv", f"to_{letter}")
            separate |= {f"{name}.lora_A.weight": down, f"{name}.lora_B.weight": part}
    else:
        separate |= formats["peft"]
    return formats


@pytest.fixture(scope="module")
def loras(base: Path) -> list[str]:
    """LoRA files in every format, and merged.safetensors: the model with half of their change added."""
    folder = base / "models" / "diffusion_models"
    weights = load_file(folder / "tiny" / "model.safetensors")
    draw = torch.Generator().manual_seed(0)
    files: dict[str, dict[str, Tensor]] = {}
    for layer in ("spatial_blocks.0.attn.qkv", "temporal_blocks.1.mlp.fc1", "spatial_blocks.1.cross_attn.kv_linear"):
        rows, columns = weights[f"{layer}.weight"].shape
        down, up = torch.randn(4, columns, generator=draw) * 0.2, torch.randn(rows, 4, generator=draw) * 0.2
        for name, tensors in by_formats(layer, down, up).items():
            files.setdefault(name, {}).update(tensors)
        weights[f"{layer}.weight"] = weights[f"{layer}.weight"] + 0.5 * up @ down
    (base / "models" / "loras").mkdir(exist_ok=True)
    for name, tensors in files.items():
        save_file(
            {key: tensor.clone() for key, tensor in tensors.items()},
            base / "models" / "loras" / f"{name}.safetensors",
        )
    save_file(weights, folder / "merged.safetensors")
    return list(files)


@pytest.mark.parametrize(
    ("loader", "name"),
    [
        ("LoraLoaderModelOnly", "generic"),
        ("LoraLoaderModelOnly", "kohya"),
        ("PAVDM_LoadLoRA", "generic"),
        ("PAVDM_LoadLoRA", "kohya"),
        ("PAVDM_LoadLoRA", "peft"),
        ("PAVDM_LoadLoRA", "separate"),
    ],
)
def test_a_lora_gives_what_the_merged_weights_give(
    server: Any, workflow: Any, find: Any, patched: Any, latents_of: Any, loras: list[str], loader: str, name: str
) -> None:
    assert name in loras
    graph = workflow("text_to_long_video", new_seconds=0.7)
    strength = "strength_model" if loader.startswith("Lora") else "strength"
    node = {"class_type": loader, "inputs": {"lora_name": f"{name}.safetensors", strength: 0.5}}
    changed = latents_of(server, patched(graph, node))
    merged = workflow("text_to_long_video", new_seconds=0.7)
    merged[find(merged, "PAVDM_LoadModel")]["inputs"]["model_name"] = "merged.safetensors"
    torch.testing.assert_close(changed, latents_of(server, merged), rtol=1e-4, atol=1e-4)
    assert not torch.allclose(changed, latents_of(server, graph), atol=1e-2)


def test_a_lora_as_a_hook_gives_what_the_loader_gives(
    server: Any, workflow: Any, find: Any, patched: Any, latents_of: Any, loras: list[str]
) -> None:
    graph = workflow("text_to_long_video", new_seconds=0.7)
    prompt, guider = find(graph, "PAVDM_EncodePrompt"), find(graph, "CFGGuider")
    inputs = {"lora_name": "generic.safetensors", "strength_model": 0.5}
    loaded = latents_of(server, patched(graph, {"class_type": "LoraLoaderModelOnly", "inputs": inputs}))
    graph["hook"] = {"class_type": "CreateHookLoraModelOnly", "inputs": inputs}
    pair = {"positive_NEW": [prompt, 0], "negative_NEW": [prompt, 1], "strength": 1.0, "set_cond_area": "default"}
    graph["pair"] = {"class_type": "PairConditioningSetProperties", "inputs": {**pair, "hooks": ["hook", 0]}}
    graph[guider]["inputs"].update({"positive": ["pair", 0], "negative": ["pair", 1]})
    torch.testing.assert_close(latents_of(server, graph), loaded, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("probe", "noted"),
    [
        ({"attention": True}, "-attention"),
        ({"compile": True}, ""),
        ({"max_batch": 1}, ""),
        ({"resident_kilobytes": 200}, "-resident"),
    ],
)
def test_patches_compiling_short_memory_and_weights_left_outside_change_nothing(
    server: Any, workflow: Any, patched: Any, latents_of: Any, probe: dict[str, Any], noted: str
) -> None:
    graph, name = workflow("text_to_long_video", new_seconds=0.7), uuid4().hex
    plain = latents_of(server, graph)
    changed = latents_of(server, patched(graph, {"class_type": "Probe_Model", "inputs": {"name": name, **probe}}))
    torch.testing.assert_close(changed, plain, rtol=1e-5, atol=1e-5)
    seen = server.noted(name + noted)
    assert seen
    if "max_batch" in probe:  # both conditionings at once, then each alone
        assert [line[1] for line in seen[:3]] == ["2", "1", "1"]
    if "resident_kilobytes" in probe:
        resident, _, whole = seen[0].split()
        assert 0 < int(resident) < int(whole)


@pytest.mark.parametrize("weight_dtype", ["bf16", "fp8_e4m3fn", "fp8_e5m2"])
def test_smaller_weights_give_nearly_the_same_latents(
    server: Any, workflow: Any, find: Any, latents_of: Any, weight_dtype: str
) -> None:
    graph = workflow("text_to_long_video", new_seconds=0.7)
    graph[find(graph, "CFGGuider")]["inputs"]["cfg"] = 1.0  # guidance would magnify the difference
    full = latents_of(server, graph)
    graph[find(graph, "PAVDM_LoadModel")]["inputs"]["weight_dtype"] = weight_dtype
    less = latents_of(server, graph)
    assert not torch.equal(less, full)
    assert (less - full).std() < 0.25 * full.std()


def test_scaled_fp8_gives_what_the_weights_multiplied_out_give(
    server: Any, workflow: Any, find: Any, latents_of: Any, base: Path
) -> None:
    folder = base / "models" / "diffusion_models"
    plain = load_file(folder / "tiny" / "model.safetensors")
    scaled, multiplied = {"scaled_fp8": torch.zeros(2, dtype=torch.float8_e4m3fn)}, {}
    for key, tensor in plain.items():
        scaled[key] = multiplied[key] = tensor
        if key.endswith(("fc1.weight", "qkv.weight")):
            scale = tensor.abs().max() / 448
            scaled[key] = (tensor / scale).to(torch.float8_e4m3fn)
            scaled[key.replace(".weight", ".scale_weight")] = scale
            multiplied[key] = (scaled[key].float() * scale).to(torch.bfloat16)
    made = []
    for name, tensors in (("scaled", scaled), ("multiplied", multiplied)):
        save_file(tensors, folder / f"{name}.safetensors")
        graph = workflow("text_to_long_video", new_seconds=0.7)
        graph[find(graph, "PAVDM_LoadModel")]["inputs"]["model_name"] = f"{name}.safetensors"
        made.append(latents_of(server, graph))
    assert torch.equal(*made)


@pytest.fixture(scope="module")
def encoders(base: Path) -> None:
    """Text encoders of the published vocabulary and of one of their own, with and without tokenizers beside them."""
    root = base / "models" / "text_encoders"
    tiny = load_file(root / "tiny" / "model.safetensors")
    width = tiny["shared.weight"].shape[1]
    draw = torch.Generator().manual_seed(0)
    usual = {**tiny, "shared.weight": torch.randn(32128, width, generator=draw)}
    usual.pop("encoder.embed_tokens.weight", None)
    for folder in ("alone", "among_others", "json_alone", "no_tokenizer"):
        (root / folder).mkdir()
    for folder in ("alone", "among_others"):
        save_file(usual, root / folder / "usual.safetensors")
    shutil.copy(root / "tiny" / "tokenizer.json", root / "among_others")
    for folder in ("json_alone", "no_tokenizer"):
        shutil.copy(root / "tiny" / "model.safetensors", root / folder)
    shutil.copy(root / "tiny" / "tokenizer.json", root / "json_alone")


def test_a_text_encoder_reads_its_own_tokenizer_and_no_other(
    encoders: None, server: Any, workflow: Any, find: Any, latents_of: Any
) -> None:
    def made(name: str) -> Tensor:
        graph = workflow("text_to_long_video", new_seconds=0.7)
        graph[find(graph, "PAVDM_LoadTextEncoder")]["inputs"]["text_encoder_name"] = name
        return latents_of(server, graph)

    assert torch.equal(made("among_others/usual.safetensors"), made("alone/usual.safetensors"))
    assert torch.equal(made("json_alone/model.safetensors"), made("tiny/model.safetensors"))
    with pytest.raises(Exception, match="needs its tokenizer"):
        made("no_tokenizer/model.safetensors")


def test_replacement_sampler_equals_the_library(
    server: Any, workflow: Any, find: Any, models: Path, latents_of: Any
) -> None:
    graph = workflow("text_to_long_video", new_seconds=3.0)  # 5 pieces: one clip of 15 latents and one of 10 new ones
    loop_inputs = {"steps": 4, "clip_latents": 15, "condition_latents": 5, "timestep_transform": True}
    sampler = find(graph, "PAVDM_ProgressiveSampler")
    graph[sampler] = {"class_type": "PAVDM_ReplacementSampler", "inputs": loop_inputs}
    text = captions.preprocess("a lighthouse by the sea, waves roll in")
    graph[find(graph, "PAVDM_EncodePrompt")]["inputs"]["text"] = "a lighthouse by the sea, waves roll in"
    theirs = latents_of(server, graph)
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


@pytest.fixture(scope="module")
def other_channels(base: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    """eight/model.safetensors: small networks with 8 latent channels; the VAE's config.json says how they look."""
    import pavdm.new_model as new_model

    tiny = new_model.PRESETS["tiny"]
    vae = replace(tiny.vae, temporal=replace(tiny.vae.temporal, embed_dim=8), scale=(1.5,) * 8, shift=(0.1,) * 8)
    preset = replace(tiny, stdit=replace(tiny.stdit, in_channels=8), vae=vae)
    folder = tmp_path_factory.mktemp("models") / "eight"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(new_model, "PRESETS", {"eight": preset})
        new_model.create(folder, "eight")
    for network, place in {"stdit": "diffusion_models", "vae": "vae"}.items():
        shutil.copytree(folder / network, base / "models" / place / "eight")


@pytest.mark.parametrize("name", ["text_to_long_video", "extend_a_clip"])
@pytest.mark.parametrize("way", ["sampler", "steps"])
def test_networks_with_eight_latent_channels_run_like_those_with_four(
    other_channels: None, server: Any, workflow: Any, find: Any, in_steps: Any, latents_of: Any, name: str, way: str
) -> None:
    graph = workflow(name, new_seconds=0.7)
    for loader, key in (("PAVDM_LoadModel", "model_name"), ("PAVDM_LoadVAE", "vae_name")):
        graph[find(graph, loader)]["inputs"][key] = "eight/model.safetensors"
    graph[find(graph, "PAVDM_LoadModel")]["inputs"]["vae"] = [find(graph, "PAVDM_LoadVAE"), 0]
    graph = in_steps(graph, [1]) if way == "steps" else graph
    latents = latents_of(server, graph, "finish" if way == "steps" else "")
    assert latents.shape[1] == 8 and latents.std() > 0.1


def test_a_vae_of_another_model_is_refused(other_channels: None, server: Any, workflow: Any, find: Any) -> None:
    graph = workflow("extend_a_clip", new_seconds=0.7)
    graph[find(graph, "PAVDM_LoadVAE")]["inputs"]["vae_name"] = "eight/model.safetensors"
    graph[find(graph, "PAVDM_LoadModel")]["inputs"].pop("vae", None)
    with pytest.raises(Exception, match="the model's 4 channels"):
        server.run(graph)
    graph[find(graph, "PAVDM_LoadModel")]["inputs"]["vae"] = [find(graph, "PAVDM_LoadVAE"), 0]
    with pytest.raises(Exception, match="the model makes latents of 4 channels, the VAE reads 8"):
        server.run(graph)


def test_the_stock_text_encode_is_read_as_a_prompt_and_as_a_negative_prompt(
    server: Any, workflow: Any, find: Any, latents_of: Any
) -> None:
    graph = workflow("text_to_long_video", new_seconds=0.7)
    clip, guider = [find(graph, "PAVDM_LoadTextEncoder"), 0], graph[find(graph, "CFGGuider")]["inputs"]
    prompt = graph[find(graph, "PAVDM_EncodePrompt")]["inputs"]
    prompt.update({"text": "deep snow", "aesthetic": -1.0})
    own = latents_of(server, graph)
    graph["positive"] = {"class_type": "CLIPTextEncode", "inputs": {"clip": clip, "text": "deep snow"}}
    guider["positive"] = ["positive", 0]
    torch.testing.assert_close(latents_of(server, graph), own, rtol=1e-5, atol=1e-5)
    graph["negative"] = {"class_type": "CLIPTextEncode", "inputs": {"clip": clip, "text": "a very long bad film"}}
    guider["negative"] = ["negative", 0]
    assert not torch.allclose(latents_of(server, graph), own, atol=1e-2)


def test_a_stock_negative_prompt_is_told_the_frame_rate_of_the_positive_one(
    server: Any, workflow: Any, find: Any, latents_of: Any
) -> None:
    graph = workflow("text_to_long_video", new_seconds=0.7)
    clip, guider = [find(graph, "PAVDM_LoadTextEncoder"), 0], graph[find(graph, "CFGGuider")]["inputs"]
    for name, text in (("positive", "deep snow"), ("negative", "a very long bad film")):
        graph[name] = {"class_type": "CLIPTextEncode", "inputs": {"clip": clip, "text": text}}
    both = {"positive": ["positive", 0], "negative": ["negative", 0], "frame_rate": 12.0}
    graph["rated"] = {"class_type": "LTXVConditioning", "inputs": both}
    guider.update({"positive": ["rated", 0], "negative": ["rated", 1]})
    said = latents_of(server, graph)
    guider["negative"] = ["negative", 0]
    torch.testing.assert_close(latents_of(server, graph), said, rtol=1e-5, atol=1e-5)
    guider["positive"] = ["positive", 0]
    assert not torch.allclose(latents_of(server, graph), said, atol=1e-2)


def test_the_host_is_told_what_the_window_needs_however_long_it_is(
    server: Any, workflow: Any, find: Any, patched: Any, latents_of: Any
) -> None:
    graph, name = workflow("text_to_long_video", new_seconds=8 * 17 / 24), uuid4().hex
    graph[find(graph, "PAVDM_ProgressiveSampler")]["inputs"].update({"window_chunks": 8, "steps": 8})
    latents_of(server, patched(graph, {"class_type": "Probe_Model", "inputs": {"name": name, "memory": True}}))
    asked = [line.split() for line in server.noted(f"{name}-memory")]
    lengths = {int(length) for _, length, _ in asked}
    assert max(lengths) > Schedule().window_latents > min(lengths)  # the default window's
    of_a_latent = [float(memory) / (int(batch) * int(length)) for batch, length, memory in asked]
    assert of_a_latent == pytest.approx([of_a_latent[0]] * len(of_a_latent))


def test_loading_a_vae_logs_no_line_that_reads_like_a_failure(
    server: Any, workflow: Any, find: Any, base: Path
) -> None:
    name = uuid4().hex  # one that the host has not loaded yet
    shutil.copytree(base / "models" / "vae" / "tiny", base / "models" / "vae" / name)
    graph = workflow("text_to_long_video", new_seconds=0.7)
    graph[find(graph, "PAVDM_LoadVAE")]["inputs"]["vae_name"] = f"{name}/model.safetensors"
    graph[find(graph, "PAVDM_DecodeToVideo")]["inputs"]["latent"] = [find(graph, "PAVDM_EmptyVideo"), 0]
    before = server.log.read_text()
    server.run(graph)
    since = server.log.read_text()[len(before) :]
    assert "No VAE weights" not in since
