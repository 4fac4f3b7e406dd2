"""Decode to Video on a real ComfyUI: what is shown of the clip, in which codec, and what stays after Cancel."""

from __future__ import annotations

from typing import Any
from uuid import uuid4

import av
import numpy as np
import pytest
from extending import frames_of

pytestmark = pytest.mark.host

PIECE = 17
CLIP_FRAMES = 96  # of clip.mp4 at 24 fps
DECODE = "PAVDM_DecodeToVideo"


def video_of(server: Any, graph: Any, find: Any) -> np.ndarray:
    (path,) = server.files(server.run(graph), find(graph, "SaveVideo"))
    return frames_of(path)


@pytest.mark.parametrize(
    ("off", "pieces", "num_remade"),
    [({"overlap": False}, 1, 1), ({"variable_length": False}, 3, 2), ({}, 3, 0)],
)
def test_what_the_sampler_made_anew_of_the_clip_is_shown_as_it_was_made(
    server: Any, workflow: Any, find: Any, off: dict[str, bool], pieces: int, num_remade: int
) -> None:
    graph = workflow("extend_a_clip", new_seconds=PIECE / 24)
    graph[find(graph, "PAVDM_ProgressiveSampler")]["inputs"].update(off)
    graph[find(graph, "PAVDM_EncodeClip")]["inputs"]["pieces"] = pieces
    decode = graph[find(graph, DECODE)]["inputs"]
    decode["crf"] = 1.0  # near lossless: what is left of a picture depends on those before it
    shown = video_of(server, graph, find)
    del decode["clip"], decode["clip_fps"]
    graph[find(graph, "SaveVideo")]["inputs"]["filename_prefix"] = f"tests/{uuid4().hex}"
    decoded = video_of(server, graph, find)
    assert len(shown) == CLIP_FRAMES + PIECE and len(decoded) == (pieces + 1) * PIECE
    made = (num_remade + 1) * PIECE

    def differences(part: slice) -> np.ndarray:
        of_both = shown[-len(decoded) :][part].astype(int) - decoded[part]
        return np.abs(of_both).mean(axis=(1, 2, 3))

    assert differences(slice(-made, None)).max() < 3
    assert num_remade == pieces or differences(slice(0, -made)).min() > 3  # the clip's own frames


def test_the_frames_of_a_clip_are_not_put_before_what_goes_on_from_its_start(
    server: Any, workflow: Any, find: Any, in_steps: Any
) -> None:
    whole = workflow("extend_a_clip", new_seconds=1.0)
    whole[find(whole, "PAVDM_EncodeClip")]["inputs"]["condition"] = "first"
    with pytest.raises(Exception, match="do not say which of them are the end of a clip"):
        server.run(whole)
    steps = in_steps(whole, [1])
    del steps["latents"]
    for name in (DECODE, "SaveVideo"):
        steps[find(whole, name)] = whole[find(whole, name)]
    steps[find(whole, DECODE)]["inputs"]["latent"] = ["finish", 0]
    with pytest.raises(Exception, match="do not say which of them are the end of a clip"):
        server.run(steps)
    steps[find(whole, "PAVDM_EncodeClip")]["inputs"]["condition"] = "last"
    assert len(video_of(server, steps, find)) == CLIP_FRAMES + 3 * PIECE


@pytest.mark.parametrize("codec", ["h264", "hevc", "vp9"])
def test_a_codec_is_what_save_video_keeps(server: Any, workflow: Any, find: Any, codec: str) -> None:
    graph = workflow("extend_a_clip", new_seconds=PIECE / 24)  # nothing is sampled: the new part stays empty
    decode = graph[find(graph, DECODE)]["inputs"]
    decode.update({"codec": codec, "latent": [find(graph, "PAVDM_EncodeClip"), 0]})
    (path,) = server.files(server.run(graph), find(graph, "SaveVideo"))
    assert frames_of(path).shape == (CLIP_FRAMES + PIECE, 48, 64, 3)
    with av.open(str(path)) as video:
        assert video.streams.video[0].codec_context.name == codec
        assert video.metadata["prompt"]


def test_cancel_while_decoding_leaves_no_file(server: Any, workflow: Any, find: Any) -> None:
    graph = workflow("text_to_long_video", new_seconds=3.0)
    decode = graph[find(graph, DECODE)]["inputs"]
    decode["latent"] = [find(graph, "PAVDM_EmptyVideo"), 0]
    name = uuid4().hex
    probe = {"vae": [find(graph, "PAVDM_LoadVAE"), 0], "name": name, "max_positions": 10**6, "interrupt_at": 2}
    graph["short"] = {"class_type": "Probe_VAE", "inputs": probe}
    decode["vae"] = ["short", 0]

    def videos() -> set[str]:
        return {path.name for path in (server.base / "temp").rglob("*.mp4")}

    before = videos()
    with pytest.raises(Exception, match="interrupted"):
        server.run(graph)
    assert len(server.noted(name)) == 2
    assert videos() == before
