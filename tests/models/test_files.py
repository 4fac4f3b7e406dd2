"""Finding the set of networks in a models directory, as people lay it out."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from pavdm.errors import InputError
from pavdm.models.files import find_models, survey

GOLDEN = Path(__file__).parents[1] / "golden"
STDIT = GOLDEN / "stdit3_weights.safetensors"
VAE = GOLDEN / "vae_weights.safetensors"


def text_encoder(path: Path) -> None:
    path.mkdir(parents=True)
    (path / "config.json").write_text('{"model_type": "t5"}')


def network(path: Path, source: Path, config: dict[str, str] | None = None, name: str = "model.safetensors") -> None:
    path.mkdir(parents=True)
    shutil.copy(source, path / name)
    if config is not None:
        (path / "config.json").write_text(json.dumps(config))


def published(directory: Path) -> None:
    network(directory / "OpenSora-STDiT-v3", STDIT, {"model_type": "STDiT3"})
    network(directory / "OpenSora-VAE-v1.2", VAE, {"model_type": "VideoAutoencoderPipeline"})
    text_encoder(directory / "t5-v1_1-xxl")


def test_published_folders_are_found(tmp_path: Path) -> None:
    published(tmp_path)
    files = find_models(tmp_path)
    assert files.stdit == tmp_path / "OpenSora-STDiT-v3"
    assert files.vae == tmp_path / "OpenSora-VAE-v1.2"
    assert files.text_encoder == tmp_path / "t5-v1_1-xxl"
    assert files.spatial_vae is None


def test_networks_are_recognised_whatever_their_folders_and_files_are_called(tmp_path: Path) -> None:
    network(tmp_path / "mine", STDIT, {"model_type": "STDiT3"})
    shutil.copy(VAE, tmp_path / "some_file.safetensors")
    text_encoder(tmp_path / "prompts")
    files = find_models(tmp_path)
    assert files.stdit == tmp_path / "mine"
    assert files.vae == tmp_path / "some_file.safetensors"
    assert files.text_encoder == tmp_path / "prompts"


def test_pickled_weights_are_found_by_the_conventional_name_of_their_folder(tmp_path: Path) -> None:
    published(tmp_path)
    shutil.rmtree(tmp_path / "OpenSora-STDiT-v3")
    (tmp_path / "stdit").mkdir()
    torch.save({}, tmp_path / "stdit" / "ema.pt")
    assert find_models(tmp_path).stdit == tmp_path / "stdit"


def test_everything_missing_is_listed_at_once_with_source_place_and_option(tmp_path: Path) -> None:
    network(tmp_path / "vae", VAE)
    (tmp_path / "stdit").mkdir()  # a folder that somebody made and did not fill
    with pytest.raises(InputError) as caught:
        find_models(tmp_path)
    message = str(caught.value)
    for part in ("hpcai-tech/OpenSora-STDiT-v3", "--stdit", "DeepFloyd/t5-v1_1-xxl", "--text-encoder"):
        assert part in message
    assert str(tmp_path / "OpenSora-STDiT-v3") in message
    assert "pavdm new-model" in message
    assert "OpenSora-VAE" not in message


def test_missing_directory_is_called_missing(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such models directory"):
        find_models(tmp_path / "nowhere")


def test_two_candidates_are_refused_until_one_is_chosen(tmp_path: Path) -> None:
    published(tmp_path)
    shutil.copy(STDIT, tmp_path / "tuned.safetensors")
    with pytest.raises(InputError, match=r"OpenSora-STDiT-v3 and .*tuned\.safetensors.*--stdit"):
        find_models(tmp_path)
    assert find_models(tmp_path, stdit=tmp_path / "tuned.safetensors").stdit == tmp_path / "tuned.safetensors"


def test_option_that_points_nowhere_is_refused(tmp_path: Path) -> None:
    published(tmp_path)
    with pytest.raises(InputError, match=r"--vae .*gone.*no such file"):
        find_models(tmp_path, vae=tmp_path / "gone")


def test_temporal_half_asks_for_the_image_vae_and_a_full_vae_does_not(tmp_path: Path) -> None:
    published(tmp_path)
    tensors = load_file(VAE)
    spatial = {key.removeprefix("spatial_vae.module."): t for key, t in tensors.items() if key.startswith("spatial")}
    image = tmp_path / "pixart_sigma_sdxlvae_T5_diffusers" / "vae"
    image.mkdir(parents=True)
    save_file(spatial, image / "diffusion_pytorch_model.safetensors")
    (image / "config.json").write_text('{"_class_name": "AutoencoderKL"}')
    assert find_models(tmp_path).spatial_vae is None
    temporal = {key: t for key, t in tensors.items() if key.startswith("temporal")}
    save_file(temporal, tmp_path / "OpenSora-VAE-v1.2" / "model.safetensors")
    assert find_models(tmp_path).spatial_vae == image
    shutil.rmtree(image)
    with pytest.raises(InputError, match=r"pixart_sigma_sdxlvae_T5_diffusers.*\n.*--spatial-vae"):
        find_models(tmp_path)


def test_survey_of_a_broken_directory_never_raises(tmp_path: Path) -> None:
    (tmp_path / "junk.safetensors").write_bytes(b"junk")
    (tmp_path / "stdit").mkdir()
    (tmp_path / "stdit" / "config.json").write_text("{")
    (tmp_path / "bare_t5").mkdir()
    found = survey(tmp_path)
    assert not found.complete
    assert [part.name for part in found.missing] == ["stdit", "vae", "text_encoder"]


def test_unreadable_network_is_listed_with_the_file_and_the_reason(tmp_path: Path) -> None:
    published(tmp_path)
    (tmp_path / "OpenSora-STDiT-v3" / "config.json").write_text('{"model_type": ')
    (tmp_path / "OpenSora-VAE-v1.2" / "config.json").unlink()
    (tmp_path / "OpenSora-VAE-v1.2" / "model.safetensors").write_bytes(VAE.read_bytes()[:5000])
    with pytest.raises(InputError) as caught:
        find_models(tmp_path)
    unreadable = str(caught.value).split("Unreadable")[1]
    assert f"{tmp_path / 'OpenSora-STDiT-v3' / 'config.json'} is not readable JSON" in unreadable
    assert f"{tmp_path / 'OpenSora-VAE-v1.2' / 'model.safetensors'} is cut short" in unreadable
    assert "t5-v1_1-xxl" not in str(caught.value)


def test_unreadable_neighbour_does_not_stand_in_the_way(tmp_path: Path) -> None:
    published(tmp_path)
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "config.json").write_bytes(b"\xff")
    (tmp_path / "junk.safetensors").write_bytes(b"junk")
    assert find_models(tmp_path).stdit == tmp_path / "OpenSora-STDiT-v3"
    assert set(survey(tmp_path).unreadable) == {tmp_path / "notes", tmp_path / "junk.safetensors"}


def test_directory_and_option_with_an_impossible_name_are_input_errors(tmp_path: Path) -> None:
    published(tmp_path)
    with pytest.raises(InputError, match="cannot read|no such"):
        find_models(tmp_path / ("x" * 5000))
    with pytest.raises(InputError, match="--stdit .*(cannot read|no such)"):
        find_models(tmp_path, stdit="x" * 5000)
