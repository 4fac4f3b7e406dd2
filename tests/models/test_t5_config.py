"""Shapes of T5 encoders, read from weights that transformers wrote."""

from __future__ import annotations

from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from pavdm.errors import InputError
from pavdm.models.t5_config import T5Shape, read_t5


def test_shape_is_the_one_in_config_json(models: Path) -> None:
    shape, tensors = read_t5(models / "text_encoder" / "model.safetensors")
    assert shape == T5Shape(64, 16, 128, 2, 4, 259, True)
    assert set(tensors) == set(load_file(models / "text_encoder" / "model.safetensors"))


def test_a_missing_tensor_is_named(models: Path, tmp_path: Path) -> None:
    tensors = load_file(models / "text_encoder" / "model.safetensors")
    del tensors["encoder.block.1.layer.1.DenseReluDense.wo.weight"]
    save_file(tensors, tmp_path / "t5.safetensors")
    with pytest.raises(InputError, match=r"block\.1\.layer\.1\.DenseReluDense\.wo"):
        read_t5(tmp_path / "t5.safetensors")


def test_another_network_is_named(models: Path) -> None:
    with pytest.raises(InputError, match="STDiT3"):
        read_t5(models / "stdit" / "model.safetensors")


def test_one_shard_stands_for_its_set(models: Path, tmp_path: Path) -> None:
    import json

    tensors = load_file(models / "text_encoder" / "model.safetensors")
    names = sorted(tensors)
    parts = {"model-00001-of-00002.safetensors": names[:5], "model-00002-of-00002.safetensors": names[5:]}
    for file, keys in parts.items():
        save_file({key: tensors[key] for key in keys}, tmp_path / file)
    index = {"weight_map": {key: file for file, keys in parts.items() for key in keys}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    _, read = read_t5(tmp_path / "model-00002-of-00002.safetensors")
    assert set(read) == set(tensors)
