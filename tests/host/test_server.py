"""The pack on a real ComfyUI: it loads, its workflows run, and bad input leaves the server serving."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from extending import frames_of
from host_graphs import ROOT
from safetensors.torch import load_file, save_file

pytestmark = pytest.mark.host

OUTSIDE = "Value not in list|not found"  # newer hosts check combo values before they run anything
NODES = {
    "PAVDM_LoadModel",
    "PAVDM_LoadLoRA",
    "PAVDM_LoadVAE",
    "PAVDM_LoadTextEncoder",
    "PAVDM_EncodePrompt",
    "PAVDM_EncodeClip",
    "PAVDM_EmptyVideo",
    "PAVDM_ProgressiveSampler",
    "PAVDM_ReplacementSampler",
    "PAVDM_SchedulePlot",
    "PAVDM_Start",
    "PAVDM_Extend",
    "PAVDM_Finish",
    "PAVDM_SaveState",
    "PAVDM_LoadState",
    "PAVDM_DecodeToVideo",
    "PAVDM_DriftReport",
    "PAVDM_DemoClip",
}


def test_every_node_is_there_and_nothing_failed_to_import(server: Any) -> None:
    assert {name for name in server.described if name.startswith("PAVDM_")} == NODES
    assert not re.search("IMPORT FAILED|Cannot import|Error while calling comfy_entrypoint", server.log.read_text())


def test_every_input_and_output_has_a_tooltip(server: Any) -> None:
    for name in NODES:
        node = server.described[name]
        inputs = {**node["input"].get("required", {}), **node["input"].get("optional", {})}
        without = [key for key, value in inputs.items() if not value[1].get("tooltip")]
        assert not without, f"{name}: {without}"
        assert node["description"] and all(node["output_tooltips"]), name


def test_a_missing_model_folder_gives_an_empty_list(server: Any) -> None:
    described = server.described["PAVDM_LoadLoRA"]["input"]["required"]["lora_name"]
    assert (described[0] if isinstance(described[0], list) else described[1]["options"]) == []


def test_importing_the_pack_imports_neither_torch_nor_transformers() -> None:
    code = (
        "import importlib.util, sys; "
        f"spec = importlib.util.spec_from_file_location('pack', {str(ROOT / '__init__.py')!r}); "
        "module = importlib.util.module_from_spec(spec); spec.loader.exec_module(module); "
        "assert hasattr(module, 'comfy_entrypoint'); assert not {'torch', 'transformers'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_same_seed_gives_the_same_video_twice_and_another_seed_another(
    server: Any, workflow: Any, find: Any
) -> None:
    def video(seed: int, run: int) -> np.ndarray:
        graph = workflow("text_to_long_video", new_seconds=1.0)
        graph[find(graph, "RandomNoise")]["inputs"]["noise_seed"] = seed
        graph[find(graph, "PAVDM_EncodePrompt")]["inputs"]["aesthetic"] = 5.0 + run  # nothing comes from the cache
        graph[find(graph, "PAVDM_EncodePrompt")]["inputs"]["text"] = "a boat. aesthetic score: 6.5."
        (path,) = server.files(server.run(graph), find(graph, "SaveVideo"))
        return frames_of(path)

    first = video(1, 0)
    assert np.array_equal(first, video(1, 1))
    assert not np.array_equal(first, video(2, 2))


def bad_inputs(workflow: Any, find: Any) -> dict[str, tuple[Any, str]]:
    """Workflows with one thing wrong in each, and a part of the message that has to come."""

    def changed(name: str, node: str, **inputs: Any) -> Any:
        graph = workflow(name)
        graph[find(graph, node)]["inputs"].update(inputs)
        return graph

    def wired(graph: Any, node: str, socket: str, class_type: str, output: int = 0, **inputs: Any) -> Any:
        """`graph` with another node in one of its sockets."""
        graph["wrong"] = {"class_type": class_type, "inputs": inputs}
        graph[find(graph, node)]["inputs"][socket] = ["wrong", output]
        return graph

    def in_start(graph: Any) -> Any:
        start = {"sampler": ["wrong", 0], "latent": [find(graph, "PAVDM_EmptyVideo"), 0], "noise_seed": 1}
        graph["wrong"] = {"class_type": "KSamplerSelect", "inputs": {"sampler_name": "euler"}}
        graph["start"] = {"class_type": "PAVDM_Start", "inputs": start}
        graph["save"] = {"class_type": "PAVDM_SaveState", "inputs": {"state": ["start", 0], "filename_prefix": "x"}}
        return graph

    def saved_to(prefix: str) -> Any:
        graph = in_start(workflow(text))
        graph["start"]["inputs"]["sampler"] = [find(graph, "PAVDM_ProgressiveSampler"), 0]
        graph["save"]["inputs"]["filename_prefix"] = prefix
        return {key: node for key, node in graph.items() if key != "wrong" and node["class_type"] != "SaveVideo"}

    def lora(name: str) -> Any:
        graph = workflow(text)
        inputs = {"model": [find(graph, "PAVDM_LoadModel"), 0], "lora_name": name, "strength": 1.0}
        return wired(graph, "CFGGuider", "model", "PAVDM_LoadLoRA", **inputs)

    extend, text = "extend_a_clip", "text_to_long_video"
    model, sigmas = [find(workflow(text), "PAVDM_LoadModel"), 0], [find(workflow(text), "PAVDM_ProgressiveSampler"), 1]
    return {
        "cut file": (changed(text, "PAVDM_LoadModel", model_name="cut.safetensors"), "is cut short"),
        "another network": (changed(text, "PAVDM_LoadModel", model_name="other.safetensors"), "is not the video"),
        "quantised": (changed(text, "PAVDM_LoadModel", model_name="quantised.safetensors"), "quantised"),
        "incomplete": (changed(text, "PAVDM_LoadModel", model_name="incomplete.safetensors"), "1 missing"),
        "no VAE": (changed(text, "PAVDM_LoadVAE", vae_name="other.safetensors"), "is not the video VAE"),
        "no T5": (changed(text, "PAVDM_LoadTextEncoder", text_encoder_name="other.safetensors"), "T5"),
        "steps": (changed(text, "PAVDM_ProgressiveSampler", steps=7), "steps must be a multiple"),
        "short clip": (changed(extend, "PAVDM_EncodeClip", pieces=100), "give a longer clip"),
        "nothing new": (changed(extend, "PAVDM_EncodeClip", new_seconds=0), "holds nothing that is to be made new"),
        "prompt": (changed(text, "PAVDM_EncodePrompt", text="|0| a |5"), "a prompt schedule"),
        "no length": (changed(text, "PAVDM_EmptyVideo", new_seconds=0), "set new_seconds above 0"),
        "batch": (changed(text, "PAVDM_EmptyVideo", batch_size=2), "Latent From Batch"),
        "outside": (changed(text, "PAVDM_LoadModel", model_name="../../input/clip.mp4"), OUTSIDE),
        "autosave outside": (
            changed(text, "PAVDM_ProgressiveSampler", autosave="../../kept"),
            "out of the output folder",
        ),
        "state outside": (saved_to("../../kept"), "out of the output folder"),
        "state elsewhere": (saved_to("/etc/kept"), "out of the output folder"),
        "sampling changed": (
            wired(workflow(text), "CFGGuider", "model", "ModelSamplingSD3", model=model, shift=3.0),
            "without a node that changes its sampling",
        ),
        "another VAE": (wired(workflow(text), "PAVDM_DecodeToVideo", "vae", "Probe_Wrong", 1), "Load Open-Sora VAE"),
        "another CLIP": (wired(workflow(text), "PAVDM_EncodePrompt", "clip", "Probe_Wrong", 2), "expected a T5"),
        "another MODEL": (wired(workflow(text), "CFGGuider", "model", "Probe_Wrong", 0), "Load PA-VDM Model"),
        "another SAMPLER": (in_start(workflow(text)), "expected the sampler of Progressive Sampler"),
        "another SIGMAS": (
            wired(workflow(text), "SamplerCustomAdvanced", "sigmas", "SplitSigmas", sigmas=sigmas, step=2),
            "connect its sigmas output",
        ),
        "clip for no clip": (
            wired(
                workflow(text), "PAVDM_DecodeToVideo", "clip", "EmptyImage", width=64, height=48, batch_size=17, color=0
            ),
            "do not say which of them are the end of a clip",
        ),
        "LoRA of another model": (lora("foreign.safetensors"), "belong to no layer of the model"),
    }


@pytest.fixture
def bad_files(base: Path) -> None:
    folder = base / "models" / "diffusion_models"
    good = folder / "tiny" / "model.safetensors"
    data = good.read_bytes()
    (folder / "cut.safetensors").write_bytes(data[: len(data) // 2])
    for place in ("diffusion_models", "vae", "text_encoders"):
        save_file({"conv.weight": torch.zeros(2, 2)}, base / "models" / place / "other.safetensors")
    tensors = load_file(good)
    name = "temporal_blocks.1.mlp.fc1"
    small = {**tensors, f"{name}.weight": tensors[f"{name}.weight"].to(torch.float8_e4m3fn)}
    save_file({**small, f"{name}.comfy_quant": torch.zeros(2, dtype=torch.uint8)}, folder / "quantised.safetensors")
    del tensors[f"{name}.bias"]
    save_file(tensors, folder / "incomplete.safetensors")
    (base / "models" / "loras").mkdir(exist_ok=True)
    foreign = {f"blocks.0.attn.lora_{half}.weight": torch.zeros(2, 2) for half in "AB"}
    save_file(foreign, base / "models" / "loras" / "foreign.safetensors")


def test_bad_input_gives_a_readable_error_and_leaves_nothing_half_done(
    bad_files: None, server: Any, workflow: Any, find: Any
) -> None:
    def files() -> set[Path]:
        around = {path for path in server.base.parent.iterdir() if path != server.base}
        return around | {path for path in server.base.rglob("*") if path.is_file() and path.suffix != ".log"}

    before = files()
    wrong = []
    for case, (graph, message) in bad_inputs(workflow, find).items():
        try:
            server.run(graph)
            wrong.append(f"{case}: no error")
        except Exception as error:
            if not re.search(message, str(error)):
                wrong.append(f"{case}: {error}")
        assert server.get("/system_stats"), case
    assert not wrong, "\n".join(wrong)
    assert not {path for path in files() - before if path.parent.name not in ("temp", "__pycache__")}
    assert server.run(workflow("text_to_long_video"))
