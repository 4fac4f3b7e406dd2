"""Writing: what is on disk after each piece, after the end, and after everything that can go wrong."""

from __future__ import annotations

import logging
import shutil
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from pavdm.errors import InputError
from pavdm.video_codecs import CODECS
from pavdm.video_reader import probe, read_frames
from pavdm.video_writer import VideoWriter

SIZE = (64, 96)


def pieces(count: int, length: int = 17) -> list[np.ndarray]:
    """Smooth moving pictures, other ones in each piece: `count` arrays (length, 64, 96, 3)."""
    t, y, x = np.meshgrid(np.arange(count * length), np.arange(64), np.arange(96), indexing="ij")
    waves = [np.sin(x / 9 + t / 5), np.cos(y / 7 - t / 11), np.sin((x + y) / 13 + t / 3)]
    frames = (127.5 + 110 * np.stack(waves, axis=-1)).round().astype(np.uint8)
    return list(frames.reshape(count, length, 64, 96, 3))


def decode(path: Path) -> np.ndarray:
    """All frames by PyAV alone, as stored: (N, 96, 96) planes of yuv420p."""
    with av.open(str(path)) as container:
        return np.stack([frame.to_ndarray(format="yuv420p") for frame in container.decode(video=0)])


def names(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


@contextmanager
def no_file_beyond(size: Callable[[], int]) -> Iterator[Callable[[], None]]:
    """Inside, a call of what this yields makes the system refuse to let any file grow beyond `size()` bytes.

    The limit holds for the whole process, so it must be gone before the test runner writes its report.
    """
    resource = pytest.importorskip("resource", reason="file size limits are POSIX")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        yield lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (size(), hard))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    return float(10 * np.log10(255**2 / np.mean((a.astype(float) - b.astype(float)) ** 2)))


def test_written_frames_come_back(carphone: Path, tmp_path: Path) -> None:
    frames = np.stack(list(read_frames(carphone, size=(144, 192), end=2.0)))
    with VideoWriter(tmp_path / "out.mp4", (144, 192), 23.976) as writer:
        for start in range(0, len(frames), 17):
            writer.write(frames[start : start + 17])
    assert writer.num_frames == len(frames)
    back = np.stack(list(read_frames(tmp_path / "out.mp4")))
    assert back.shape == frames.shape
    assert psnr(back, frames) > 38
    assert names(tmp_path) == ["out.mp4"]


@pytest.mark.parametrize(("codec", "tag"), [("h264", "avc1"), ("hevc", "hvc1"), ("vp9", "vp09")])
def test_every_codec_gives_the_frames_back_in_their_order_without_a_key_frame_at_every_piece(
    tmp_path: Path, codec: str, tag: str
) -> None:
    frames = [*pieces(2), pieces(3)[2][:6]]
    with VideoWriter(tmp_path / "out.mp4", SIZE, 24, {"prompt": "a"}, codec=codec) as writer:
        for piece in frames:
            writer.write(piece)
    with av.open(str(tmp_path / "out.mp4")) as video:
        stream = video.streams.video[0]
        assert (stream.codec_context.name, stream.codec_context.codec_tag) == (codec, tag)
        assert (stream.frames, stream.average_rate, video.metadata["prompt"]) == (40, 24, "a")
        shown = list(video.decode(stream))
    assert [round(frame.time * 24) for frame in shown] == list(range(40))
    assert [number for number, frame in enumerate(shown) if frame.key_frame] == [0]
    assert psnr(np.stack([frame.to_ndarray(format="rgb24") for frame in shown]), np.concatenate(frames)) > 30
    assert names(tmp_path) == ["out.mp4"]


def test_an_encoder_that_holds_frames_back_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    looking_ahead = replace(CODECS["h264"], options={"preset": "medium"})
    monkeypatch.setitem(CODECS, "h264", looking_ahead)
    with pytest.raises(InputError, match="every frame at once"), VideoWriter(tmp_path / "out.mp4", SIZE, 24) as writer:
        writer.write(pieces(1)[0])
    assert not (tmp_path / "out.mp4").exists()


def test_a_quality_that_a_codec_does_not_know_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="between 0 and 51"):
        VideoWriter(tmp_path / "out.mp4", SIZE, 24, crf=60)
    VideoWriter(tmp_path / "out.mp4", SIZE, 24, crf=60, codec="vp9")


@pytest.mark.parametrize("suffix", [".mp4", ".mov"])
@pytest.mark.parametrize("fps", [24, 23.976, Fraction(30000, 1001), 12.5])
def test_final_file_states_its_exact_rate_length_and_frame_count(tmp_path: Path, suffix: str, fps) -> None:
    path = tmp_path / f"out{suffix}"
    with VideoWriter(path, SIZE, fps) as writer:
        for piece in pieces(4):
            writer.write(piece)
    rate = Fraction(24000, 1001) if fps == 23.976 else Fraction(fps)
    info = probe(path)
    assert (info.fps, info.num_frames, info.height, info.width) == (rate, 68, *SIZE)
    assert info.duration_seconds == pytest.approx(68 / rate)
    with av.open(str(path)) as container:
        times = [frame.pts * frame.time_base for frame in container.decode(video=0)]
    assert times == [index / rate for index in range(68)]


@pytest.mark.parametrize("colour", [(255, 0, 0), (0, 255, 0), (0, 0, 255), (128, 128, 128), (255, 255, 255)])
def test_colours_are_bt709_and_say_so(tmp_path: Path, colour: tuple[int, int, int]) -> None:
    path = tmp_path / "out.mp4"
    with VideoWriter(path, SIZE, 24) as writer:
        writer.write(np.full((5, *SIZE, 3), colour, np.uint8))
    with av.open(str(path)) as container:
        frame = next(container.decode(video=0))
        context = container.streams.video[0].codec_context
        assert int(context.color_primaries) == int(context.color_trc) == 1
    assert (frame.format.name, int(frame.colorspace), int(frame.color_range)) == ("yuv420p", 1, 1)
    planes = frame.to_ndarray(format="yuv420p")
    y, cb, cr = float(planes[32, 48]), float(planes[64 + 8, 20]), float(planes[64 + 24, 20])
    # ITU-R BT.709-6, 3.2 to 3.5, solved for R'G'B'
    luma, blue, red = (y - 16) / 219, (cb - 128) / 224 * 1.8556, (cr - 128) / 224 * 1.5748
    r, b = luma + red, luma + blue
    g = (luma - 0.2126 * r - 0.0722 * b) / 0.7152
    assert np.abs(255 * np.array([r, g, b]) - colour).max() <= 3
    assert np.abs(next(read_frames(path)).astype(int) - colour).max() <= 3


def test_every_write_is_on_disk_and_playable_before_the_next(tmp_path: Path) -> None:
    path = tmp_path / "out.mp4"
    copies = []
    with VideoWriter(path, SIZE, 24) as writer:
        for number, piece in enumerate(pieces(4), start=1):
            writer.write(piece)
            copies.append(Path(shutil.copy(writer.partial_path, tmp_path / f"copy{number}.mp4")))
            assert not path.exists()
    final = decode(path)
    assert len(final) == 68
    for number, copy in enumerate(copies, start=1):
        np.testing.assert_array_equal(decode(copy), final[: 17 * number])


def test_killed_process_leaves_every_completed_write_playable(tmp_path: Path) -> None:
    script = textwrap.dedent(
        """
        import sys, numpy as np
        from pavdm.video_writer import VideoWriter
        frames = np.load(sys.argv[2])
        with VideoWriter(sys.argv[1], frames.shape[2:4], 24, {"prompt": "a bike"}) as writer:
            for piece in frames:
                writer.write(piece)
                print("written", flush=True)
            print("waiting", flush=True)
            sys.stdin.read()
        """
    )
    path = tmp_path / "out.mp4"
    np.save(tmp_path / "frames.npy", np.stack(pieces(3)))
    process = subprocess.Popen(
        [sys.executable, "-c", script, str(path), str(tmp_path / "frames.npy")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parent.parent,
    )
    assert process.stdout is not None
    assert [process.stdout.readline().strip() for _ in range(4)] == ["written"] * 3 + ["waiting"]
    process.send_signal(signal.SIGKILL)
    process.communicate()

    partial = tmp_path / "out.partial.mp4"
    assert not path.exists()
    assert len(decode(partial)) == 51
    assert probe(partial).metadata["prompt"] == "a bike"
    with VideoWriter(path, SIZE, 24) as writer:  # the run that follows is not disturbed by what is left
        for piece in pieces(3):
            writer.write(piece)
    assert len(decode(path)) == 51
    assert not partial.exists()


@pytest.mark.parametrize("codec", ["h264", "vp9"])  # x265 does not give the same bytes twice
def test_the_same_frames_give_the_same_pictures_however_they_are_divided(tmp_path: Path, codec: str) -> None:
    frames = np.concatenate(pieces(3))
    for name, length in (("whole.mp4", 51), ("pieces.mp4", 17), ("others.mp4", 10)):
        with VideoWriter(tmp_path / name, SIZE, 24, codec=codec) as writer:
            for start in range(0, 51, length):
                writer.write(frames[start : start + length])
    whole = decode(tmp_path / "whole.mp4")
    np.testing.assert_array_equal(decode(tmp_path / "pieces.mp4"), whole)
    np.testing.assert_array_equal(decode(tmp_path / "others.mp4"), whole)


@pytest.mark.parametrize("codec", ["h264", "hevc", "vp9"])
def test_pieces_join_without_a_jump_of_the_encoders(tmp_path: Path, codec: str) -> None:
    generator = np.random.default_rng(0)
    still = generator.integers(60, 190, (16, 24, 3)).repeat(4, axis=0).repeat(4, axis=1)
    grain = generator.normal(0, 1.5, (68, *SIZE, 3))  # as small as what a calm video's frames differ by
    frames = (still + grain).round().astype(np.uint8)
    with VideoWriter(tmp_path / "out.mp4", SIZE, 24, codec=codec) as writer:
        for start in range(0, 68, 17):
            writer.write(frames[start : start + 17])
    shown = np.stack(list(read_frames(tmp_path / "out.mp4"))).astype(float)
    steps = np.abs(np.diff(shown, axis=0)).mean(axis=(1, 2, 3))
    inside = np.delete(steps, [16, 33, 50])[8:]  # the first frames build the picture up
    assert steps[[16, 33, 50]].max() < 1.3 * inside.max()


def test_same_run_twice_gives_the_same_file(tmp_path: Path) -> None:
    for name in ("a.mp4", "b.mp4"):
        with VideoWriter(tmp_path / name, SIZE, 24, {"seed": "1"}) as writer:
            for piece in pieces(2):
                writer.write(piece)
    assert (tmp_path / "a.mp4").read_bytes() == (tmp_path / "b.mp4").read_bytes()


@pytest.mark.parametrize("suffix", [".mp4", ".mov"])
def test_metadata_comes_back(tmp_path: Path, suffix: str) -> None:
    tags = {
        "prompt": 'Ein Fahrrad über der Brücke; 自転車 "🚲"\nsecond line = 100 %',
        "seed": "18446744073709551615",
        "settings": '{"steps": 30, "guidance_scale": 7.0}',
        "title": "x" * 5000,
    }
    path = tmp_path / f"out{suffix}"
    with VideoWriter(path, SIZE, 24, tags) as writer:
        writer.write(pieces(1)[0])
        assert tags.items() <= probe(writer.partial_path).metadata.items()
    assert tags.items() <= probe(path).metadata.items()


def test_pieces_of_any_length_join(tmp_path: Path) -> None:
    frames = np.concatenate(pieces(2))
    path = tmp_path / "out.mp4"
    with VideoWriter(path, SIZE, 24) as writer:
        for start, stop in [(0, 1), (1, 1), (1, 3), (3, 30), (30, 34)]:
            writer.write(frames[start:stop])
    back = np.stack(list(read_frames(path, fps=24)))
    assert back.shape == frames.shape
    assert all(psnr(a, b) > 30 for a, b in zip(back, frames, strict=True))


def test_exception_leaves_a_playable_partial_and_no_final_file(tmp_path: Path) -> None:
    path = tmp_path / "out.mp4"
    with pytest.raises(KeyboardInterrupt), VideoWriter(path, SIZE, 24) as writer:
        writer.write(pieces(1)[0])
        raise KeyboardInterrupt
    assert names(tmp_path) == ["out.partial.mp4"]
    assert len(decode(tmp_path / "out.partial.mp4")) == 17


def test_nothing_written_leaves_no_file(tmp_path: Path, caplog) -> None:
    with caplog.at_level(logging.WARNING), VideoWriter(tmp_path / "out.mp4", SIZE, 24):
        pass
    assert names(tmp_path) == []
    assert "no frames" in caplog.text


def test_existing_file_is_kept_without_overwrite_and_until_the_end_with_it(tmp_path: Path) -> None:
    path = tmp_path / "out.mp4"
    path.write_bytes(b"precious")
    with pytest.raises(InputError, match="--overwrite"):
        VideoWriter(path, SIZE, 24)
    assert names(tmp_path) == ["out.mp4"]
    with VideoWriter(path, SIZE, 24, overwrite=True) as writer:
        writer.write(pieces(1)[0])
        assert path.read_bytes() == b"precious"
    assert len(decode(path)) == 17


def test_leftover_partial_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "out.partial.mp4").write_bytes(b"x" * 10**6)
    with VideoWriter(tmp_path / "out.mp4", SIZE, 24) as writer:
        writer.write(pieces(1)[0])
        assert len(decode(writer.partial_path)) == 17
    assert names(tmp_path) == ["out.mp4"]


def test_full_disk_is_said_plainly_and_keeps_what_was_complete(tmp_path: Path) -> None:
    path = tmp_path / "out.mp4"
    first, second = pieces(2)
    with (
        no_file_beyond(lambda: size + 1000) as fill_the_disk,
        pytest.raises(InputError, match="first 17 frames"),
        VideoWriter(path, SIZE, 24) as writer,
    ):
        writer.write(first)
        size = writer.partial_path.stat().st_size
        fill_the_disk()
        writer.write(second)
    assert writer.partial_path.stat().st_size == size
    assert len(decode(writer.partial_path)) == 17
    assert not path.exists()


def test_no_room_to_rearrange_the_file_still_gives_the_final_name(tmp_path: Path, caplog) -> None:
    path = tmp_path / "out.mp4"
    with (
        no_file_beyond(lambda: 1000) as fill_the_disk,
        caplog.at_level(logging.WARNING),
        VideoWriter(path, SIZE, 24, {"seed": "3"}) as writer,
    ):
        writer.write(pieces(1)[0])
        fill_the_disk()
    assert names(tmp_path) == ["out.mp4"]
    assert "fragmented" in caplog.text
    assert len(decode(path)) == 17
    assert probe(path).metadata["seed"] == "3"


@pytest.mark.parametrize(
    ("name", "size", "fps", "message"),
    [
        ("out.avi", SIZE, 24, r"\.mp4 or \.mov"),
        ("out", SIZE, 24, r"\.mp4 or \.mov"),
        ("out.mp4", (63, 96), 24, "even"),
        ("out.mp4", (64, 95), 24, "even"),
        ("out.mp4", (0, 96), 24, "even"),
        ("out.mp4", SIZE, 0, "frame rate"),
        ("missing/out.mp4", SIZE, 24, "does not exist"),
        ("folder.mp4", SIZE, 24, "is a directory"),
        ("n" * 300 + ".mp4", SIZE, 24, "cannot be written"),
    ],
)
def test_what_cannot_be_written_is_refused_at_once(tmp_path: Path, name, size, fps, message) -> None:
    (tmp_path / "folder.mp4").mkdir()
    with pytest.raises(InputError, match=message):
        VideoWriter(tmp_path / name, size, fps)
    assert names(tmp_path) == ["folder.mp4"]


@pytest.mark.parametrize(
    "frames", [np.zeros((2, 64, 95, 3), np.uint8), np.zeros((2, *SIZE, 3)), np.zeros((*SIZE, 3), np.uint8)]
)
def test_frames_of_another_shape_or_type_are_a_programming_error(tmp_path: Path, frames: np.ndarray) -> None:
    with VideoWriter(tmp_path / "out.mp4", SIZE, 24) as writer, pytest.raises(ValueError, match="uint8"):
        writer.write(frames)
