"""What the shipped workflows are made of (nodes, links, groups), and for: the published weights, or the small model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pavdm import small_model

HUGGING_FACE = "https://huggingface.co"


@dataclass(frozen=True)
class Model:
    """A file that a node selects; url None for those that come with the pack."""

    name: str
    directory: str
    url: str | None = None


@dataclass(frozen=True)
class Out:
    """A link: the output `output` of the node `node`."""

    node: str
    output: str


@dataclass(frozen=True)
class Outside:
    """An input of the subgraph that the node is in: `name` there, with the value that it has at first."""

    name: str
    value: Any = None


@dataclass(frozen=True)
class Node:
    """inputs: values, or Out, or Outside. title: where it is another than the class's own."""

    key: str
    kind: str
    inputs: Mapping[str, Any] = field(default_factory=dict)
    title: str | None = None
    models: tuple[Model, ...] = ()


@dataclass(frozen=True)
class Group:
    """A column of nodes under a heading, with a note (Markdown) on top."""

    title: str
    note: str
    nodes: tuple[Node, ...]


@dataclass(frozen=True)
class Flow:
    name: str
    intro: str
    groups: tuple[Group, ...]

    @property
    def nodes(self) -> list[Node]:
        return [node for group in self.groups for node in group.nodes]


@dataclass(frozen=True)
class Profile:
    """What the workflows are made for: the published weights, or the small model that comes with the pack."""

    prefix: str
    stdit: Model
    vae: Model
    text: Model
    size: Mapping[str, Any]
    schedule: Mapping[str, Any]
    loop: Mapping[str, Any]
    cfg: float
    scores: Mapping[str, Any]
    prompts: Mapping[str, str]
    seconds: Mapping[str, float]
    about_models: str
    fps: float = 24.0
    own_text_encoder: bool = False
    demo_clip: bool = False


PUBLISHED = Profile(
    prefix="",
    stdit=Model(
        "OpenSora-STDiT-v3.safetensors",
        "diffusion_models",
        f"{HUGGING_FACE}/hpcai-tech/OpenSora-STDiT-v3/resolve/main/model.safetensors",
    ),
    vae=Model(
        "OpenSora-VAE-v1.2.safetensors",
        "vae",
        f"{HUGGING_FACE}/hpcai-tech/OpenSora-VAE-v1.2/resolve/main/model.safetensors",
    ),
    text=Model(
        "t5xxl_fp16.safetensors",
        "text_encoders",
        f"{HUGGING_FACE}/comfyanonymous/flux_text_encoders/resolve/main/t5xxl_fp16.safetensors",
    ),
    size={"resolution": "240p", "aspect": "9:16", "width": 424, "height": 240},
    schedule={"steps": 30, "window_chunks": 6},
    loop={"steps": 30, "clip_latents": 15, "condition_latents": 5},
    cfg=7.0,
    scores={"aesthetic": 6.5, "motion": -1.0},
    prompts={
        "clip": "a street with bicycles in the morning sun",
        "text": "|0s| a lighthouse by the sea, waves roll in |20s| night falls and the lighthouse is lit",
        "first": "a sailing boat on a calm sea, clear sky",
        "then": "a sailing boat in a storm, high waves, dark clouds",
    },
    seconds={"clip": 20.0, "text": 60.0, "part": 10.0},
    about_models="Three files, which are not downloaded for you (ComfyUI offers it if they are missing):\n\n"
    "- `OpenSora-STDiT-v3.safetensors` (4.8 GB) in `models/diffusion_models`\n"
    "- `OpenSora-VAE-v1.2.safetensors` (1.6 GB) in `models/vae`\n"
    "- `t5xxl_fp16.safetensors` (9.8 GB) in `models/text_encoders`; the fp8 file works, too",
)

# The small model that is trained on the project's own world of moving shapes, and ships with the pack.
TINY = Profile(
    prefix="demo_",
    stdit=Model("pavdm-tiny-stdit.safetensors", "diffusion_models"),
    vae=Model("pavdm-tiny-vae.safetensors", "vae"),
    text=Model("pavdm-tiny-text-encoder.safetensors", "text_encoders"),
    size={"resolution": "custom", "aspect": "9:16", "width": small_model.SIZE[1], "height": small_model.SIZE[0]},
    schedule={"steps": small_model.SCHEDULE.steps, "window_chunks": small_model.SCHEDULE.window_chunks},
    loop={"steps": small_model.SCHEDULE.steps, "clip_latents": 15, "condition_latents": 5},
    cfg=small_model.GUIDANCE,
    scores={"aesthetic": small_model.AESTHETIC, "motion": -1.0},
    prompts={
        "clip": "",  # the clip's own caption
        "text": "|0s| A red circle sliding from side to side over lilac and slate stripes. "
        "|6s| A blue circle sliding from side to side over lilac and slate stripes.",
        "first": "A red circle sliding from side to side over lilac and slate stripes.",
        "then": "A blue circle sliding from side to side over lilac and slate stripes.",
    },
    seconds={"clip": 8.5, "text": 12.75, "part": 4.25},
    about_models="The small model of the pack, which knows moving shapes and nothing else: nothing has to be "
    "downloaded, and a CPU suffices. The workflow of the same name without *demo* is the one for real pictures.",
    own_text_encoder=True,
    demo_clip=True,
)
