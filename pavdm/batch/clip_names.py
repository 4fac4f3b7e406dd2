"""What the names of the published test clips mean: `artgallery_s0_16f_320x176.mp4`.

The clip's 16 frames, 320 wide and 176 high, begin at frame 0 of the raw video `artgallery` (desaixie/pa_vdm, README).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

_NAME = re.compile(r"(?P<source>.+)_s(?P<start>\d+)_(?P<frames>\d+)f_(?P<width>\d+)x(?P<height>\d+)")


@dataclass(frozen=True)
class ClipName:
    """source: the raw video's name without its ending. start_frame counts that video's own frames from 0."""

    source: str
    start_frame: int
    num_frames: int
    width: int
    height: int

    @classmethod
    def parse(cls, path: str | Path) -> ClipName | None:
        """What the file's name says; None for a name of another form."""
        found = _NAME.fullmatch(Path(path).stem)
        if found is None:
            return None
        start, frames, width, height = (int(found[group]) for group in ("start", "frames", "width", "height"))
        return cls(found["source"], start, frames, width, height)

    def __str__(self) -> str:
        return f"{self.source}_s{self.start_frame}_{self.num_frames}f_{self.width}x{self.height}"
