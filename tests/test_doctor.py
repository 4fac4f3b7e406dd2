"""The doctor's report: true about this machine, and about what a models directory lacks."""

from __future__ import annotations

import platform
from pathlib import Path

import pytest
import torch

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
