"""What a video can be written in: the encoders, and how each makes pieces that join."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Codec:
    """An encoder of PyAV's.

    max_crf: its scale of quality goes from 0 to this. options: without frames that are stored in another order than
    they are shown in, so that pieces join without overlapping time stamps. tag: what players look for in the file, None
    for the muxer's own.
    """

    encoder: str
    max_crf: float
    options: Mapping[str, str]
    tag: str | None = None


# No AV1: libsvtav1 prints its settings to the terminal for every piece, and only its environment can stop it.
# x265 does not give the same bytes twice; the others do.
CODECS = {
    "h264": Codec("libx264", 51.0, {"preset": "medium", "bf": "0"}),
    "hevc": Codec(
        "libx265",
        51.0,
        {"preset": "medium", "x265-params": "bframes=0:info=0:log-level=error"},
        tag="hvc1",
    ),
    "vp9": Codec(
        "libvpx-vp9", 63.0, {"deadline": "good", "cpu-used": "4", "auto-alt-ref": "0", "lag-in-frames": "0", "b": "0"}
    ),
}
