"""Weight files on disk: which files a path means, what they hold, and their tensors read one at a time.

Safetensors files are memory-mapped. Pickled files (.pt .pth .bin .ckpt) only pass through torch's weights-only
unpickler, which runs no code from the file.
"""

from __future__ import annotations

import hashlib
import json
import math
import pickle
import stat
import struct
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from pavdm.errors import InputError
from pavdm.models.header import Stored, check_start, read_header

SAFETENSORS = ".safetensors"
PICKLES = (".pt", ".pth", ".bin", ".ckpt")
INDEX = ".index.json"

# What training scripts and hubs call the weights inside a folder, the first that exists wins. EMA first: the average
# over training steps is what gets evaluated and published, the raw weights beside it are there to resume training.
USUAL_NAMES = (
    "ema.safetensors",
    "ema.pt",
    "model.safetensors",
    "model.safetensors.index.json",
    "diffusion_pytorch_model.safetensors",
    "diffusion_pytorch_model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
    "diffusion_pytorch_model.bin",
    "model.pt",
    "model.pth",
    "model.ckpt",
)

# Entries that hold the weights inside a training checkpoint, EMA first for the reason above.
CONTAINERS = ("ema", "ema_model", "ema_state_dict", "state_dict", "model", "module")
EMA_PREFIXES = ("ema_model.", "ema.")
PREFIXES = (*EMA_PREFIXES, "_orig_mod.", "module.", "model.diffusion_model.", "model.")

# Scaled fp8: a scale beside each weight, one for what the layer reads (only fp8 arithmetic needs it), and a mark.
WEIGHT, SCALE, INPUT_SCALE, SCALED = ".weight", ".scale_weight", ".scale_input", "scaled_fp8"

MAPPED_BYTES = 64 * 2**20  # pages of a mapped file stay resident until unmapped: map again after this many
SAMPLE_BYTES = 1024  # of each tensor, in a fingerprint
# What lies beside weights and changes what they compute: the configuration, and a text encoder's tokenizer.
COMPANIONS = (
    "config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "spiece.model",
)


def weight_files(path: str | Path) -> tuple[Path, ...]:
    """Files that hold the weights `path` means: a file, the shards behind an index, or a folder with one of either.

    Raises InputError if there is none, if shards are missing, or if a folder leaves the choice open.
    """
    path = Path(path)
    check_path(path, "a checkpoint file, or a folder that holds one")
    if path.is_dir():
        try:
            return weight_files(_file_in(path))
        except OSError as error:
            raise InputError(f"cannot read {path}: {error.strerror or error}") from error
    if path.name.endswith(INDEX):
        return _shards(path)
    return (path,)


def check_path(path: Path, expected: str) -> None:
    """Raise InputError unless a file or a folder is there; whoever opens a pipe or a device may wait for ever."""
    try:
        mode = path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError) as error:
        raise InputError(f"no such file or folder: {path}. Expected {expected}.") from error
    except (OSError, ValueError) as error:  # the name is too long, or holds a zero byte; no permission
        why = error.strerror if isinstance(error, OSError) else error
        raise InputError(f"cannot read {str(path)!r}: {why or error}. Expected {expected}.") from error
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        raise InputError(f"{path} is a pipe, a socket or a device, not a file or a folder. Expected {expected}.")


def _file_in(folder: Path) -> Path:
    for name in USUAL_NAMES:
        if (folder / name).is_file():
            return folder / name
    suffixes = (SAFETENSORS, *PICKLES)
    files = sorted(file for file in folder.iterdir() if file.is_file() and file.suffix in suffixes)
    if len(files) == 1:
        return files[0]
    if not files:
        raise InputError(
            f"{folder} holds no weights. Expected model.safetensors, diffusion_pytorch_model.safetensors "
            f"or another {SAFETENSORS} or {PICKLES[0]} file in it."
        )
    names = ", ".join(file.name for file in files[:4]) + (", ..." if len(files) > 4 else "")
    raise InputError(f"{folder} holds {len(files)} weight files ({names}). Give the path of the one that is meant.")


def _shards(index: Path) -> tuple[Path, ...]:
    try:
        names = sorted(set(json.loads(index.read_text("utf-8"))["weight_map"].values()))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise InputError(f"{index} is not an index of weight files (no readable 'weight_map').") from error
    # Only plain names: an index is foreign input and must not lead out of its folder.
    foreign = [name for name in names if not isinstance(name, str) or Path(name).name != name]
    if foreign:
        raise InputError(f"{index} names files outside its folder ({foreign[0]}); refused.")
    missing = [name for name in names if not (index.parent / name).is_file()]
    if missing:
        raise InputError(
            f"{index} needs {len(names)} files, {len(missing)} are missing: {', '.join(missing[:4])}. "
            f"Put them into {index.parent}."
        )
    return tuple(index.parent / name for name in names)


class Weights:
    """Tensors of one network on disk, by clean key (wrapper prefixes removed), read on demand.

    `stored` maps clean keys to what the file says of them; `prefix` is what was removed from every key. Weights that
    are stored in 8 bits with a scale each ("scaled fp8", as ComfyUI's files have it) are read multiplied by it.
    """

    def __init__(self, path: str | Path):
        """Read the headers (safetensors) or map the file (pickles). Raises InputError for all that is no checkpoint."""
        self.path = Path(path)
        self.files = weight_files(self.path)
        self.metadata: dict[str, str] = {}
        self._pickled: dict[str, Tensor] = {}
        entries: dict[str, Stored] = {}
        for file in self.files:
            if file.suffix in PICKLES:
                tensors = _load_pickle(file)
                self._pickled |= tensors
                entries |= {name: _describe(name, tensor, file) for name, tensor in tensors.items()}
            elif file.suffix == SAFETENSORS:
                header = read_header(file)
                self.metadata |= header.metadata
                entries |= header.tensors
            else:
                raise InputError(
                    f"{file} is not a checkpoint: expected a {SAFETENSORS} file (or {' '.join(PICKLES)}), "
                    f"the name ends in '{file.suffix}'."
                )
        if not entries:
            raise InputError(f"{self.path} holds no tensors, so it is not a checkpoint of a network.")
        self.prefix, entries = strip_prefixes(entries)
        self.stored, self._scales = _without_scales(entries)

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        return {key: entry.shape for key, entry in self.stored.items()}

    @property
    def num_parameters(self) -> int:
        return sum(math.prod(entry.shape) for entry in self.stored.values())

    @property
    def num_bytes(self) -> int:
        return sum(entry.num_bytes for entry in self.stored.values())

    def read(
        self,
        device: str | torch.device = "cpu",
        dtypes: Mapping[str, torch.dtype] | None = None,
    ) -> Iterator[tuple[str, Tensor]]:
        """Yield (key, tensor) for the keys of `dtypes` (all keys, as stored, if None), converted one by one.

        Scaled fp8 weights count as stored in bf16.
        Tensors that need neither another type nor another device stay mapped: they cost no memory of their own
        until they are used, and the system can drop and re-read their pages.
        """
        wanted = {key: entry for key, entry in self.stored.items() if dtypes is None or key in dtypes}
        scales = dict(self._read_entries({key: entry for key, entry in self._scales.items() if key in wanted}))
        for key, tensor in self._read_entries(wanted):
            dtype = tensor.dtype if dtypes is None else dtypes[key]
            if key in scales:
                dtype = torch.bfloat16 if dtypes is None else dtype
                tensor = tensor.float() * scales[key].float()
            yield key, tensor.to(device=device, dtype=dtype).contiguous()

    def _read_entries(self, entries: Mapping[str, Stored]) -> Iterator[tuple[str, Tensor]]:
        for file in self.files:
            yield from self._read_file(file, {key: entry for key, entry in entries.items() if entry.file == file})

    def _read_file(self, file: Path, entries: Mapping[str, Stored]) -> Iterator[tuple[str, Tensor]]:
        if file.suffix in PICKLES:
            for key, entry in entries.items():
                yield key, self._pickled[entry.name]
            return
        todo = list(entries.items())
        while todo:
            mapped = 0
            with _mapped(file) as handle:
                while todo and mapped < MAPPED_BYTES:
                    key, entry = todo.pop(0)
                    mapped += entry.num_bytes
                    yield key, handle.get_tensor(entry.name)


def _mapped(file: Path) -> Any:
    """safetensors' handle on a mapped file."""
    try:
        return safe_open(file, framework="pt", device="cpu")
    except (SafetensorError, OSError) as error:
        raise InputError(f"{file} is damaged: {error}. Download or copy it again.") from error


def load_state_dict(path: str | Path) -> dict[str, Tensor]:
    """All tensors of a checkpoint by clean key, on the CPU, as stored, memory-mapped.

    `path` is a .safetensors file, a *.index.json of shards, a folder that holds one of the usual names, or a
    .pt/.pth/.bin/.ckpt file (weights-only unpickling; {"ema" | "state_dict" | "model" | "module": ...} unwrapped).
    Raises InputError for a missing, empty, cut, foreign or refused file.
    """
    return dict(Weights(path).read())


def strip_prefixes(entries: Mapping[str, Stored]) -> tuple[str, dict[str, Stored]]:
    """Remove wrapper prefixes that cover all keys; of a file with raw and averaged weights keep the averaged ones.

    Returns the prefix removed and the entries by clean key.
    """
    for ema in EMA_PREFIXES:
        averaged = {key: entry for key, entry in entries.items() if key.startswith(ema)}
        # One averaged key for each raw one: then the file holds the network twice.
        if averaged and 2 * len(averaged) >= len(entries):
            entries = averaged
            break
    removed = ""
    while True:
        prefix = next((p for p in PREFIXES if entries and all(key.startswith(p) for key in entries)), None)
        if prefix is None:
            return removed, dict(entries)
        removed += prefix
        entries = {key[len(prefix) :]: entry for key, entry in entries.items()}


def _without_scales(entries: Mapping[str, Stored]) -> tuple[dict[str, Stored], dict[str, Stored]]:
    """The entries but those of scaled fp8, and the scale of each weight that has one, by the weight's key.

    Of other ways to quantise nothing is removed, so that they are recognised and refused.
    """
    scales = {
        key.removesuffix(SCALE) + WEIGHT: entry
        for key, entry in entries.items()
        if key.endswith(SCALE) and math.prod(entry.shape) == 1 and key.removesuffix(SCALE) + WEIGHT in entries
    }
    if not scales:
        return dict(entries), {}
    of_scales = {key.removesuffix(WEIGHT) + end for key in scales for end in (SCALE, INPUT_SCALE)}
    return {key: entry for key, entry in entries.items() if key not in of_scales and key != SCALED}, scales


def _load_pickle(file: Path) -> dict[str, Tensor]:
    try:
        with file.open("rb") as handle:
            start = handle.read(8)
    except OSError as error:
        raise InputError(f"cannot read {file}: {error.strerror or error}") from error
    check_start(file, start)
    try:
        # Files written before torch 1.6 are no zip archives and cannot be mapped.
        content = torch.load(file, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(file))
    except pickle.UnpicklingError as error:
        if not start.startswith((b"PK", b"\x80")):  # a zip archive, a pickle
            raise InputError(f"{file} is not a checkpoint: torch cannot unpickle it.") from error
        raise InputError(
            f"{file} is refused for safety: besides tensors it holds Python objects, and loading those can run any "
            "code. If you trust where it comes from, convert it once: load it with torch.load(..., "
            "weights_only=False), and save its state dict with safetensors.torch.save_file."
        ) from error
    except (OSError, RuntimeError, EOFError, ValueError, KeyError, AttributeError, IndexError, TypeError) as error:
        # The unpickler meets foreign bytes with whatever exception they happen to provoke.
        raise InputError(f"{file} is cut short or not a checkpoint: torch cannot read it.") from error
    tensors = _unwrap(content)
    if not tensors:
        raise InputError(f"{file} holds no tensors by name, so it is not a checkpoint of a network.")
    return tensors


def _unwrap(content: Any) -> dict[str, Tensor]:
    if not isinstance(content, Mapping):
        return {}
    for name in CONTAINERS:
        if isinstance(content.get(name), Mapping):
            inner = _unwrap(content[name])
            if inner:
                return inner
    return {name: value for name, value in content.items() if isinstance(name, str) and isinstance(value, Tensor)}


def _describe(name: str, tensor: Tensor, file: Path) -> Stored:
    dtype = str(tensor.dtype).removeprefix("torch.")
    short = {"float32": "F32", "float16": "F16", "bfloat16": "BF16", "float64": "F64"}.get(dtype, dtype)
    return Stored(name, tuple(tensor.shape), short, tensor.numel() * tensor.element_size(), file)


def fingerprint(path: str | Path) -> str:
    """Identity of a network as 64 hex digits, in a moment whatever the size: the weights are sampled, not read.

    Hashes sizes, headers and the first bytes of every tensor (safetensors), or of evenly spaced blocks (pickles); and
    whole, where they lie beside the weights, the config.json and the files of a tokenizer: they change the video as
    much. Neither the place nor the name of the weights matters, nor how the JSON is laid out.
    Raises InputError for what is missing or no readable checkpoint.
    """
    files = weight_files(path)
    digest = hashlib.sha256()
    for file in files:
        size = file.stat().st_size
        digest.update(struct.pack("<Q", size))
        if file.suffix == SAFETENSORS:
            header = read_header(file)
            digest.update(header.raw)
            starts = sorted(header.data_start + offset for offset in header.offsets.values())
        else:
            starts = sorted({size * i // 1024 for i in range(1024)})
        with file.open("rb") as handle:
            for start in starts:
                handle.seek(start)
                digest.update(handle.read(SAMPLE_BYTES))
    for name in COMPANIONS:
        companion = files[0].parent / name
        if companion.is_file():
            content = _canonical(companion)
            digest.update(struct.pack("<Q", len(content)) + name.encode() + content)
    return digest.hexdigest()


def _canonical(file: Path) -> bytes:
    """Content of a small file; of JSON the same bytes whatever the order of its keys and its white space."""
    try:
        content = file.read_bytes()
    except OSError as error:
        raise InputError(f"cannot read {file}: {error.strerror or error}") from error
    if file.suffix != ".json":
        return content
    try:
        return json.dumps(json.loads(content), sort_keys=True, separators=(",", ":")).encode()
    except (ValueError, RecursionError):
        return content  # whoever loads the network says what is wrong with it
