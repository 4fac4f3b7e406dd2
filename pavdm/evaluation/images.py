"""Pictures inside the page: as data URIs."""

from __future__ import annotations

import base64
import io

import numpy as np
from numpy.typing import NDArray

_MOST_PIXELS = 256
_QUALITY = 82  # of JPEG
# Dark where two moments are alike, light where they are not.
_RAMP = ((20, 24, 58), (48, 92, 138), (94, 164, 158), (190, 216, 150), (252, 243, 190))


def jpeg_uri(picture: NDArray[np.uint8]) -> str:
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, format="JPEG", quality=_QUALITY, optimize=True)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def similarity_uri(distances: NDArray[np.float32]) -> str:
    """The table of distances as a picture."""
    from PIL import Image

    step = -(-len(distances) // _MOST_PIXELS)
    table = distances[::step, ::step]
    share = table / max(float(table.max()), 1.0) * (len(_RAMP) - 1)
    index = np.minimum(share.astype(int), len(_RAMP) - 2)
    ramp = np.array(_RAMP, np.float32)
    colours = ramp[index] + (ramp[index + 1] - ramp[index]) * (share - index)[..., None]
    buffer = io.BytesIO()
    Image.fromarray(colours.round().astype(np.uint8)).save(buffer, format="PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
