"""ComfyUI's own Load CLIP, type pixart, as the published workflows have it: what it gives is what the nodes read.

T5 v1.1 XXL has 9.8 GB. Here is one with its layers and tokenizer, the one size that ComfyUI knows it by, and else little.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

pytestmark = pytest.mark.host

TEXT = "a boat on the sea"  # cleaning changes nothing about it
LAYERS, LENGTH = 24, 300


def token_ids(core: Path, text: str) -> list[int]:
    from transformers import PreTrainedTokenizerFast

    file = core / "comfy" / "text_encoders" / "t5_tokenizer" / "tokenizer.json"
    ids: list[int] = PreTrainedTokenizerFast(tokenizer_file=str(file))(text).input_ids
    return ids


def sizes(core: Path) -> dict[str, int]:
    """ComfyUI 0.3.75 knows T5 XXL by the width of its features, newer ones by that of its feed-forward layers."""
    by_features = "weight.shape[-1] == 4096" in (core / "comfy" / "sd.py").read_text(encoding="utf-8")
    return {"d_model": 4096, "d_ff": 16} if by_features else {"d_model": 16, "d_ff": 10240}


@pytest.fixture(scope="module")
def thin(core: Path, base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a thin T5 in fp16, which is thin.safetensors on the server, with thin.safetensors to match as model."""
    import pavdm.new_model as new_model

    size = max(token_ids(core, TEXT)) + 1  # only as many words as the text has
    assert size < 4000, "a text of commoner words makes a smaller file"
    tiny = new_model.PRESETS["tiny"]
    config = new_model.TextEncoderConfig(**sizes(core), d_kv=8, num_layers=LAYERS, num_heads=2, vocab_size=size)
    stdit = replace(tiny.stdit, caption_channels=config.d_model)
    folder = tmp_path_factory.mktemp("models") / "thin"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(new_model, "PRESETS", {"thin": replace(tiny, stdit=stdit, text_encoder=config)})
        new_model.create(folder, "thin")
    file = folder / "text_encoder" / "model.safetensors"
    save_file({name: tensor.half() for name, tensor in load_file(file).items()}, file)
    shutil.copy(file, base / "models" / "text_encoders" / "thin.safetensors")
    shutil.copy(folder / "stdit" / "model.safetensors", base / "models" / "diffusion_models" / "thin.safetensors")
    return folder / "text_encoder"


def features(core: Path, thin: Path, text: str) -> Tensor:
    """(n, width) of the n real tokens by transformers alone, padded and masked as the published models were trained."""
    from transformers import T5EncoderModel

    ids = token_ids(core, text)
    padded = torch.zeros(1, LENGTH, dtype=torch.long)
    padded[0, : len(ids)] = torch.tensor(ids)
    network = T5EncoderModel.from_pretrained(thin).float().eval()
    with torch.no_grad():
        (found,) = network(padded, attention_mask=torch.arange(LENGTH)[None] < len(ids)).last_hidden_state
    return found[: len(ids)]


@pytest.fixture
def published(thin: Path, workflow: Any, find: Any) -> Any:
    """A function: the published workflow with Load CLIP as it is in the file, but for the size of what it loads."""

    def load() -> Any:
        graph = workflow("text_to_long_video", new_seconds=0.7, stock_clip=True)
        loader = graph[find(graph, "CLIPLoader")]
        assert loader["inputs"]["type"] == "pixart"
        config = json.loads((thin / "config.json").read_text())
        kept = ("d_model", "d_kv", "d_ff", "num_layers", "num_heads", "vocab_size")
        loader["class_type"] = "Probe_LoadCLIP"
        loader["inputs"] |= {
            "clip_name": "thin.safetensors",
            "config": json.dumps({key: config[key] for key in kept}),
        }
        graph[find(graph, "PAVDM_LoadModel")]["inputs"]["model_name"] = "thin.safetensors"
        graph[find(graph, "PAVDM_EncodePrompt")]["inputs"] |= {"text": TEXT, "aesthetic": -1.0, "motion": -1.0}
        return graph

    return load


def kept_by(server: Any, graph: Any, conditioning: list[Any]) -> tuple[Tensor, set[str]]:
    """The tensor of a CONDITIONING, and the names of what comes beside it."""
    name = uuid4().hex
    keep = {"class_type": "Probe_Conditioning", "inputs": {"conditioning": conditioning, "name": name}}
    server.run({"keep": keep, **{key: node for key, node in graph.items() if node["class_type"] != "SaveVideo"}})
    (beside,) = server.noted(name)
    return load_file(server.base / "output" / "probe" / f"{name}.safetensors")["cond"], set(beside.split())


def test_the_stock_loader_gives_the_features_of_the_real_tokens_without_padding_or_mask(
    server: Any, core: Path, thin: Path, published: Any, find: Any
) -> None:
    graph = published()
    clip = [find(graph, "Probe_LoadCLIP"), 0]
    graph["stock"] = {"class_type": "CLIPTextEncode", "inputs": {"clip": clip, "text": TEXT}}
    expected = features(core, thin, TEXT)
    found, beside = kept_by(server, graph, ["stock", 0])
    assert found.shape == (1, len(token_ids(core, TEXT)), sizes(core)["d_model"])
    assert "attention_mask" not in beside
    torch.testing.assert_close(found[0], expected, rtol=1e-4, atol=1e-4)
    own, _ = kept_by(server, graph, [find(graph, "PAVDM_EncodePrompt"), 0])
    torch.testing.assert_close(own[0], expected, rtol=1e-4, atol=1e-4)


def test_the_sampler_reads_the_stock_loader_through_encode_prompt_and_through_the_stock_text_encode_alike(
    server: Any, published: Any, find: Any, latents_of: Any
) -> None:
    graph = published()
    own = latents_of(server, graph)
    clip = [find(graph, "Probe_LoadCLIP"), 0]
    guider = graph[find(graph, "CFGGuider")]["inputs"]
    guider["positive"] = ["stock", 0]
    graph["stock"] = {"class_type": "CLIPTextEncode", "inputs": {"clip": clip, "text": TEXT}}
    torch.testing.assert_close(latents_of(server, graph), own, rtol=1e-5, atol=1e-5)
    graph["stock"]["inputs"]["text"] = "the sea"
    assert not torch.allclose(latents_of(server, graph), own, atol=1e-3)
