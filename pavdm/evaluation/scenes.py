"""Cuts, as PySceneDetect's adaptive detector sees them: the scene count of the paper's table 1."""

from __future__ import annotations

from fractions import Fraction
from types import ModuleType

import numpy as np
from packaging.version import Version

from pavdm.evaluation.pixels import Frame

_OLDEST = Version("0.7")


def scenedetect() -> ModuleType | None:
    """PySceneDetect, or None where it (or its OpenCV) is not installed, or is older than 0.7 and speaks otherwise."""
    try:
        import scenedetect.detectors
        import scenedetect.scene_manager
    except ImportError:
        return None
    return scenedetect if Version(scenedetect.__version__) >= _OLDEST else None


class Scenes:
    """Feeds frames to the detector as PySceneDetect's own SceneManager does: BGR, large ones made smaller."""

    def __init__(self, library: ModuleType, cv2: ModuleType, fps: float) -> None:
        self.cuts: list[int] = []  # first frames of the scenes after the first
        self._library = library
        self._cv2 = cv2
        self._fps = Fraction(fps).limit_denominator(1001)
        self._detector = library.detectors.AdaptiveDetector()

    def next(self, number: int, frame: Frame) -> None:
        height, width = frame.shape[:2]
        factor = self._library.scene_manager.compute_downscale_factor(width)
        picture = np.ascontiguousarray(frame[..., ::-1])
        if factor > 1:
            size = (round(width / factor), round(height / factor))
            picture = self._cv2.resize(picture, size, interpolation=self._cv2.INTER_LINEAR)
        time = self._library.FrameTimecode(number, self._fps)
        self.cuts += [cut.frame_num for cut in self._detector.process_frame(time, picture)]

    def finish(self, num_frames: int) -> None:
        last = self._library.FrameTimecode(max(0, num_frames - 1), self._fps)
        self.cuts += [cut.frame_num for cut in self._detector.post_process(last)]

    def count(self, first: int) -> float:
        """Scenes that the frames from `first` on go through; a cut at `first` itself, from what is before, counts."""
        return 1.0 + sum(cut >= first for cut in self.cuts)
