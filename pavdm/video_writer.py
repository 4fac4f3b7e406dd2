"""Write a video piece by piece: every piece is on disk and playable before the next one is made."""

from __future__ import annotations

import io
import logging
import os
import struct
from collections.abc import Mapping
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, cast

import numpy as np

from pavdm.errors import InputError
from pavdm.video_codecs import CODECS
from pavdm.video_pixels import to_yuv420
from pavdm.video_reader import frame_rate

if TYPE_CHECKING:
    from av.video.stream import VideoStream
    from typing_extensions import Self

logger = logging.getLogger(__name__)

SUFFIXES = (".mp4", ".mov")

# x264 gives the same bytes for the same number of threads, whatever the machine has.
_ENCODER_THREADS = 4
_BT709, _LIMITED_RANGE = 1, 1  # AVCOL_*_BT709, AVCOL_RANGE_MPEG


def partial_path(path: Path) -> Path:
    """Where a video is while it is being written: `long.mp4` grows as `long.partial.mp4`."""
    return path.with_suffix(f".partial{path.suffix}")


def working_paths(path: Path) -> tuple[Path, Path]:
    """Every file beside `path` that writing it makes or replaces."""
    return partial_path(path), path.with_suffix(f".closing{path.suffix}")


class VideoWriter:
    """Video file that grows by closed pieces; use it as a context manager.

    While it is open, everything is in `<stem>.partial<suffix>` beside the target, a fragmented MP4: what
    `write` has returned from is on disk and plays, even after the process was killed. A clean end rearranges
    the file for players (duration and index in front; the coded pictures stay as they are) and gives it its
    final name. After an exception the partial file stays and no final one appears. A partial file from an
    earlier run is replaced.

    One encoder makes all pieces, and holds no frame back. An encoder for each would begin every piece with a
    key frame, coded anew: in a calm video that is a jump at every chunk boundary, larger than the frames' own
    (`benchmarks/joints.py`). The same frames give the same pictures, bit for bit, however they are divided.
    """

    def __init__(
        self,
        path: str | Path,
        size: tuple[int, int],
        fps: float | Fraction,
        metadata: Mapping[str, str] | None = None,
        *,
        overwrite: bool = False,
        crf: float = 17.0,
        codec: str = "h264",
    ) -> None:
        """Check everything that can be checked before there is a frame, and open the partial file.

        Args:
            path: the final file, `.mp4` or `.mov`.
            size: (height, width) in pixels, both even.
            fps: frames per second; 23.976 is taken as 24000/1001.
            metadata: tags to store, any text; `video_reader.probe` gives them back.
            overwrite: whether an existing final file may be replaced.
            crf: the encoder's constant rate factor; smaller is better and larger.
            codec: one of `CODECS`.

        Raises:
            InputError: unsupported suffix, odd size, existing file, a missing or write-protected directory, a codec
                that this build of PyAV lacks, a crf that it does not know.
        """
        import av

        self.path = Path(path)
        self.partial_path = partial_path(self.path)
        self.num_frames = 0
        self._height, self._width = size
        self._fps = frame_rate(fps)
        self._metadata = dict(metadata or {})
        self._crf = crf
        self._codec = CODECS[codec]
        self._num_pieces = 0
        self._encoder: VideoStream | None = None

        if self.path.suffix.lower() not in SUFFIXES:
            raise InputError(f"{path}: expected a file name that ends in {' or '.join(SUFFIXES)}")
        if self._codec.encoder not in av.codecs_available:
            raise InputError(
                f"this build of PyAV has no {self._codec.encoder}; install the one from PyPI: pip install av"
            )
        if not 0 <= crf <= self._codec.max_crf:
            raise InputError(f"the crf of {codec} is between 0 and {self._codec.max_crf:g}: got {crf:g}")
        if min(size) < 2 or self._height % 2 or self._width % 2:
            raise InputError(
                f"{path}: a video of {self._height}x{self._width} (height x width) cannot be written; "
                "both must be even numbers"
            )
        try:
            if self.path.is_dir():
                raise InputError(f"{path} is a directory; give the name of a video file")
            if not self.path.parent.is_dir():
                raise InputError(f"{path}: the directory {self.path.parent} does not exist; create it first")
            if self.path.exists() and not overwrite:
                raise InputError(f"{path} already exists; give another name, or --overwrite to replace it")
            self._file = io.FileIO(self.partial_path, "wb")
        except OSError as error:
            raise InputError(
                f"{self.partial_path} cannot be written ({error.strerror}); choose another name or directory"
            ) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()
        if self.num_frames == 0:
            logger.warning("%s: no frames came, so no file was made", self.path)
            self.partial_path.unlink()
        elif kind is None:
            self._finish()

    def write(self, frames: np.ndarray) -> None:
        """Append uint8 RGB frames (N, H, W, 3) as one piece; on return they are on disk.

        Raises:
            InputError: the disk is full or failed; everything written before remains playable.
            ValueError: frames of another shape or type.
        """
        if frames.dtype != np.uint8 or frames.shape[1:] != (self._height, self._width, 3):
            raise ValueError(
                f"expected uint8 frames (N, {self._height}, {self._width}, 3), got {frames.dtype} {frames.shape}"
            )
        if len(frames) == 0:
            return
        piece = self._encode(frames)
        self._append(piece if self._num_pieces == 0 else piece[_header_size(piece) :])
        self._num_pieces += 1
        self.num_frames += len(frames)

    def _encode(self, frames: np.ndarray) -> bytes:
        """A complete file of these frames: a header, the same for every piece, and one movie fragment.

        The muxer lives as short as the piece: one kept open would hold back the last frame of every piece.
        """
        import av
        from av.video.reformatter import VideoReformatter

        if self._encoder is None:
            self._encoder = self._start_encoder()
        options = {
            # frag_discont, avoid_negative_ts: the fragment starts at the time of its first packet, not at 0.
            "movflags": "empty_moov+default_base_moof+frag_discont+skip_trailer+use_metadata_tags",
            "avoid_negative_ts": "disabled",
            "fragment_index": str(self._num_pieces + 1),
        }
        buffer = io.BytesIO()
        reformatter = VideoReformatter()
        with av.open(buffer, "w", format=self._format, options=options) as container:
            container.metadata.update(self._metadata)
            stream = container.add_stream_from_template(self._encoder, opaque=True)
            stream.time_base = self._encoder.time_base
            if self._codec.tag is not None:
                stream.codec_context.codec_tag = self._codec.tag
            for index, pixels in enumerate(frames, self.num_frames):
                frame = to_yuv420(pixels, reformatter)
                frame.pts, frame.time_base = index, 1 / self._fps
                packets = self._encoder.encode(frame)
                if not packets:  # what is held back would be missing at the end of the file
                    raise InputError(
                        f"this build's {self._codec.encoder} does not give every frame at once, so a video cannot grow "
                        "piece by piece; install the PyAV of PyPI (pip install av), or choose another codec"
                    )
                for packet in packets:
                    packet.stream = stream
                    container.mux(packet)
        return buffer.getvalue()

    def _start_encoder(self) -> VideoStream:
        """A stream of a file that stays empty: its encoder, and the parameters that all pieces share."""
        import av

        container = av.open(io.BytesIO(), "w", format=self._format)
        stream = cast("VideoStream", container.add_stream(self._codec.encoder, rate=self._fps))
        self._configure(stream)
        container.start_encoding()
        return stream

    def _configure(self, stream: VideoStream) -> None:
        context = stream.codec_context
        context.height, context.width = self._height, self._width
        context.pix_fmt = "yuv420p"
        context.time_base = 1 / self._fps
        context.thread_count = _ENCODER_THREADS
        context.options = {"crf": f"{self._crf:g}", **self._codec.options}
        if self._codec.tag is not None:
            context.codec_tag = self._codec.tag
        context.color_primaries = context.color_trc = context.colorspace = _BT709
        context.color_range = _LIMITED_RANGE

    @property
    def _format(self) -> str:
        return self.path.suffix.lower().removeprefix(".")

    def _append(self, data: bytes) -> None:
        """Add `data` to the partial file completely, or leave the file as it was."""
        end = self._file.tell()
        try:
            rest = memoryview(data)
            while rest:
                rest = rest[self._file.write(rest) :]
            os.fsync(self._file.fileno())
        except BaseException as error:  # Ctrl-C included: a torn piece would spoil the end of the file
            self._file.truncate(end)
            self._file.seek(end)
            if isinstance(error, OSError):
                raise InputError(
                    f"{self.partial_path} cannot be written ({error.strerror}); free some space. "
                    f"Its first {self.num_frames} frames are complete and playable"
                ) from error
            raise

    def _finish(self) -> None:
        """Give the partial file its final form and name."""
        import av

        _, remuxed = working_paths(self.path)
        try:
            with (
                av.open(f"file:{self.partial_path}") as source,
                av.open(
                    f"file:{remuxed}",
                    "w",
                    format=self._format,
                    options={"movflags": "faststart+use_metadata_tags"},
                ) as target,
            ):
                target.metadata.update(self._metadata)
                recorded = source.streams.video[0]
                stream = target.add_stream_from_template(recorded, opaque=True)
                stream.time_base = recorded.time_base  # PyAV < 17 would round to 1/90000 s
                if self._codec.tag is not None:
                    stream.codec_context.codec_tag = self._codec.tag
                for packet in source.demux(recorded):
                    if packet.dts is not None:  # not the empty packet at the end
                        packet.stream = stream
                        target.mux(packet)
            remuxed.replace(self.path)
        except (av.error.FFmpegError, OSError) as error:
            # Most likely no room for a second copy. The fragmented file is as good, but slower to seek in.
            logger.warning("%s keeps its fragmented form (%s)", self.path, error)
            remuxed.unlink(missing_ok=True)
            self.partial_path.replace(self.path)
        except BaseException:
            remuxed.unlink(missing_ok=True)
            raise
        else:
            self.partial_path.unlink()


def _header_size(piece: bytes) -> int:
    """Bytes before the first movie fragment (`moof`) of an MP4 file; boxes as in ISO/IEC 14496-12, 4.2."""
    offset = 0
    while True:
        size, kind = struct.unpack_from(">I4s", piece, offset)
        if kind == b"moof":
            return offset
        offset += size
