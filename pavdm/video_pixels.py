"""Pixels of a video frame: stored form (YUV, alpha, rotated, any matrix and range) to upright RGB and back.

Every conversion names its matrix and range: left to themselves, PyAV releases disagree on both.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from av.video.frame import VideoFrame
    from av.video.reformatter import VideoReformatter

# swscale's number of a YUV matrix (SWS_CS_*) for its number in a file (AVCOL_SPC_*):
# BT.709, FCC, BT.601 twice, SMPTE 240M, BT.2020 twice.
_BT709, _BT601 = 1, 5
_YUV_MATRICES = {1: _BT709, 4: 4, 5: _BT601, 6: _BT601, 7: 7, 9: 9, 10: 9}
_LIMITED_RANGE, _FULL_RANGE = 1, 2

# SWS_BICUBIC, which widens its support when it shrinks, with SWS_FULL_CHR_H_INT, SWS_FULL_CHR_H_INP,
# SWS_ACCURATE_RND and SWS_BITEXACT. By number: PyAV < 17 has no names for the last four.
_SCALER = 0x4 | 0x2000 | 0x4000 | 0x40000 | 0x80000


@dataclass(frozen=True)
class PictureShape:
    """How a player shows the stored pictures of a video: first transposed, then mirrored."""

    pixel_aspect: Fraction  # width / height of a stored pixel
    transparent: bool
    transposed: bool
    mirror_x: bool
    mirror_y: bool

    @classmethod
    def of(cls, frame: VideoFrame, pixel_aspect: Fraction) -> PictureShape:
        """Shape by the frame's display matrix; an odd angle becomes the nearest right one.

        Ask once per video: PyAV ties frames to side data and formats to components in cycles, so what was
        asked lives until the garbage collector runs.
        """
        transparent = any(component.is_alpha for component in frame.format.components)
        data: Any = frame.side_data.get("DISPLAYMATRIX")
        if data is None:
            return cls(pixel_aspect, transparent, False, False, False)
        a, b, _, c, d = struct.unpack("=9i", bytes(data))[:5]  # shown x = a x + c y, shown y = b x + d y
        if abs(a) + abs(d) >= abs(b) + abs(c):
            return cls(pixel_aspect, transparent, False, a < 0, d < 0)
        return cls(pixel_aspect, transparent, True, c < 0, b < 0)

    def size(self, frame: VideoFrame) -> tuple[int, int]:
        """(height, width) of the frame as shown, with square pixels."""
        width = max(1, round(frame.width * self.pixel_aspect))
        return (width, frame.height) if self.transposed else (frame.height, width)


def to_rgb(frame: VideoFrame, shape: PictureShape, size: tuple[int, int], reformatter: VideoReformatter) -> np.ndarray:
    """One upright uint8 RGB frame (H, W, 3) of `size`: scaled to cover it, cropped around the centre.

    Args:
        frame: as decoded; transparency is laid on black.
        shape: of the video the frame is from; its rotation and mirroring are applied.
        size: (height, width) of the result.
        reformatter: kept by the caller over the frames of a video, it saves the set-up of the scaler.
    """
    height, width = (size[1], size[0]) if shape.transposed else size
    shown_width = frame.width * shape.pixel_aspect
    scale = max(Fraction(height, frame.height), width / shown_width)
    scaled_height = max(height, round(frame.height * scale))
    scaled_width = max(width, round(shown_width * scale))

    if shape.transparent:
        rgba = _reformat(frame, "rgba", frame.height, frame.width, reformatter).to_ndarray()
        on_black = (rgba[..., :3].astype(np.uint16) * rgba[..., 3:] + 127) // 255
        frame = type(frame).from_ndarray(on_black.astype(np.uint8), format="rgb24")
    image = _reformat(frame, "rgb24", scaled_height, scaled_width, reformatter).to_ndarray()

    if shape.transposed:
        image = image.transpose(1, 0, 2)
    image = image[:: -1 if shape.mirror_y else 1, :: -1 if shape.mirror_x else 1]
    top, left = (image.shape[0] - size[0]) // 2, (image.shape[1] - size[1]) // 2
    return np.ascontiguousarray(image[top : top + size[0], left : left + size[1]])


def to_yuv420(rgb: np.ndarray, reformatter: VideoReformatter) -> VideoFrame:
    """A yuv420p frame, BT.709 in limited range, of a uint8 RGB array (H, W, 3)."""
    from av import VideoFrame

    frame = VideoFrame.from_ndarray(np.ascontiguousarray(rgb), format="rgb24")
    return reformatter.reformat(
        frame,
        format="yuv420p",
        src_colorspace=_BT601,  # RGB has none, but PyAV < 17 ignores the target's where they are the same
        dst_colorspace=_BT709,
        src_color_range=_FULL_RANGE,
        dst_color_range=_LIMITED_RANGE,
        interpolation=_SCALER,
    )


def _reformat(
    frame: VideoFrame, pixel_format: str, height: int, width: int, reformatter: VideoReformatter
) -> VideoFrame:
    """`frame` scaled, in an RGB format, by the matrix and range it is tagged with."""
    if frame.format.is_rgb or frame.format.has_palette:
        source_matrix = target_matrix = _BT601  # two different ones make PyAV < 17 recolour RGB when it scales
        source_range = _FULL_RANGE
    else:
        # Untagged files are what players take them for: SD is BT.601, HD is BT.709.
        guess = _BT709 if frame.width >= 1280 or frame.height > 576 else _BT601
        source_matrix = _YUV_MATRICES.get(int(frame.colorspace), guess)
        target_matrix = _BT601 if source_matrix == _BT709 else _BT709  # as in to_yuv420
        full = int(frame.color_range) == _FULL_RANGE or frame.format.name.startswith("yuvj")
        source_range = _FULL_RANGE if full else _LIMITED_RANGE
    return reformatter.reformat(
        frame,
        width=width,
        height=height,
        format=pixel_format,
        src_colorspace=source_matrix,
        dst_colorspace=target_matrix,
        src_color_range=source_range,
        dst_color_range=_FULL_RANGE,
        interpolation=_SCALER,
    )
