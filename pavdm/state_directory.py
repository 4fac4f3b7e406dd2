"""A run on disk: the window state after the last finished chunk, and the latents of every chunk so far.

    DIR/state.safetensors          the window state (`pavdm.sampling.state`)
    DIR/chunks/000000.safetensors  one finished chunk each, in order

A chunk is written before the state that says it is finished, both atomically: after a crash at any point the state is
whole and every chunk it counts is there.
"""

from __future__ import annotations

from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from pavdm.errors import InputError
from pavdm.sampling.state import WindowState, load_state, save_state, save_tensors


class StateDirectory:
    """See the module. Raises InputError if the directory cannot be made."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        try:
            (directory / "chunks").mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"cannot make the state directory {directory}: {error}") from error

    @property
    def state_file(self) -> Path:
        return self.directory / "state.safetensors"

    def load(self, expected: WindowState, override: bool) -> WindowState | None:
        """The saved state, checked against `expected` (see `load_state`); None where nothing was saved yet."""
        return load_state(self.state_file, expected, override) if self.state_file.exists() else None

    def save(self, state: WindowState) -> None:
        save_state(state, self.state_file)

    def save_chunk(self, number: int, latents: Tensor) -> None:
        """Write finished chunk `number` (0 for the first that left the window), (B, C, T, H, W)."""
        save_tensors({"latents": latents.cpu().contiguous()}, self._chunk_file(number), {})

    def load_chunk(self, number: int, size: tuple[int, int]) -> Tensor:
        """Finished chunk `number`, of latent size (height, width). Raises InputError if it is not there, whole."""
        path = self._chunk_file(number)
        try:
            latents = load_file(path)["latents"]
            if latents.ndim != 5 or tuple(latents.shape[-2:]) != size:
                raise KeyError(f"latents of shape {tuple(latents.shape)}")
        except (OSError, KeyError, SafetensorError) as error:
            raise InputError(
                f"{path} is missing or damaged, so the video cannot be put together again ({error}). Start over with "
                "an empty state directory"
            ) from error
        return latents

    def _chunk_file(self, number: int) -> Path:
        return self.directory / "chunks" / f"{number:06d}.safetensors"
