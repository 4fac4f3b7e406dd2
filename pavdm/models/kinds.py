"""Which network a checkpoint is of, told from a few of its keys."""

from __future__ import annotations

from collections.abc import Collection
from enum import Enum


class Kind(Enum):
    """What a set of weights looks like. The value is how messages name it."""

    STDIT3 = "STDiT3 (Open-Sora v1.2)"
    VIDEO_VAE = "Open-Sora VAE v1.2 (spatial and temporal)"
    TEMPORAL_VAE = "temporal half of the Open-Sora VAE v1.2"
    SPATIAL_VAE = "image VAE in diffusers layout (AutoencoderKL, SDXL style)"
    TEXT_ENCODER = "T5 text encoder"
    OLD_STDIT = "STDiT of Open-Sora v1.0 or v1.1"
    PIXART = "PixArt image transformer"
    OPEN_SORA_2 = "Flux-style transformer (Flux, Open-Sora 2.0)"
    WAN = "Wan video transformer"
    WAN_VAE = "Wan VAE"
    ORIGINAL_VAE = "image VAE in its original layout (not diffusers)"
    UNET = "Stable Diffusion U-Net"
    CLIP = "CLIP text encoder"
    LORA = "LoRA (a set of changes to a network, not a network)"
    QUANTISED = "quantised weights"
    UNKNOWN = "none that pavdm knows"


# A kind is recognised when every fragment of its row occurs in some key. The first row that fits wins, so what
# contains another network's keys (a LoRA of it, a VAE around a VAE) stands before it.
_TELLTALES: tuple[tuple[Kind, tuple[str, ...]], ...] = (
    (Kind.LORA, ("lora_",)),
    (Kind.QUANTISED, ("scale_weight",)),
    (Kind.QUANTISED, ("quant_state",)),
    (Kind.QUANTISED, ("comfy_quant",)),
    (Kind.QUANTISED, ("weight_scale",)),
    (Kind.STDIT3, ("spatial_blocks.0.", "temporal_blocks.0.")),
    (Kind.OLD_STDIT, ("blocks.0.attn_temp.",)),
    (Kind.VIDEO_VAE, ("spatial_vae.module.", "temporal_vae.")),
    (Kind.TEMPORAL_VAE, ("encoder.conv_in.conv.weight", "block_res_blocks.0.0.")),
    (Kind.SPATIAL_VAE, ("encoder.down_blocks.0.resnets.0.", "decoder.up_blocks.0.resnets.0.")),
    (Kind.ORIGINAL_VAE, ("encoder.down.0.block.0.", "decoder.up.0.block.0.")),
    (Kind.TEXT_ENCODER, ("block.0.layer.0.SelfAttention.q.",)),
    (Kind.WAN, ("blocks.0.self_attn.q.", "patch_embedding.")),
    (Kind.WAN_VAE, ("decoder.middle.0.residual.",)),
    (Kind.OPEN_SORA_2, ("double_blocks.0.",)),
    (Kind.PIXART, ("blocks.0.cross_attn.q_linear.", "x_embedder.proj.")),
    (Kind.PIXART, ("transformer_blocks.0.", "adaln_single.")),
    (Kind.UNET, ("input_blocks.0.",)),
    (Kind.UNET, ("down_blocks.0.resnets.0.time_emb_proj.",)),
    (Kind.CLIP, ("text_model.encoder.layers.0.",)),
)


def identify(keys: Collection[str]) -> Kind:
    """Kind of the network that has these parameter names; Kind.UNKNOWN if no telltale fits."""
    for kind, fragments in _TELLTALES:
        if all(any(fragment in key for key in keys) for fragment in fragments):
            return kind
    return Kind.UNKNOWN
