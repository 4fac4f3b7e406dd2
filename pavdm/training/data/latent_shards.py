"""Pre-computed clips on disk: latents and text embeddings in safetensors shards that are read by memory mapping.

    DIR/settings.json              what they were made from and how; a run that goes on is held against it
    DIR/shard-00000.safetensors    `latents.N` (C, T, H, W) of its clips, `text.N` (tokens, width) of its captions
    DIR/index.json                 what all shards hold; written when they are complete
    DIR/skipped.csv                what is not in them, and why

A shard describes itself in its header, so the index is only a summary of shards, and a run that was killed goes on at
the first one missing. A caption that several clips of a shard share is stored once.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from pavdm.errors import InputError
from pavdm.files import replacing
from pavdm.models.header import read_header
from pavdm.models.write import write_safetensors
from pavdm.training.data.clip_list import SKIPPED, Skipped, write_skipped

SETTINGS, INDEX = "settings.json", "index.json"
FORMAT = 1


@dataclass(frozen=True)
class StoredClip:
    """A clip of a shard.

    name: where it comes from. item: its latents are the tensor `latents.<item>`, of shape `latents`.
    captions: (first frame, number, text as the encoder read it), in order from frame 0 on; `text.<number>` is the
    embedding. size: (height, width) in pixels; frames, fps: of the clip that was encoded.
    """

    name: str
    item: int
    captions: tuple[tuple[int, int, str], ...]
    size: tuple[int, int]
    frames: int
    fps: float
    latents: tuple[int, int, int, int]


@dataclass(frozen=True)
class Shard:
    """What the header of a shard says."""

    clips: tuple[StoredClip, ...]
    skipped: tuple[Skipped, ...]


def shard_name(number: int) -> str:
    return f"shard-{number:05d}.safetensors"


def write_shard(
    path: Path,
    shard: Shard,
    latents: Sequence[Tensor],
    captions: Sequence[Tensor],
    settings: Mapping[str, Any],
) -> None:
    """Write a shard under a temporary name, then rename it. Raises InputError if the disk is full."""
    tensors = {f"latents.{i}": tensor for i, tensor in enumerate(latents)}
    tensors |= {f"text.{i}": tensor for i, tensor in enumerate(captions)}
    content = {
        "format": FORMAT,
        "settings": digest(settings),
        "clips": [asdict(clip) for clip in shard.clips],
        "skipped": [[str(item.path), item.reason] for item in shard.skipped],
    }
    specs = {name: (tuple(tensor.shape), tensor.dtype) for name, tensor in tensors.items()}
    write_safetensors(path, specs, lambda name: (tensors[name],), {"pavdm": json.dumps(content)})


def read_shard(path: Path, settings: Mapping[str, Any]) -> Shard:
    """Raises InputError if the shard is damaged, no shard, or was made with other settings."""
    header = read_header(path)
    try:
        content = json.loads(header.metadata["pavdm"])
        if content["format"] != FORMAT:
            raise ValueError(f"format {content['format']}")
        made_with = content["settings"]
        clips = tuple(_clip(row) for row in content["clips"])
        skipped = tuple(Skipped(Path(name), reason) for name, reason in content["skipped"])
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{path} is no shard of pre-computed clips ({error}): delete it and run again") from error
    if made_with != digest(settings):
        raise InputError(f"{path} was made with other settings than {path.parent / SETTINGS} says: delete it")
    return Shard(clips, skipped)


def digest(settings: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:16]


def _clip(row: Mapping[str, Any]) -> StoredClip:
    captions = tuple((int(first), int(number), str(text)) for first, number, text in row["captions"])
    return StoredClip(**{**row, "size": tuple(row["size"]), "latents": tuple(row["latents"]), "captions": captions})


def write_index(folder: Path, settings: Mapping[str, Any], shards: Sequence[Shard], skipped: Sequence[Skipped]) -> None:
    """Write skipped.csv, then index.json: once that is there, the folder is complete."""
    write_skipped(folder / SKIPPED, chain(skipped, *(shard.skipped for shard in shards)))
    listed = [
        {"file": shard_name(number), "clips": [asdict(clip) for clip in shard.clips]}
        for number, shard in enumerate(shards)
    ]
    content = {"format": FORMAT, "settings": settings, "shards": listed}
    with replacing(folder / INDEX) as temporary:
        temporary.write_text(json.dumps(content, separators=(",", ":")) + "\n", "utf-8")


def remove_half_written(folder: Path) -> None:
    """Remove what killed processes left of shards. Only of a complete folder, where no process writes one any more."""
    for path in folder.glob(".shard-*.tmp"):
        path.unlink(missing_ok=True)  # another process may do the same


class ShardFolder:
    """A finished folder of shards. Tensors come as views of the mapped files: nothing is read before it is used.

    Raises InputError if the folder is not complete.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        if not (folder / INDEX).is_file():
            raise InputError(
                f"{folder} holds no finished set of pre-computed clips: {INDEX} is missing. `pavdm preprocess` writes "
                "it last; run the same command again to go on"
            )
        try:
            content = json.loads((folder / INDEX).read_text("utf-8"))
            if content["format"] != FORMAT:
                raise ValueError(f"format {content['format']}, not {FORMAT}")
            self.settings: dict[str, Any] = content["settings"]
            self.clips = [(shard["file"], _clip(row)) for shard in content["shards"] for row in shard["clips"]]
        except (OSError, KeyError, TypeError, ValueError) as error:
            raise InputError(f"{folder / INDEX} is no index of pre-computed clips: {error}") from error
        missing = sorted({file for file, _ in self.clips if not (folder / file).is_file()})
        if missing:
            raise InputError(f"{folder}: {len(missing)} shards are missing, such as {missing[0]}; preprocess again")
        self._open: dict[str, Any] = {}

    def __len__(self) -> int:
        return len(self.clips)

    def latents(self, number: int) -> Tensor:
        """(C, T, H, W) in the stored type, a view of the file."""
        file, clip = self.clips[number]
        return self._tensor(file, f"latents.{clip.item}")

    def embeddings(self, number: int) -> list[Tensor]:
        """(tokens, width) of each of its captions, in the stored type, views of the file."""
        file, clip = self.clips[number]
        return [self._tensor(file, f"text.{caption}") for _, caption, _ in clip.captions]

    def _tensor(self, file: str, name: str) -> Tensor:
        try:
            if file not in self._open:
                self._open[file] = safe_open(self.folder / file, framework="pt")
            tensor: Tensor = self._open[file].get_tensor(name)
        except (OSError, SafetensorError) as error:
            raise InputError(f"{self.folder / file} is damaged ({error}): delete it and preprocess again") from error
        return tensor

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_open": {}}  # a worker process maps the files itself


def stored_dtype(name: str) -> torch.dtype:
    dtypes = {"fp16": torch.float16, "fp32": torch.float32, "bf16": torch.bfloat16}
    if name not in dtypes:
        raise InputError(f"clips are stored as {', '.join(dtypes)}: got {name!r}")
    return dtypes[name]
