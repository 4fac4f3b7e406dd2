"""`--out` of `pavdm workflow`: where on this machine goes what a run saves, asked for before anything is queued."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pavdm.comfyui.client import Graph, OutputFile, node_name
from pavdm.errors import InputError

# A name with one of these is a file; `runs/v1.2` is a folder.
VIDEOS, PICTURES = ("mp4", "mkv", "webm", "mov", "avi"), ("png", "jpg", "jpeg", "webp", "gif", "svg")
OTHERS = ("flac", "mp3", "opus", "wav", "glb", "latent", "safetensors")
ENDINGS = frozenset(f".{ending}" for ending in (*VIDEOS, *PICTURES, *OTHERS))
# What ComfyUI's own nodes save. Of another pack's node nobody knows it beforehand.
SAVED_AS: Mapping[str, str] = {
    "SaveVideo": ".mp4",
    "SaveWEBM": ".webm",
    "SaveImage": ".png",
    "SaveAnimatedWEBP": ".webp",
    "SaveAnimatedPNG": ".png",
    "SaveSVGNode": ".svg",
    "SaveAudio": ".flac",
    "SaveAudioMP3": ".mp3",
    "SaveAudioOpus": ".opus",
    "SaveGLB": ".glb",
    "SaveLatent": ".latent",
}


def is_one_file(target: Path) -> bool:
    """Whether `target` is to be the one file that is saved, and not the folder for whatever is."""
    return target.suffix.lower() in ENDINGS and not target.is_dir()


def check_place(target: Path, overwrite: bool) -> None:
    """Raises InputError if nothing can be written at `target`, or it exists and may not be replaced."""
    one_file = is_one_file(target)
    if one_file and target.exists() and not overwrite:
        raise InputError(f"{target} exists: give another --out, or --overwrite")
    folder = target.absolute().parent if one_file else target.absolute()
    there = next(place for place in (folder, *folder.parents) if place.exists())
    if not there.is_dir():
        raise InputError(f"--out {target}: {there} is a file, expected a folder; give another --out")
    if not os.access(there, os.W_OK | os.X_OK):
        raise InputError(f"--out {target}: nothing may be written in {there}; give another --out")


def check_content(graph: Graph, target: Path, schemas: Mapping[str, Any]) -> None:
    """Raises InputError if `target` is one file and what the workflow saves is not, or has another ending.

    schemas: of the server's nodes, as /object_info gives them.
    """
    if not is_one_file(target):
        return
    saving = [number for number, node in graph.items() if node["class_type"] in SAVED_AS]
    # Such as save something, and nobody knows what; a prefix is what ComfyUI's own have in common.
    unknown = [
        number
        for number, node in graph.items()
        if number not in saving
        and schemas.get(node["class_type"], {}).get("output_node")
        and "filename_prefix" in node["inputs"]
    ]
    if len(saving) > 1:
        named = ", ".join(node_name(graph, number) for number in saving)
        raise InputError(f"--out {target} is one file, and the workflow saves {len(saving)}: {named}; give a folder")
    if not saving and not unknown:
        raise InputError(f"--out {target}: the workflow saves nothing; put a node such as Save Video at its end")
    if saving:
        node = graph[saving[0]]
        ending = SAVED_AS[node["class_type"]]
        if node["class_type"] == "SaveVideo" and node["inputs"].get("format", "auto") not in ("auto", "mp4"):
            ending = f".{node['inputs']['format']}"
        if target.suffix.lower() != ending:
            raise InputError(
                f"--out {target}: {node_name(graph, saving[0])} saves {ending}; give --out that ending, or a folder"
            )


def places(files: Sequence[OutputFile], target: Path) -> list[Path]:
    """Where each file goes: into the folder `target` under a free name, or as `target` itself.

    Where `target` is one file and the files turn out to be others, they go into a folder of its name without the
    ending: a run may have taken hours.
    """
    if is_one_file(target):
        if len(files) == 1 and Path(files[0].filename).suffix.lower() == target.suffix.lower():
            return [target]
        target = instead_of(target)
    return list(_free(files, target))


def instead_of(target: Path) -> Path:
    """The folder that takes the files which cannot be the one file `target`."""
    folder = target.with_suffix("")
    while folder.exists() and not folder.is_dir():
        folder = folder.with_name(f"{folder.name}-files")
    return folder


def _free(files: Iterable[OutputFile], folder: Path) -> list[Path]:
    paths: list[Path] = []
    for file in files:
        name = Path(file.filename.replace("\\", "/")).name  # the server says the name, never the place
        path, number = folder / name, 1
        while path.exists() or path in paths:
            path, number = folder / f"{Path(name).stem}-{number}{Path(name).suffix}", number + 1
        paths.append(path)
    return paths


def on_server(files: Iterable[OutputFile]) -> str:
    """How the files are named to a person who looks for them in the server's own folders."""
    return ", ".join("/".join(part for part in (file.kind, file.subfolder, file.filename) if part) for file in files)
