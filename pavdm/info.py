"""What a file holds: a checkpoint, a folder with a network, a window state, or a video."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pavdm.errors import InputError
from pavdm.models.checkpoint import stdit3_config
from pavdm.models.files import config_type, read_config
from pavdm.models.kinds import Kind, identify
from pavdm.models.weights import INDEX, PICKLES, SAFETENSORS, Weights, check_path, fingerprint
from pavdm.sampling.state import METADATA_KEY

VIDEO_METADATA_KEY = "pavdm"
# Of the many entries in a T5's config.json, those that say how large it is.
T5_FIELDS = ("d_model", "d_kv", "d_ff", "num_layers", "num_heads", "vocab_size")
LONGEST = 100  # characters of a value
SMALL_TENSORS = 8  # files with no more tensors than this and no known network list them


def describe(path: str | Path) -> str:
    """Text about a file or folder, several lines. Raises InputError if it is missing, unreadable, or nothing known."""
    path = Path(path)
    check_path(path, "a checkpoint, a folder with networks, a state or a video of pavdm")
    if path.is_dir() or path.name.endswith((SAFETENSORS, INDEX, *PICKLES)):
        return _weights(path)
    return _video(path)


def _weights(path: Path) -> str:
    try:
        weights = Weights(path)
    except InputError:
        nested = _networks_in(path)
        if nested:
            return "\n\n".join(_weights(folder) for folder in nested)
        raise
    if METADATA_KEY in weights.metadata:
        return _state(path, weights)
    kind = identify(weights.stored)
    types = Counter(entry.dtype for entry in weights.stored.values())
    fields: dict[str, Any] = {
        "network": kind.value,
        "parameters": f"{weights.num_parameters:,}",
        "tensors": ", ".join(f"{count} {dtype}" for dtype, count in types.most_common()),
        "size": f"{weights.num_bytes / 1e6:.1f} MB in {len(weights.files)} file{'s' if len(weights.files) > 1 else ''}",
        "fingerprint": fingerprint(path)[:16],
    }
    if weights.prefix:
        fields["key prefix"] = weights.prefix
    if kind is Kind.STDIT3:
        fields |= stdit3_config(weights).to_dict()
    else:
        config = _flat(read_config(weights.files[0].parent))
        shown = T5_FIELDS if kind is Kind.TEXT_ENCODER else tuple(config)
        fields |= {name: config[name] for name in shown if config.get(name) is not None}
    if kind is Kind.UNKNOWN and len(weights.stored) <= SMALL_TENSORS:
        fields |= {name: f"{entry.dtype} {list(entry.shape)}" for name, entry in weights.stored.items()}
    fields |= {key: value for key, value in weights.metadata.items() if key != "format"}
    return _format(f"{path}: checkpoint", fields)


def _networks_in(path: Path) -> list[Path]:
    """Sub-folders with a network's config.json: `path` is then a models directory."""
    if not path.is_dir():
        return []
    return sorted(folder for folder in path.iterdir() if folder.is_dir() and config_type(read_config(folder)))


def _state(path: Path, weights: Weights) -> str:
    try:
        header = json.loads(weights.metadata[METADATA_KEY])
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: the header of this pavdm state is damaged ({error}).") from error
    if not isinstance(header, dict):
        raise InputError(f"{path}: the header of this pavdm state is damaged (it is no JSON object).")
    tensors = {name: f"{entry.dtype} {list(entry.shape)}" for name, entry in weights.stored.items()}
    return _format(f"{path}: window state of pavdm", {**tensors, **_flat(header)})


def _video(path: Path) -> str:
    from pavdm.video_reader import probe

    try:
        video = probe(path)
    except InputError as error:
        raise InputError(f"{path} is neither a checkpoint, nor a state of pavdm, nor a video: {error}") from error
    fields: dict[str, Any] = {
        "size": f"{video.height} x {video.width} pixels (height x width)",
        "frames": video.num_frames,
        "rate": f"{float(video.fps):.6g} fps",
        "duration": f"{video.duration_seconds:.3f} s",
        "codec": video.codec,
        "audio": "yes" if video.has_audio else "no",
    }
    for key, value in video.metadata.items():
        fields |= _flat(_decoded(value)) if key == VIDEO_METADATA_KEY else {key: value}
    return _format(f"{path}: video", fields)


def _decoded(text: str) -> Mapping[str, Any]:
    """The record that pavdm wrote into a video; what is no such record is shown as it is."""
    try:
        content = json.loads(text)
    except (ValueError, RecursionError):
        content = None
    return content if isinstance(content, dict) else {VIDEO_METADATA_KEY: text}


def _flat(content: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one, with dotted keys."""
    flat: dict[str, Any] = {}
    for key, value in content.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def _format(head: str, fields: Mapping[str, Any]) -> str:
    shown = [
        (_shown(name), _shown(value if isinstance(value, str) else json.dumps(value))) for name, value in fields.items()
    ]
    width = max(len(name) for name, _ in shown) + 2
    return "\n".join([_printable(head), *(f"  {name:<{width}}{value}" for name, value in shown)])


def _shown(text: str) -> str:
    text = _printable(" ".join(text.split()))
    return text if len(text) <= LONGEST else text[: LONGEST - 3] + "..."


def _printable(text: str) -> str:
    """With what steers a terminal, or shows as nothing, escaped: files come from strangers."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)
