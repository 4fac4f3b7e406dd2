"""Checkpoints: every published layout loads to the tensors that safetensors itself reads, everything else is refused."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from pavdm.errors import InputError
from pavdm.models.checkpoint import load_stdit3, load_vae, save_stdit3, save_vae
from pavdm.models.kinds import Kind, identify
from pavdm.models.stdit3_config import STDiT3Config
from pavdm.models.vae import VAEConfig
from pavdm.models.write import write_safetensors

GOLDEN = Path(__file__).parents[1] / "golden"
STDIT = GOLDEN / "stdit3_weights.safetensors"
VAE = GOLDEN / "vae_weights.safetensors"
CONFIG: dict[str, Any] = json.loads((GOLDEN / "model.json").read_text())["stdit3_config"]
SPATIAL_CONFIG: dict[str, Any] = json.loads((GOLDEN / "vae.json").read_text())["spatial_config"]


@pytest.fixture
def stdit() -> dict[str, Tensor]:
    return load_file(STDIT)


@pytest.fixture
def vae() -> dict[str, Tensor]:
    return load_file(VAE)


def assert_loaded(network: torch.nn.Module, expected: dict[str, Tensor]) -> None:
    """The network holds exactly the expected tensors, is ready for inference, and nothing stayed on the meta device."""
    state = network.state_dict()
    assert set(state) == set(expected) - {"rope.freqs"}
    for key, tensor in state.items():
        assert torch.equal(tensor, expected[key]), key
    assert not network.training
    assert not any(parameter.requires_grad for parameter in network.parameters())


def folder(path: Path, tensors: dict[str, Tensor], config: dict[str, Any] | None = None) -> Path:
    path.mkdir(parents=True)
    save_file(tensors, path / "model.safetensors")
    if config is not None:
        (path / "config.json").write_text(json.dumps(config))
    return path


# --- what must load


def test_single_file_loads_with_the_configuration_its_shapes_tell(stdit: dict[str, Tensor]) -> None:
    network = load_stdit3(STDIT)
    assert_loaded(network, stdit)
    assert network.config == STDiT3Config.from_dict(CONFIG)


def test_folder_takes_its_configuration_from_config_json(tmp_path: Path, stdit: dict[str, Tensor]) -> None:
    config = {"model_type": "STDiT3", **CONFIG, "input_sq_size": 256, "enable_flash_attn": True}
    network = load_stdit3(folder(tmp_path / "m", stdit, config))
    assert_loaded(network, stdit)
    assert network.config.input_sq_size == 256


def test_shards_behind_an_index_load_as_one_network(tmp_path: Path, stdit: dict[str, Tensor]) -> None:
    keys = sorted(stdit)
    shards = {"a-00001-of-00002.safetensors": keys[::2], "a-00002-of-00002.safetensors": keys[1::2]}
    for name, part in shards.items():
        save_file({key: stdit[key] for key in part}, tmp_path / name)
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {key: name for name, part in shards.items() for key in part}}))
    assert_loaded(load_stdit3(tmp_path), stdit)
    assert_loaded(load_stdit3(index), stdit)
    (tmp_path / "a-00002-of-00002.safetensors").unlink()
    with pytest.raises(InputError, match=r"1 are missing: a-00002-of-00002\.safetensors"):
        load_stdit3(tmp_path)


@pytest.mark.parametrize(
    "prefix", ["module.", "model.", "ema.", "ema_model.", "model.diffusion_model.", "_orig_mod.module."]
)
def test_wrapper_prefix_of_a_fine_tuned_checkpoint_is_removed(
    tmp_path: Path, stdit: dict[str, Tensor], prefix: str
) -> None:
    save_file({prefix + key: tensor for key, tensor in stdit.items()}, tmp_path / "m.safetensors")
    assert_loaded(load_stdit3(tmp_path / "m.safetensors"), stdit)


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "before torch 1.6"])
@pytest.mark.parametrize(
    "wrap", [lambda t: t, lambda t: {"state_dict": {f"module.{k}": v for k, v in t.items()}, "epoch": 3}]
)
def test_pickled_weights_load_without_running_code(
    tmp_path: Path, stdit: dict[str, Tensor], zipped: bool, wrap: Callable[[dict[str, Tensor]], dict[str, Any]]
) -> None:
    torch.save(wrap(stdit), tmp_path / "m.pt", _use_new_zipfile_serialization=zipped)
    assert_loaded(load_stdit3(tmp_path / "m.pt"), stdit)


def test_averaged_weights_win_over_raw_ones(tmp_path: Path, stdit: dict[str, Tensor]) -> None:
    raw = {key: tensor + 1 for key, tensor in stdit.items()}
    torch.save({"model": raw, "ema": {"module": stdit}, "optimizer": {"state": {}}}, tmp_path / "nested.pt")
    both = {f"model.{key}": t for key, t in raw.items()} | {f"ema.{key}": t for key, t in stdit.items()}
    save_file(both, tmp_path / "flat.safetensors")
    folder(tmp_path / "run", raw)
    save_file(stdit, tmp_path / "run" / "ema.safetensors")
    for name in ("nested.pt", "flat.safetensors", "run"):
        assert_loaded(load_stdit3(tmp_path / name), stdit)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_weights_are_converted_to_the_asked_type(stdit: dict[str, Tensor], dtype: torch.dtype) -> None:
    network = load_stdit3(STDIT, dtype=dtype)
    assert network.dtype == dtype
    for key, tensor in network.state_dict().items():
        assert torch.equal(tensor, stdit[key].to(dtype)), key


def test_positions_that_a_checkpoint_carries_are_ignored(tmp_path: Path, stdit: dict[str, Tensor]) -> None:
    extra = {
        "pos_embed": torch.zeros(1, 4, 8),
        "pos_embed.inv_freq": torch.zeros(8),
        "pos_embed_temporal": torch.zeros(3),
    }
    save_file({**stdit, **extra}, tmp_path / "m.safetensors")
    assert_loaded(load_stdit3(tmp_path / "m.safetensors"), stdit)


def test_vae_in_the_published_layout_loads(tmp_path: Path, vae: dict[str, Tensor]) -> None:
    assert_loaded(load_vae(VAE), vae)
    published = {
        "model_type": "VideoAutoencoderPipeline",
        "micro_frame_size": 17,
        "scale": [1.0, 2.0, 3.0, 4.0],
        "shift": [0.0, 0.1, 0.2, 0.3],
        "vae_2d": {"type": "VideoAutoencoderKL", "micro_batch_size": 4},
        "vae_temporal": {"type": "VAE_Temporal_SD"},
    }
    bare = {key: tensor for key, tensor in vae.items() if key not in ("scale", "shift")}
    loaded = load_vae(folder(tmp_path / "no_scale", bare, published))
    assert loaded.scale.flatten().tolist() == [1.0, 2.0, 3.0, 4.0]
    assert load_vae(folder(tmp_path / "plain", bare)).scale.flatten().tolist() == pytest.approx(
        [3.85, 2.32, 2.33, 3.06]
    )
    assert load_vae(VAE, dtype=torch.bfloat16).scale.dtype == torch.float32


@pytest.mark.parametrize("bare", [False, True], ids=["temporal_vae.*", "no prefix"])
@pytest.mark.parametrize("legacy", [False, True], ids=["to_q", "query"])
def test_temporal_half_and_diffusers_image_vae_make_one_vae(
    tmp_path: Path, vae: dict[str, Tensor], bare: bool, legacy: bool
) -> None:
    start = len("temporal_vae.") if bare else 0
    temporal = {key[start:]: tensor for key, tensor in vae.items() if key.startswith("temporal_vae.")}
    spatial = {
        key.removeprefix("spatial_vae.module."): tensor for key, tensor in vae.items() if key.startswith("spatial")
    }
    if legacy:
        old = {".to_q.": ".query.", ".to_k.": ".key.", ".to_v.": ".value.", ".to_out.0.": ".proj_attn."}
        for new, name in old.items():
            spatial = {key.replace(new, name): tensor for key, tensor in spatial.items()}
    save_file(temporal, tmp_path / "temporal.safetensors")
    image = folder(
        tmp_path / "image", spatial, {"_class_name": "AutoencoderKL", "scaling_factor": 0.13025, **SPATIAL_CONFIG}
    )
    (image / "model.safetensors").rename(image / "diffusion_pytorch_model.safetensors")
    loaded = load_vae(tmp_path / "temporal.safetensors", spatial_path=image)
    assert_loaded(loaded, vae)
    assert loaded.config.spatial_scaling_factor == 0.18215  # Open-Sora's, whatever the image VAE's own is
    with pytest.raises(InputError, match=r"temporal half .*pixart_sigma_sdxlvae_T5_diffusers.*--spatial-vae"):
        load_vae(tmp_path / "temporal.safetensors")


def test_saved_networks_have_the_published_keys_and_load_again(
    tmp_path: Path, stdit: dict[str, Tensor], vae: dict[str, Tensor]
) -> None:
    for dtype in (torch.float32, torch.bfloat16):
        save_stdit3(load_stdit3(STDIT, dtype=dtype), tmp_path / f"s{dtype}")
        saved = load_file(tmp_path / f"s{dtype}" / "model.safetensors")
        assert set(saved) == set(stdit)
        torch.testing.assert_close(saved.pop("rope.freqs"), stdit["rope.freqs"])
        assert all(torch.equal(tensor, stdit[key].to(dtype)) for key, tensor in saved.items())
    assert load_stdit3(tmp_path / "storch.float32").config == STDiT3Config.from_dict(CONFIG)
    save_vae(load_vae(VAE), tmp_path / "v")
    assert_loaded(load_vae(tmp_path / "v"), vae)
    assert not list(tmp_path.rglob("*.tmp"))


def test_saving_over_the_mapped_file_keeps_the_network_whole(tmp_path: Path, stdit: dict[str, Tensor]) -> None:
    network = load_stdit3(folder(tmp_path / "m", stdit))
    save_stdit3(network, tmp_path / "m")
    assert_loaded(network, stdit)


# --- what must be refused


def test_failed_write_leaves_the_old_file_and_no_temporary_one(tmp_path: Path) -> None:
    target = tmp_path / "m.safetensors"
    target.write_bytes(b"old")

    def pieces(name: str) -> list[Tensor]:
        raise OSError(28, "No space left on device")

    with pytest.raises(InputError, match="No space left on device"):
        write_safetensors(target, {"a": ((3,), torch.float32)}, pieces)
    assert [file.name for file in tmp_path.iterdir()] == ["m.safetensors"]
    assert target.read_bytes() == b"old"


def test_missing_unexpected_and_misshaped_keys_are_all_named(tmp_path: Path, stdit: dict[str, Tensor]) -> None:
    for index in range(2):
        del stdit[f"temporal_blocks.{index}.attn.qkv.weight"]
    stdit["spatial_blocks.0.attn.extra"] = torch.zeros(2)
    stdit["t_block.1.bias"] = torch.zeros(7)
    save_file(stdit, tmp_path / "m.safetensors")
    with pytest.raises(InputError) as caught:
        load_stdit3(tmp_path / "m.safetensors")
    message = str(caught.value)
    assert "2 missing: temporal_blocks.0.attn.qkv.weight, temporal_blocks.1.attn.qkv.weight" in message
    assert "1 unexpected: spatial_blocks.0.attn.extra" in message
    assert "1 of another shape: t_block.1.bias [7] instead of [384]" in message
    assert "hpcai-tech/OpenSora-STDiT-v3" in message


def test_config_json_of_another_model_is_named_with_what_differs(tmp_path: Path, stdit: dict[str, Tensor]) -> None:
    config = {"model_type": "STDiT3", **CONFIG, "depth": 28, "caption_channels": 4096}
    with pytest.raises(InputError, match=r"config\.json.*depth 28 against 2; caption_channels 4096 against 32"):
        load_stdit3(folder(tmp_path / "m", stdit, config))


def test_vae_config_json_of_another_size_is_refused(tmp_path: Path, vae: dict[str, Tensor]) -> None:
    config = load_vae(VAE).config
    wrong = replace(config, temporal=replace(config.temporal, filters=16)).to_dict()
    with pytest.raises(InputError, match=r"config\.json does not describe"):
        load_vae(folder(tmp_path / "m", vae, wrong))


def test_another_network_is_refused_and_called_by_its_name(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"Open-Sora VAE v1\.2.*hpcai-tech/OpenSora-STDiT-v3"):
        load_stdit3(VAE)
    with pytest.raises(InputError, match=r"STDiT3.*hpcai-tech/OpenSora-VAE-v1\.2"):
        load_vae(STDIT)
    save_file({"some.weight": torch.zeros(2)}, tmp_path / "m.safetensors")
    with pytest.raises(InputError, match="none that pavdm knows"):
        load_stdit3(tmp_path / "m.safetensors")


@pytest.mark.parametrize(
    ("keys", "kind"),
    [
        (["encoder.block.0.layer.0.SelfAttention.q.weight", "shared.weight"], Kind.TEXT_ENCODER),
        (["patch_embedding.weight", "blocks.0.self_attn.q.weight"], Kind.WAN),
        (
            ["encoder.down_blocks.0.resnets.0.conv1.weight", "decoder.up_blocks.0.resnets.0.conv1.weight"],
            Kind.SPATIAL_VAE,
        ),
        (["spatial_blocks.0.attn.qkv.lora_A.weight", "temporal_blocks.0.attn.qkv.lora_A.weight"], Kind.LORA),
    ],
)
def test_networks_are_told_apart_by_their_keys(keys: list[str], kind: Kind) -> None:
    assert identify(keys) is kind


# --- sizes and memory


MEASURE = """
import sys, threading, time
import torch
from pavdm.models.checkpoint import load_stdit3

def status():
    with open("/proc/self/status") as file:
        fields = dict(line.split(":", 1) for line in file)
    return {name: int(fields[name].split()[0]) * 1024 for name in ("RssAnon", "RssFile", "VmHWM")}

torch.zeros(1000, 1000).bfloat16().sum()
before, peak, stop = status(), {"RssAnon": 0}, threading.Event()

def watch():
    while not stop.wait(0.002):
        peak["RssAnon"] = max(peak["RssAnon"], status()["RssAnon"])

thread = threading.Thread(target=watch)
thread.start()
network = load_stdit3(sys.argv[1], dtype=getattr(torch, sys.argv[2]))
total = sum(float(tensor.float().mean()) for tensor in network.state_dict().values())  # every page is touched
stop.set()
thread.join()
after = status()
print(peak["RssAnon"] - before["RssAnon"], after["VmHWM"] - before["VmHWM"])
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads Linux's /proc")
def test_loading_never_holds_two_copies_of_the_weights(tmp_path: Path) -> None:
    from pavdm.models.stdit3 import STDiT3

    config = STDiT3Config(hidden_size=768, depth=5, num_heads=12, caption_channels=256, model_max_length=8)
    state = STDiT3(config, device="meta").state_dict()
    specs = {name: (tuple(tensor.shape), torch.float32) for name, tensor in state.items()}
    write_safetensors(tmp_path / "m.safetensors", specs, lambda name: [torch.full(specs[name][0], 0.5)])
    size = (tmp_path / "m.safetensors").stat().st_size
    assert size > 300e6
    growth = {}
    for dtype in ("float32", "bfloat16"):
        command = [sys.executable, "-c", MEASURE, str(tmp_path / "m.safetensors"), dtype]
        output = subprocess.run(command, capture_output=True, text=True, check=True, cwd=Path(__file__).parents[2])
        growth[dtype] = [int(number) / size for number in output.stdout.split()]
    assert growth["float32"][0] < 0.2  # stays mapped: no memory of its own
    assert growth["float32"][1] < 1.3
    assert growth["bfloat16"][0] < 0.7  # the network is half the file
    assert growth["bfloat16"][1] < 0.95  # file and network together would be 1.5


def test_published_sizes_are_the_defaults() -> None:
    """Bytes of model.safetensors in hpcai-tech/OpenSora-VAE-v1.2, less its header, are those of a default VideoVAE."""
    from pavdm.models.vae import VideoVAE

    vae = VideoVAE(VAEConfig(), device="meta")
    num_bytes = sum(tensor.numel() * 4 for tensor in vae.state_dict().values())
    assert 0 < 1_573_430_548 - num_bytes < 200_000
