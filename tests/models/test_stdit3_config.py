"""Configuration of STDiT3: every value that no network can have is refused by name, whatever its type."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

import pytest

from pavdm.errors import InputError
from pavdm.models.checkpoint import load_stdit3
from pavdm.models.stdit3_config import STDiT3Config

GOLDEN = Path(__file__).parents[1] / "golden"
WHOLE = ("in_channels", "hidden_size", "depth", "num_heads", "caption_channels", "model_max_length", "input_sq_size")


@pytest.mark.parametrize("field", WHOLE)
@pytest.mark.parametrize("value", [0, -5, "x", None, True, 512.0, [512], {}, math.nan, 10**400, 10**4299])
def test_count_that_is_none_is_refused_by_name(field: str, value: Any) -> None:
    with pytest.raises(InputError, match=f"expected {field} to be a whole number from 1 to .*, got "):
        STDiT3Config.from_dict({field: value})


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *(
            ("patch_size", value)
            for value in (5, "x", None, [], [1, 2], [1, 0, 2], [1, 2.0, 2], [2, 2, 2], [1, "2", 2])
        ),
        *(("mlp_ratio", value) for value in (0, -1.0, "4", None, math.nan, math.inf, 10**400)),
        *(("pred_sigma", value) for value in (1, "true", None)),
        *(("qk_norm", value) for value in (0, "false", None)),
        *(("class_dropout_prob", value) for value in (-0.1, 1.1, "x", None, math.nan)),
        *(("num_heads", value) for value in (7, 1152)),
    ],
)
def test_other_impossible_value_is_refused_by_name(field: str, value: Any) -> None:
    with pytest.raises(InputError, match=field):
        STDiT3Config.from_dict({field: value})


def test_published_config_json_is_the_default() -> None:
    """The fields of hpcai-tech/OpenSora-STDiT-v3's config.json that shape the network, and one that does not."""
    published = {
        "model_type": "STDiT3",
        "caption_channels": 4096,
        "class_dropout_prob": 0.1,
        "depth": 28,
        "hidden_size": 1152,
        "in_channels": 4,
        "input_sq_size": 512,
        "mlp_ratio": 4.0,
        "model_max_length": 300,
        "num_heads": 16,
        "patch_size": [1, 2, 2],
        "pred_sigma": True,
        "qk_norm": True,
        "enable_flash_attn": True,
    }
    assert STDiT3Config.from_dict(published) == STDiT3Config()


def test_error_names_the_file(tmp_path: Path) -> None:
    shutil.copy(GOLDEN / "stdit3_weights.safetensors", tmp_path / "model.safetensors")
    config = json.loads((GOLDEN / "model.json").read_text())["stdit3_config"]
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "STDiT3", **config, "input_sq_size": 0}))
    with pytest.raises(InputError, match=r"config\.json: .*input_sq_size.*, got 0"):
        load_stdit3(tmp_path)
