"""Where a video's chunks begin and where its conditioning clip ends: from its own record, or from the user."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from pavdm.clip import PIECE_FRAMES
from pavdm.errors import InputError


@dataclass(frozen=True)
class Chunk:
    """Frames start to stop, exclusive. number: 0 is the first chunk of new video; the clip's are negative."""

    number: int
    start: int
    stop: int


@dataclass(frozen=True)
class Layout:
    """How a video is divided.

    clip_frames: the first frames, which show the clip that the video goes on from. chunk_frames: of every chunk of new
    video. known: who said so; "assumed" is nobody, and then the seams mean nothing.
    """

    chunk_frames: int = PIECE_FRAMES
    clip_frames: int = 0
    known: Literal["recorded", "given", "assumed"] = "assumed"

    def __post_init__(self) -> None:
        if self.chunk_frames < 2:
            raise InputError(f"a chunk must have at least 2 frames to be measured: got {self.chunk_frames}")
        if self.clip_frames < 0:
            raise InputError(f"the clip cannot have {self.clip_frames} frames: give 0 or more")

    def begins_chunk(self, frame: int) -> bool:
        return frame == 0 or (frame - self.clip_frames) % self.chunk_frames == 0

    def chunks(self, num_frames: int) -> list[Chunk]:
        """All chunks in order. The clip is divided backwards from its end, so that its first piece may be shorter."""
        starts = [frame for frame in range(num_frames) if self.begins_chunk(frame)]
        number_of_first = -sum(start < self.clip_frames for start in starts)
        return [
            Chunk(number, start, stop)
            for number, (start, stop) in enumerate(
                zip(starts, [*starts[1:], num_frames], strict=True), start=number_of_first
            )
        ]


def read_record(metadata: Mapping[str, str]) -> dict[str, Any]:
    """What pavdm wrote about a video into it (`engine.make_video`); empty where it is not pavdm's or is damaged."""
    try:
        record = json.loads(metadata.get("pavdm", ""))
    except (ValueError, RecursionError):
        return {}
    return record if isinstance(record, dict) else {}


def find_layout(record: Mapping[str, Any], chunk_frames: int | None, clip_frames: int | None) -> Layout:
    """The layout that was given, filled up from the video's record, and then from the defaults."""
    recorded_chunk, recorded_clip = (_count(record.get(key)) for key in ("chunk_frames", "clip_frames"))
    chunk = chunk_frames if chunk_frames is not None else recorded_chunk or None
    clip = clip_frames if clip_frames is not None else recorded_clip
    known: Literal["recorded", "given", "assumed"] = "given" if chunk_frames is not None else "recorded"
    return Layout(PIECE_FRAMES if chunk is None else chunk, clip or 0, "assumed" if chunk is None else known)


def _count(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None
