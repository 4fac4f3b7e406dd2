"""Training of the video VAE: clips in pixels -> reconstruction; first the spatial half on frames, then both halves."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from pavdm.frames import to_frames
from pavdm.models.checkpoint import save_vae
from pavdm.models.vae import VAEConfig, VideoVAE, latent_frames
from pavdm.training.chance import generator_for
from pavdm.training.data.dataset import Batch
from pavdm.training.data.pixel_source import PixelSource
from pavdm.training.run_directory import step_name
from pavdm.training.task import Extent, Share, largest_batch
from pavdm.training.vae.objective import PixelBatch, VAEObjective, normalise

Part = Literal["spatial", "temporal", "whole"]
MEASURED_CLIPS = 64  # from which scale and shift of the latents are taken


def cropped(pixels: Tensor, config: VAEConfig) -> Tensor:
    """What of (..., H, W) latents stand for, and is decoded again: below and at the right, sizes such as 240p's
    (240, 426) have a rest for which `VideoVAE.encode` makes no latent."""
    height, width = (side - side % config.spatial.factor for side in pixels.shape[-2:])
    return pixels[..., :height, :width]


class NoisyPixels(Dataset[PixelBatch]):
    """Item m: the batch of micro-step m, with the noise of its posteriors and the choice of frames to decode."""

    def __init__(
        self, clips: Dataset[Batch], share: Share, largest: int, config: VAEConfig, part: Part, frames: int, seed: int
    ) -> None:
        self._clips, self._share, self._largest, self._config = clips, share, largest, config
        self._part, self._frames, self._seed = part, frames, seed

    def __getitem__(self, index: int) -> PixelBatch:
        batch = self._clips[index]
        pixels = cropped(batch.pixels, self._config)
        length = pixels.shape[2]
        frames, clip = _noise_shapes(self._config, *pixels.shape[2:])
        count = min(self._frames or length, length)
        chosen = torch.randperm(length, generator=generator_for(self._seed, "shown", self._share.step(index)))[:count]
        of_frames, of_clips = [], []
        for number in self._share.examples(index, len(pixels), self._largest):
            generator = generator_for(self._seed, "posterior", number)
            of_frames.append(torch.randn(frames, generator=generator))
            if self._part != "spatial":
                of_clips.append(torch.randn(clip, generator=generator))
        noise = (torch.cat(of_frames), torch.stack(of_clips) if of_clips else None)
        return PixelBatch(pixels, tuple(sorted(chosen.tolist())), noise, batch.skipped)


def _noise_shapes(config: VAEConfig, length: int, height: int, width: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Of the noise that one clip of this form takes: for the posteriors of its frames, and for its own."""
    size = (height // config.spatial.factor, width // config.spatial.factor)
    frames = (length, config.spatial.latent_channels, *size)
    return frames, (config.temporal.embed_dim, latent_frames(length, config), *size)


class VAETask:
    """The task (see `pavdm.training.task.Task`).

    part: "spatial" trains the image half on each frame, "temporal" the other half behind it, "whole" both. frames: how
    many of a clip's frames are decoded to pixels in a step, the same for all clips of it, 0 for all.
    """

    def __init__(
        self,
        network: VideoVAE,
        source: PixelSource,
        *,
        part: Part = "whole",
        frames: int = 0,
        kl_weight: float = 1e-6,
        still_weight: float = 0.0,
        seed: int = 0,
        start: Mapping[str, Any] | None = None,
    ) -> None:
        self.network = network
        network.temporal_vae.requires_grad_(part != "spatial")
        network.spatial_vae.requires_grad_(part != "temporal")
        self.objective = VAEObjective(network, kl_weight, still_weight)
        self.source, self._part, self._frames, self._seed = source, part, frames, seed
        self._start = dict(start or {})

    def examples(self, share: Share) -> Dataset[PixelBatch]:
        clips, largest = self.source.pixels(share), largest_batch(self.source.extents())
        return NoisyPixels(clips, share, largest, self.network.config, self._part, self._frames, self._seed)

    def stand_in(self, extent: Extent) -> PixelBatch:
        """A batch of this form without values, to see what a network does with its sizes."""
        batch, length = extent.batch_size, extent.shape[1]
        frames, clip = _noise_shapes(self.network.config, *extent.shape[1:])
        noise = (
            torch.empty(batch * length, *frames[1:], device="meta"),
            None if self._part == "spatial" else torch.empty(batch, *clip, device="meta"),
        )
        pixels = cropped(torch.empty(batch, *extent.shape, device="meta"), self.network.config)
        return PixelBatch(pixels, tuple(range(min(self._frames or length, length))), noise)

    def settings(self) -> dict[str, Any]:
        return {
            "what": "vae",
            "part": self._part,
            "frames decoded": self._frames,
            "kl weight": self.objective.kl_weight,
            "still weight": self.objective.still_weight,
            "seed": self._seed,
            **self._start,
            "data": dict(self.source.settings()),
        }

    def blocks(self) -> Iterable[nn.Module]:
        spatial = self.network.spatial_vae.module
        return [*spatial.encoder.down_blocks, *spatial.decoder.up_blocks]

    def save(self, directory: Path, weights: Mapping[str, Tensor]) -> None:
        """Latents are normalised anew, by the first training clips, unless only the image half is trained."""
        vae = self._plain(weights)
        save_vae(normalise(vae, self._first_clips()) if self._part != "spatial" else vae, directory)

    def sample(self, directory: Path, step: int, weights: Mapping[str, Tensor]) -> None:
        """A picture: frames of the first training clips, and below each what is left of it."""
        from PIL import Image

        vae = self._plain(weights)
        pixels = next(iter(self._first_clips()))
        with torch.inference_mode():
            if self._part != "spatial":
                decoded = vae.decode(vae.encode(pixels), pixels.shape[2])
            else:
                spatial = vae.spatial_vae.module
                images = pixels.transpose(1, 2).flatten(0, 1)
                decoded = spatial.decode(spatial.encode(images).chunk(2, dim=1)[0])
                decoded = decoded.unflatten(0, (len(pixels), -1)).transpose(1, 2)
        rows = [torch.cat(list(clips[:, :, -1]), dim=2) for clips in (pixels, decoded)]  # (3, H, B * W) each
        (picture,) = to_frames(torch.cat(rows, dim=1)[:, None])
        Image.fromarray(picture).save(directory / f"{step_name(step)}.png")

    def _first_clips(self) -> Iterable[Tensor]:
        clips = self.source.pixels(Share())
        count = 0
        index = 0
        while count < MEASURED_CLIPS:
            pixels = cropped(clips[index].pixels, self.network.config)
            yield pixels
            count, index = count + len(pixels), index + 1

    def _plain(self, weights: Mapping[str, Tensor]) -> VideoVAE:
        vae = VideoVAE(self.network.config, device="meta")
        vae.load_state_dict({name: tensor.cpu() for name, tensor in weights.items()}, assign=True)
        return vae.requires_grad_(False)
