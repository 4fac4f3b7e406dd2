"""What comes out of the host's nodes equals what the library alone computes."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
import pytest
import torch
from extending import frames_of
from PIL import Image
from torch import Tensor

from pavdm import captions
from pavdm.models.checkpoint import load_stdit3, load_vae
from pavdm.models.text_encoder import TextEncoder
from pavdm.prompts import PromptSchedule
from pavdm.sampling import progressive
from pavdm.sampling.guidance import GuidedVelocity
from pavdm.sampling.schedule import Schedule, timestep_shift
from pavdm.video_writer import VideoWriter

pytestmark = pytest.mark.host

SEED = 42


def host_noise(shape: tuple[int, ...]) -> Tensor:
    """What the stock Random Noise draws for SEED."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(SEED))


def library_video(models: Path, prompt: str, schedule: Schedule, clip: Tensor | None, shape: tuple[int, ...]) -> Tensor:
    """The library's own sampler on the host's noise: latents (1, 4, T, h, w), clip included."""
    height, width = shape[-2] * 8, shape[-1] * 8
    prompts = PromptSchedule.parse(prompt).map(captions.preprocess)
    encoder = TextEncoder.load(models / "text_encoder", torch.device("cpu"), torch.float32, 300)
    embeddings = dict(zip(prompts.texts, encoder.encode(list(prompts.texts)), strict=True))
    network = load_stdit3(models / "stdit")
    velocity = GuidedVelocity(network, embeddings, guidance_scale=7.0, size=(height, width), fps=24.0)
    noise = host_noise(shape)
    known = 0 if clip is None else clip.shape[2]
    n = schedule.chunk_latents
    schedule = Schedule(
        schedule.window_chunks,
        n,
        schedule.steps,
        schedule.overlap,
        schedule.variable_length,
        timestep_shift(height, width, schedule.window_latents),
    )

    def place(chunk: int, wanted: tuple[int, ...]) -> Tensor:
        own = noise[:, :, known + chunk * n : known + (chunk + 1) * n]
        return own if own.shape[2] else progressive.seeded_noise((SEED,))(chunk, wanted)  # a window that looks ahead

    state = progressive.start(
        schedule,
        clip,
        shape=(shape[0], shape[1], shape[3], shape[4]),
        seeds=(SEED,),
        prompts=(prompts,),
        chunk_seconds=n * 17 / 5 / 24,
        total=(shape[2] - known) // n,
        noise=place,
    )
    num_chunks = (shape[2] - known) // n - state.first_chunk
    chunks = [chunk for _, chunk in progressive.sample(state, velocity, noise=place, num_chunks=num_chunks)]
    lead = noise[:, :, :0] if clip is None else clip[:, :, : known + state.first_chunk * n]
    return torch.cat([lead, *chunks], dim=2)


@pytest.mark.parametrize("prompt", ["a boat", "|0| a boat on a lake |2| snow on a mountain, seen from far away"])
def test_progressive_sampler_from_text_equals_the_library(
    server: Any, latents_of: Any, workflow: Any, find: Any, models: Path, prompt: str
) -> None:
    graph = workflow("text_to_long_video", new_seconds=2.0)
    graph[find(graph, "PAVDM_EncodePrompt")]["inputs"]["text"] = prompt
    theirs = latents_of(server, graph, find(graph, "SamplerCustomAdvanced"))
    ours = library_video(models, prompt, Schedule(3, 5, 6), None, (1, 4, 15, 6, 8))
    torch.testing.assert_close(theirs, ours, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("overlap", "variable_length", "pieces"), [(True, True, 1), (False, True, 2), (True, False, 3)]
)
def test_progressive_sampler_on_a_clip_equals_the_library_in_every_ablation(
    server: Any,
    latents_of: Any,
    workflow: Any,
    find: Any,
    models: Path,
    overlap: bool,
    variable_length: bool,
    pieces: int,
) -> None:
    graph = workflow("extend_a_clip", new_seconds=2.0)
    settings = {"overlap": overlap, "variable_length": variable_length}
    graph[find(graph, "PAVDM_ProgressiveSampler")]["inputs"].update(settings)
    graph[find(graph, "PAVDM_EncodeClip")]["inputs"]["pieces"] = pieces
    clip = latents_of(server, graph, find(graph, "PAVDM_EncodeClip"))[:, :, : pieces * 5]
    theirs = latents_of(server, graph, find(graph, "SamplerCustomAdvanced"))
    prompt = graph[find(graph, "PAVDM_EncodePrompt")]["inputs"]["text"]
    schedule = Schedule(3, 5, 6, overlap, variable_length)
    ours = library_video(models, prompt, schedule, clip, (1, 4, pieces * 5 + 15, 6, 8))
    torch.testing.assert_close(theirs, ours, rtol=1e-5, atol=1e-5)


def test_denoised_output_is_the_finished_video(server: Any, latents_of: Any, workflow: Any, find: Any) -> None:
    graph = workflow("text_to_long_video", new_seconds=1.0)
    sampler = find(graph, "SamplerCustomAdvanced")
    assert torch.equal(latents_of(server, graph, sampler, 0), latents_of(server, graph, sampler, 1))


def with_stock_decode(graph: Any, find: Any, class_type: str, **inputs: Any) -> Any:
    """`graph` with a stock decode node and its frames as PNG files beside Decode to Video."""
    sampled = [find(graph, "SamplerCustomAdvanced"), 0]
    stock = {"class_type": class_type, "inputs": {"samples": sampled, "vae": [find(graph, "PAVDM_LoadVAE"), 0]}}
    stock["inputs"].update(inputs)
    save = {"class_type": "SaveImage", "inputs": {"images": ["stock", 0], "filename_prefix": f"stock/{uuid4().hex}"}}
    return {**graph, "stock": stock, "png": save}


@pytest.mark.parametrize(
    ("class_type", "inputs"),
    [
        ("VAEDecode", {}),
        ("VAEDecodeTiled", {"tile_size": 512, "overlap": 64, "temporal_size": 64, "temporal_overlap": 8}),
    ],
)
def test_stock_vae_decode_equals_decode_to_video(
    server: Any, workflow: Any, find: Any, tmp_path: Path, class_type: str, inputs: dict[str, Any]
) -> None:
    graph = with_stock_decode(workflow("text_to_long_video", new_seconds=2.0), find, class_type, **inputs)
    graph[find(graph, "PAVDM_DecodeToVideo")]["inputs"]["crf"] = 0.0
    outputs = server.run(graph)
    stock = np.stack([np.asarray(Image.open(path)) for path in server.files(outputs, "png")])
    assert stock.shape == (51, 48, 64, 3)
    with VideoWriter(tmp_path / "stock.mp4", (48, 64), 24, crf=0) as writer:
        for start in range(0, 48, 17):
            writer.write(stock[start : min(start + 17, 48)])
    (path,) = server.files(outputs, find(graph, "SaveVideo"))
    ours, theirs = (frames_of(video).astype(int) for video in (path, tmp_path / "stock.mp4"))
    # Save Image cuts off what Decode to Video rounds: half a level on average, and one more by the chroma planes.
    difference = np.abs(ours - theirs)
    mean, largest = difference.mean(), difference.max()
    assert mean < 0.75 and largest <= 6


def test_stock_vae_encode_tiled_equals_the_plain_one_where_one_tile_is_enough(
    server: Any, latents_of: Any, base: Path
) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(base / "input" / "noise.png")
    graph: dict[str, Any] = {
        "image": {"class_type": "LoadImage", "inputs": {"image": "noise.png"}},
        "frames": {"class_type": "RepeatImageBatch", "inputs": {"image": ["image", 0], "amount": 34}},
        "vae": {"class_type": "PAVDM_LoadVAE", "inputs": {"vae_name": "tiny/model.safetensors"}},
        "plain": {"class_type": "VAEEncode", "inputs": {"pixels": ["frames", 0], "vae": ["vae", 0]}},
        "tiled": {"class_type": "VAEEncodeTiled", "inputs": {"pixels": ["frames", 0], "vae": ["vae", 0]}},
    }
    graph["vae"]["inputs"]["spatial_vae_name"] = "none"
    tiles = {"tile_size": 64, "overlap": 16, "temporal_size": 8, "temporal_overlap": 4}
    graph["tiled"]["inputs"].update(tiles)
    tiled = latents_of(server, graph, "tiled")
    assert tiled.shape == (1, 4, 10, 6, 8)  # in whole pieces, however short the host wants its tiles of time
    torch.testing.assert_close(tiled, latents_of(server, graph, "plain"), rtol=1e-4, atol=1e-4)


def test_decoding_without_enough_memory_goes_on_in_the_hosts_tiles(
    server: Any, workflow: Any, find: Any, tmp_path: Path
) -> None:
    graph = workflow("text_to_long_video", new_seconds=0.7)
    graph[find(graph, "PAVDM_EmptyVideo")]["inputs"].update({"width": 264, "height": 64})
    graph[find(graph, "PAVDM_ProgressiveSampler")]["inputs"].update({"steps": 1, "window_chunks": 1})
    tiles = {"tile_size": 256, "overlap": 64, "temporal_size": 64, "temporal_overlap": 8}
    graph = with_stock_decode(graph, find, "VAEDecodeTiled", **tiles)
    name = uuid4().hex
    loader, decode = find(graph, "PAVDM_LoadVAE"), find(graph, "PAVDM_DecodeToVideo")
    inputs = {"vae": [loader, 0], "name": name, "max_positions": 8 * 32}
    graph["short"] = {"class_type": "Probe_VAE", "inputs": inputs}
    graph[decode]["inputs"].update({"vae": ["short", 0], "crf": 0.0})
    outputs = server.run(graph)
    assert server.noted(name)[:2] == ["(1, 4, 5, 8, 33)", "(1, 4, 5, 8, 32)"]
    stock = np.stack([np.asarray(Image.open(path)) for path in server.files(outputs, "png")])
    with VideoWriter(tmp_path / "stock.mp4", (64, 264), 24, crf=0) as writer:
        writer.write(stock)
    (path,) = server.files(outputs, find(graph, "SaveVideo"))
    difference = np.abs(frames_of(path).astype(int) - frames_of(tmp_path / "stock.mp4").astype(int))
    assert difference.mean() < 0.75 and difference.max() <= 6


def test_the_clips_own_frames_go_into_the_video_as_they_are(
    server: Any, workflow: Any, find: Any, carphone: Path
) -> None:
    graph = workflow("extend_a_clip", new_seconds=1.0)
    encode, decode = (
        graph[find(graph, "PAVDM_EncodeClip")]["inputs"],
        graph[find(graph, "PAVDM_DecodeToVideo")]["inputs"],
    )
    encode.update({"width": 176, "height": 144, "fps": 29.97})
    decode.update({"fps": 29.97, "crf": 0.0, "clip": encode["images"], "clip_fps": encode["source_fps"]})
    graph[find(graph, "PAVDM_ProgressiveSampler")]["inputs"].update({"steps": 1, "window_chunks": 1})
    (path,) = server.files(server.run(graph), find(graph, "SaveVideo"))
    ours, theirs = frames_of(path).astype(int), frames_of(carphone).astype(int)
    assert len(theirs) == 120 and len(ours) == 120 + 30
    assert np.abs(ours[:120] - theirs).mean() < 1.5  # 4:2:0 and back once more
    assert np.abs(ours[120] - theirs[119]).mean() > 5  # the small networks' picture


def test_stock_vae_encode_equals_the_library(server: Any, latents_of: Any, models: Path, base: Path) -> None:
    picture = np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8)
    Image.fromarray(picture).save(base / "input" / "picture.png")
    graph: dict[str, Any] = {
        "image": {"class_type": "LoadImage", "inputs": {"image": "picture.png"}},
        "frames": {"class_type": "RepeatImageBatch", "inputs": {"image": ["image", 0], "amount": 19}},
        "vae": {"class_type": "PAVDM_LoadVAE", "inputs": {"vae_name": "tiny/model.safetensors"}},
        "encoded": {"class_type": "VAEEncode", "inputs": {"pixels": ["frames", 0], "vae": ["vae", 0]}},
    }
    graph["vae"]["inputs"]["spatial_vae_name"] = "none"
    theirs = latents_of(server, graph, "encoded")
    pixels = torch.from_numpy(picture).permute(2, 0, 1)[None, :, None].expand(-1, -1, 19, -1, -1).float() / 127.5 - 1
    with torch.inference_mode():
        ours = load_vae(models / "vae").encode(pixels)
    assert ours.shape[2] == 5 + 1  # a whole piece, and one latent for the two frames after it
    torch.testing.assert_close(theirs, ours, rtol=1e-4, atol=1e-4)
