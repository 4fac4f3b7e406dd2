"""What a person sees while a video is made: one bar over all model calls, with chunk, time left and speed."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import TracebackType
from typing import Any

from tqdm import tqdm

from pavdm.sampling.progressive import Progress

_FORMAT = "{desc} |{bar}| {n_fmt}/{total_fmt} calls, {remaining} left{postfix}"


class ProgressBar:
    """A context manager; `stage` and `progress` are the callbacks of `engine.Monitor`.

    fps, chunk_frames: of the video, for the realised speed (frames of new video per second of waiting).
    """

    def __init__(self, fps: float, chunk_frames: float, hidden: bool = False) -> None:
        self._fps = fps
        self._chunk_frames = chunk_frames
        self._hidden = hidden
        self._bar: tqdm[Any] | None = None
        self._first: tuple[float, int] | None = None  # when the first call was reported, and its chunk

    def __enter__(self) -> ProgressBar:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        if self._bar is not None:
            with suppress(OSError):
                self._bar.close()
            self._bar = None

    def stage(self, message: str) -> None:
        if not self._hidden:
            with self._nobody_may_be_watching():
                tqdm.write(message, file=sys.stderr)

    def progress(self, progress: Progress) -> None:
        if not self._hidden:
            with self._nobody_may_be_watching():
                self._show(progress)

    @contextmanager
    def _nobody_may_be_watching(self) -> Iterator[None]:
        """A terminal or pipe that has gone away must not end the run."""
        try:
            yield
        except OSError:
            self._hidden = True

    def _show(self, progress: Progress) -> None:
        now = time.monotonic()
        if self._bar is None or self._first is None:
            self._first = (now, progress.chunk)
            self._bar = tqdm(
                total=progress.calls,
                initial=progress.call - 1,
                bar_format=_FORMAT,
                file=sys.stderr,
                ascii=" -=#",
                mininterval=0.1 if sys.stderr.isatty() else 10,
            )
        start, first_chunk = self._first
        made = (progress.chunk - first_chunk) * self._chunk_frames
        self._bar.set_description_str(f"chunk {progress.chunk + 1}", refresh=False)
        if made > 0:
            self._bar.set_postfix_str(f"{made / (now - start):.2f} of {self._fps:g} fps", refresh=False)
        self._bar.update(progress.call - self._bar.n)
