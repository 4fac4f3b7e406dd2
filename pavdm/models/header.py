"""Header of a safetensors file: what the file holds, checked without touching the data."""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pavdm.errors import InputError

MAX_HEADER_BYTES = 100_000_000  # safetensors' own limit

_ITEM_BITS = {"F4": 4, "F6_E2M3": 6, "F6_E3M2": 6, "F16": 16, "BF16": 16, "I16": 16, "U16": 16}
_ITEM_BITS |= {"F32": 32, "I32": 32, "U32": 32, "F64": 64, "I64": 64, "U64": 64, "C64": 64}


@dataclass(frozen=True)
class Stored:
    """One tensor in a file: the name it has there, its shape, safetensors' name of its type (F32, BF16), its size."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    num_bytes: int
    file: Path


@dataclass(frozen=True)
class Header:
    """Header of a safetensors file: tensors by name, free-text metadata, its raw bytes and where the data begins."""

    tensors: Mapping[str, Stored]
    offsets: Mapping[str, int]
    metadata: Mapping[str, str]
    raw: bytes
    data_start: int


def read_header(file: Path) -> Header:
    """Read and check the header of a safetensors file, without touching the data.

    Raises InputError if the file is empty, cut short, or no safetensors file.
    """
    try:
        size = file.stat().st_size
        with file.open("rb") as handle:
            start = handle.read(8)
            length = struct.unpack("<Q", start)[0] if len(start) == 8 else 0
            raw = handle.read(length) if 0 < length <= min(size - 8, MAX_HEADER_BYTES) else b""
    except OSError as error:
        raise InputError(f"cannot read {file}: {error.strerror or error}") from error
    check_start(file, start)
    # A real header is JSON; a length beyond the file means a cut file only where that JSON has begun.
    if not raw:
        begun = _starts_like_json(file)
        what = "is cut short (its header is not complete)" if begun else "is not a safetensors file"
        raise InputError(f"{file} {what}; it holds {size} bytes. Download or copy it again.")
    try:
        fields = json.loads(raw)
        metadata = {str(key): str(value) for key, value in fields.pop("__metadata__", {}).items()}
        offsets = {name: int(entry["data_offsets"][0]) for name, entry in fields.items()}
        tensors = {
            name: Stored(
                name,
                tuple(int(n) for n in entry["shape"]),
                str(entry["dtype"]),
                int(entry["data_offsets"][1]) - int(entry["data_offsets"][0]),
                file,
            )
            for name, entry in fields.items()
        }
    except (ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError) as error:
        raise InputError(
            f"{file} is not a safetensors file (its header cannot be read). Is it another format?"
        ) from error
    data_start = 8 + length
    expected = data_start + max((offsets[name] + tensors[name].num_bytes for name in tensors), default=0)
    if size < expected:
        raise InputError(
            f"{file} is cut short: its header announces {expected} bytes, {size} are there. Download or copy it again."
        )
    for tensor in tensors.values():
        if tensor.num_bytes * 8 != math.prod(tensor.shape) * _ITEM_BITS.get(tensor.dtype, 8) or size > expected:
            raise InputError(f"{file} is damaged: header and data do not agree. Download or copy it again.")
    return Header(tensors, offsets, metadata, raw, data_start)


def check_start(file: Path, start: bytes) -> None:
    """Refuse what a download may leave instead of weights, whatever their format. start: the file's first 8 bytes."""
    if not start:
        raise InputError(f"{file} is empty (0 bytes). Download or copy it again.")
    if start == b"version ":
        raise InputError(
            f"{file} is a Git LFS pointer, not the weights themselves. Fetch it with `git lfs pull` or `hf download`."
        )


def _starts_like_json(file: Path) -> bool:
    with file.open("rb") as handle:
        handle.seek(8)
        return handle.read(2) == b'{"'
