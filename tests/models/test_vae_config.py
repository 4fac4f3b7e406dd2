"""Configuration of the video VAE: read from config.json or from the shapes, and refused where it cannot be right."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from pavdm.errors import InputError
from pavdm.models.spatial_vae import SpatialConfig
from pavdm.models.vae import VAEConfig, VideoVAE

GOLDEN = Path(__file__).parents[1] / "golden"
SETTINGS: dict[str, Any] = json.loads((GOLDEN / "vae.json").read_text())

# config.json of hpcai-tech/OpenSora-VAE-v1.2: it names the networks and gives no sizes.
PUBLISHED = {
    "architectures": ["VideoAutoencoderPipeline"],
    "cal_loss": False,
    "freeze_vae_2d": False,
    "from_pretrained": None,
    "micro_frame_size": 17,
    "model_type": "VideoAutoencoderPipeline",
    "scale": [3.85, 2.32, 2.33, 3.06],
    "shift": [-0.1, 0.34, 0.27, 0.98],
    "torch_dtype": "float32",
    "vae_2d": {
        "from_pretrained": "PixArt-alpha/pixart_sigma_sdxlvae_T5_diffusers",
        "local_files_only": False,
        "micro_batch_size": 4,
        "subfolder": "vae",
        "type": "VideoAutoencoderKL",
    },
    "vae_temporal": {"from_pretrained": None, "type": "VAE_Temporal_SD"},
}


@pytest.fixture(scope="module")
def weights() -> dict[str, Tensor]:
    return load_file(GOLDEN / "vae_weights.safetensors")


def test_sizes_are_read_from_the_shapes(weights: dict[str, Tensor]) -> None:
    inferred = VAEConfig.from_state_dict(weights).to_dict()
    for part in ("spatial_config", "temporal_config"):
        for name, value in inferred.pop(part).items():
            expected = SETTINGS[part][name]
            assert value == (tuple(expected) if isinstance(expected, list) else expected), name
    inferred.pop("model_type")
    for name, value in inferred.items():
        assert value == (tuple(SETTINGS[name]) if isinstance(SETTINGS[name], list) else SETTINGS[name]), name


def test_shapes_alone_are_enough(weights: dict[str, Tensor]) -> None:
    shapes = {key: tuple(tensor.shape) for key, tensor in weights.items()}
    assert VAEConfig.from_state_dict(shapes) == VAEConfig.from_dict(SETTINGS)


def test_published_config_json_gives_the_published_network() -> None:
    config = VAEConfig.from_dict(PUBLISHED)
    assert config == VAEConfig()
    with torch.device("meta"):
        vae = VideoVAE(config)
    state = vae.state_dict()
    # Counted on diffusers' AutoencoderKL (SDXL sizes) and on Open-Sora's VAE_Temporal_SD; and two buffers.
    assert len(state) == 248 + 267 + 2
    assert sum(parameter.numel() for parameter in vae.parameters()) == 393_341_007
    assert state["spatial_vae.module.decoder.up_blocks.2.resnets.0.conv_shortcut.weight"].shape == (
        256,
        512,
        1,
        1,
    )
    assert state["temporal_vae.decoder.conv_blocks.2.conv.weight"].shape == (1024, 512, 3, 3, 3)
    assert VAEConfig.from_state_dict(state) == config


def test_saved_config_reads_back() -> None:
    config = VAEConfig.from_dict({**SETTINGS, "micro_frame_size": 9, "spatial_scaling_factor": 0.5})
    assert VAEConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


def test_what_shapes_do_not_tell_comes_from_the_base(weights: dict[str, Tensor]) -> None:
    base = VAEConfig(spatial=SpatialConfig(norm_num_groups=4), micro_frame_size=9)
    config = VAEConfig.from_state_dict(weights, base)
    assert (config.spatial.norm_num_groups, config.micro_frame_size) == (4, 9)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({}, "spatial_config"),
        ({"model_type": "STDiT3", "hidden_size": 1152}, "hpcai-tech/OpenSora-VAE-v1.2"),
        ({**PUBLISHED, "vae_temporal": {"type": "VAE_Temporal"}}, "VAE_Temporal_SD"),
        ({**PUBLISHED, "scale": 1.0}, "4 numbers"),
        ({**PUBLISHED, "micro_frame_size": None}, "micro_frame_size to be a whole number"),
        ({**SETTINGS, "spatial_config": {"act_fn": "relu"}}, "relu"),
        (
            {**SETTINGS, "spatial_config": {**SETTINGS["spatial_config"], "norm_num_groups": 32}},
            "norm groups",
        ),
        ({**SETTINGS, "temporal_config": {"temporal_downsample": [True]}}, "temporal_downsample"),
    ],
)
def test_a_foreign_config_is_refused(config: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        VAEConfig.from_dict(config)


def test_a_checkpoint_without_the_temporal_half_is_refused_by_name(weights: dict[str, Tensor]) -> None:
    spatial_only = {key: value for key, value in weights.items() if key.startswith("spatial_vae.")}
    with pytest.raises(InputError, match="begin with 'temporal_vae"):
        VAEConfig.from_state_dict(spatial_only)


def test_a_missing_key_is_named(weights: dict[str, Tensor]) -> None:
    damaged = {key: value for key, value in weights.items() if "decoder.conv_out" not in key}
    with pytest.raises(InputError, match=r"decoder\.conv_out\.weight"):
        VAEConfig.from_state_dict(damaged)


def with_part(part: str, **changes: Any) -> dict[str, Any]:
    return {**SETTINGS, part: {**SETTINGS[part], **changes}}


@pytest.mark.parametrize(
    ("config", "field"),
    [
        *(
            ({**SETTINGS, "spatial_config": value}, "spatial VAE: expected its configuration")
            for value in (5, None, [])
        ),
        *(
            ({**SETTINGS, "temporal_config": value}, "temporal VAE: expected its configuration")
            for value in ("x", None)
        ),
        *((with_part("temporal_config", filters=value), "filters") for value in ("x", 0, -1, True, 1.5, 10**4299)),
        *((with_part("temporal_config", num_groups=value), "num_groups") for value in (0, None)),
        *((with_part("temporal_config", channel_multipliers=v), "channel_multipliers") for v in (3, [], [0, 1], "12")),
        *((with_part("temporal_config", temporal_downsample=v), "temporal_downsample") for v in (3, ["x"], None)),
        *((with_part("spatial_config", norm_num_groups=value), "norm_num_groups") for value in (0, "x")),
        *((with_part("spatial_config", block_out_channels=v), "block_out_channels") for v in (8, [], ["x"], [0])),
        *((with_part("spatial_config", down_block_types=v), "down_block_types|blocks") for v in (None, [{}], "x")),
        *(({**PUBLISHED, "spatial_scaling_factor": v}, "spatial_scaling_factor") for v in ("x", None, 0, -1, 10**400)),
        *(({**PUBLISHED, "spatial_scaling_factor": float(v)}, "spatial_scaling_factor") for v in ("nan", "inf")),
        *(({**PUBLISHED, "scale": value}, "scale") for value in ("x", None, [1, 1, 1, 0], [1, 1, 1, None], [1])),
        *(({**PUBLISHED, "shift": value}, "shift") for value in ("x", [0, 0, 0, "x"], [0, 0, 0, float("nan")])),
        *(({**PUBLISHED, "vae_2d": value}, "VideoAutoencoderKL") for value in ("x", None, 5, [])),
        *(({**PUBLISHED, "micro_frame_size": value}, "micro_frame_size") for value in (0, "17", 17.0, True)),
        ({**PUBLISHED, "vae_2d": {**PUBLISHED["vae_2d"], "micro_batch_size": "x"}}, "micro batch"),
    ],
)
def test_impossible_value_is_an_input_error_that_names_it(config: dict[str, Any], field: str) -> None:
    with pytest.raises(InputError, match=field):
        VAEConfig.from_dict(config)
