"""What `pavdm info` says of each sort of file."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from pavdm.errors import InputError
from pavdm.info import describe
from pavdm.new_model import create

GOLDEN = Path(__file__).parent / "golden"


def values(text: str) -> dict[str, str]:
    return dict(line.strip().split("  ", 1) for line in text.splitlines()[1:] if "  " in line.strip())


def test_checkpoint_is_named_sized_and_configured(tmp_path: Path) -> None:
    tensors = load_file(GOLDEN / "stdit3_weights.safetensors")
    save_file({f"module.{key}": tensor.bfloat16() for key, tensor in tensors.items()}, tmp_path / "m.safetensors")
    said = {name: value.strip() for name, value in values(describe(tmp_path / "m.safetensors")).items()}
    assert said["network"].startswith("STDiT3")
    assert said["parameters"] == f"{sum(tensor.numel() for tensor in tensors.values()):,}"
    assert said["tensors"] == f"{len(tensors)} BF16"
    assert said["key prefix"] == "module."
    assert said["hidden_size"] == "64"


def test_models_directory_is_described_network_by_network(tmp_path: Path) -> None:
    create(tmp_path / "models")
    text = describe(tmp_path / "models")
    for fact in ("STDiT3", "T5 text encoder", "Open-Sora VAE", "d_model", "temporal_config.filters"):
        assert fact in text
    assert text.isascii()


def test_state_shows_its_header(tmp_path: Path) -> None:
    header = {"format": 1, "call": 7, "settings": {"guidance_scale": 7.0}, "prompts": ["a corgi\nruns " + "on " * 200]}
    save_file({"window": torch.zeros(1, 4, 30, 6, 8)}, tmp_path / "s.safetensors", {"pavdm_state": json.dumps(header)})
    text = describe(tmp_path / "s.safetensors")
    said = {name: value.strip() for name, value in values(text).items()}
    assert "window state" in text
    assert said["window"] == "F32 [1, 4, 30, 6, 8]"
    assert said["call"] == "7"
    assert said["settings.guidance_scale"] == "7.0"
    assert max(map(len, text.splitlines())) < 140


def test_damaged_state_header_is_an_input_error(tmp_path: Path) -> None:
    save_file({"window": torch.zeros(1)}, tmp_path / "s.safetensors", {"pavdm_state": "{"})
    with pytest.raises(InputError, match="damaged"):
        describe(tmp_path / "s.safetensors")


def test_video_shows_its_shape_and_what_pavdm_wrote_into_it(tmp_path: Path) -> None:
    from pavdm.video_writer import VideoWriter

    record = {"prompt": "a corgi", "seed": 42}
    with VideoWriter(tmp_path / "v.mp4", (48, 64), 24.0, {"pavdm": json.dumps(record)}) as writer:
        writer.write(np.zeros((10, 48, 64, 3), np.uint8))
    said = {name: value.strip() for name, value in values(describe(tmp_path / "v.mp4")).items()}
    assert said["size"].startswith("48 x 64")
    assert said["frames"] == "10"
    assert said["rate"] == "24 fps"
    assert said["seed"] == "42"
    assert said["prompt"] == "a corgi"


def test_anything_else_is_an_input_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        describe(tmp_path / "nothing")
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(InputError, match="neither a checkpoint"):
        describe(tmp_path / "notes.txt")
    with pytest.raises(InputError, match="holds no weights|holds 1"):
        describe(tmp_path)
