"""The Drift Report on a real ComfyUI, on what each of its inputs can carry."""

from __future__ import annotations

from typing import Any
from uuid import uuid4

import numpy as np
import pytest
from PIL import Image

pytestmark = pytest.mark.host

CHUNK = 17


def reported(server: Any, graph: Any, inputs: dict[str, Any]) -> tuple[np.ndarray, str]:
    """The picture and the text of a Drift Report on `inputs` of `graph`."""
    settings = {"fps": 24.0, "chunk_frames": 0, "clip_frames": -1}
    graph["report"] = {"class_type": "PAVDM_DriftReport", "inputs": {**settings, **inputs}}
    save = {"images": ["report", 0], "filename_prefix": f"report/{uuid4().hex}"}
    graph["png"] = {"class_type": "SaveImage", "inputs": save}
    graph["text"] = {"class_type": "PreviewAny", "inputs": {"source": ["report", 1]}}
    outputs = server.run(graph)
    (path,) = server.files(outputs, "png")
    (text,) = outputs["text"]["text"]
    return np.asarray(Image.open(path)), text


def values(text: str) -> dict[str, str]:
    return dict(line.split(": ", 1) for line in text.splitlines() if ": " in line)


def test_images_and_the_file_of_the_same_video_have_the_same_numbers(server: Any) -> None:
    graph = {
        "load": {"class_type": "LoadVideo", "inputs": {"file": "clip.mp4"}},
        "parts": {"class_type": "GetVideoComponents", "inputs": {"video": ["load", 0]}},
    }
    picture, of_file = reported(server, dict(graph), {"video": ["load", 0], "chunk_frames": CHUNK})
    inputs = {"images": ["parts", 0], "fps": 29.97, "chunk_frames": CHUNK, "clip_frames": 0}
    _, of_images = reported(server, dict(graph), inputs)
    assert picture.ndim == 3 and picture.std() > 10
    assert "120 frames" in of_file and "120 frames" in of_images
    # The file has oblong pixels. The host gives them as stored, pavdm as they are shown: all but sharpness is alike.
    for name in ("Seam ratio, mean", "Luma, mean", "Contrast, mean", "Colourfulness, mean"):
        of_both = [float(values(text)[name].split(" ")[0]) for text in (of_file, of_images)]
        assert of_both[0] == pytest.approx(of_both[1], rel=0.05)


def test_latents_alone_and_latents_beside_the_decoded_video_are_measured(server: Any, workflow: Any, find: Any) -> None:
    graph = workflow("text_to_long_video")
    sampled = [find(graph, "SamplerCustomAdvanced"), 0]
    decode = find(graph, "PAVDM_DecodeToVideo")
    picture, alone = reported(server, dict(graph), {"latent": sampled})
    assert "chunks of 5 latents" in alone and "Latent mean drift" in alone
    assert picture.std() > 5
    _, beside = reported(server, dict(graph), {"latent": sampled, "video": [decode, 0]})
    assert values(beside)["Latent mean drift"] == values(alone)["Latent mean drift"]
    assert "Luma, drift" in beside


def test_what_opencv_would_measure_is_named_where_it_is_missing(server: Any) -> None:
    """Whichever way this Python is set up, the report says it as it is."""
    graph = {"load": {"class_type": "LoadVideo", "inputs": {"file": "clip.mp4"}}}
    _, text = reported(server, graph, {"video": ["load", 0]})
    try:
        import cv2  # noqa: F401
    except ImportError:
        assert "not measured: Static chunks" in text and "opencv-python-headless" in text
        assert "Motion amplitude, mean:" not in text
    else:
        assert "Motion amplitude, mean:" in text


@pytest.mark.parametrize("both", [True, False])
def test_both_or_neither_is_refused_with_what_to_connect(server: Any, both: bool) -> None:
    graph: dict[str, Any] = {
        "load": {"class_type": "LoadVideo", "inputs": {"file": "clip.mp4"}},
        "parts": {"class_type": "GetVideoComponents", "inputs": {"video": ["load", 0]}},
    }
    inputs = {"video": ["load", 0], "images": ["parts", 0]} if both else {}
    with pytest.raises(Exception, match="not both" if both else "nothing to measure"):
        reported(server, graph, inputs)
