"""A video's settings as a ComfyUI workflow asks for them: which input of which node says what."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pavdm.buckets import ASPECTS, RESOLUTIONS, bucket_size
from pavdm.comfyui.client import Graph, copied
from pavdm.comfyui.widgets import inputs_of, is_upload, options_of
from pavdm.errors import InputError
from pavdm.prompts import PromptSchedule
from pavdm.settings import Settings

Inputs = dict[tuple[str, str], Any]  # (class of a node, name of its input) -> value

# What no node is asked for, with the value that then holds anyway.
_FIXED = {
    "--method": ("method", "progressive"),
    "--total-seconds": ("total_seconds", None),
    "--start": ("clip_start", 0.0),
    "--end": ("clip_end", None),
    "--pad": ("pad", False),
    "--posterior": ("posterior", "sample"),
}


def filled(graph: Graph, settings: Settings, clip: str | None) -> Graph:
    """The workflow with the settings in the inputs of its nodes, found by their class.

    clip: the uploaded clip's name on the server, None for a video from text alone.
    Raises InputError for settings that no node has an input for, and if the workflow has no place for the prompt, the
    clip, or a setting that differs from the usual.
    """
    unheard = [option for option, (name, value) in _FIXED.items() if getattr(settings, name) != value]
    if unheard:
        raise InputError(f"a workflow on a server cannot be asked for {', '.join(unheard)}: leave it out")
    graph = copied(graph)
    usual = _inputs(Settings(PromptSchedule(("-",)), Path(), seconds=1), None)
    missing = []
    for (class_type, name), value in _inputs(settings, clip).items():
        nodes = [n for n in graph.values() if n["class_type"] == class_type and name in n["inputs"]]
        for node in nodes:
            node["inputs"][name] = value
        if not nodes and usual.get((class_type, name)) != value:
            missing.append(f"{class_type}.{name}")
    if missing:
        raise InputError(f"the workflow has no input {', '.join(missing)} to set")
    return graph


def with_autosave(graph: Graph, prefix: str) -> Graph:
    """The workflow with a place of the video's own on its server, where the sampler keeps its state."""
    graph = copied(graph)
    for node in graph.values():
        if node["class_type"] == "PAVDM_ProgressiveSampler" and "autosave" in node["inputs"]:
            node["inputs"]["autosave"] = prefix
    return graph


def lacking(graph: Graph, schemas: Mapping[str, Any]) -> list[str]:
    """What a server of these nodes (/object_info) lacks for the workflow: nodes, and files or other choices."""
    found = {f"the node {node['class_type']}": None for node in graph.values() if node["class_type"] not in schemas}
    for node in graph.values():
        for name, kind, options in inputs_of(schemas.get(node["class_type"], {}).get("input", {})):
            value, choices = node["inputs"].get(name), options_of(kind, options)
            is_choice = isinstance(kind, list) or (kind == "COMBO" and "options" in options)
            if is_choice and not is_upload(options) and isinstance(value, str) and value not in choices:
                found[f"{value!r} as {node['class_type']}.{name}"] = None
    return list(found)


def _inputs(settings: Settings, clip: str | None) -> Inputs:
    schedule = settings.schedule
    inputs: Inputs = {
        ("PAVDM_EncodePrompt", "text"): str(settings.prompt),
        ("PAVDM_EncodePrompt", "aesthetic"): -1.0 if settings.aesthetic is None else settings.aesthetic,
        ("PAVDM_EncodePrompt", "motion"): -1.0 if settings.motion is None else settings.motion,
        ("PAVDM_EncodePrompt", "camera"): settings.camera or "",
        ("PAVDM_EncodePrompt", "fps"): settings.fps,
        ("CFGGuider", "cfg"): settings.guidance_scale,
        ("RandomNoise", "noise_seed"): settings.seed,
        ("PAVDM_ProgressiveSampler", "steps"): schedule.steps,
        ("PAVDM_ProgressiveSampler", "window_chunks"): schedule.window_chunks,
        ("PAVDM_ProgressiveSampler", "chunk_latents"): schedule.chunk_latents,
        ("PAVDM_ProgressiveSampler", "overlap"): schedule.overlap,
        ("PAVDM_ProgressiveSampler", "variable_length"): schedule.variable_length,
        ("PAVDM_ProgressiveSampler", "timestep_transform"): settings.timestep_transform,
        ("PAVDM_ProgressiveSampler", "prompt_switch"): settings.prompt_switch,
        ("PAVDM_DecodeToVideo", "fps"): settings.fps,
    }
    sized = "PAVDM_EmptyVideo" if clip is None else "PAVDM_EncodeClip"
    inputs |= {(sized, name): value for name, value in _size(settings.size)}
    inputs |= {(sized, "fps"): settings.fps, (sized, "new_seconds"): settings.seconds}
    if clip is not None:
        inputs |= {("LoadVideo", "file"): clip, (sized, "condition"): settings.condition}
    return inputs


def _size(size: tuple[int, int]) -> Iterator[tuple[str, Any]]:
    """As the bucket that has this size, else in pixels; the nodes take multiples of 8, which the video gets anyway."""
    for resolution in RESOLUTIONS:
        for aspect in ASPECTS:
            if bucket_size(resolution, aspect) == size:
                yield from (("resolution", resolution), ("aspect", aspect))
                return
    yield from (("resolution", "custom"), ("width", size[1] // 8 * 8), ("height", size[0] // 8 * 8))
