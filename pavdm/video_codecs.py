"""What a video can be written in: the encoders, and how each gives every frame at once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Codec:
    """An encoder of PyAV's.

    max_crf: its scale of quality goes from 0 to this. options: a frame's packet comes before the next frame is asked
    for, so that a piece is whole when it is written. tag: what players look for in the file, None for the muxer's own.
    """

    encoder: str
    max_crf: float
    options: Mapping[str, str]
    tag: str | None = None


# No AV1: libsvtav1 prints its settings to the terminal for every piece, and only its environment can stop it.
# x265 does not give the same bytes twice; the others do.
CODECS = {
    "h264": Codec("libx264", 51.0, {"preset": "medium", "tune": "zerolatency"}),
    "hevc": Codec(
        "libx265",
        51.0,
        {"preset": "medium", "tune": "zerolatency", "x265-params": "info=0:log-level=error"},
        tag="hvc1",
    ),
    "vp9": Codec(
        "libvpx-vp9", 63.0, {"deadline": "good", "cpu-used": "4", "auto-alt-ref": "0", "lag-in-frames": "0", "b": "0"}
    ),
}
