"""Weight files on disk: what is read is what was written, what is no checkpoint is refused, identity follows content."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from pavdm.errors import InputError
from pavdm.models import weights as weights_module
from pavdm.models.weights import Weights, fingerprint, load_state_dict

GOLDEN = Path(__file__).parents[1] / "golden"
STDIT = GOLDEN / "stdit3_weights.safetensors"
VAE = GOLDEN / "vae_weights.safetensors"


@pytest.fixture
def stdit() -> dict[str, Tensor]:
    return load_file(STDIT)


@pytest.mark.parametrize("prefix", ["", "model.diffusion_model."])
def test_scaled_fp8_weights_are_read_multiplied_by_their_scales(
    tmp_path: Path, stdit: dict[str, Tensor], prefix: str
) -> None:
    stored, expected = {"scaled_fp8": torch.zeros(2, dtype=torch.float8_e4m3fn)}, dict(stdit)
    for key, tensor in stdit.items():
        stored[key] = tensor
        if key.endswith("fc1.weight"):
            scale = tensor.abs().max() / 448
            stored[key] = (tensor / scale).to(torch.float8_e4m3fn)
            stored[key.replace(".weight", ".scale_weight")] = scale
            stored[key.replace(".weight", ".scale_input")] = torch.ones(())
            expected[key] = stored[key].float() * scale
            torch.testing.assert_close(expected[key], tensor, rtol=0.07, atol=float(scale) / 64)
    save_file({prefix + key: tensor for key, tensor in stored.items()}, tmp_path / "scaled.safetensors")
    weights = Weights(tmp_path / "scaled.safetensors")
    assert weights.shapes == {key: tuple(tensor.shape) for key, tensor in stdit.items()}
    for key, tensor in weights.read("cpu", dict.fromkeys(expected, torch.float32)):
        assert torch.equal(tensor, expected[key]), key
    for key, tensor in weights.read():
        assert torch.equal(tensor, expected[key].to(tensor.dtype)), key
        assert tensor.dtype == (torch.bfloat16 if key.endswith("fc1.weight") else stdit[key].dtype)


class Malicious:
    """Unpickling this would make a folder."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str]]:
        return Path.mkdir, (self.target,)  # type: ignore[return-value]


def test_pickle_with_code_is_refused_and_not_run(tmp_path: Path, stdit: dict[str, Tensor]) -> None:
    torch.save({**stdit, "args": Malicious(tmp_path / "made")}, tmp_path / "m.pt")
    with pytest.raises(InputError, match=r"refused for safety.*convert"):
        load_state_dict(tmp_path / "m.pt")
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize("name", ["m.safetensors", "m.pt", "m.bin"])
@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "empty"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 4\n", "LFS pointer"),
        (b"\xff\xd8\xff\xe0 a picture" * 99, "not a safetensors file|not a checkpoint"),
        (b"<!DOCTYPE html><html>not found</html>", "not a safetensors file|not a checkpoint"),
    ],
)
def test_foreign_file_is_refused(tmp_path: Path, name: str, content: bytes, said: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=said):
        load_state_dict(tmp_path / name)


@pytest.mark.parametrize("part", [0.0005, 0.5, 0.999])
def test_truncated_file_is_refused(tmp_path: Path, stdit: dict[str, Tensor], part: float) -> None:
    torch.save(stdit, tmp_path / "whole.pt")
    for source, name in ((STDIT, "m.safetensors"), (tmp_path / "whole.pt", "m.pt")):
        content = source.read_bytes()
        (tmp_path / name).write_bytes(content[: int(len(content) * part)])
        with pytest.raises(InputError, match="cut short"):
            load_state_dict(tmp_path / name)


def test_wrong_paths_say_what_was_expected(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file or folder"):
        load_state_dict(tmp_path / "nothing")
    with pytest.raises(InputError, match="holds no weights"):
        load_state_dict(tmp_path)
    (tmp_path / "model.gguf").write_bytes(b"GGUF")
    with pytest.raises(InputError, match=r"expected a \.safetensors file.*'\.gguf'"):
        load_state_dict(tmp_path / "model.gguf")
    for name in ("one", "two"):
        shutil.copy(STDIT, tmp_path / f"{name}.safetensors")
    with pytest.raises(InputError, match=r"one\.safetensors, two\.safetensors"):
        load_state_dict(tmp_path)


def test_index_cannot_lead_out_of_its_folder(tmp_path: Path) -> None:
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": "../secret.safetensors"}}))
    with pytest.raises(InputError, match="outside its folder"):
        load_state_dict(index)


def test_header_whose_tensors_overlap_is_refused(tmp_path: Path) -> None:
    header = json.dumps({name: {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]} for name in ("a", "b")}).encode()
    (tmp_path / "m.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + bytes(8))
    with pytest.raises(InputError, match="damaged"):
        load_state_dict(tmp_path / "m.safetensors")


@pytest.mark.parametrize("metadata", ["text", ["a"], 5, None])
def test_header_whose_metadata_is_no_table_is_refused(tmp_path: Path, metadata: Any) -> None:
    entry = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}
    header = json.dumps({"__metadata__": metadata, "a": entry}).encode()
    (tmp_path / "m.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + bytes(8))
    with pytest.raises(InputError, match="not a safetensors file"):
        Weights(tmp_path / "m.safetensors")


@pytest.mark.timeout(30)
@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_pipe_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "m.safetensors")
    with pytest.raises(InputError, match=r"m\.safetensors is a pipe"):
        Weights(tmp_path / "m.safetensors")


@pytest.mark.parametrize("name", ["x" * 5000, "x" * 300 + "/m.safetensors", "zero\0byte"])
def test_impossible_name_is_an_input_error(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError, match="cannot read|no such file"):
        Weights(tmp_path / name)


# --- identity


def test_fingerprint_follows_the_weights_and_not_the_place(tmp_path: Path, stdit: dict[str, Tensor]) -> None:
    same = tmp_path / "elsewhere"
    same.mkdir()
    shutil.copy(STDIT, same / "model.safetensors")
    assert fingerprint(same) == fingerprint(STDIT)
    stdit["final_layer.linear.bias"] = stdit["final_layer.linear.bias"] + 1e-3
    save_file(stdit, tmp_path / "tuned.safetensors")
    save_file(load_file(STDIT), tmp_path / "again.safetensors")
    assert fingerprint(tmp_path / "tuned.safetensors") != fingerprint(tmp_path / "again.safetensors")


@pytest.fixture
def described(tmp_path: Path) -> Path:
    folder = tmp_path / "network"
    folder.mkdir()
    shutil.copy(STDIT, folder / "model.safetensors")
    (folder / "config.json").write_text('{"model_type": "STDiT3", "input_sq_size": 512}')
    (folder / "tokenizer.json").write_text('{"model": {"vocab": {"a": 1}}}')
    (folder / "spiece.model").write_bytes(b"pieces")
    return folder


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("config.json", '{"model_type": "STDiT3", "input_sq_size": 256}'),
        ("config.json", "{"),
        ("tokenizer.json", '{"model": {"vocab": {"a": 2}}}'),
        ("tokenizer_config.json", "{}"),
        ("special_tokens_map.json", "{}"),
        ("spiece.model", "Pieces"),
    ],
)
@pytest.mark.parametrize("part", ["", "model.safetensors"], ids=["folder", "file"])
def test_fingerprint_follows_configuration_and_tokenizer(described: Path, name: str, content: str, part: str) -> None:
    before = fingerprint(described / part)
    (described / name).write_text(content)
    assert fingerprint(described / part) != before


def test_fingerprint_follows_neither_the_layout_of_json_nor_other_files(described: Path) -> None:
    before = fingerprint(described)
    (described / "config.json").write_text('{\n  "input_sq_size":512, "model_type":"STDiT3"}\n')
    (described / "README.md").write_text("about")
    assert fingerprint(described) == before
    assert fingerprint(described / "model.safetensors") == before


# --- memory


def test_many_mappings_give_the_same_tensors_as_one(monkeypatch: pytest.MonkeyPatch) -> None:
    vae = load_file(VAE)
    monkeypatch.setattr(weights_module, "MAPPED_BYTES", 1000)
    loaded = load_state_dict(VAE)
    assert set(loaded) == set(vae)
    assert all(torch.equal(tensor, vae[key]) for key, tensor in loaded.items())
