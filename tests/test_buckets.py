"""Open-Sora's bucket sizes and sizes typed as numbers."""

from __future__ import annotations

import pytest

from pavdm.buckets import ASPECTS, RESOLUTIONS, bucket_size, parse_size, size_of_latents
from pavdm.errors import InputError


@pytest.mark.parametrize(
    ("resolution", "aspect", "size"),
    [
        ("144p", "3:8", (117, 312)),
        ("144p", "9:16", (144, 256)),
        ("240p", "9:16", (240, 426)),
        ("240p", "3:4", (276, 368)),
        ("240p", "2:3", (262, 393)),
        ("240p", "4:3", (370, 278)),
        ("360p", "27:50", (352, 652)),
        ("480p", "12:25", (444, 925)),
        ("480p", "16:9", (854, 480)),
        ("720p", "17:9", (1320, 698)),
        ("720p", "1:1", (960, 960)),
        ("1080p", "50:27", (2078, 998)),
        ("1080p", "9:16", (1080, 1920)),
    ],
)
def test_size_is_the_one_open_sora_was_trained_on(resolution: str, aspect: str, size: tuple[int, int]) -> None:
    assert bucket_size(resolution, aspect) == size


def test_every_bucket_has_its_aspect_and_the_area_of_its_resolution() -> None:
    # Pixels per resolution as Open-Sora names them (opensora/datasets/aspect.py).
    areas = {"144p": 36864, "240p": 102240, "360p": 230400, "480p": 409920, "720p": 921600, "1080p": 2073600}
    assert set(RESOLUTIONS) == set(areas)
    assert len(ASPECTS) == 17
    for resolution, area in areas.items():
        for aspect in ASPECTS:
            height, width = bucket_size(resolution, aspect)
            # Open-Sora's own slip: the sizes it names 50:27 are 25:12.
            rows, columns = (25, 12) if aspect == "50:27" else map(int, aspect.split(":"))
            assert height / width == pytest.approx(rows / columns, rel=0.03)
            assert height * width == pytest.approx(area, rel=0.03)


def test_unknown_names_are_refused_with_the_valid_ones() -> None:
    with pytest.raises(InputError, match="144p, 240p, 360p, 480p, 720p, 1080p"):
        bucket_size("241p", "9:16")
    with pytest.raises(InputError, match="9:16, 5:8"):
        bucket_size("240p", "10:16")


def test_typed_size_is_height_first() -> None:
    assert parse_size("240x424") == (240, 424)
    assert parse_size(" 1080X1920 ") == (1080, 1920)


@pytest.mark.parametrize("text", ["", "240", "240x", "x424", "240*424", "240x424x3", "-240x424", "240.5x424"])
def test_other_forms_of_a_size_are_refused(text: str) -> None:
    with pytest.raises(InputError, match="HEIGHTxWIDTH"):
        parse_size(text)


@pytest.mark.parametrize("text", ["8x424", "240x15", "240x99999", "0x0"])
def test_absurd_sizes_are_refused(text: str) -> None:
    with pytest.raises(InputError, match="between 16 and 4096"):
        parse_size(text)


@pytest.mark.parametrize(
    ("latents", "size"), [((30, 53), (240, 426)), ((18, 32), (144, 256)), ((6, 8), (48, 64)), ((30, 54), (240, 432))]
)
def test_latents_of_a_bucket_are_told_the_buckets_size(latents: tuple[int, int], size: tuple[int, int]) -> None:
    assert size_of_latents(*latents) == size
