"""The doctor's report: true about this machine, and about what a models directory lacks."""

from __future__ import annotations

import json
import platform
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from pavdm.doctor import report
from pavdm.new_model import create


def test_complete_set_is_in_order(tmp_path: Path) -> None:
    create(tmp_path / "models")
    lines, ok = report(tmp_path / "models")
    text = "\n".join(lines)
    assert ok
    assert text.isascii()
    for part in ("stdit", "vae", "text_encoder"):
        assert str(tmp_path / "models" / part) in text
    assert "F32" in text
    for fact in (platform.python_version(), torch.__version__, "libx264", "sdpa"):
        assert fact in text


def test_missing_networks_are_named_with_their_place(tmp_path: Path) -> None:
    lines, ok = report(tmp_path)
    text = "\n".join(lines)
    assert not ok
    assert "hpcai-tech/OpenSora-STDiT-v3" in text
    assert str(tmp_path / "OpenSora-VAE-v1.2") in text
    assert "--text-encoder" in text


def test_damaged_file_and_second_candidate_are_not_in_order(tmp_path: Path) -> None:
    create(tmp_path / "models")
    extra = tmp_path / "models" / "other"
    extra.mkdir()
    (extra / "config.json").write_text('{"model_type": "STDiT3"}')
    (extra / "model.safetensors").write_bytes(b"")
    lines, ok = report(tmp_path / "models")
    text = "\n".join(lines)
    assert not ok
    assert "UNREADABLE" in text
    assert "more than one" in text
    assert report(tmp_path / "models", {"stdit": tmp_path / "models" / "stdit"})[1]


def test_missing_package_is_named_with_what_needs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pavdm.doctor.REQUIRED", {"no-such-package-here": "nothing"})
    lines, ok = report()
    assert not ok
    assert any("no-such-package-here" in line and "MISSING" in line for line in lines)


def test_without_a_directory_nothing_is_said_of_models() -> None:
    lines, ok = report()
    assert ok
    assert not any("Models" in line for line in lines)


def said_of(models: Path, **overrides: Path) -> str:
    lines, ok = report(models, overrides)
    assert not ok
    return "\n".join(lines)


def test_missing_tokenizer_is_not_in_order(tmp_path: Path) -> None:
    create(tmp_path / "models")
    (tmp_path / "models" / "text_encoder" / "tokenizer.json").unlink()
    assert "UNUSABLE: the text encoder in" in said_of(tmp_path / "models")
    assert "no tokenizer: expected tokenizer.json" in said_of(tmp_path / "models")


def test_option_that_points_to_another_network_is_not_in_order(tmp_path: Path) -> None:
    models = tmp_path / "models"
    create(models)
    assert "WRONG: expected the video transformer" in said_of(models, stdit=models / "vae")
    assert "WRONG: expected the video VAE" in said_of(models, vae=models / "stdit")
    assert "WRONG: expected the T5 text encoder" in said_of(models, text_encoder=models / "vae")


@pytest.mark.parametrize(
    ("folder", "field", "value"),
    [
        ("stdit", "input_sq_size", 0),
        ("stdit", "depth", 3),
        ("vae", "spatial_scaling_factor", None),
        ("text_encoder", "num_layers", 1),
        ("text_encoder", "num_layers", -1),
    ],
)
def test_config_that_will_not_load_is_not_in_order(tmp_path: Path, folder: str, field: str, value: object) -> None:
    create(tmp_path / "models")
    config = tmp_path / "models" / folder / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), field: value}))
    text = said_of(tmp_path / "models")
    assert "UNUSABLE" in text
    assert field in text
    assert str(config) in text


def test_unreadable_config_is_named_and_checkpoint_without_a_tensor_found_out(tmp_path: Path) -> None:
    create(tmp_path / "models")
    weights = tmp_path / "models" / "stdit" / "model.safetensors"
    tensors = load_file(weights)
    del tensors["t_block.1.bias"]
    save_file(tensors, weights)
    (tmp_path / "models" / "vae" / "config.json").write_text("{")
    text = said_of(tmp_path / "models")
    assert "1 missing: t_block.1.bias" in text
    assert f"{tmp_path / 'models' / 'vae' / 'config.json'} is not readable JSON" in text
