"""Which of a window's tokens a process holds. One process holds all; several share them (`pavdm.parallel`)."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor


class TokenSharing(Protocol):
    """How the tokens (B, T, S, C) of a window are shared: whole frames, or some positions of all frames.

    A spatial block needs whole frames, a temporal one all frames of a position; all else is done token by token.
    A share may be empty. Shapes are those of the process's own share where they say `mine`.
    """

    def frames(self, length: int) -> slice:
        """The frames, of `length`, that are this process's while whole frames are shared."""
        ...

    def to_positions(self, x: Tensor, length: int) -> Tensor:
        """(B, T mine, S, C) -> (B, T = length, S mine, C), contiguous."""
        ...

    def to_frames(self, x: Tensor, positions: int) -> Tensor:
        """(B, T, S mine, C) -> (B, T mine, S = positions, C), contiguous."""
        ...

    def all_positions(self, x: Tensor, positions: int) -> Tensor:
        """(B, T, S mine, C) -> (B, T, S = positions, C), in every process."""
        ...


class Unshared:
    """All tokens in this process: nothing is moved."""

    def frames(self, length: int) -> slice:
        return slice(length)

    def to_positions(self, x: Tensor, length: int) -> Tensor:
        return x

    def to_frames(self, x: Tensor, positions: int) -> Tensor:
        return x

    def all_positions(self, x: Tensor, positions: int) -> Tensor:
        return x
