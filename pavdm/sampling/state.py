"""The window state: everything that the next model call needs, as one immutable value that can be saved.

A state file is safetensors (the clean chunk and the noisy window) with a JSON header. It is written to a temporary
name and renamed, so a crash leaves the previous state or the new one, never half of one.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from pavdm.errors import InputError
from pavdm.files import temporary_beside
from pavdm.prompts import PromptSchedule
from pavdm.sampling.schedule import Row, Schedule

FORMAT_VERSION = 1
METADATA_KEY = "pavdm_state"

PromptSwitch = Literal["chunk", "window"]
Texts = tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class WindowState:
    """What the sampler carries from one model call to the next.

    window: (B, C, n * chunk_latents, H, W) fp32, the noisy chunks, front first. n = 0 at the start and at the end.
    clean: (B, C, chunk_latents, H, W) fp32, the clean chunk of overlapped conditioning; None without one.
    call: the next row of the schedule's table. total: chunks that enter in all, None while the end is open.
    first_chunk: the video's number of the table's chunk 0; negative where the clip's own chunks come first, re-noised.
    seeds: one per batch item; with the chunk's number they fix its noise.
    window_texts, clean_texts: the text that each chunk in the window reads, (B, n) and (B,).
    prompt_switch: "chunk": each chunk keeps the text in force when it entered; "window": all read the newest one's.
    settings: what else changes the numbers (model, guidance, size, fps, ...), compared when a state is loaded.
    """

    schedule: Schedule
    window: Tensor
    seeds: tuple[int, ...]
    prompts: tuple[PromptSchedule, ...]
    chunk_seconds: float
    clean: Tensor | None = None
    call: int = 0
    total: int | None = None
    first_chunk: int = 0
    window_texts: Texts = ()
    clean_texts: tuple[str, ...] | None = None
    prompt_switch: PromptSwitch = "chunk"
    settings: Mapping[str, Any] = field(default_factory=dict)

    @property
    def num_window_chunks(self) -> int:
        return self.window.shape[2] // self.schedule.chunk_latents

    @property
    def row(self) -> Row | None:
        """The row that the next model call reads; None when every chunk is finished."""
        return self.schedule.row(self.call, self.total)

    @property
    def next_chunk(self) -> int:
        """The video's number of the next chunk to finish."""
        row = self.row
        return self.first_chunk + (row.first if row is not None else self.total or 0)

    def texts_for(self, chunk: float) -> tuple[str, ...]:
        """The text in force for chunk `chunk` of each batch item, (B,); see `PromptSchedule.index`."""
        return tuple(p.texts[p.index(chunk, self.chunk_seconds)] for p in self.prompts)

    def with_prompts(self, prompts: tuple[PromptSchedule, ...]) -> WindowState:
        """The same window, steered by other prompts from the next chunk that enters."""
        if len(prompts) != len(self.seeds):
            raise InputError(f"the state has a batch of {len(self.seeds)}, but {len(prompts)} prompts came")
        return replace(self, prompts=prompts)

    def to(self, device: torch.device | str) -> WindowState:
        clean = None if self.clean is None else self.clean.to(device)
        return replace(self, window=self.window.to(device), clean=clean)


def with_total(state: WindowState, total: int | None) -> WindowState:
    """The same state with another end, as long as the end it has was not in sight yet.

    Raises InputError once the window has begun to shrink towards another end.
    """
    if total == state.total:
        return state
    due = (state.call - 1) // state.schedule.calls_per_chunk + 1  # chunks entered by now, if no end were in sight
    row = state.row
    entered = state.total if row is None else row.first + state.num_window_chunks
    if entered != (due if total is None else min(due, total)):
        raise InputError(
            f"this video was to end after {state.total} chunks and its window has begun to shrink towards that end; "
            f"{total} chunks are asked for now. Ask for the length it was begun with, or extend the finished video"
        )
    return replace(state, total=total)


def save_state(state: WindowState, path: str | os.PathLike[str]) -> None:
    """Write `state` to `path` (safetensors with a JSON header), atomically. Raises InputError if it cannot."""
    tensors = {"window": state.window.cpu().contiguous()}
    if state.clean is not None:
        tensors["clean"] = state.clean.cpu().contiguous()
    save_tensors(tensors, path, {METADATA_KEY: json.dumps(header_of(state))})


def save_tensors(tensors: dict[str, Tensor], path: str | os.PathLike[str], metadata: dict[str, str]) -> None:
    """Write a safetensors file under a temporary name, flush it to the disk and rename it to `path`."""
    path = Path(path)
    temporary = temporary_beside(path)
    try:
        save_file(tensors, temporary, metadata)
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    except (OSError, SafetensorError) as error:
        temporary.unlink(missing_ok=True)
        raise InputError(f"cannot write {path}: {error}; the file that was there before is untouched") from error


def load_state(
    path: str | os.PathLike[str], expected: WindowState | None = None, override: bool = False
) -> WindowState:
    """Read a state file; with `expected`, refuse one that was made with other settings.

    expected: a state as a fresh start would make it now. Its settings and prompts are compared with the file's; where
    they differ, InputError names each difference, unless `override`: then the new ones replace the file's. A different
    schedule or latent size is always refused: the window in the file would not fit it.
    """
    path = Path(path)
    try:
        with safe_open(path, framework="pt") as file:
            metadata = (file.metadata() or {}).get(METADATA_KEY)
            names = file.keys()
            tensors = {name: file.get_tensor(name) for name in names}
    except FileNotFoundError as error:
        raise InputError(f"no state file at {path}") from error
    except (OSError, SafetensorError) as error:
        raise InputError(f"{path} is no readable state file (damaged or cut short?): {error}") from error
    if metadata is None:
        raise InputError(f"{path} is a safetensors file, but no PA-VDM state: its header has no {METADATA_KEY!r}")
    try:
        state = from_header(json.loads(metadata), tensors)
        check_state(state)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        if isinstance(error, InputError):
            raise InputError(f"the state file {path} is damaged or of another version: {error}") from error
        raise InputError(f"the state file {path} has a header that cannot be read: {error!r}") from error
    if expected is not None:
        state = _reconcile(path, state, expected, override)
    return state


def header_of(state: WindowState) -> dict[str, Any]:
    """All of a state that is no tensor, as JSON can hold it."""
    return {
        "format": FORMAT_VERSION,
        "schedule": asdict(state.schedule),
        "call": state.call,
        "total": state.total,
        "first_chunk": state.first_chunk,
        "seeds": state.seeds,
        "prompts": [str(p) for p in state.prompts],
        "chunk_seconds": state.chunk_seconds,
        "window_texts": state.window_texts,
        "clean_texts": state.clean_texts,
        "prompt_switch": state.prompt_switch,
        "settings": dict(state.settings),
    }


def from_header(header: dict[str, Any], tensors: dict[str, Tensor]) -> WindowState:
    """The state of `header_of` with its tensors, `window` and perhaps `clean`. Raises InputError or KeyError."""
    if header["format"] != FORMAT_VERSION:
        raise InputError(f"the state has format {header['format']}, this version reads format {FORMAT_VERSION}")
    clean_texts = header["clean_texts"]
    return WindowState(
        schedule=Schedule(**header["schedule"]),
        window=tensors["window"],
        clean=tensors.get("clean"),
        call=header["call"],
        total=header["total"],
        first_chunk=header["first_chunk"],
        seeds=tuple(header["seeds"]),
        prompts=tuple(PromptSchedule.parse(text) for text in header["prompts"]),
        chunk_seconds=header["chunk_seconds"],
        window_texts=tuple(tuple(texts) for texts in header["window_texts"]),
        clean_texts=None if clean_texts is None else tuple(clean_texts),
        prompt_switch=header["prompt_switch"],
        settings=header["settings"],
    )


def check_state(state: WindowState) -> None:
    """Raise InputError for a header whose parts contradict each other or the tensors."""
    numbers = {"call": state.call, "first_chunk": state.first_chunk, "total": state.total or 0}
    for name, number in numbers.items():
        if not isinstance(number, int) or (name != "first_chunk" and number < 0):
            raise InputError(f"{name} is {number!r}")
    if state.window.ndim != 5 or (state.clean is not None and state.clean.ndim != 5):
        raise InputError("its latents are not (B, C, T, H, W)")
    row = state.row
    due = (state.call - 1) // state.schedule.calls_per_chunk + 1
    entered = due if state.total is None else min(due, state.total)
    chunks = 0 if row is None else entered - row.first
    if state.window.shape[2] != chunks * state.schedule.chunk_latents:
        raise InputError(
            f"its window holds {state.window.shape[2]} latents where model call {state.call} has {chunks} chunks"
        )
    if [len(texts) for texts in state.window_texts] != [chunks] * len(state.seeds):
        raise InputError("it does not name the text of every chunk")
    if not isinstance(state.settings, dict):
        raise InputError("its settings are no table")


def _reconcile(path: Path, saved: WindowState, expected: WindowState, override: bool) -> WindowState:
    fixed = _differences(_fixed(saved), _fixed(expected))
    if fixed:
        raise InputError(
            f"the state {path} does not fit: {'; '.join(fixed)}. A window that is half denoised cannot change these: "
            "use the settings it was made with, or another state directory"
        )
    changed = _differences(_free(saved), _free(expected))
    if changed and not override:
        raise InputError(
            f"the state {path} was made with other settings: {'; '.join(changed)}. Use those, another state "
            "directory, or --override-state to go on from this state with the new ones"
        )
    return replace(
        saved,
        seeds=expected.seeds,
        prompts=expected.prompts,
        chunk_seconds=expected.chunk_seconds,
        prompt_switch=expected.prompt_switch,
        settings=expected.settings,
    )


def _fixed(state: WindowState) -> dict[str, Any]:
    batch, channels, _, height, width = state.window.shape
    shape = {"batch": batch, "channels": channels, "latent size": f"{height}x{width}"}
    return asdict(state.schedule) | shape | {"first chunk": state.first_chunk}


def _free(state: WindowState) -> dict[str, Any]:
    own = {
        "seeds": state.seeds,
        "prompts": [str(p) for p in state.prompts],
        "prompt switch": state.prompt_switch,
        "chunk seconds": state.chunk_seconds,
    }
    return own | dict(state.settings)


def _differences(saved: dict[str, Any], now: dict[str, Any]) -> list[str]:
    keys = [*saved, *(key for key in now if key not in saved)]
    return [f"{k}: {saved.get(k)} in the state, {now.get(k)} now" for k in keys if saved.get(k) != now.get(k)]
