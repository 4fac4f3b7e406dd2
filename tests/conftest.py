"""Fixtures for real clips, fetched once and kept outside the repository, and for small made-up ones."""

from __future__ import annotations

import os
import struct
import subprocess
import sys
from collections.abc import Callable, Iterable, Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from extending import extend
from hypothesis import settings

settings.register_profile("pavdm", deadline=None)  # tests are never timed
settings.load_profile("pavdm")

FETCH_CLIPS = Path(__file__).resolve().parent.parent / "scripts" / "clips.py"

MakeClip = Callable[..., Path]


def clip_cache() -> Path:
    """Where the real clips are kept between runs: $PAVDM_TEST_CACHE, else the user's cache directory."""
    if folder := os.environ.get("PAVDM_TEST_CACHE"):
        return Path(folder)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "pavdm-tests"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--host", action="store_true", help="run the tests on a real ComfyUI, too")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Without --host the tests marked `host` are deselected, and pytest's last line counts them."""
    if config.getoption("--host"):
        return
    on_host = [item for item in items if item.get_closest_marker("host")]
    if on_host:
        config.hook.pytest_deselected(items=on_host)
        items[:] = [item for item in items if item not in on_host]


@pytest.fixture(scope="session")
def clips_dir() -> Path:
    folder = clip_cache()
    done = subprocess.run([sys.executable, FETCH_CLIPS, folder], capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.fail(f"no real clips to test with: {done.stderr}", pytrace=False)
    return folder


@pytest.fixture(scope="session")
def bikes(clips_dir: Path) -> Path:
    """250 frames, 25 fps, 640x272, no audio."""
    return clips_dir / "bikes.mp4"


@pytest.fixture(scope="session")
def bunny(clips_dir: Path) -> Path:
    """132 frames, 25 fps, 1280x720, with audio."""
    return clips_dir / "bigbuckbunny.mp4"


@pytest.fixture(scope="session")
def carphone(clips_dir: Path) -> Path:
    """120 frames, 30000/1001 fps, 176x144 stored, pixels 128:117."""
    return clips_dir / "carphone_pristine.mp4"


@pytest.fixture
def make_clip(tmp_path: Path) -> MakeClip:
    """A function that encodes a small clip with PyAV alone and returns its path.

    Frames are uint8 arrays (H, W, 3) RGB or (H, W, 4) RGBA, or PyAV frames already in `pixel_format`. The defaults
    are lossless. `times` are presentation times in milliseconds (default: one frame after another). `matrix` is
    (a, b, c, d) of the display matrix of an .mp4 or .mov file: shown x = a x + c y, shown y = b x + d y.
    """

    def make(
        name: str,
        frames: Iterable[np.ndarray | av.VideoFrame],
        *,
        fps: Fraction | int = 25,
        codec: str = "ffv1",
        pixel_format: str = "bgr0",
        options: dict[str, str] | None = None,
        times: Sequence[int] | None = None,
        matrix: tuple[int, int, int, int] | None = None,
        pixel_aspect: Fraction | None = None,
        audio: bool = False,
    ) -> Path:
        path = tmp_path / name
        pictures = [frame if isinstance(frame, av.VideoFrame) else _picture(frame) for frame in frames]
        with av.open(str(path), "w") as container:
            stream = container.add_stream(codec, rate=fps, options=options or {})
            context = stream.codec_context
            context.width, context.height = pictures[0].width, pictures[0].height
            context.pix_fmt = pixel_format
            context.time_base = Fraction(1, 1000) if times else 1 / Fraction(fps)
            context.color_range, context.colorspace = pictures[0].color_range, pictures[0].colorspace
            if pixel_aspect is not None:
                context.sample_aspect_ratio = pixel_aspect
            sound = container.add_stream("aac", rate=16000) if audio else None
            for index, picture in enumerate(pictures):
                if picture.format.name != pixel_format:
                    picture = picture.reformat(format=pixel_format)
                picture.pts = times[index] if times else index
                picture.time_base = context.time_base
                container.mux(stream.encode(picture))
            container.mux(stream.encode(None))
            if sound is not None:
                silence = av.AudioFrame.from_ndarray(np.zeros((1, 1600), np.float32), "fltp", "mono")
                silence.sample_rate = 16000
                container.mux([*sound.encode(silence), *sound.encode(None)])
        if matrix is not None:
            _set_display_matrix(path, matrix)
        return path

    return make


def _picture(frame: np.ndarray) -> av.VideoFrame:
    return av.VideoFrame.from_ndarray(frame, format="rgba" if frame.shape[2] == 4 else "rgb24")


def _set_display_matrix(path: Path, matrix: tuple[int, int, int, int]) -> None:
    """Overwrite the matrix of the track header box (ISO/IEC 14496-12, 8.3.2) as a phone held askew writes it."""
    data = bytearray(path.read_bytes())
    start = data.index(b"tkhd") + 4 + 40  # version 0: 40 bytes of other fields first
    a, b, c, d = (value * 65536 for value in matrix)
    data[start : start + 36] = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)
    path.write_bytes(data)


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A full set of small networks with random weights."""
    from pavdm.new_model import create

    folder = tmp_path_factory.mktemp("models") / "tiny"
    create(folder, "tiny", seed=0)
    return folder


@pytest.fixture(scope="session")
def uninterrupted(bikes: Path, models: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of 2.5 s (4 chunks), out.mp4, and its state directory, state."""
    folder = tmp_path_factory.mktemp("uninterrupted")
    assert extend(bikes, folder / "out.mp4", models, "--seconds", 2.5, "--state", folder / "state") == 0
    return folder
