"""What is installed, what the machine has and which model files are found: where every question about a run begins."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
import shutil
from collections.abc import Mapping
from pathlib import Path

import torch

from pavdm import __version__
from pavdm.errors import InputError
from pavdm.models.checkpoint import check_stdit3, check_vae
from pavdm.models.files import PARTS, Part, Survey, needs_spatial, survey
from pavdm.models.kinds import Kind, identify
from pavdm.models.text_encoder import check_files
from pavdm.models.weights import Weights

# distribution -> what does not work without it
REQUIRED = {
    "torch": "everything",
    "numpy": "everything",
    "safetensors": "model files",
    "transformers": "text encoder",
    "sentencepiece": "tokenizer of the published text encoder",
    "protobuf": "tokenizer of the published text encoder",
    "ftfy": "cleaning of prompts",
    "beautifulsoup4": "cleaning of prompts",
    "av": "reading and writing video",
    "pillow": "plots of schedules",
    "tqdm": "progress bar",
}
OPTIONAL = {"flash-attn": "faster attention on NVIDIA GPUs in half precision"}
ENCODER = "libx264"
WIDTH = 16  # of the column of names


def report(
    models: str | Path | None = None, overrides: Mapping[str, str | Path | None] | None = None
) -> tuple[list[str], bool]:
    """Lines to print, and whether everything that a run needs is there.

    models: models directory to look into; None leaves the models out. overrides: part -> path, see `files.survey`.
    """
    lines = ["System", *_system()]
    installed, installed_ok = _packages()
    video, video_ok = _video()
    lines += ["", "Packages", *installed, *video, "", "Devices", *_devices(), "", "Attention", *_attention()]
    if models is None:
        return lines, installed_ok and video_ok
    found = survey(models, overrides)
    listed, models_ok = _models(found)
    return [*lines, "", f"Models in {found.directory}", *listed], installed_ok and video_ok and models_ok


def _line(name: str, value: str) -> str:
    return f"  {name:<{WIDTH}}{value}"


def _system() -> list[str]:
    free = shutil.disk_usage(Path.cwd()).free
    memory = _memory_bytes()
    return [
        _line("pavdm", __version__),
        _line("python", platform.python_version()),
        _line("platform", platform.platform()),
        _line("processors", str(os.cpu_count())),
        _line("memory", size(memory) if memory else "unknown"),
        _line("disk, free here", size(free)),
    ]


def _memory_bytes() -> int | None:
    """Physical memory, where the system tells (POSIX)."""
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return None


def _packages() -> tuple[list[str], bool]:
    lines = []
    complete = True
    for name, purpose in REQUIRED.items():
        version = _version(name)
        complete = complete and version is not None
        lines.append(_line(name, version or f"MISSING, needed for: {purpose}. pip install {name}"))
    for name, purpose in OPTIONAL.items():
        lines.append(_line(name, _version(name) or f"not installed (optional: {purpose})"))
    return lines, complete


def _version(distribution: str) -> str | None:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def _video() -> tuple[list[str], bool]:
    if importlib.util.find_spec("av") is None:
        return [], False
    import av

    version = ".".join(map(str, av.library_versions["libavcodec"]))
    there = ENCODER in av.codecs_available
    return [
        _line("FFmpeg", f"libavcodec {version}"),
        _line(ENCODER, "found" if there else "MISSING, needed for writing video. Install the av wheel from PyPI"),
    ], there


def _devices() -> list[str]:
    lines = [_line("cpu", f"{torch.get_num_threads()} threads")]
    for index in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(index)
        kind = f"compute capability {properties.major}.{properties.minor}"
        lines.append(_line(f"cuda:{index}", f"{properties.name}, {size(properties.total_memory)}, {kind}"))
    if torch.backends.mps.is_available():
        lines.append(_line("mps", "Apple GPU"))
    if len(lines) == 1:
        lines.append(_line("gpu", "none that this torch can use; the published model is slow without one"))
    return lines


def _attention() -> list[str]:
    lines = [_line("sdpa", "torch's own, always there")]
    if _version("flash-attn") is None:
        lines.append(_line("flash-attn", "not installed (optional)"))
    elif not torch.cuda.is_available():
        lines.append(_line("flash-attn", "installed, not used without an NVIDIA GPU"))
    else:
        lines.append(_line("flash-attn", "used in half precision"))
    return lines


def _models(found: Survey) -> tuple[list[str], bool]:
    lines = []
    readable = True
    spatial = found.candidates["spatial_vae"] if needs_spatial(found.candidates["vae"]) else ()
    for part in PARTS:
        candidates = found.candidates[part.name]
        for path in candidates:
            text, ok = _checkpoint(part, path, spatial[0] if spatial else None)
            readable = readable and ok
            lines.append(_line(part.name, text))
        if part in found.ambiguous:
            lines.append(_line("", f"more than one: say which one with {part.option} PATH"))
        if part in found.missing:
            lines += _absent(part, found.directory)
    lines += [_line("unreadable", why) for why in found.unreadable.values()]
    if found.missing:
        lines.append("  To try pavdm without published weights: pavdm new-model DIR --size tiny")
    return lines, readable and found.complete


def _absent(part: Part, directory: Path) -> list[str]:
    return [
        _line(part.name, f"MISSING: {part.source} on Hugging Face"),
        _line("", f"put it into {directory / part.folders[0]}, or point to it with {part.option} PATH"),
    ]


def _checkpoint(part: Part, path: Path, spatial: Path | None) -> tuple[str, bool]:
    """What a candidate is, and whether it will load: its kind, its config.json, its tensors' shapes, its tokenizer."""
    try:
        weights = Weights(path)
    except InputError as error:
        return f"UNREADABLE: {error}", False
    kind = identify(weights.stored)
    if kind not in part.kinds:
        return f"WRONG: expected {part.title} ({part.source}), but {path} holds: {kind.value}", False
    try:
        if part.name == "stdit":
            check_stdit3(path)
        elif part.name == "vae" and (spatial or kind is not Kind.TEMPORAL_VAE):  # what is missing is said below
            check_vae(path, spatial)
        elif part.name == "text_encoder":
            check_files(path)
    except InputError as error:
        return f"UNUSABLE: {error}", False
    types = "/".join(sorted({entry.dtype for entry in weights.stored.values()}))
    return f"{path}  {weights.num_parameters / 1e6:.1f} M parameters, {types}, {size(weights.num_bytes)}", True


def size(num_bytes: float) -> str:
    """1234567 -> 1.2 MB."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if num_bytes < 1000:
            return f"{num_bytes:.0f} {unit}" if unit == "bytes" else f"{num_bytes:.1f} {unit}"
        num_bytes /= 1000
    return f"{num_bytes:.1f} TB"
