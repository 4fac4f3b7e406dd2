"""LoRAs under any names change the weights as adding their products by hand does."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from pavdm.errors import InputError
from pavdm.models.lora import generic_lora
from pavdm.models.stdit3 import STDiT3, STDiT3Config

SIZE, RANK = 16, 2
CONFIG = STDiT3Config(hidden_size=SIZE, depth=2, num_heads=2, caption_channels=8)
LAYERS = {
    name.removesuffix(".weight"): tuple(tensor.shape)
    for name, tensor in STDiT3(CONFIG, device="meta").state_dict().items()
    if name.endswith(".weight")
}
QKV, KV = "spatial_blocks.1.attn.qkv", "temporal_blocks.0.cross_attn.kv_linear"


def pair(rows: int, columns: int = SIZE) -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(rows)
    return torch.randn(RANK, columns, generator=draw), torch.randn(rows, RANK, generator=draw)


def change(lora: dict[str, Tensor], layer: str) -> Tensor:
    """What the host adds to a weight: up @ down, times alpha / rank where there is an alpha."""
    down, up = (lora[f"diffusion_model.{layer}.{part}.weight"] for part in ("lora_down", "lora_up"))
    alpha = lora.get(f"diffusion_model.{layer}.alpha")
    return up @ down * (1.0 if alpha is None else float(alpha) / len(down))


@pytest.mark.parametrize(
    ("down_name", "up_name"),
    [
        (f"diffusion_model.{QKV}.lora_A.weight", f"diffusion_model.{QKV}.lora_B.weight"),
        (f"diffusion_model.{QKV}.lora_down.weight", f"diffusion_model.{QKV}.lora_up.weight"),
        (f"base_model.model.{QKV}.lora_A.weight", f"base_model.model.{QKV}.lora_B.weight"),
        (f"base_model.model.{QKV}.lora_A.default.weight", f"base_model.model.{QKV}.lora_B.default.weight"),
        (f"transformer.{QKV}.lora_A.weight", f"transformer.{QKV}.lora_B.weight"),
        (f"{QKV}.lora.down.weight", f"{QKV}.lora.up.weight"),
        ("lora_unet_spatial_blocks_1_attn_qkv.lora_down.weight", "lora_unet_spatial_blocks_1_attn_qkv.lora_up.weight"),
    ],
)
def test_every_way_of_naming_a_layer_is_read(down_name: str, up_name: str) -> None:
    down, up = pair(3 * SIZE)
    found = generic_lora({down_name: down, up_name: up}, LAYERS)
    assert torch.equal(change(found, QKV), up @ down) and len(found) == 2


def test_alpha_scales_and_stays() -> None:
    down, up = pair(3 * SIZE)
    stem = "lora_unet_spatial_blocks_1_attn_qkv"
    lora = {f"{stem}.lora_down.weight": down, f"{stem}.lora_up.weight": up, f"{stem}.alpha": torch.tensor(1.0)}
    torch.testing.assert_close(change(generic_lora(lora, LAYERS), QKV), up @ down / RANK)


@pytest.mark.parametrize(
    "pattern",
    [
        "base_model.model.spatial_blocks.1.attn.{}.lora_{}.weight",
        "transformer.spatial_blocks.1.attn.to_{}.lora_{}.weight",
        "lora_unet_spatial_blocks_1_attn_{}_proj.lora_{}.weight",
    ],
)
@pytest.mark.parametrize("letters", ["qkv", "qv"])
def test_separate_q_k_and_v_change_their_rows_of_the_one_layer(pattern: str, letters: str) -> None:
    down_up = ("down", "up") if pattern.startswith("lora") else ("A", "B")
    lora, expected = {}, torch.zeros(3 * SIZE, SIZE)
    for letter in letters:
        draw = torch.Generator().manual_seed(ord(letter))
        down, up = torch.randn(RANK, SIZE, generator=draw), torch.randn(SIZE, RANK, generator=draw)
        lora |= {pattern.format(letter, down_up[0]): down, pattern.format(letter, down_up[1]): up}
        row = "qkv".index(letter) * SIZE
        expected[row : row + SIZE] = up @ down
    if pattern.startswith("lora"):
        lora["lora_unet_spatial_blocks_1_attn_q_proj.alpha"] = torch.tensor(4.0)
        expected[:SIZE] *= 4.0 / RANK
    torch.testing.assert_close(change(generic_lora(lora, LAYERS), QKV), expected)


def test_separate_k_and_v_of_the_cross_attention_are_joined_and_q_is_a_layer_of_its_own() -> None:
    down, up = pair(SIZE)
    stem = "base_model.model.temporal_blocks.0.cross_attn"
    lora = {f"{stem}.v.lora_A.weight": down, f"{stem}.v.lora_B.weight": up}
    lora |= {f"{stem}.q_linear.lora_A.weight": down, f"{stem}.q_linear.lora_B.weight": up}
    found = generic_lora(lora, LAYERS)
    expected = torch.zeros(2 * SIZE, SIZE)
    expected[SIZE:] = up @ down
    torch.testing.assert_close(change(found, KV), expected)
    assert torch.equal(change(found, "temporal_blocks.0.cross_attn.q_linear"), up @ down)


def test_parts_of_text_encoders_are_left_out() -> None:
    down, up = pair(3 * SIZE)
    lora = {f"diffusion_model.{QKV}.lora_A.weight": down, f"diffusion_model.{QKV}.lora_B.weight": up}
    lora["lora_te1_layer.lora_down.weight"] = down
    assert len(generic_lora(lora, LAYERS)) == 2


@pytest.mark.parametrize(
    ("lora", "message"),
    [
        (
            {"lora_unet_blocks_40_attn.lora_up.weight": torch.zeros(1)},
            "1 of the 1 tensors of this LoRA belong to no layer",
        ),
        ({f"diffusion_model.{QKV}.weight": torch.zeros(1)}, "belong to no layer"),
        ({f"diffusion_model.{QKV}.lora_A.weight": torch.zeros(2, SIZE)}, "one half"),
        (
            {f"diffusion_model.{QKV}.lora_{p}.weight": torch.zeros(s) for p, s in (("A", (2, 8)), ("B", (24, 2)))},
            "another size of model",
        ),
    ],
)
def test_what_does_not_fit_is_refused(lora: dict[str, Tensor], message: str) -> None:
    with pytest.raises(InputError, match=message):
        generic_lora(lora, LAYERS)
