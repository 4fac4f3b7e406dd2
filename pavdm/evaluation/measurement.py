"""All measures of one video in one pass, frame by frame: memory does not grow with the length but by a few numbers."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from pavdm.errors import InputError
from pavdm.evaluation import pixels, registry
from pavdm.evaluation.drift import Series, finite_mean, statistics_of
from pavdm.evaluation.latents import Statistics, latent_drift, latent_statistics
from pavdm.evaluation.layout import Chunk, Layout, find_layout, read_record
from pavdm.evaluation.motion import STATIC_BELOW, Motion, opencv
from pavdm.evaluation.pictures import ContactSheet
from pavdm.evaluation.repetition import Repetition, SelfSimilarity
from pavdm.evaluation.scenes import Scenes, scenedetect
from pavdm.evaluation.seams import Seam, SeamPictures, Seams
from pavdm.video_reader import probe, read_frames

logger = logging.getLogger(__name__)

Video = str | Path | NDArray[np.uint8] | Iterable[NDArray[np.uint8]]

WORST_SEAMS = 6
_END_SECONDS = 5.0
_LATER = {"clip", "dino", "vbench", "fvd"}  # what `networks`, `vbench` and `fvd` can add


@dataclass(frozen=True)
class Measurements:
    """What was measured of one video.

    summary: number or None (not defined here) by the keys of `registry.find`. series: a value per frame, NaN where
    there is none, by the keys of `registry.SERIES`. missing: for each measure that could not be taken, how to get it.
    """

    name: str
    fps: float
    num_frames: int
    size: tuple[int, int]  # height, width
    layout: Layout
    chunks: tuple[Chunk, ...]
    scored: tuple[Chunk, ...]  # those that the summary is about
    summary: dict[str, float | None]
    series: dict[str, Series]
    seams: tuple[Seam, ...]
    cuts: tuple[int, ...]
    similarity: SelfSimilarity
    missing: dict[str, str]
    record: dict[str, Any] = field(default_factory=dict)  # what pavdm wrote into the file
    sheet: tuple[tuple[int, NDArray[np.uint8]], ...] = ()  # frame number and small picture
    worst_seams: tuple[SeamPictures, ...] = ()
    latents: Statistics = field(default_factory=dict)  # per 5 latents: "mean" and "std", (chunks, C)

    @property
    def seconds(self) -> float:
        return self.num_frames / self.fps

    def chunk_means(self, key: str) -> list[float]:
        """The mean of a series over every chunk; NaN where it has no value."""
        values = self.series[key]
        return [finite_mean(values[chunk.start : chunk.stop]) for chunk in self.chunks]


def measure(
    video: Video,
    *,
    name: str | None = None,
    fps: float | None = None,
    chunk_frames: int | None = None,
    clip_frames: int | None = None,
    include_clip: bool = False,
    latents: Tensor | Iterable[Tensor] | None = None,
    pictures: bool = False,
    on_frame: Callable[[int], None] | None = None,
) -> Measurements:
    """Measure one video.

    Args:
        video: a file, or uint8 RGB frames (H, W, 3) one by one, or all of them (F, H, W, 3).
        fps: frames per second, for frames (default 24); a file knows its own.
        chunk_frames: frames of a chunk; None: what the file records, else 17.
        clip_frames: frames at the start that show the clip that was continued; None: what the file records, else 0.
            They are in the curves, but not in the summary, unless `include_clip`.
        latents: of the video, (1, C, T, h, w) or pieces of it in order.
        pictures: keep small pictures for a contact sheet, and the worst seams.
        on_frame: called after every frame with how many there were; what it raises ends the pass.

    Raises:
        InputError: the file cannot be read; there are no frames; frames of another kind or of unequal sizes; latents
            of another shape.
    """
    statistics = None if latents is None else latent_statistics(latents)
    source = _Source.of(video, name, fps)
    layout = find_layout(source.record, chunk_frames, clip_frames)
    run = _Pass(source.fps, layout, pictures)
    for frame in source.frames:
        run.next(_checked(frame, run.size))
        if on_frame is not None:
            on_frame(run.num_frames)
    if not run.num_frames:
        raise InputError(f"{source.name}: there is no frame to measure")
    return run.finish(source, 0 if include_clip else layout.clip_frames, statistics)


@dataclass(frozen=True)
class _Source:
    name: str
    frames: Iterator[NDArray[np.uint8]]
    fps: float
    record: dict[str, Any]

    @classmethod
    def of(cls, video: Video, name: str | None, fps: float | None) -> _Source:
        if isinstance(video, str | Path):
            info = probe(video)
            rate = float(info.fps) if fps is None else fps
            return cls(name or Path(video).stem, read_frames(video), rate, read_record(info.metadata))
        rate = 24.0 if fps is None else fps
        if not (rate > 0 and math.isfinite(rate)):
            raise InputError(f"frames per second must be above 0: got {rate}")
        return cls(name or "video", iter(video), rate, {})


def _checked(frame: NDArray[np.uint8], size: tuple[int, int] | None) -> NDArray[np.uint8]:
    if frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[-1] != 3 or min(frame.shape[:2]) < 8:
        raise InputError(
            f"a frame must be uint8 RGB (height, width, 3) of at least 8 x 8 pixels: got {frame.dtype} {frame.shape}"
        )
    if size is not None and frame.shape[:2] != size:
        raise InputError(
            f"the frames have different sizes: {size[0]}x{size[1]}, then {frame.shape[0]}x{frame.shape[1]}"
        )
    return frame


class _Pass:
    """The state of one pass over the frames."""

    def __init__(self, fps: float, layout: Layout, pictures: bool) -> None:
        self.num_frames = 0
        self.size: tuple[int, int] | None = None
        self._fps, self._layout = fps, layout
        self._before: NDArray[np.uint8] | None = None
        self._values: dict[str, list[float]] = {measure.key: [] for measure in registry.SERIES}
        self._seams = Seams(layout, WORST_SEAMS if pictures else 0)
        self._repetition = Repetition(fps)
        self._sheet = ContactSheet() if pictures else None
        cv2, library = opencv(), scenedetect()
        self._absent = {key for key, there in (("opencv", cv2), ("scenedetect", library and cv2)) if not there}
        self._motion = None if cv2 is None else Motion(cv2, fps)
        self._scenes = None if cv2 is None or library is None else Scenes(library, cv2, fps)

    def next(self, frame: NDArray[np.uint8]) -> None:
        number, before = self.num_frames, self._before
        plane = pixels.luma(frame)
        values = pixels.of_frame(frame, plane)
        if before is not None:
            values["difference"] = pixels.difference(before, frame)
            self._seams.next(number, before, frame, values["difference"])
        if self._motion is not None:
            values |= self._motion.next(plane)
        for key, collected in self._values.items():
            collected.append(values.get(key, math.nan))
        if self._scenes is not None:
            self._scenes.next(number, frame)
        self._repetition.next(number, frame)
        if self._sheet is not None:
            self._sheet.next(number, frame)
        self._before, self.size = frame, (frame.shape[0], frame.shape[1])
        self.num_frames += 1

    def finish(self, source: _Source, first_scored: int, latents: Statistics | None) -> Measurements:
        self._seams.finish()
        if self._scenes is not None:
            self._scenes.finish(self.num_frames)
        series = {key: np.array(values) for key, values in self._values.items()}
        chunks = self._layout.chunks(self.num_frames)
        scored = [chunk for chunk in chunks if chunk.start >= first_scored]
        if not scored:
            logger.warning("%s: all %d frames belong to its clip; nothing is scored", source.name, self.num_frames)
        similarity = self._repetition.finish(first_scored)
        summary: dict[str, float | None] = {
            **dict.fromkeys(registry.summary_keys()),
            **_seam_summary(self._seams.found, self._layout, first_scored),
            **_motion_summary(series, scored, self._fps),
            "scenes": None if self._scenes is None or not scored else self._scenes.count(first_scored),
            "repetition": similarity.score,
            **({} if latents is None else latent_drift(latents)),
        }
        for key in registry.STATISTIC_SERIES:
            found = statistics_of(series[key], scored, self._fps)
            summary |= {f"{key}.{how}": value for how, value in found.items()}
        assert self.size is not None
        absent = self._absent | _LATER | ({"latents"} if latents is None else set())
        missing = [registry.find(key) for key in registry.summary_keys() if registry.find(key).needs in absent]
        return Measurements(
            name=source.name,
            fps=source.fps,
            num_frames=self.num_frames,
            size=self.size,
            layout=self._layout,
            chunks=tuple(chunks),
            scored=tuple(scored),
            summary=summary,
            series=series,
            seams=tuple(self._seams.found),
            cuts=() if self._scenes is None else tuple(self._scenes.cuts),
            similarity=similarity,
            missing={measure.key: registry.HOW_TO_GET[measure.needs] for measure in missing},
            record=source.record,
            sheet=() if self._sheet is None else self._sheet.pictures,
            worst_seams=tuple(self._seams.worst),
            latents=latents or {},
        )


def _seam_summary(seams: list[Seam], layout: Layout, first_scored: int) -> dict[str, float | None]:
    ratios = [seam.ratio for seam in seams if seam.ratio is not None and seam.frame > first_scored]
    into_new = [seam.ratio for seam in seams if seam.frame == layout.clip_frames]
    return {
        "seam_ratio": float(np.mean(ratios)) if ratios else None,
        "seam_worst": max(ratios, default=None),
        "clip_seam": into_new[0] if into_new else None,
    }


def _motion_summary(series: dict[str, Series], scored: list[Chunk], fps: float) -> dict[str, float | None]:
    motion, fast = series["motion"], series["fast_motion"]
    # entry i is the step from frame i - 1: a chunk's first belongs to the seam in front of it
    static = [finite_mean(fast[chunk.start + 1 : chunk.stop]) for chunk in scored]
    static = [value for value in static if not math.isnan(value)]
    kept = math.nan
    if scored:
        part = motion[scored[0].start : scored[-1].stop]
        end = min(round(_END_SECONDS * fps), len(part) // 2)
        first, last = finite_mean(part[:end]), finite_mean(part[len(part) - end :])
        kept = last / first if first > 0 else math.nan
    return {
        "static_share": sum(value < STATIC_BELOW for value in static) / len(static) if static else None,
        "motion_kept": None if math.isnan(kept) else kept,
    }
