"""What `pavdm info` says of each sort of file."""

from __future__ import annotations

import json
import os
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


def test_control_characters_of_a_file_do_not_reach_the_terminal(tmp_path: Path) -> None:
    metadata = {"title\x1b]0;owned\x07": "a\x1b[2Jb\x9bc\u202ed", "n" * 5000: "long"}
    save_file({"bad\x1b[31m": torch.zeros(1)}, tmp_path / "m.safetensors", metadata)
    text = describe(tmp_path / "m.safetensors")
    assert all(line.isprintable() for line in text.splitlines())
    assert "a\\x1b[2Jb\\x9bc\\u202ed" in text
    assert max(map(len, text.splitlines())) < 300


@pytest.mark.timeout(30)
@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
@pytest.mark.parametrize("name", ["m.safetensors", "m.pt", "v.mp4"])
def test_pipe_is_refused_and_not_waited_for(tmp_path: Path, name: str) -> None:
    os.mkfifo(tmp_path / name)
    with pytest.raises(InputError, match="is a pipe, a socket or a device"):
        describe(tmp_path / name)


def test_device_and_impossible_name_are_input_errors(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is a pipe, a socket or a device"):
        describe(os.devnull)
    with pytest.raises(InputError, match="cannot read|no such"):
        describe(tmp_path / ("x" * 5000))


def test_state_header_that_is_no_object_is_an_input_error(tmp_path: Path) -> None:
    save_file({"window": torch.zeros(1)}, tmp_path / "s.safetensors", {"pavdm_state": "[1]"})
    with pytest.raises(InputError, match="damaged"):
        describe(tmp_path / "s.safetensors")


def test_fingerprint_shows_a_changed_configuration(tmp_path: Path) -> None:
    create(tmp_path / "models")
    before = values(describe(tmp_path / "models" / "stdit"))["fingerprint"]
    config = tmp_path / "models" / "stdit" / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "input_sq_size": 256}))
    assert values(describe(tmp_path / "models" / "stdit"))["fingerprint"] != before
