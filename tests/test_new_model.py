"""Random sets of networks: loadable by the ordinary loaders, deterministic, bounded in memory, sane in their numbers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open

from pavdm.errors import InputError
from pavdm.models.checkpoint import load_stdit3, load_vae
from pavdm.models.files import ModelFiles, find_models
from pavdm.models.text_encoder import TextEncoder
from pavdm.new_model import PRESETS, create

GOLDEN = Path(__file__).parent / "golden"


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> ModelFiles:
    directory = tmp_path_factory.mktemp("models") / "tiny"
    made = create(directory, "tiny", seed=3)
    assert find_models(directory) == made
    return made


def keys(file: Path) -> set[str]:
    with safe_open(file, framework="pt") as handle:
        return set(handle.keys())


def test_tiny_set_has_the_keys_of_the_published_files(tiny: ModelFiles) -> None:
    """The golden weights have the published key layout, and two blocks, as tiny has."""
    assert keys(tiny.stdit / "model.safetensors") == keys(GOLDEN / "stdit3_weights.safetensors")
    assert keys(tiny.vae / "model.safetensors") == keys(GOLDEN / "vae_weights.safetensors")


def test_seed_decides_every_weight(tiny: ModelFiles, tmp_path: Path) -> None:
    torch.manual_seed(99)
    before = torch.get_rng_state()
    again, other = create(tmp_path / "again", "tiny", seed=3), create(tmp_path / "other", "tiny", seed=4)
    for name in ("stdit", "vae", "text_encoder"):
        content = (getattr(tiny, name) / "model.safetensors").read_bytes()
        assert (getattr(again, name) / "model.safetensors").read_bytes() == content
        assert (getattr(other, name) / "model.safetensors").read_bytes() != content
    assert torch.equal(torch.get_rng_state(), before)


@torch.no_grad()
def test_guided_sampling_neither_explodes_nor_dies(tiny: ModelFiles) -> None:
    """Twelve chunks leave a steady window (levels 1/6 .. 1, guidance 7); the clip comes through the VAE and back."""
    network, vae = load_stdit3(tiny.stdit), load_vae(tiny.vae)
    text = TextEncoder.load(tiny.text_encoder, "cpu", torch.float32).encode(["a corgi on a beach"])[0]
    assert text.shape[1] == network.config.caption_channels
    contexts = network.project_text([text, network.null_embedding(len(text))])
    texts = torch.tensor([[0] * 35, [1] * 35])
    generator = torch.Generator().manual_seed(0)
    clip = vae.encode(torch.rand(1, 3, 17, 48, 64, generator=generator) * 2 - 1)
    assert clip.shape == (1, 4, 5, 6, 8)
    levels = torch.arange(7).repeat_interleave(5) / 6
    window = torch.cat([clip, torch.randn(1, 4, 30, 6, 8, generator=generator)], dim=2)
    for _ in range(12):
        for step in range(5):
            now = (levels - step / 30) * (levels > 0)
            latents = window.expand(2, -1, -1, -1, -1)
            out = network(latents, (1000 * now).expand(2, -1), contexts, texts, 24.0, (48, 64))[:, :4]
            velocity = out[1:] + 7 * (out[:1] - out[1:])
            window = window + velocity * ((levels > 0) / 30)[:, None, None]
        chunk = window[:, :, 5:10]
        assert 0.2 < chunk.std() < 4
        assert 0.5 < velocity.std() < 3
        window = torch.cat([window[:, :, 5:], torch.randn(1, 4, 5, 6, 8, generator=generator)], dim=2)
    pixels = vae.decode(chunk)
    assert pixels.shape == (1, 3, 17, 48, 64)
    assert 0.2 < pixels.std() < 1.5
    assert (pixels[:, :, 1:] - pixels[:, :, :-1]).std() > 0.05  # it moves


def test_text_changes_what_the_tiny_network_says(tiny: ModelFiles) -> None:
    encoder = TextEncoder.load(tiny.text_encoder, "cpu", torch.float32)
    network = load_stdit3(tiny.stdit)
    contexts = network.project_text(encoder.encode(["a corgi", "a train"]))
    latents = torch.randn(1, 4, 5, 6, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        first, second = (
            network(latents, torch.full((1, 5), 500.0), contexts, torch.full((1, 5), i), 24.0, (48, 64)) for i in (0, 1)
        )
    assert 1e-3 < (first - second).std() < 0.5


def test_existing_contents_are_never_touched(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("keep")
    with pytest.raises(InputError, match="exists and is not empty"):
        create(tmp_path)
    with pytest.raises(InputError, match="exists and is not empty"):
        create(tmp_path / "mine.txt")
    assert [file.name for file in tmp_path.iterdir()] == ["mine.txt"]


def test_empty_current_directory_is_filled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "models").mkdir()
    monkeypatch.chdir(tmp_path / "models")
    create(".")
    assert find_models(tmp_path / "models") == find_models(Path.cwd())
    assert [folder.name for folder in tmp_path.iterdir()] == ["models"]


def test_unknown_size_names_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="tiny, small, xl"):
        create(tmp_path / "models", "huge")


@pytest.mark.parametrize("seed", [10**40, 2**64, -1, 1.5, True, None])
def test_impossible_seed_is_refused_before_anything_is_written(tmp_path: Path, seed: Any) -> None:
    with pytest.raises(InputError, match=r"seed has to be a whole number from 0 to 18446744073709551615"):
        create(tmp_path / "models", seed=seed)
    assert not list(tmp_path.iterdir())


def test_largest_seed_is_taken(tmp_path: Path) -> None:
    create(tmp_path / "models", seed=2**64 - 1)


def test_impossible_name_is_an_input_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot write"):
        create(tmp_path / ("x" * 5000))


def test_too_little_disk_space_is_said_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pavdm.new_model.shutil.disk_usage", lambda path: type("Usage", (), {"free": 10**9})())
    with pytest.raises(InputError, match=r"not enough disk space: 12\.\d GB are needed, 1\.0 GB are free"):
        create(tmp_path / "models", "xl")
    assert not list(tmp_path.iterdir())


def test_failure_on_the_way_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(path: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pavdm.new_model.write_tokenizer", fail)
    with pytest.raises(InputError, match="No space left on device"):
        create(tmp_path / "models")
    assert not list(tmp_path.iterdir())


def test_xl_has_the_published_sizes() -> None:
    """Published: STDiT3 4.84 GB and VAE 1.573 GB in fp32; the encoder half of T5 v1.1 XXL has 4.76 billion weights."""
    from pavdm.new_model import network_specs

    count = {
        name: sum(torch.Size(shape).numel() for shape, _ in specs.values())
        for name, (_, specs) in network_specs(PRESETS["xl"]).items()
    }
    assert count["stdit"] * 4 == pytest.approx(4.84e9, rel=0.002)
    assert count["vae"] * 4 == pytest.approx(1.573e9, rel=0.001)
    assert count["text_encoder"] == pytest.approx(4.762e9, rel=0.001)
