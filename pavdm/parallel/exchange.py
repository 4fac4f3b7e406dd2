"""The tokens of a window shared by the processes of a group, for STDiT3 (`pavdm.models.sharing`).

Spatial blocks run with the frames shared out, temporal blocks with the positions shared out; between two blocks the
tokens are exchanged, all to all. That is Dynamic Sequence Parallelism (arXiv 2403.10266), which Open-Sora v1.2 uses:
one exchange of the tokens before each block but the first, against four (q, k, v and the result) of DeepSpeed-Ulysses
(arXiv 2309.14509) in every temporal block. Shares differ by at most one frame or position; nothing is padded.

What leaves each of P processes at one model call, for tokens (B, T, S, C) of w bytes that divide evenly, is

    (2 depth - 1) (P - 1) / P^2 * B T S C w     the exchanges before each block but the first
    + (P - 1) / P * B T S V w                   the output (V values a token), which every process gets whole

`Exchange.bytes_sent` counts it; the tests hold it against this sum. STDiT3-XL/2 at 240p (B 1 once the guidance pair is
split, T 35, S 15 x 27 = 405, C 1152, bf16, depth 28, V 32): 450 MB for P = 2, 337 MB for P = 4.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

import torch
import torch.distributed as dist
from torch import Tensor

from pavdm.parallel.team import communicating


class Exchange:
    """The `TokenSharing` of process number `place` of the `size` in `group`; for inference, as it has no gradient."""

    def __init__(self, group: dist.ProcessGroup, place: int, size: int) -> None:
        self.group = group
        self.place = place
        self.size = size
        self.bytes_sent = 0  # to other processes, since this object was made

    def frames(self, length: int) -> slice:
        return self._parts(length)[self.place]

    def to_positions(self, x: Tensor, length: int) -> Tensor:
        batch, _, positions, channels = x.shape
        parts = self._parts(positions)
        mine = _count(parts[self.place])
        arriving = [(batch, _count(frames), mine, channels) for frames in self._parts(length)]
        return torch.cat(self._all_to_all([x[:, :, part] for part in parts], arriving), dim=1)

    def to_frames(self, x: Tensor, positions: int) -> Tensor:
        batch, length, _, channels = x.shape
        parts = self._parts(length)
        mine = _count(parts[self.place])
        arriving = [(batch, mine, _count(part), channels) for part in self._parts(positions)]
        return torch.cat(self._all_to_all([x[:, part] for part in parts], arriving), dim=2)

    def all_positions(self, x: Tensor, positions: int) -> Tensor:
        batch, length, _, values = x.shape
        arriving = [(batch, length, _count(part), values) for part in self._parts(positions)]
        return torch.cat(self._all_to_all([x] * self.size, arriving), dim=2)

    def _parts(self, count: int) -> list[slice]:
        """`count` things cut into one run per process, the first ones longer by one where it does not divide."""
        least, longer = divmod(count, self.size)
        ends = list(accumulate(least + (place < longer) for place in range(self.size)))
        return [slice(start, end) for start, end in zip([0, *ends[:-1]], ends, strict=True)]

    def _all_to_all(self, leaving: Sequence[Tensor], arriving: Sequence[tuple[int, ...]]) -> list[Tensor]:
        """Send leaving[i] to process i; what came from process i, of the shape arriving[i]."""
        sent = torch.cat([piece.reshape(-1) for piece in leaving])
        sizes_out = [piece.nbytes for piece in leaving]
        shapes_in = [torch.Size(shape) for shape in arriving]
        received = sent.new_empty(sum(shape.numel() for shape in shapes_in))
        sizes_in = [shape.numel() * sent.itemsize for shape in shapes_in]
        with communicating():  # as bytes: not every back end knows every dtype
            dist.all_to_all_single(
                received.view(torch.uint8), sent.view(torch.uint8), sizes_in, sizes_out, group=self.group
            )
        self.bytes_sent += sum(sizes_out) - sizes_out[self.place]
        pieces = received.split([shape.numel() for shape in shapes_in])
        return [piece.view(shape) for piece, shape in zip(pieces, shapes_in, strict=True)]


def _count(part: slice) -> int:
    return part.stop - part.start
