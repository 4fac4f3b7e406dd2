"""The published implementation's outputs, and whether the comparison itself can fail."""

import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from pavdm.conformance import main, run

GOLDEN = Path(__file__).parent / "golden"


def test_every_golden_case_agrees():
    results = list(run(GOLDEN))
    failed = [str(result) for result in results if not result.verdict.startswith("ok")]
    assert failed == []
    names = [result.name.split(".")[0] for result in results]
    counts = {name: names.count(name) for name in dict.fromkeys(names)}
    assert counts == {
        "forward": 6,
        "progressive_sampler": 6,
        "rectified_flow_sampler": 3,
        "vae": 14,
        "text_cleaning": 42,
        "training_loss": 6,
    }


@pytest.mark.parametrize(
    ("file", "key", "case"),
    [
        ("stdit3_forward", "scalar_t.out", "forward.scalar_t"),
        ("stdit3_forward_bf16", "out_fp32", "forward.bf16"),
        ("progressive_sampler", "no_transform.out", "progressive_sampler.no_transform"),
        ("progressive_sampler", "no_transform.timesteps.0003", "progressive_sampler.no_transform"),
        ("rectified_flow_sampler", "text_to_video.out", "rectified_flow_sampler.text_to_video"),
        ("training_loss", "linear.timestep", "training_loss.linear"),
        ("training_loss", "linear_shift_chunk.x_t", "training_loss.linear_shift_chunk"),
        ("training_loss", "linear_shift_chunk_overlap.loss", "training_loss.linear_shift_chunk_overlap"),
        ("vae", "decode_21.pixels", "vae.decode_21"),
        ("vae", "encode_20.latents", "vae.encode_20"),
    ],
)
def test_a_changed_reference_is_noticed(tmp_path, capsys, file, key, case):
    weights = ("vae.json", "vae_weights") if file == "vae" else ("model.json", "stdit3_weights")
    description = ("training_loss.json",) if file == "training_loss" else ()
    for name in (*weights, *description, file):
        shutil.copy(GOLDEN / (name if "." in name else f"{name}.safetensors"), tmp_path)
    data = load_file(tmp_path / f"{file}.safetensors")
    data[key] = data[key] * 1.001 if "bf16" not in file else -data[key]
    save_file(data, tmp_path / f"{file}.safetensors")
    assert main([str(tmp_path)]) == 1
    lines = [line for line in capsys.readouterr().out.splitlines() if "FAIL" in line]
    assert [line.split()[0] for line in lines] == [case]


def test_a_directory_without_references_is_bad_input(tmp_path, capsys):
    assert main([str(tmp_path)]) == 2
    assert "holds no reference outputs" in capsys.readouterr().err
