"""The networks that turn clips and captions into what the video transformer reads, frozen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, get_args

import torch
from torch import Tensor
from torch.utils.data import Dataset

from pavdm import captions
from pavdm.errors import InputError
from pavdm.models.text_encoder import TextEncoder
from pavdm.models.vae import Noise, VideoVAE, latent_frames
from pavdm.sampling.progressive import posterior_noise
from pavdm.training.data.clip_list import Skipped
from pavdm.training.data.dataset import Batch
from pavdm.training.data.pixel_source import PixelSource
from pavdm.training.data.source import Clips
from pavdm.training.task import Extent, Share, largest_batch

Posterior = Literal["sample", "mode"]
SMALL_CLIP = 2**22  # numbers in its pixels: 187 frames of 64x96 are small


class Coder(Protocol):
    """The networks, as far as a clip needs them. channels: of the latents. text_width: of the embeddings."""

    @property
    def channels(self) -> int: ...

    @property
    def text_width(self) -> int: ...

    def latent_shape(self, num_frames: int, size: tuple[int, int]) -> tuple[int, int, int, int]:
        """(C, T, h, w) of the latents of a clip of this length and (height, width)."""
        ...

    def latents(self, pixels: Tensor, noise_name: str | None) -> Tensor:
        """(1, 3, F, H, W) in [-1, 1] -> (C, T, h, w) fp32 on the CPU; the posterior's mode without a name for noise."""
        ...

    def embedding(self, text: str) -> Tensor:
        """(tokens, width) fp32 on the CPU."""
        ...


@dataclass(frozen=True)
class Networks:
    """A VAE on its device, and a text encoder."""

    vae: VideoVAE
    text_encoder: TextEncoder
    device: torch.device

    @property
    def channels(self) -> int:
        return self.vae.config.temporal.embed_dim

    @property
    def text_width(self) -> int:
        return self.text_encoder.d_model

    def latent_shape(self, num_frames: int, size: tuple[int, int]) -> tuple[int, int, int, int]:
        config = self.vae.config
        height, width = (side // config.spatial.factor for side in size)
        return self.channels, latent_frames(num_frames, config), height, width

    @torch.no_grad()
    def latents(self, pixels: Tensor, noise_name: str | None) -> Tensor:
        noise = None if noise_name is None else posterior_noise(noise_name)
        pixels = pixels.to(self.device)
        length = self.vae.config.micro_frame_size
        if pixels.shape[2] % length or pixels.numel() > SMALL_CLIP:
            return self.vae.encode(pixels, noise)[0].cpu()
        # The pieces of a small clip as one batch: half the time on a CPU. They are independent of each other.
        pieces = pixels[0].unflatten(1, (-1, length)).transpose(0, 1)  # (pieces, 3, 17, H, W)
        micro_batch, self.vae.micro_batch = self.vae.micro_batch, length
        try:
            latents = self.vae.encode(pieces, None if noise is None else _piece_by_piece(noise))
        finally:
            self.vae.micro_batch = micro_batch  # bounds the memory of large clips
        return latents.transpose(0, 1).flatten(1, 2).cpu()

    def embedding(self, text: str) -> Tensor:
        return self.text_encoder.encode([text])[0]


def _piece_by_piece(noise: Noise) -> Noise:
    """For a batch of pieces the noise that they would get one after the other. Frames come in one row either way."""

    def draw(shape: tuple[int, ...]) -> Tensor:
        if len(shape) == 4:  # the spatial posterior of some frames
            return noise(shape)
        return torch.cat([noise((1, *shape[1:])) for _ in range(shape[0])])

    return draw


@dataclass(frozen=True)
class Coding:
    """How clips and captions are coded.

    posterior: "sample" draws the latents with noise named by (seed, clip), "mode" takes the most likely ones.
    aesthetic: score appended to every caption, None for none; captions are cleaned as prompts are.
    identity: what else decides the numbers, such as the networks' fingerprints.
    """

    posterior: Posterior = "sample"
    seed: int = 0
    aesthetic: float | None = None
    identity: Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        if self.posterior not in get_args(Posterior):
            raise InputError(f"latents are drawn by sample or mode: got {self.posterior!r}")

    def settings(self) -> dict[str, Any]:
        return {
            "posterior": self.posterior,
            "posterior seed": self.seed,
            "aesthetic": self.aesthetic,
            **(self.identity or {}),
        }

    def noise_name(self, clip: int) -> str | None:
        """Of clip or example number `clip`."""
        return f"{self.seed}/{clip}" if self.posterior == "sample" else None

    def caption(self, text: str) -> str:
        """What the text encoder reads for a caption."""
        return captions.preprocess(text, self.aesthetic)


class EncodedSource:
    """A source of pixels, encoded while training, in the process that reads it: a `source.Source`.

    Costs a pass of the VAE and of the text encoder for every clip of every epoch; `pavdm preprocess` costs them once.
    """

    def __init__(self, source: PixelSource, coder: Coder, coding: Coding) -> None:
        self.source = source
        self.coder = coder
        self.coding = coding

    @property
    def skipped(self) -> Sequence[Skipped]:
        return self.source.skipped

    @property
    def channels(self) -> int:
        return self.coder.channels

    @property
    def text_width(self) -> int:
        return self.coder.text_width

    def extents(self) -> Sequence[Extent]:
        return [
            Extent(each.batch_size, self.coder.latent_shape(each.shape[1], each.size), each.size)
            for each in self.source.extents()
        ]

    def check(self, share: Share) -> None:
        self.source.check(share)

    def clips(self, share: Share) -> Dataset[Clips]:
        """Raises InputError if there are too few clips for one step."""
        largest = largest_batch(self.source.extents())
        return _Encoded(self.source.pixels(share), self.coder, self.coding, share, largest)

    def settings(self) -> Mapping[str, Any]:
        return {**self.source.settings(), **self.coding.settings()}


class _Encoded(Dataset[Clips]):
    def __init__(self, batches: Dataset[Batch], coder: Coder, coding: Coding, share: Share, largest: int) -> None:
        self._batches, self._coder, self._coding = batches, coder, coding
        self._share, self._largest = share, largest

    def __getitem__(self, index: int) -> Clips:
        batch = self._batches[index]
        numbers = self._share.examples(index, len(batch.pixels), self._largest)
        names = [self._coding.noise_name(number) for number in numbers]
        latents = [self._coder.latents(pixels[None], name) for pixels, name in zip(batch.pixels, names, strict=True)]
        embeddings = tuple(self._coder.embedding(self._coding.caption(text)) for text in batch.texts)
        height, width = batch.pixels.shape[-2:]
        return Clips(torch.stack(latents), embeddings, batch.fps, (height, width), skipped=batch.skipped)
