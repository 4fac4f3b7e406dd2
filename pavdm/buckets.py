"""Names of video sizes, and sizes typed as numbers.

The sizes are data of Open-Sora v1.2 (`opensora/datasets/aspect.py`), kept as they are because its models were
trained on them: 17 aspect ratios of about equal area for each resolution, by no single rounding rule;
what is named 50:27 is about 25:12.
"""

from __future__ import annotations

import re

from pavdm.errors import InputError

# HEIGHTxWIDTH of each resolution. The aspect is H:W, so 9:16 is landscape.
_TABLE = """
        144p      240p      360p      480p      720p      1080p
3:8     117x312   196x522   294x784   392x1046  588x1568  882x2352
9:21    125x291   210x490   314x732   420x980   628x1466  942x2198
12:25   133x277   222x462   332x692   444x925   666x1388  998x2080
1:2     135x270   226x452   340x680   452x904   678x1356  1018x2036
9:17    139x262   232x438   350x662   466x880   698x1318  1048x1980
27:50   141x260   236x436   352x652   470x870   706x1306  1058x1958
9:16    144x256   240x426   360x640   480x854   720x1280  1080x1920
5:8     151x241   252x404   380x608   506x810   758x1212  1138x1820
2:3     156x234   262x393   392x588   522x784   784x1176  1176x1764
3:4     166x221   276x368   416x554   554x738   832x1110  1248x1664
1:1     192x192   320x320   480x480   640x640   960x960   1440x1440
4:3     221x165   370x278   554x416   740x555   1108x832  1662x1246
3:2     235x156   392x262   588x392   784x522   1176x784  1764x1176
16:9    256x144   426x240   640x360   854x480   1280x720  1920x1080
17:9    263x139   440x232   660x350   880x466   1320x698  1980x1048
2:1     271x135   452x226   678x340   906x454   1358x680  2036x1018
50:27   277x132   462x222   692x332   924x444   1386x666  2078x998
"""
_HEAD, *_ROWS = (line.split() for line in _TABLE.strip().splitlines())
RESOLUTIONS = tuple(_HEAD)
ASPECTS = tuple(row[0] for row in _ROWS)

_SMALLEST, _LARGEST = 16, 4096


def bucket_size(resolution: str, aspect: str) -> tuple[int, int]:
    """(height, width) in pixels of a bucket: ("240p", "9:16") -> (240, 426).

    Raises:
        InputError: an unknown resolution or aspect ratio.
    """
    if resolution not in RESOLUTIONS:
        raise InputError(f"unknown resolution {resolution!r}; choose one of {', '.join(RESOLUTIONS)}")
    if aspect not in ASPECTS:
        raise InputError(
            f"unknown aspect ratio {aspect!r}; choose one of {', '.join(ASPECTS)} (height:width, so 9:16 is landscape)"
        )
    return parse_size(_ROWS[ASPECTS.index(aspect)][1 + RESOLUTIONS.index(resolution)])


def size_of_latents(rows: int, columns: int, factor: int = 8) -> tuple[int, int]:
    """(height, width) in pixels that the model was told in training for latents of this size.

    A bucket's size need not be a multiple of `factor`; its latents are then rounded down: (30, 53) -> (240, 426). The
    first bucket counts where two have equal latents. Other sizes are taken as they are: (6, 8) -> (48, 64).
    """
    for row in _ROWS:
        for text in row[1:]:
            height, width = parse_size(text)
            if (height // factor, width // factor) == (rows, columns):
                return height, width
    return rows * factor, columns * factor


def parse_size(text: str) -> tuple[int, int]:
    """(height, width) in pixels from "HEIGHTxWIDTH": "240x424" -> (240, 424).

    Raises:
        InputError: another form, or a side outside 16..4096.
    """
    match = re.fullmatch(r"([0-9]{1,6})x([0-9]{1,6})", text.strip().lower())
    if match is None:
        raise InputError(f"size: expected HEIGHTxWIDTH in pixels, such as 240x424, got {text!r}")
    height, width = int(match[1]), int(match[2])
    if not _SMALLEST <= min(height, width) <= max(height, width) <= _LARGEST:
        raise InputError(f"size: height and width must lie between {_SMALLEST} and {_LARGEST} pixels, got {text!r}")
    return height, width
