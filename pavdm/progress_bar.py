"""What a person sees of long work: one bar over all model calls of a video, or over all clips that are encoded."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import TracebackType
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

if TYPE_CHECKING:
    from typing_extensions import Self

    from pavdm.sampling.progressive import Progress
    from pavdm.training.data.preprocess import Progress as Encoded

_FORMAT = "{desc} |{bar}| {n_fmt}/{total_fmt} calls, {remaining} left{postfix}"


class _Bar:
    """A context manager. A terminal or pipe that has gone away must not end the run."""

    def __init__(self, hidden: bool) -> None:
        self._hidden = hidden
        self._bar: tqdm[Any] | None = None

    def __enter__(self) -> Self:
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

    def _opened(self, total: int | None, initial: int, **looks: Any) -> tqdm[Any]:
        interval = 0.1 if sys.stderr.isatty() else 10
        self._bar = tqdm(total=total, initial=initial, file=sys.stderr, ascii=" -=#", mininterval=interval, **looks)
        return self._bar

    @contextmanager
    def _nobody_may_be_watching(self) -> Iterator[None]:
        try:
            yield
        except OSError:
            self._hidden = True


class ProgressBar(_Bar):
    """Of a video, with chunk, time left and speed; `stage` and `progress` are the callbacks of `engine.Monitor`.

    fps, chunk_frames: of the video, for the realised speed (frames of new video per second of waiting).
    """

    def __init__(self, fps: float, chunk_frames: float, hidden: bool = False) -> None:
        super().__init__(hidden)
        self._fps = fps
        self._chunk_frames = chunk_frames
        self._first: tuple[float, int] | None = None  # when the first call was reported, and its chunk

    def stage(self, message: str) -> None:
        if not self._hidden:
            with self._nobody_may_be_watching():
                tqdm.write(message, file=sys.stderr)

    def progress(self, progress: Progress) -> None:
        if not self._hidden:
            with self._nobody_may_be_watching():
                self._show(progress)

    def _show(self, progress: Progress) -> None:
        now, bar = time.monotonic(), self._bar
        if bar is None or self._first is None:
            self._first = (now, progress.chunk)
            bar = self._opened(progress.calls, progress.call - 1, bar_format=_FORMAT)
        start, first_chunk = self._first
        made = (progress.chunk - first_chunk) * self._chunk_frames
        bar.set_description_str(f"chunk {progress.chunk + 1}", refresh=False)
        if made > 0:
            bar.set_postfix_str(f"{made / (now - start):.2f} of {self._fps:g} fps", refresh=False)
        bar.update(progress.call - bar.n)


class ClipCounter(_Bar):
    """Of the clips that this process encodes, with the time that is left."""

    def show(self, progress: Encoded) -> None:
        if not self._hidden:
            with self._nobody_may_be_watching():
                bar = self._opened(progress.total, progress.found, unit=" clips") if self._bar is None else self._bar
                if progress.skipped:
                    bar.set_postfix_str(f"{progress.skipped} skipped", refresh=False)
                bar.update(progress.done - bar.n)
