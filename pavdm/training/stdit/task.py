"""Training of STDiT3: clean clips -> noised windows -> velocity -> loss; whole or by LoRA."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from pavdm.models.checkpoint import save_stdit3
from pavdm.models.stdit3 import STDiT3
from pavdm.training.chance import generator_for
from pavdm.training.data.clip_list import Skipped
from pavdm.training.data.source import Clips, Source
from pavdm.training.stdit.lora import merged, save_lora
from pavdm.training.stdit.noising import Noising
from pavdm.training.stdit.objective import Noised, TrainedVelocity, dropped_texts
from pavdm.training.stdit.resampling import resampled
from pavdm.training.stdit.samples import Sampler
from pavdm.training.task import Share, largest_batch

LORA_FILE = "lora.safetensors"


@dataclass(frozen=True, eq=False)
class NoisedClips:
    """A batch for the network. embeddings, fps, size, texts: as in `Clips`, texts of the frames shown. dropped: (B,)
    bool, the clips that read the null embedding. With a history, `texts` begins with those of the chunk before.
    skipped: as in `Clips`."""

    noised: Noised
    embeddings: tuple[Tensor, ...]
    dropped: Tensor
    fps: float
    size: tuple[int, int]
    texts: Tensor | None = None
    skipped: tuple[Skipped, ...] = ()

    def to(self, device: torch.device | str) -> NoisedClips:
        embeddings = tuple(embedding.to(device) for embedding in self.embeddings)
        return replace(self, noised=self.noised.to(device), embeddings=embeddings)


def stand_in(shape: tuple[int, ...], num_tokens: int, text_width: int, size: tuple[int, int]) -> NoisedClips:
    """A batch of `shape` (B, C, T, H, W) without values, to see what a network does with its sizes."""
    latents = torch.empty(shape, device="meta")
    times = torch.full((shape[0], shape[2]), 500.0)  # on the CPU, where the network looks at them
    noised = Noised(
        latents, times, torch.empty_like(latents), torch.empty(times.shape, dtype=torch.bool, device="meta")
    )
    texts = tuple(torch.empty(num_tokens, text_width, device="meta") for _ in range(shape[0]))
    return NoisedClips(noised, texts, torch.zeros(shape[0], dtype=torch.bool), 24.0, size)


class NoisedExamples(Dataset[NoisedClips]):
    """Item m: the batch of micro-step m, noised, with some of its texts dropped."""

    def __init__(
        self, clips: Dataset[Clips], noising: Noising, share: Share, largest: int, seed: int, text_dropout: float
    ) -> None:
        self.clips, self.noising, self.share, self.largest = clips, noising, share, largest
        self.seed, self.text_dropout = seed, text_dropout

    def __getitem__(self, index: int) -> NoisedClips:
        clips = self.clips[index]
        numbers = self.share.examples(index, len(clips.latents), self.largest)
        step = self.share.step(index)
        noised = self.noising(clips, self.seed, step, numbers)
        texts = None if clips.texts is None else clips.texts[:, self.noising.frames(clips, self.seed, step)]
        drawn = [dropped_texts(1, self.text_dropout, generator_for(self.seed, "text", number)) for number in numbers]
        return NoisedClips(noised, clips.embeddings, torch.cat(drawn), clips.fps, clips.size, texts, clips.skipped)


class STDiTObjective(nn.Module):
    """Batch -> mean loss of its clips."""

    def __init__(self, network: STDiT3) -> None:
        super().__init__()
        self.velocity = TrainedVelocity(network)

    def forward(self, batch: NoisedClips) -> tuple[Tensor, dict[str, Tensor]]:
        noised = batch.noised
        if noised.history is not None:
            first = slice(noised.history.latents.shape[2])
            noised = resampled(noised, noised.history, lambda shown: self._velocity(shown, batch, first))
        velocity = self._velocity(noised, batch, slice(-noised.latents.shape[2], None))
        return noised.loss(velocity).mean(), {}

    def _velocity(self, noised: Noised, batch: NoisedClips, frames: slice) -> Tensor:
        """Of `noised`, which shows these `frames` of those that the batch has texts for."""
        texts = None if batch.texts is None else batch.texts[:, frames]
        return self.velocity(
            noised, batch.embeddings, fps=batch.fps, size=batch.size, texts=texts, dropped=batch.dropped
        )


class STDiTTask:
    """The task (see `pavdm.training.task.Task`).

    network: its trained weights fp32, the others frozen; with LoRA layers if `lora_alpha` is given, of that alpha.
    start: what the weights were before, for `settings`. sampler: makes the samples, None for none.
    """

    def __init__(
        self,
        network: STDiT3,
        source: Source,
        noising: Noising,
        *,
        text_dropout: float = 0.1,
        seed: int = 0,
        lora_alpha: float | None = None,
        start: Mapping[str, Any] | None = None,
        sampler: Sampler | None = None,
    ) -> None:
        self.network = network
        self.objective = STDiTObjective(network)
        self._source, self._noising, self._sampler = source, noising, sampler
        self._text_dropout, self._seed, self._lora_alpha = text_dropout, seed, lora_alpha
        self._start = dict(start or {})

    def examples(self, share: Share) -> Dataset[NoisedClips]:
        largest = largest_batch(self._source.extents())
        return NoisedExamples(self._source.clips(share), self._noising, share, largest, self._seed, self._text_dropout)

    def settings(self) -> dict[str, Any]:
        return {
            "what": "stdit",
            "seed": self._seed,
            "text dropout": self._text_dropout,
            "lora alpha": self._lora_alpha,
            **self._start,
            **self._noising.settings(),
            "data": dict(self._source.settings()),
        }

    def blocks(self) -> Iterable[nn.Module]:
        return self.network.blocks()

    def save(self, directory: Path, weights: Mapping[str, Tensor]) -> None:
        if self._lora_alpha is None:
            save_stdit3(self._plain(weights), directory)
        else:
            save_lora(directory / LORA_FILE, weights, self._lora_alpha)

    def sample(self, directory: Path, step: int, weights: Mapping[str, Tensor]) -> None:
        if self._sampler is not None:
            device = next(self.network.parameters()).device
            network = self._plain(weights).to(device).requires_grad_(False).eval()
            clips = self._source.clips(Share())[0]
            self._sampler.sample(network, clips, directory, step)

    def _plain(self, weights: Mapping[str, Tensor]) -> STDiT3:
        """The network that published files hold, with `weights` in it."""
        if self._lora_alpha is not None:
            weights = merged(weights, self._lora_alpha)
        network = STDiT3(self.network.config, device="meta")
        network.load_state_dict(dict(weights), assign=True)
        return network
