"""Read any video FFmpeg reads: upright RGB frames at a constant rate, scaled and cropped, one at a time."""

from __future__ import annotations

import logging
import math
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pavdm.errors import InputError
from pavdm.video_pixels import PictureShape, to_rgb

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.video.frame import VideoFrame
    from av.video.stream import VideoStream

logger = logging.getLogger(__name__)

# FFmpeg takes plain text for ANSI art at 25 fps; these demuxers never hold what a person calls a video.
_TEXT_FORMATS = frozenset({"tty", "bin", "xbin", "adf", "idf"})

# Coarsest rounding of time stamps that is met: Matroska counts in milliseconds.
_MILLISECOND = Fraction(1, 1000)


@dataclass(frozen=True)
class VideoInfo:
    """What a video file holds."""

    width: int  # as shown: after rotation, with square pixels
    height: int
    fps: Fraction  # on average
    duration_seconds: float
    num_frames: int  # the container's count, else estimated from rate and duration
    codec: str
    has_audio: bool
    metadata: dict[str, str]


@dataclass(frozen=True)
class _Source:
    path: Path
    info: VideoInfo
    shape: PictureShape
    rounding: Fraction  # seconds by which a time stamp may be off
    origin: Fraction | None  # time stamp of the first decodable frame, seconds; None: the file has none


@dataclass(frozen=True)
class _Decoded:
    frame: VideoFrame
    seconds: Fraction  # since time zero
    duration: Fraction  # seconds it stays on screen


def frame_rate(fps: float | Fraction) -> Fraction:
    """Exact frame rate for a number as people write it: 24 -> 24, 23.976 -> 24000/1001. A Fraction stays.

    Raises:
        InputError: not a positive number up to 1000.
    """
    if not 0 < fps <= 1000:  # refuses NaN too
        raise InputError(f"frame rate: expected a number above 0 and up to 1000 frames per second, got {fps}")
    if isinstance(fps, Fraction):
        return fps
    ntsc = Fraction(round(fps * 1.001) * 1000, 1001)
    if not float(fps).is_integer() and abs(fps - ntsc) < 2e-4 * fps:
        return ntsc
    return Fraction(fps).limit_denominator(1001)


def probe(path: str | Path) -> VideoInfo:
    """Facts of a video file, after decoding its first frame.

    Raises:
        InputError: no such file, a directory, unreadable, not a video, no video stream, nothing decodes.
    """
    return _examine(Path(path)).info


def read_frames(
    path: str | Path,
    fps: float | Fraction | None = None,
    size: tuple[int, int] | None = None,
    start: float = 0.0,
    end: float | None = None,
) -> Iterator[np.ndarray]:
    """Stream frames of a video as uint8 arrays (H, W, 3), RGB 0..255, upright, on black where transparent.

    Memory does not grow with the length of the file. Damaged parts are left out with a logged warning.

    Args:
        path: a video file.
        fps: resample to this rate: output k shows what is on screen at `start + k / fps`, that is the last
            frame whose time stamp is not later (to the container's rounding). None: every frame as stored.
        size: (height, width) to fill: scaled to cover it with the aspect kept, then cropped around the
            centre. None: as a player shows it.
        start: seconds from the first frame; negative: seconds before the end.
        end: seconds from the first frame, exclusive; negative: before the end. None, or past the end: all.

    Raises:
        InputError: as `probe`; a rate, size or time that makes no sense. The call raises, not the iteration.
    """
    source = _examine(Path(path))
    rate = None if fps is None else frame_rate(fps)
    if size is not None and min(size) < 1:
        raise InputError(f"size: expected a positive height and width, got {size[0]}x{size[1]}")
    length = _length(source) if start or (end is not None and end < 0) else None
    first = _moment("start", start, length, path)
    last = None if end is None else _moment("end", end, length, path)
    if length is not None and first >= length:
        raise InputError(
            f"{path} lasts {float(length):.3f} s: a start at {start} s leaves nothing; choose an earlier one"
        )
    if last is not None and last <= first:
        raise InputError(f"{path}: the end ({end} s) must be later than the start ({start} s)")
    return _frames(source, rate, size or (source.info.height, source.info.width), first, last)


def _moment(name: str, seconds: float, length: Fraction | None, path: str | Path) -> Fraction:
    if not math.isfinite(seconds):
        raise InputError(f"{name}: expected a number of seconds, got {seconds}")
    moment = Fraction(seconds).limit_denominator(10**6)
    if moment >= 0:
        return moment
    assert length is not None
    if length + moment < -_MILLISECOND:
        raise InputError(
            f"{path} lasts only {float(length):.3f} s: the {name} cannot lie {-seconds} s before its end; "
            "choose less, or a longer clip"
        )
    return max(length + moment, Fraction(0))


def _frames(
    source: _Source, fps: Fraction | None, size: tuple[int, int], start: Fraction, end: Fraction | None
) -> Iterator[np.ndarray]:
    from av.video.reformatter import VideoReformatter

    decoded = _decode_from(source, start)
    if fps is None:
        chosen = _as_stored(decoded, start, end, source.rounding)
    else:
        chosen = _resampled(decoded, fps, start, end, source.rounding)
    reformatter = VideoReformatter()
    for frame in chosen:
        yield to_rgb(frame, source.shape, size, reformatter)


def _as_stored(
    decoded: Iterator[_Decoded], start: Fraction, end: Fraction | None, rounding: Fraction
) -> Iterator[VideoFrame]:
    for item in decoded:
        if end is not None and item.seconds >= end - rounding:
            return
        if item.seconds >= start - rounding:
            yield item.frame


def _resampled(
    decoded: Iterator[_Decoded], fps: Fraction, start: Fraction, end: Fraction | None, rounding: Fraction
) -> Iterator[VideoFrame]:
    shown: _Decoded | None = None
    index = 0
    for item in decoded:
        while shown is not None and (now := start + index / fps) < item.seconds - rounding:
            if end is not None and now >= end - rounding:
                return
            yield shown.frame
            index += 1
        shown = item
    if shown is None:
        return
    stop = shown.seconds + shown.duration
    stop = (stop if end is None else min(stop, end)) - rounding
    while start + index / fps < stop:
        yield shown.frame
        index += 1


@contextmanager
def _opened(path: Path) -> Iterator[tuple[InputContainer, VideoStream]]:
    import av
    from av.stream import Disposition

    try:
        if not path.exists():
            raise InputError(f"{path}: no such file; give the path of a video file")
        if path.is_dir():
            raise InputError(f"{path} is a directory; give the path of a video file")
        container = av.open(f"file:{path}")  # the prefix keeps FFmpeg from reading a ":" as a protocol
    except PermissionError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}); check the permissions of the file") from error
    except (av.error.FFmpegError, OSError) as error:
        raise InputError(
            f"{path} is not a video that FFmpeg can read, or its index is missing ({error.strerror}); "
            "give a complete .mp4, .mov, .mkv, .webm or other video file"
        ) from error
    with container:
        if container.format.name in _TEXT_FORMATS:
            raise InputError(f"{path} is a text file, not a video; give a video file")
        # A cover picture in a music file is a video stream to FFmpeg.
        streams = [s for s in container.streams.video if not Disposition.attached_pic & s.disposition]
        if not streams:
            raise InputError(f"{path} has no video stream; give a video file")
        if streams[0].codec_context is None:  # PyAV < 18; decoding would crash
            raise _unknown_codec(container.name)
        yield container, streams[0]


def _unknown_codec(name: str) -> InputError:
    return InputError(
        f"{name.removeprefix('file:')} is a video of a kind that this build of FFmpeg cannot decode; "
        "convert it to H.264 first"
    )


def _examine(path: Path) -> _Source:
    import av

    with _opened(path) as (container, stream):
        frame = next(_decoded_frames(container, stream), None)
        if frame is None:
            raise InputError(f"{path}: not one frame of its video can be decoded; the file is empty or damaged")
        fps = stream.average_rate or stream.guessed_rate or Fraction(25)
        shape = PictureShape.of(frame, stream.sample_aspect_ratio or Fraction(1))
        height, width = shape.size(frame)
        origin = None if frame.pts is None or frame.time_base is None else frame.pts * frame.time_base
        if stream.duration and stream.time_base:
            duration = stream.duration * stream.time_base
        elif container.duration:
            duration = Fraction(container.duration, av.time_base)
        else:  # stills, raw streams
            duration = _count_packets(path) / fps
        info = VideoInfo(
            width=width,
            height=height,
            fps=fps,
            duration_seconds=float(duration),
            num_frames=stream.frames or max(1, round(duration * fps)),
            codec=stream.codec_context.name,
            has_audio=bool(container.streams.audio),
            metadata=dict(container.metadata),
        )
    rounding = min(stream.time_base or _MILLISECOND, _MILLISECOND)
    return _Source(path, info, shape, rounding, origin)


def _count_packets(path: Path) -> int:
    with _opened(path) as (container, stream):
        return sum(packet.size > 0 for packet in container.demux(stream))


def _length(source: _Source) -> Fraction:
    """Seconds from the first frame to the end of the last that decodes, whatever the container claims."""
    (last,) = deque(_decode_from(source, Fraction(source.info.duration_seconds)), maxlen=1)
    return last.seconds + last.duration


def _decode_from(source: _Source, start: Fraction) -> Iterator[_Decoded]:
    """Decoded frames from the one on screen at `start`, or earlier, on."""
    import av

    with _opened(source.path) as (container, stream):
        if start > 0 and source.origin is not None and stream.time_base is not None:
            with suppress(av.error.FFmpegError):  # no index: decode from the beginning
                container.seek(int((start + source.origin) / stream.time_base), stream=stream)
            frames = _timed(source, container, stream)
            first = next(frames, None)
            if first is not None and first.seconds <= start + source.rounding:
                yield first
                yield from frames
                return
    with _opened(source.path) as (container, stream):
        yield from _timed(source, container, stream)


def _timed(source: _Source, container: InputContainer, stream: VideoStream) -> Iterator[_Decoded]:
    interval = 1 / source.info.fps
    next_time = Fraction(0)
    previous: Fraction | None = None
    for frame in _decoded_frames(container, stream):
        seconds = next_time
        if source.origin is not None and frame.pts is not None and frame.time_base is not None:
            seconds = frame.pts * frame.time_base - source.origin
        if previous is not None and seconds <= previous:  # a broken time stamp: take the expected time
            seconds = next_time
        duration = frame.duration * frame.time_base if frame.duration and frame.time_base else interval
        previous, next_time = seconds, seconds + duration
        yield _Decoded(frame, seconds, duration)


def _decoded_frames(container: InputContainer, stream: VideoStream) -> Iterator[VideoFrame]:
    """Every frame that decodes; the first damage met is logged."""
    import av

    intact = True

    def warn(reason: str | None) -> None:
        nonlocal intact
        if intact:
            name = container.name.removeprefix("file:")
            logger.warning("%s is damaged (%s): what cannot be decoded is left out", name, reason)
        intact = False

    packets = container.demux(stream)
    ended = False
    while not ended:
        packet, frames = None, []
        try:
            packet = next(packets, None)
        except av.error.FFmpegError as error:
            warn(error.strerror)
        ended = packet is None
        try:
            frames = stream.decode(packet)  # None: what the decoder still holds
        except av.error.EOFError:
            pass  # it holds nothing
        except av.error.DecoderNotFoundError as error:
            raise _unknown_codec(container.name) from error
        except av.error.FFmpegError as error:
            warn(error.strerror)
        for frame in frames:
            if frame.is_corrupt:
                warn("a frame is incomplete")
            yield frame
