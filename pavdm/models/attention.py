"""Attention back ends. All take and give the same shapes, so a network or a host can swap one for another."""

from __future__ import annotations

import importlib
import importlib.util
import logging
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

logger = logging.getLogger(__name__)

Attention = Callable[[Tensor, Tensor, Tensor], Tensor]
"""q (B, heads, N, D), k and v (B, heads, M, D) -> (B, N, heads * D); scale D**-0.5, no mask."""


def sdpa(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Torch's own attention: q (B, heads, N, D), k and v (B, heads, M, D) -> (B, N, heads * D)."""
    out = F.scaled_dot_product_attention(q, k, v)
    return out.transpose(1, 2).flatten(2)


def flash(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """The flash-attn package: shapes as in `sdpa`; fp16 or bf16 tensors on a CUDA device only."""
    flash_attn = importlib.import_module("flash_attn")
    q, k, v = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)  # (B, N, heads, D)
    out: Tensor = flash_attn.flash_attn_func(q, k, v)
    return out.flatten(2)


def best_attention(device: torch.device | str, dtype: torch.dtype) -> tuple[str, Attention]:
    """Name and function of the fastest back end that is installed and fits the device and the dtype.

    flash-attn needs half precision and an NVIDIA GPU of compute capability 8.0 (Ampere) or newer. A copy of it
    that is installed but does not load, as one built for another torch, is named in the log and passed over.
    """
    device = torch.device(device)
    if device.type != "cuda" or dtype not in (torch.float16, torch.bfloat16):
        return "sdpa", sdpa
    if importlib.util.find_spec("flash_attn") is None or torch.cuda.get_device_capability(device) < (8, 0):
        return "sdpa", sdpa
    try:
        importlib.import_module("flash_attn")
    except (ImportError, OSError) as error:
        logger.warning("flash-attn is installed but does not load (%s); using torch's own attention", error)
        return "sdpa", sdpa
    return "flash-attn", flash
