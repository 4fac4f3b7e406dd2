"""Drift of latent statistics, and the files that latents are read from."""

import math

import pytest
import torch
from safetensors.torch import save_file

from pavdm.errors import InputError
from pavdm.evaluation import measure, write_report
from pavdm.evaluation.latents import latent_drift, latent_statistics, read_latents


def latents(chunks=20, seed=0):
    return torch.randn(1, 4, 5 * chunks, 8, 8, generator=torch.Generator().manual_seed(seed))


def test_a_mean_that_moves_and_a_spread_that_grows_are_measured_in_their_units():
    moved = latents()
    moved[:, :, 50:] = moved[:, :, 50:] * 2 + 3  # the second half: three standard deviations up, twice the spread
    found = latent_drift(latent_statistics(moved))
    assert found["latent_mean_drift"] == pytest.approx(3, rel=0.05)
    assert found["latent_std_drift"] == pytest.approx(math.log(2), rel=0.05)
    steady = latent_drift(latent_statistics(latents()))
    assert steady["latent_mean_drift"] < 0.1
    assert steady["latent_std_drift"] < 0.05


@pytest.mark.parametrize("length", [1, 3, 7, 10])
def test_pieces_of_any_length_give_what_the_whole_gives(length):
    whole, pieces = latent_statistics(latents()), latent_statistics(latents().split(length, dim=2))
    assert (whole["mean"] == pieces["mean"]).all()
    assert whole["std"].shape == (20, 4)
    assert whole["mean"][3] == pytest.approx(latents()[0, :, 15:20].mean((1, 2, 3)).numpy(), abs=1e-6)


def test_a_rest_of_fewer_than_five_counts_as_the_last():
    assert latent_statistics(latents()[:, :, :7].split(2, dim=2))["mean"].shape == (2, 4)


def test_a_run_s_folder_and_a_saved_latent_are_read_in_order(tmp_path):
    whole = latents(12)
    (tmp_path / "chunks").mkdir()
    for number, piece in enumerate(whole.split(5, dim=2)):
        save_file({"latents": piece.contiguous()}, tmp_path / "chunks" / f"{number:06d}.safetensors")
    save_file({"latent_tensor": whole}, tmp_path / "whole.latent")
    for path in (tmp_path, tmp_path / "whole.latent"):
        assert torch.equal(torch.cat(list(read_latents(path)), dim=2), whole)


def test_they_come_into_the_summary_and_the_page_and_are_else_named_as_missing(still, tmp_path):
    frames = still(20, size=(16, 16))
    found = measure(frames, latents=latents())
    assert found.summary["latent_mean_drift"] is not None
    assert "<h3>Latents</h3>" in write_report({"v": [found]}, tmp_path / "r").read_text()
    assert "--latents" in measure(frames).missing["latent_mean_drift"]


def test_what_holds_no_latents_is_refused(tmp_path):
    with pytest.raises(InputError, match="no finished chunks"):
        list(read_latents(tmp_path))
    save_file({"weights": torch.zeros(1)}, tmp_path / "w.safetensors")
    with pytest.raises(InputError, match="none of the tensors"):
        list(read_latents(tmp_path / "w.safetensors"))
    (tmp_path / "damaged.safetensors").write_bytes(b"no")
    with pytest.raises(InputError, match="cannot be read"):
        list(read_latents(tmp_path / "damaged.safetensors"))
    with pytest.raises(InputError, match="one video"):
        latent_statistics(torch.zeros(2, 4, 5, 8, 8))
