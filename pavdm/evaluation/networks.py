"""Measures by networks found locally, never fetched: CLIP against the prompt in force, CLIP and DINO consistency."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from pavdm.clip import PIECE_FRAMES, PIECE_LATENTS
from pavdm.errors import InputError
from pavdm.evaluation.drift import drift
from pavdm.evaluation.measurement import Measurements
from pavdm.evaluation.pixels import Frame
from pavdm.prompts import PromptSchedule
from pavdm.video_reader import read_frames

logger = logging.getLogger(__name__)

WINDOW_SECONDS = 2.0  # as VBench-Long cuts its clips
_EVERY_SECONDS = 0.5
_BATCH = 16
_MOST_PIXELS = 224  # a side, for networks that take any size
# CLIP's own, and ImageNet's for the others, where a folder has no preprocessor_config.json.
_CLIP_COLOURS = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
_IMAGENET_COLOURS = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
# config.json's model_type.
_CLIP_TYPES = ("clip",)
_DINO_TYPES = ("vit", "dinov2", "dinov2_with_registers", "dinov3_vit")


@dataclass(frozen=True)
class Encoder:
    """A vision network, and for CLIP its text side. Vectors come out with length 1."""

    model: Any
    tokenizer: Any  # None for DINO
    side: int  # pixels
    mean: Tensor
    std: Tensor
    device: torch.device

    @torch.inference_mode()
    def images(self, frames: Sequence[Frame]) -> Tensor:
        """(N, D) of frames (H, W, 3) uint8: scaled to cover the network's square, cropped around the centre."""
        pixels = torch.stack([self._prepared(frame) for frame in frames]).to(self.device)
        if self.tokenizer is None:
            vectors = self.model(pixel_values=pixels).last_hidden_state[:, 0]
        else:
            vectors = self.model.visual_projection(self.model.vision_model(pixel_values=pixels).pooler_output)
        return functional.normalize(vectors.float(), dim=-1).cpu()

    @torch.inference_mode()
    def text(self, text: str) -> Tensor:
        """(D,) of a text; what is longer than the network reads is cut off."""
        longest = self.model.config.text_config.max_position_embeddings
        tokens = self.tokenizer(text, truncation=True, max_length=longest, return_tensors="pt").to(self.device)
        pooled = self.model.text_model(
            input_ids=tokens["input_ids"], attention_mask=tokens["attention_mask"]
        ).pooler_output
        return functional.normalize(self.model.text_projection(pooled).float(), dim=-1)[0].cpu()

    def _prepared(self, frame: Frame) -> Tensor:
        picture = (square(frame, self.side, "bicubic") / 255).clamp(0, 1)
        return (picture - self.mean[:, None, None]) / self.std[:, None, None]


def square(frame: Frame, side: int, mode: str) -> Tensor:
    """(3, side, side), 0 to 255, of a frame (H, W, 3): scaled to cover the square, cropped around the centre."""
    picture = torch.from_numpy(np.array(frame)).permute(2, 0, 1)[None].float()
    height, width = picture.shape[-2:]
    scale = side / min(height, width)
    size = [max(side, round(height * scale)), max(side, round(width * scale))]
    picture = functional.interpolate(picture, size, mode=mode, antialias=True)[0]
    top, left = (size[0] - side) // 2, (size[1] - side) // 2
    return picture[:, top : top + side, left : left + side]


def load_clip(folder: Path, device: torch.device) -> Encoder:
    """A CLIP model in transformers' form. Raises InputError if the folder holds none."""
    from transformers import AutoTokenizer, CLIPModel

    model = _load(CLIPModel, folder, "a CLIP model", _CLIP_TYPES)
    with _reading(folder, "a CLIP model"):
        tokenizer = AutoTokenizer.from_pretrained(str(folder), local_files_only=True)
    side = model.config.vision_config.image_size
    return Encoder(model.eval().to(device), tokenizer, side, *_colours(folder, _CLIP_COLOURS), device)


def load_dino(folder: Path, device: torch.device) -> Encoder:
    """A DINO or DINOv2 model in transformers' form. Raises InputError if the folder holds none."""
    from transformers import AutoModel

    model = _load(AutoModel, folder, "a DINO model", _DINO_TYPES)
    side = min(model.config.image_size, _MOST_PIXELS)
    return Encoder(model.eval().to(device), None, side, *_colours(folder, _IMAGENET_COLOURS), device)


def _load(cls: Any, folder: Path, what: str, types: tuple[str, ...]) -> Any:
    if not folder.is_dir():
        raise InputError(
            f"{folder} is not a folder: give the folder of {what} in transformers' form (config.json, ...)"
        )
    with _reading(folder, what):
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        if (found := config.get("model_type")) not in types:
            raise ValueError(f"its config.json says {found!r}; known are {', '.join(types)}")
        model, about = cls.from_pretrained(
            str(folder), local_files_only=True, use_safetensors=True, output_loading_info=True
        )
        # A pooler is not read; anything else that a file lacks would be random.
        if absent := sorted(name for name in about["missing_keys"] if not name.startswith("pooler.")):
            raise ValueError(f"its weights lack {len(absent)} tensors, such as {absent[0]}")
    return model


@contextmanager
def _reading(folder: Path, what: str) -> Iterator[None]:
    """Errors of reading as one InputError."""
    try:
        yield
    except (AttributeError, OSError, ValueError, KeyError) as error:
        raise InputError(f"{folder} does not hold {what} that can be read: {str(error).splitlines()[0]}") from error


def _colours(folder: Path, default: tuple[tuple[float, ...], tuple[float, ...]]) -> tuple[Tensor, Tensor]:
    file = folder / "preprocessor_config.json"
    try:
        content = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
        names = ("image_mean", "image_std")
        mean, std = (torch.tensor(content.get(name, usual)).float() for name, usual in zip(names, default, strict=True))
        if not mean.shape == std.shape == (3,):
            raise ValueError("image_mean and image_std are not three numbers each")
    except (AttributeError, TypeError, ValueError) as error:
        raise InputError(f"{file} cannot be read ({error}): mend it, or delete it to use the usual colours") from error
    return mean, std


def with_networks(
    found: Measurements, path: Path, clip: Encoder | None, dino: Encoder | None, prompt: str | None = None
) -> Measurements:
    """`found` with the measures that the given networks allow. prompt: in place of the one the file records."""
    if not found.scored or (clip is None and dino is None):
        return found
    summary, missing = dict(found.summary), dict(found.missing)
    for name, encoder in (("clip", clip), ("dino", dino)):
        if encoder is None:
            continue
        frames, vectors = _encoded(found, path, encoder)
        summary[f"{name}_consistency"] = consistency(vectors)
        missing.pop(f"{name}_consistency", None)
        if name == "dino":
            continue
        text = prompt or found.record.get("prompt")
        if not isinstance(text, str):
            missing |= dict.fromkeys(("clip_text", "clip_text_drift"), "give the video's prompt: --prompt TEXT")
            continue
        scores = _windows(found, frames, _text_scores(found, frames, vectors, text, encoder))
        summary |= {"clip_text": float(scores.mean()), "clip_text_drift": drift(scores)}
        for key in ("clip_text", "clip_text_drift"):
            missing.pop(key, None)
    return replace(found, summary=summary, missing=missing)


def consistency(vectors: Tensor) -> float | None:
    """Mean over the pictures after the first of (max(0, cos to the one before) + max(0, cos to the first)) / 2."""
    if len(vectors) < 2:
        return None
    before = (vectors[1:] * vectors[:-1]).sum(-1).clamp(min=0)
    first = (vectors[1:] @ vectors[0]).clamp(min=0)
    return float(((before + first) / 2).mean())


def text_of_frame(found: Measurements, schedule: PromptSchedule, frame: int) -> str:
    """The text that was in force for the chunk that a frame belongs to.

    That is the sampler's chunk, which the record has in latents; the layout's only where there is no record.
    """
    new = frame - found.layout.clip_frames
    latents = found.record.get("chunk_latents")
    if not isinstance(latents, int) or latents < 1:
        chunk, frames = new // found.layout.chunk_frames, float(found.layout.chunk_frames)
    else:
        piece, within = divmod(new, PIECE_FRAMES)
        latent = piece * PIECE_LATENTS + (within + 3) // 4  # the first of a piece codes one frame, the others four
        chunk, frames = latent // latents, latents * PIECE_FRAMES / PIECE_LATENTS
    return schedule.texts[schedule.index(chunk, frames / found.fps)]


def _encoded(found: Measurements, path: Path, encoder: Encoder) -> tuple[list[int], Tensor]:
    numbers: list[int] = []
    vectors: list[Tensor] = []
    batch: list[Frame] = []
    for number, frame in _sampled(found, path):
        numbers.append(number)
        batch.append(frame)
        if len(batch) == _BATCH:
            vectors.append(encoder.images(batch))
            batch = []
    if batch:
        vectors.append(encoder.images(batch))
    return numbers, torch.cat(vectors)


def _sampled(found: Measurements, path: Path) -> Iterator[tuple[int, Frame]]:
    every = max(1, round(found.fps * _EVERY_SECONDS))
    start, stop = found.scored[0].start, found.scored[-1].stop
    for number, frame in enumerate(read_frames(path)):
        if start <= number < stop and (number - start) % every == 0:
            yield number, frame


def _text_scores(
    found: Measurements, frames: Sequence[int], vectors: Tensor, prompt: str, encoder: Encoder
) -> np.ndarray:
    schedule = PromptSchedule.parse(prompt)
    of_text = {text: encoder.text(text) for text in schedule.texts}
    texts = torch.stack([of_text[text_of_frame(found, schedule, frame)] for frame in frames])
    return (100 * (vectors * texts).sum(-1)).double().numpy()


def _windows(found: Measurements, frames: Sequence[int], values: np.ndarray) -> np.ndarray:
    """Means over windows of two seconds, in order."""
    window = ((np.array(frames) - frames[0]) / (found.fps * WINDOW_SECONDS)).astype(int)
    return np.array([values[window == number].mean() for number in np.unique(window)])
