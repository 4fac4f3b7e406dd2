"""Where clean clips come from, as latents and text features: the protocol between data and the STDiT3 task."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor
from torch.utils.data import Dataset

from pavdm.training.data.clip_list import Skipped
from pavdm.training.task import Extent, Share


@dataclass(frozen=True, eq=False)
class Clips:
    """Clean clips of one size and length.

    latents: (B, C, T, H, W) fp32, on the CPU. embeddings: T5 features (tokens, width) of captions, real tokens only:
    first each clip's own, then those to which captions change. texts: (B, T), which of them each latent frame reads;
    None if no caption changes. fps: of the video. size: (height, width) in pixels. skipped: what could not be read, and
    has others in its place.
    """

    latents: Tensor
    embeddings: tuple[Tensor, ...]
    fps: float
    size: tuple[int, int]
    texts: Tensor | None = None
    skipped: tuple[Skipped, ...] = ()


class Source(Protocol):
    """Clips for training. Equal settings give equal clips, whatever was read before.

    channels: of the latents. text_width: of the embeddings. skipped: what is in the list and cannot be used.
    """

    @property
    def skipped(self) -> Sequence[Skipped]: ...

    @property
    def channels(self) -> int: ...

    @property
    def text_width(self) -> int: ...

    def extents(self) -> Sequence[Extent]:
        """Every form of a batch that occurs."""
        ...

    def clips(self, share: Share) -> Dataset[Clips]:
        """Map-style data set: item m is the batch of micro-step m (see `Share`) for one process.

        In a step all processes have the same sizes, so that none waits for a longer clip.
        """
        ...

    def check(self, share: Share) -> None:
        """Raise InputError if there are too few clips for one step; warn of those that fill none."""
        ...

    def settings(self) -> Mapping[str, Any]:
        """What decides the clips, their order and the batch size, as JSON values."""
        ...
