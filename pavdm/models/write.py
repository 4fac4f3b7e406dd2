"""Writing safetensors files tensor by tensor, so that a network larger than memory can be written."""

from __future__ import annotations

import json
import logging
import math
import os
import struct
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pavdm.files import replacing

logger = logging.getLogger(__name__)

_DTYPE_NAMES = {
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.float64: "F64",
    torch.int64: "I64",
}
_ALIGNMENT = 64  # bytes; mapped tensors then begin where vector instructions like them to

Spec = tuple[tuple[int, ...], torch.dtype]


def write_safetensors(
    path: Path,
    specs: Mapping[str, Spec],
    pieces: Callable[[str], Iterable[Tensor]],
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Write a safetensors file under a temporary name, then rename it.

    specs gives shape and type of every tensor; pieces(name) yields its values in order, cut as the caller likes, so
    no more than a piece is held in memory. Raises InputError if the disk is full, ValueError if pieces do not add up.
    """
    header: dict[str, Any] = {"__metadata__": {"format": "pt", **(metadata or {})}}
    end = 0
    for name, (shape, dtype) in specs.items():
        begin, end = end, end + math.prod(shape) * dtype.itemsize
        header[name] = {"dtype": _DTYPE_NAMES[dtype], "shape": list(shape), "data_offsets": [begin, end]}
    raw = json.dumps(header, separators=(",", ":")).encode()
    raw += b" " * (-(8 + len(raw)) % _ALIGNMENT)
    with replacing(path) as temporary, temporary.open("wb") as handle:
        handle.write(struct.pack("<Q", len(raw)) + raw)
        for name, (shape, dtype) in specs.items():
            written = 0
            for piece in pieces(name):
                flat = piece.detach().to(device="cpu", dtype=dtype).contiguous().reshape(-1)
                written += flat.numel()
                handle.write(flat.view(torch.uint8).numpy().data)
            if written != math.prod(shape):
                raise ValueError(f"{name}: {written} values for shape {shape}")
        handle.flush()
        os.fsync(handle.fileno())
    logger.debug("wrote %s (%d bytes)", path, 8 + len(raw) + end)


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write a JSON file under a temporary name, then rename it."""
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(content, indent=2) + "\n", "utf-8")


def write_state_dict(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write the tensors of a network, each copied to the CPU only while it is written."""
    specs = {name: (tuple(tensor.shape), tensor.dtype) for name, tensor in tensors.items()}
    write_safetensors(path, specs, lambda name: (tensors[name],))
