"""Reading: which frames come, which way up, in which colours, and what happens to files that are no good."""

from __future__ import annotations

import gc
import logging
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from pavdm.errors import InputError
from pavdm.video_reader import frame_rate, probe, read_frames


def numbered(count: int, height: int = 16, width: int = 24) -> list[np.ndarray]:
    """Frame i is grey i everywhere."""
    return [np.full((height, width, 3), index, np.uint8) for index in range(count)]


def numbers(frames: object) -> list[int]:
    return [int(frame[0, 0, 0]) for frame in frames]  # type: ignore[attr-defined]


def expected_numbers(times: list[Fraction], end: Fraction, fps: Fraction, start: Fraction = Fraction(0)) -> list[int]:
    """What is on screen at start + k / fps, by looking at every frame."""
    result = []
    while (now := start + len(result) / fps) < end:
        result.append(max(index for index, time in enumerate(times) if time <= now))
    return result


# Which frames


@pytest.mark.parametrize("fps", [24, 25, 30, 10, 60, Fraction(25, 2), Fraction(24000, 1001)])
@pytest.mark.parametrize("suffix", [".mkv", ".mov"])
def test_resampling_shows_what_is_on_screen_at_each_moment(make_clip, fps, suffix) -> None:
    codec = ("ffv1", "bgr0") if suffix == ".mkv" else ("png", "rgb24")
    clip = make_clip("clip" + suffix, numbered(50), fps=25, codec=codec[0], pixel_format=codec[1])
    tick = Fraction(1, 1000) if suffix == ".mkv" else Fraction(1, 12800)  # time stamps may be off by one
    times = [Fraction(index, 25) - tick for index in range(50)]
    assert numbers(read_frames(clip, fps=fps)) == expected_numbers(times, Fraction(2), Fraction(fps))


@pytest.mark.parametrize("fps", [Fraction(24000, 1001), Fraction(30000, 1001), 60, 24])
def test_own_rate_repeats_and_drops_nothing_where_time_stamps_are_rounded_to_milliseconds(make_clip, fps) -> None:
    clip = make_clip("clip.mkv", numbered(100), fps=fps)
    assert numbers(read_frames(clip, fps=fps)) == list(range(100))
    assert numbers(read_frames(clip, fps=float(fps))) == list(range(100))


def test_variable_frame_rate_is_resampled_by_time(make_clip) -> None:
    milliseconds = [0, 100, 133, 500, 517, 900, 1000, 1420]
    clip = make_clip("clip.mkv", numbered(8), times=milliseconds)
    times = [Fraction(time, 1000) for time in milliseconds]
    got = numbers(read_frames(clip, fps=20))
    want = expected_numbers(times, Fraction(1420, 1000), Fraction(20))
    assert got[: len(want)] == want
    assert set(got[len(want) :]) <= {7}


def test_without_a_rate_every_stored_frame_comes_once(make_clip) -> None:
    clip = make_clip("clip.mkv", numbered(8), times=[0, 100, 133, 500, 517, 900, 1000, 1420])
    assert numbers(read_frames(clip)) == list(range(8))


@pytest.mark.parametrize(("codec", "suffix"), [("libx264rgb", ".mp4"), ("libx264rgb", ".avi"), ("ffv1", ".mkv")])
def test_start_and_end_count_from_the_first_frame_or_back_from_the_last(make_clip, codec, suffix) -> None:
    # x264 with B-frames: key frames are rare, and AVI stores times that do not start at 0.
    options = {"qp": "0", "bf": "2"} if codec == "libx264rgb" else {}
    pixel_format = "rgb24" if codec == "libx264rgb" else "bgr0"
    clip = make_clip("clip" + suffix, numbered(100), fps=25, codec=codec, pixel_format=pixel_format, options=options)
    assert numbers(read_frames(clip, start=1.0, end=1.2)) == [25, 26, 27, 28, 29]
    assert numbers(read_frames(clip, fps=25, start=2.0, end=2.2)) == [50, 51, 52, 53, 54]
    assert numbers(read_frames(clip, start=3.9)) == [98, 99]
    assert numbers(read_frames(clip, fps=25, start=-17 / 25)) == list(range(83, 100))
    assert numbers(read_frames(clip, fps=12.5, start=-0.4, end=-0.16)) == [90, 92, 94]
    assert numbers(read_frames(clip, fps=25, start=-4.0)) == list(range(100))
    assert numbers(read_frames(clip, fps=25, end=99.0)) == list(range(100))


def test_raw_streams_without_time_stamps_are_read_in_order(make_clip) -> None:
    clip = make_clip("clip.h264", numbered(30), codec="libx264rgb", pixel_format="rgb24", options={"qp": "0"})
    assert numbers(read_frames(clip)) == list(range(30))
    assert len(numbers(read_frames(clip, fps=25, start=-0.4))) == 10


def test_last_seconds_of_a_real_clip_are_its_last_frames(bikes: Path) -> None:
    everything = list(read_frames(bikes, size=(32, 48)))
    tail = list(read_frames(bikes, fps=25, size=(32, 48), start=-17 / 25))
    assert len(everything) == 250
    np.testing.assert_array_equal(tail, everything[-17:])


# Which way up, which part


@pytest.mark.parametrize(
    ("matrix", "turn"),
    [
        ((1, 0, 0, 1), lambda image: image),
        ((0, 1, -1, 0), lambda image: np.rot90(image, -1)),  # what a phone held upright writes: clockwise
        ((-1, 0, 0, -1), lambda image: np.rot90(image, 2)),
        ((0, -1, 1, 0), lambda image: np.rot90(image, 1)),
        ((-1, 0, 0, 1), lambda image: image[:, ::-1]),
        ((1, 0, 0, -1), lambda image: image[::-1]),
        ((0, 1, 1, 0), lambda image: image.transpose(1, 0, 2)),
    ],
)
def test_rotation_and_mirroring_flags_are_applied(make_clip, matrix, turn) -> None:
    image = np.zeros((16, 32, 3), np.uint8)
    image[:8, :16], image[:8, 16:], image[8:, :16] = (250, 0, 0), (0, 250, 0), (0, 0, 250)
    clip = make_clip(
        "clip.mp4", [image] * 3, codec="libx264rgb", pixel_format="rgb24", options={"qp": "0"}, matrix=matrix
    )
    info = probe(clip)
    want = turn(image)
    assert (info.height, info.width) == want.shape[:2]
    for frame in read_frames(clip):
        np.testing.assert_array_equal(frame, want)
    np.testing.assert_array_equal(next(read_frames(clip, size=want.shape[:2], start=0.04)), want)


def ramp(height: int, width: int) -> np.ndarray:
    """Red is the horizontal position and green the vertical one, 0 to 255 from edge to edge."""
    x, y = (np.arange(width) + 0.5) / width, (np.arange(height) + 0.5) / height
    image = np.zeros((height, width, 3))
    image[..., 0], image[..., 1] = 255 * x, 255 * y[:, None]
    return image.round().astype(np.uint8)


@pytest.mark.parametrize("size", [(60, 80), (60, 60), (30, 80), (120, 80), (45, 44), (240, 424)])
def test_frame_is_scaled_to_cover_the_size_and_cropped_around_the_centre(make_clip, size) -> None:
    frame = next(read_frames(make_clip("clip.mkv", [ramp(120, 160)]), size=size))
    assert frame.shape == (*size, 3)
    scale = max(size[0] / 120, size[1] / 160)
    for axis, (length, stored, channel) in enumerate([(size[0], 120, 1), (size[1], 160, 0)]):
        kept = length / (stored * scale)
        want = 255 * (0.5 + kept * ((np.arange(length) + 0.5) / length - 0.5))
        got = frame[..., channel].mean(axis=1 - axis)
        assert np.abs(got - want)[3:-3].max() < 2.0


def test_shrinking_averages_instead_of_picking_pixels(make_clip) -> None:
    board = np.indices((128, 128)).sum(axis=0) % 2 * 255
    clip = make_clip("clip.mkv", [np.repeat(board[..., None], 3, axis=2).astype(np.uint8)])
    frame = next(read_frames(clip, size=(16, 16)))
    assert np.abs(frame.astype(int) - 127).max() <= 8


def test_pixels_that_are_not_square_are_stretched(make_clip, carphone: Path) -> None:
    options = {"codec": "libx264rgb", "pixel_format": "rgb24", "options": {"qp": "0"}}
    clip = make_clip("clip.mp4", [ramp(32, 32)], pixel_aspect=Fraction(2), **options)
    assert (probe(clip).height, probe(clip).width) == (32, 64)
    assert next(read_frames(clip)).shape == (32, 64, 3)
    red = next(read_frames(clip, size=(32, 32)))[..., 0].mean(axis=0)  # the middle half of the width
    assert red[0] == pytest.approx(64, abs=5) and red[-1] == pytest.approx(191, abs=5)
    assert (probe(carphone).height, probe(carphone).width) == (144, 193)  # 176 * 128 / 117 = 192.5


def test_odd_sizes_are_read_whole(make_clip) -> None:
    clip = make_clip("clip.mkv", [ramp(33, 47)])
    np.testing.assert_array_equal(next(read_frames(clip)), ramp(33, 47))
    shrunk = make_clip("shrunk.mkv", [ramp(33, 47)], pixel_format="yuv420p")
    assert next(read_frames(shrunk, size=(15, 23))).shape == (15, 23, 3)


# Which colours

MATRICES = {"BT.709": (0.2126, 0.0722, 1), "BT.601": (0.299, 0.114, 6), "BT.2020": (0.2627, 0.0593, 9)}
COLOUR = (200, 30, 60)


def coloured(name: str, full: bool, pixel_format: str, bits: int = 8, size: tuple[int, int] = (64, 96)):  # type: ignore[no-untyped-def]
    """A frame of one colour, converted by the formulas of ITU-R BT.709-6, 3 (other matrices: other weights)."""
    weight_r, weight_b, tag = MATRICES[name]
    r, g, b = (value / 255 for value in COLOUR)
    y = weight_r * r + (1 - weight_r - weight_b) * g + weight_b * b
    cb, cr = (b - y) / (2 - 2 * weight_b), (r - y) / (2 - 2 * weight_r)
    unit, top = 2 ** (bits - 8), 2**bits - 1
    if full:
        values = [top * y, 128 * unit + top * cb, 128 * unit + top * cr]
    else:
        values = [unit * (16 + 219 * y), unit * (128 + 224 * cb), unit * (128 + 224 * cr)]
    frame = av.VideoFrame(size[1], size[0], pixel_format)
    kind = np.uint8 if bits == 8 else np.uint16
    for plane, value in zip(frame.planes, values, strict=True):
        plane.update(np.full(plane.buffer_size // np.dtype(kind).itemsize, round(value), kind).tobytes())
    frame.color_range, frame.colorspace = (2 if full else 1), tag
    return frame


@pytest.mark.parametrize("name", MATRICES)
@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize(("pixel_format", "bits"), [("yuv420p", 8), ("yuv444p10le", 10)])
@pytest.mark.parametrize("size", [None, (16, 40)])
def test_colours_follow_the_matrix_and_range_in_the_file(make_clip, name, full, pixel_format, bits, size) -> None:
    clip = make_clip("clip.mkv", [coloured(name, full, pixel_format, bits)], pixel_format=pixel_format)
    frame = next(read_frames(clip, size=size))
    assert np.abs(frame.astype(int) - COLOUR).max() <= 2


@pytest.mark.parametrize(("name", "size"), [("BT.601", (480, 640)), ("BT.709", (720, 1280))])
def test_untagged_files_are_taken_for_what_players_take_them_for(make_clip, name, size) -> None:
    frame = coloured(name, False, "yuv420p", size=size)
    frame.color_range, frame.colorspace = 0, 2  # unspecified
    clip = make_clip("clip.mkv", [frame], pixel_format="yuv420p")
    assert np.abs(next(read_frames(clip)).astype(int) - COLOUR).max() <= 2


@pytest.mark.parametrize(("codec", "pixel_format"), [("qtrle", "argb"), ("png", "rgba")])
def test_transparent_parts_are_black(make_clip, codec, pixel_format) -> None:
    image = np.full((32, 48, 4), 255, np.uint8)
    image[:, :16, 3], image[:, 16:32, 3] = 0, 51
    clip = make_clip("clip.mov", [image], codec=codec, pixel_format=pixel_format)
    frame = next(read_frames(clip))
    assert [int(value) for value in frame[10, [5, 24, 40], 0]] == [0, 51, 255]
    assert next(read_frames(clip, size=(16, 16))).shape == (16, 16, 3)


# Facts


def test_probe_of_real_clips(bikes: Path, bunny: Path, carphone: Path) -> None:
    info = probe(bikes)
    assert (info.width, info.height, info.fps, info.num_frames) == (640, 272, 25, 250)
    assert (info.codec, info.has_audio, info.duration_seconds) == ("h264", False, 10.0)
    assert probe(bunny).has_audio
    assert probe(carphone).fps == Fraction(30000, 1001)
    assert probe(str(bunny)).duration_seconds == pytest.approx(5.28)


def test_audio_beside_the_video_is_ignored(make_clip) -> None:
    clip = make_clip("clip.mkv", numbered(20), audio=True)
    assert probe(clip).has_audio
    assert numbers(read_frames(clip)) == list(range(20))


def test_still_image_is_one_frame(make_clip) -> None:
    picture = make_clip("picture.png", [ramp(32, 48)], codec="png", pixel_format="rgb24")
    assert probe(picture).num_frames == 1
    np.testing.assert_array_equal(list(read_frames(picture)), [ramp(32, 48)])


@pytest.mark.parametrize(
    ("typed", "exact"),
    [
        (24, Fraction(24)),
        (23.976, Fraction(24000, 1001)),
        (29.97, Fraction(30000, 1001)),
        (59.94, Fraction(60000, 1001)),
        (12.5, Fraction(25, 2)),
        (Fraction(24000, 1001), Fraction(24000, 1001)),
        (24000 / 1001, Fraction(24000, 1001)),
        (30.0, Fraction(30)),
    ],
)
def test_typed_rates_mean_the_exact_ones(typed, exact) -> None:
    assert frame_rate(typed) == exact


@pytest.mark.parametrize("fps", [0, -24, float("nan"), float("inf"), 5000])
def test_rates_that_make_no_sense_are_refused(fps) -> None:
    with pytest.raises(InputError, match="frame rate"):
        frame_rate(fps)


def test_frames_are_freed_without_the_garbage_collector(bikes: Path) -> None:
    gc.collect()
    gc.disable()
    gc.set_debug(gc.DEBUG_SAVEALL)
    try:
        assert sum(1 for _ in read_frames(bikes, size=(32, 48))) == 250
        gc.collect()
        assert sum(isinstance(item, av.VideoFrame) for item in gc.garbage) < 5
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.enable()


# Bad files


def test_damage_in_the_middle_is_skipped_with_a_warning(bikes: Path, tmp_path: Path, caplog) -> None:
    data = bytearray(bikes.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 6000] = bytes(6000)
    damaged = tmp_path / "damaged.mp4"
    damaged.write_bytes(data)
    with caplog.at_level(logging.WARNING):
        frames = list(read_frames(damaged, size=(32, 48)))
    assert len(frames) >= 200
    assert "damaged" in caplog.text
    whole = list(read_frames(bikes, size=(32, 48)))
    np.testing.assert_array_equal(frames[0], whole[0])
    np.testing.assert_array_equal(frames[-1], whole[-1])


def test_truncated_file_gives_what_is_there_and_its_end_is_where_it_breaks_off(make_clip) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (100, 32, 48, 3), dtype=np.uint8)
    clip = make_clip("clip.mkv", noise, fps=25)
    data = clip.read_bytes()
    clip.write_bytes(data[: int(len(data) * 0.6)])
    frames = list(read_frames(clip))
    assert 50 <= len(frames) <= 60
    np.testing.assert_array_equal(frames, noise[: len(frames)])
    tail = list(read_frames(clip, fps=25, start=-0.4))
    np.testing.assert_array_equal(tail, frames[-10:])


def test_what_is_no_video_is_refused_in_plain_words(make_clip, tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text("not a video\n" * 50)
    (tmp_path / "text.mp4").write_text("not a video\n" * 50)
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "noise.mp4").write_bytes(np.random.default_rng(0).bytes(50000))
    with av.open(str(tmp_path / "sound.wav"), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=16000)
        silence = av.AudioFrame.from_ndarray(np.zeros((1, 1600), np.int16), "s16", "mono")
        silence.sample_rate = 16000
        container.mux([*stream.encode(silence), *stream.encode(None)])
    blank = make_clip("blank.mp4", numbered(3), codec="libx264", pixel_format="yuv420p")
    data = blank.read_bytes()
    start, stop = data.index(b"mdat") + 4, data.index(b"moov") - 4
    blank.write_bytes(data[:start] + bytes(stop - start) + data[stop:])
    for name, message in {
        "missing.mp4": "no such file",
        ".": "is a directory",
        "text.txt": "is a text file",
        "text.mp4": "not a video",
        "empty.mp4": "not a video",
        "noise.mp4": "not a video",
        "sound.wav": "no video stream",
        "blank.mp4": "not one frame",
        "n" * 300: "not a video|no such file",
    }.items():
        with pytest.raises(InputError, match=message):
            probe(tmp_path / name)
        with pytest.raises(InputError, match=message):
            read_frames(tmp_path / name)


def test_unknown_codec_is_refused_in_plain_words(bikes: Path, tmp_path: Path) -> None:
    data = bikes.read_bytes()
    code = data.index(b"avc1", data.index(b"stsd"))
    (tmp_path / "clip.mp4").write_bytes(data[:code] + b"zzzz" + data[code + 4 :])
    with pytest.raises(InputError, match="cannot decode"):
        probe(tmp_path / "clip.mp4")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"start": 2.0}, "lasts 2.000 s"),
        ({"start": -3.0}, "lasts only 2.000 s"),
        ({"start": 1.0, "end": 1.0}, "must be later"),
        ({"start": 1.0, "end": -1.5}, "must be later"),
        ({"start": float("nan")}, "start"),
        ({"end": float("inf")}, "end"),
        ({"fps": 0}, "frame rate"),
        ({"size": (0, 32)}, "size"),
    ],
)
def test_times_rates_and_sizes_that_do_not_fit_are_refused_at_once(make_clip, arguments, message) -> None:
    clip = make_clip("clip.mkv", numbered(50))
    with pytest.raises(InputError, match=message):
        read_frames(clip, **arguments)
