"""Pictures as clips of one frame: upright, RGB, scaled and cropped, as `video_reader` does with videos. Pillow."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pavdm.errors import InputError

if TYPE_CHECKING:
    from PIL.Image import Image

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")


def is_image(path: Path) -> bool:
    return path.suffix.lower() in SUFFIXES


def image_size(path: Path) -> tuple[int, int]:
    """(height, width) as shown, after decoding the picture. Raises InputError if that fails."""
    with _upright(path) as image:
        return image.height, image.width


def read_image(path: Path, size: tuple[int, int]) -> np.ndarray:
    """The picture as uint8 (H, W, 3), RGB, on black where transparent; scaled to cover `size` (height, width), and
    cropped around the centre. Raises InputError if it does not decode."""
    from PIL import Image, ImageOps

    with _upright(path) as image:
        rgba = image.convert("RGBA")
        opaque = Image.alpha_composite(Image.new("RGBA", rgba.size, (0, 0, 0, 255)), rgba).convert("RGB")
        return np.array(ImageOps.fit(opaque, (size[1], size[0]), Image.Resampling.BICUBIC))


@contextmanager
def _upright(path: Path) -> Iterator[Image]:
    """The decoded picture, turned as its EXIF data say."""
    from PIL import Image, ImageOps

    try:
        with Image.open(path) as stored:
            image = ImageOps.exif_transpose(stored)
            image.load()
    # what a damaged file provokes in Pillow's decoders
    except (OSError, SyntaxError, ValueError, EOFError, struct.error, Image.DecompressionBombError) as error:
        raise InputError(f"{path} is no picture that can be read ({error})") from error
    yield image
