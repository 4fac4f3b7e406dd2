"""The set of files in a models directory: which networks are there, which are missing and where they come from."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from pavdm.errors import InputError
from pavdm.models.kinds import Kind, identify
from pavdm.models.weights import SAFETENSORS, Weights, check_path, weight_files

CONFIG = "config.json"


@dataclass(frozen=True)
class Part:
    """One network of the set: what it is called where, and how its files are recognised.

    folders: conventional folder names, relative to the models directory, the published one first.
    """

    name: str
    title: str
    source: str
    option: str
    kinds: tuple[Kind, ...]
    config_types: tuple[str, ...]
    folders: tuple[str, ...]


PARTS = (
    Part(
        "stdit",
        "the video transformer STDiT3-XL/2",
        "hpcai-tech/OpenSora-STDiT-v3",
        "--stdit",
        (Kind.STDIT3,),
        ("STDiT3",),
        ("OpenSora-STDiT-v3", "stdit"),
    ),
    Part(
        "vae",
        "the video VAE",
        "hpcai-tech/OpenSora-VAE-v1.2",
        "--vae",
        (Kind.VIDEO_VAE, Kind.TEMPORAL_VAE),
        ("VideoAutoencoderPipeline",),
        ("OpenSora-VAE-v1.2", "vae"),
    ),
    Part(
        "text_encoder",
        "the T5 text encoder with its tokenizer",
        "DeepFloyd/t5-v1_1-xxl",
        "--text-encoder",
        (Kind.TEXT_ENCODER,),
        ("t5",),
        ("t5-v1_1-xxl", "text_encoder"),
    ),
    Part(
        "spatial_vae",
        "the image VAE, which a VAE file with the temporal half only needs beside it",
        "PixArt-alpha/pixart_sigma_sdxlvae_T5_diffusers (its folder vae)",
        "--spatial-vae",
        (Kind.SPATIAL_VAE,),
        ("AutoencoderKL",),
        ("pixart_sigma_sdxlvae_T5_diffusers/vae", "spatial_vae"),
    ),
)
NAMES = tuple(part.name for part in PARTS)


@dataclass(frozen=True)
class ModelFiles:
    """Where each network is. spatial_vae is None where the VAE file brings its own."""

    stdit: Path
    vae: Path
    text_encoder: Path
    spatial_vae: Path | None = None


@dataclass(frozen=True)
class EncoderFiles:
    """Where the networks are that turn clips and captions into what a video transformer reads."""

    vae: Path
    text_encoder: Path
    spatial_vae: Path | None = None


@dataclass(frozen=True)
class Survey:
    """What a models directory holds: the candidates of every part, and the parts that are needed and have none.

    unreadable: for what might be a network and cannot be read, why: a sentence that names the file.
    """

    directory: Path
    candidates: Mapping[str, tuple[Path, ...]]
    missing: tuple[Part, ...]
    unreadable: Mapping[Path, str] = field(default_factory=dict)

    @property
    def ambiguous(self) -> tuple[Part, ...]:
        """Parts with more than one candidate; an image VAE that nothing needs leaves no choice open."""
        several = [part for part in PARTS if len(self.candidates[part.name]) > 1]
        return tuple(part for part in several if part.name != "spatial_vae" or needs_spatial(self.candidates["vae"]))

    @property
    def complete(self) -> bool:
        return not self.missing and not self.ambiguous


def read_config(folder: Path) -> dict[str, Any]:
    """The config.json of a folder as a dictionary, empty if there is none. Raises InputError if it is unreadable."""
    file = folder / CONFIG
    try:
        if not file.is_file():
            return {}
        content = json.loads(file.read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{file} is not readable JSON ({error}). Download or copy it again.") from error
    if not isinstance(content, dict):
        raise InputError(f"{file}: expected a JSON object, got {type(content).__name__}. Download or copy it again.")
    return content


def config_type(config: Mapping[str, Any]) -> str | None:
    """What network a config.json says it is of: transformers' model_type or diffusers' class name."""
    value = config.get("model_type", config.get("_class_name"))
    return str(value) if value is not None else None


def part_of(path: Path) -> Part | None:
    """The part that a folder or file is, by its config.json or else by its weights' keys; None if it is none.

    Raises InputError, naming the file, if its config.json or its weights cannot be read.
    """
    if path.is_dir():
        named = config_type(read_config(path))
        if named is not None:
            return next((part for part in PARTS if named in part.config_types), None)
    try:
        weight_files(path)
    except InputError:
        return None  # a folder of something else
    kind = _kind(path)
    # A bare T5 file lacks tokenizer and configuration: text encoders are folders.
    if kind is Kind.TEXT_ENCODER and not path.is_dir():
        return None
    return next((part for part in PARTS if kind in part.kinds), None)


def survey(directory: str | Path, overrides: Mapping[str, str | Path | None] | None = None) -> Survey:
    """Look for the networks in `directory`: itself, its sub-folders, and .safetensors files directly in it.

    overrides: part name -> path given by the user, which then is the only candidate of that part.
    Never raises for what is missing, ambiguous or unreadable: the result says so. Raises InputError if the directory
    itself cannot be read.
    """
    directory = Path(directory)
    found: dict[str, list[Path]] = {name: [] for name in NAMES}
    unreadable: dict[Path, str] = {}
    for path in _places(directory):
        try:
            part = part_of(path) or _part_named(path, directory)
        except InputError as error:
            unreadable[path] = str(error)
            continue
        if part is not None:
            found[part.name].append(path)
    for name, given in (overrides or {}).items():
        if given is not None:
            found[name] = [Path(given)]
    candidates = {name: tuple(paths) for name, paths in found.items()}
    needed = [part for part in PARTS if part.name != "spatial_vae" or needs_spatial(candidates["vae"])]
    missing = tuple(part for part in needed if not candidates[part.name])
    return Survey(directory, candidates, missing, unreadable)


def find_models(
    directory: str | Path,
    stdit: str | Path | None = None,
    vae: str | Path | None = None,
    text_encoder: str | Path | None = None,
    spatial_vae: str | Path | None = None,
) -> ModelFiles:
    """Find the set of networks in `directory`; the other arguments say where a part is instead of looking for it.

    Raises InputError that lists every missing part with its published name, place and option, and what could not be
    read; or names the candidates between which the choice is open.
    """
    overrides = {"stdit": stdit, "vae": vae, "text_encoder": text_encoder, "spatial_vae": spatial_vae}
    paths = _found(directory, overrides, NAMES)
    return ModelFiles(paths["stdit"], paths["vae"], paths["text_encoder"], paths.get("spatial_vae"))


def find_encoders(
    directory: str | Path,
    vae: str | Path | None = None,
    text_encoder: str | Path | None = None,
    spatial_vae: str | Path | None = None,
) -> EncoderFiles:
    """`find_models` for what needs no video transformer."""
    overrides = {"vae": vae, "text_encoder": text_encoder, "spatial_vae": spatial_vae}
    paths = _found(directory, overrides, tuple(overrides))
    return EncoderFiles(paths["vae"], paths["text_encoder"], paths.get("spatial_vae"))


def _found(
    directory: str | Path, overrides: Mapping[str, str | Path | None], names: Collection[str]
) -> dict[str, Path]:
    """Where the parts called `names` are; the image VAE only where it is used. Raises InputError as `find_models`."""
    for part in PARTS:
        given = overrides.get(part.name)
        if given is not None:
            try:
                check_path(Path(given), f"{part.title} ({part.source})")
            except InputError as error:
                raise InputError(f"{part.option} {given}: {error}") from error
    found = survey(directory, overrides)
    for part in found.ambiguous:
        if part.name in names:
            first, second, *_ = found.candidates[part.name]
            raise InputError(
                f"{directory} holds {part.title} more than once: {first} and {second}. "
                f"Say which one is meant: {part.option} {first}"
            )
    found = replace(found, missing=tuple(part for part in found.missing if part.name in names))
    if found.missing:
        raise InputError(describe_missing(found))
    paths = {name: paths[0] for name, paths in found.candidates.items() if paths}
    if not (needs_spatial(found.candidates["vae"]) or overrides["spatial_vae"]):
        paths.pop("spatial_vae", None)
    return paths


def describe_missing(found: Survey) -> str:
    """What is missing, where each part is published, where it goes, how to do without; and what cannot be read."""
    if not found.directory.is_dir():
        head = f"no such models directory: {found.directory}. It has to hold:"
    else:
        head = f"{found.directory} does not hold all networks. Missing:"
    lines = [head]
    for part in found.missing:
        lines.append(f"  {part.title}: {part.source} on Hugging Face")
        lines.append(f"    put it into {found.directory / part.folders[0]}, or point to it with {part.option} PATH")
    if found.unreadable:
        lines.append("Unreadable, so that what is there was not looked at further:")
        lines += [f"  {why}" for why in found.unreadable.values()]
    lines.append("To try pavdm without published weights, make a small random set: pavdm new-model DIR --size tiny")
    return "\n".join(lines)


def _places(directory: Path) -> list[Path]:
    try:
        if not directory.is_dir():
            return []
        entries = sorted(entry for entry in directory.iterdir() if not entry.name.startswith("."))
    except OSError as error:
        raise InputError(f"cannot read the models directory {directory}: {error.strerror or error}") from error
    nested = [directory / folder for part in PARTS for folder in part.folders if "/" in folder]
    folders = [*(entry for entry in entries if entry.is_dir()), *(folder for folder in nested if folder.is_dir())]
    # The directory itself is a place if a network's config.json lies in it; then its files belong to that network.
    if (directory / CONFIG).is_file():
        return [directory, *folders]
    return [*folders, *(entry for entry in entries if entry.is_file() and entry.suffix == SAFETENSORS)]


def _part_named(path: Path, directory: Path) -> Part | None:
    """By conventional name: for folders of weights whose contents only loading can tell (pickles, foreign keys)."""
    if not path.is_dir() or config_type(read_config(path)) is not None:
        return None
    try:
        weight_files(path)
    except InputError:
        return None
    relative = path.relative_to(directory).as_posix()
    return next((part for part in PARTS if relative in part.folders), None)


def _kind(path: Path) -> Kind:
    """Kind by the keys in safetensors headers; pickles are not opened for this."""
    files = weight_files(path)
    if any(file.suffix != SAFETENSORS for file in files):
        return Kind.UNKNOWN
    return identify(Weights(path).stored)


def needs_spatial(vae: tuple[Path, ...]) -> bool:
    """Whether the one candidate for the VAE is a temporal half, which needs an image VAE beside it."""
    try:
        return len(vae) == 1 and _kind(vae[0]) is Kind.TEMPORAL_VAE
    except InputError:
        return False
