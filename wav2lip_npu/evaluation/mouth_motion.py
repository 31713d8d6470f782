"""Motion and sharpness of the mouth, aligned by eyes and nose so that a moving head does not count.

A mouth that follows the audio stays still when the audio is silent. `leak` is the share of the motion that
remains with silence; no network is needed to measure it.
"""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np
from numpy.typing import NDArray

from wav2lip_npu.evaluation.frame_pair import Figure, FramePair
from wav2lip_npu.evaluation.picture import Plane
from wav2lip_npu.faces.detection import Landmarks
from wav2lip_npu.media.yuv_image import YuvImage

ALIGNED = np.array([[30, 34], [66, 34], [48, 56]], np.float32)
"""Eyes and nose of an aligned face of 96 x 112 pixels."""
_MOUTH = np.s_[60:104, 20:76]
_MIN_FRAMES = 10
"""Frames of speech, and of pauses, from which a ratio is given."""
IsPause = Callable[[int], bool]


def aligned(frame: YuvImage, landmarks: Landmarks) -> Plane | None:
    """Return the luma of a face aligned by eyes and nose, float32 [112, 96]; None for points on a line."""
    warp, _ = cv2.estimateAffinePartial2D(landmarks[:3], ALIGNED)
    if warp is None:
        return None
    face = cv2.warpAffine(frame.y, warp, (96, 112), flags=cv2.INTER_AREA, borderMode=cv2.BORDER_REPLICATE)
    return np.asarray(face, np.float32)


def mouth_of(frame: YuvImage, landmarks: Landmarks) -> Plane | None:
    """Return the luma of the aligned mouth region, slightly blurred, float32 [44, 56]."""
    face = aligned(frame, landmarks)
    return None if face is None else np.asarray(cv2.GaussianBlur(face[_MOUTH], (0, 0), 1), np.float32)


def sharpness_of(mouth: Plane) -> float:
    """Return the deviation of the detail of a mouth, in levels."""
    return float((mouth - cv2.GaussianBlur(mouth, (0, 0), 2)).std())


class Deviation:
    """Mean over the pixels of their deviation over time, from a stream of planes."""

    def __init__(self) -> None:
        self._mean: NDArray[np.float64] | None = None
        self._squares: NDArray[np.float64] | None = None
        self.count = 0

    def add(self, plane: Plane) -> None:
        """Add a plane (Welford's update)."""
        self.count += 1
        if self._mean is None or self._squares is None:
            self._mean, self._squares = plane.astype(np.float64), np.zeros(plane.shape)
            return
        change = plane - self._mean
        self._mean += change / self.count
        self._squares += change * (plane - self._mean)

    @property
    def value(self) -> float | None:
        """The deviation, in levels; None without planes."""
        return None if self._squares is None else float(np.sqrt(self._squares / self.count).mean())


class _Mouth:
    """Motion and sharpness of the mouths of one video."""

    def __init__(self, is_pause: IsPause | None) -> None:
        self.deviation = Deviation()
        self._is_pause = is_pause
        self._sharpness = 0.0
        self._last: tuple[int, Plane] | None = None
        self._changes = {True: [0.0, 0.0], False: [0.0, 0.0]}
        """Sum and number of the changes between frames, in pauses and in speech."""

    def add(self, index: int, mouth: Plane, *, cut: bool) -> None:
        """Add the mouth of a frame."""
        self.deviation.add(mouth)
        self._sharpness += sharpness_of(mouth)
        if self._last is not None and self._last[0] == index - 1 and not cut and self._is_pause is not None:
            sums = self._changes[self._is_pause(index)]
            sums[0] += float(np.abs(mouth - self._last[1]).mean())
            sums[1] += 1
        self._last = index, mouth

    @property
    def sharpness(self) -> float | None:
        return self._sharpness / self.deviation.count if self.deviation.count else None

    @property
    def pause_motion(self) -> float | None:
        """Mean change between frames in pauses divided by that in speech; None with few frames of either."""
        (pause, pauses), (speech, speeches) = self._changes[True], self._changes[False]
        if min(pauses, speeches) < _MIN_FRAMES or not speech:
            return None
        return (pause / pauses) / (speech / speeches)


class MouthMeasure:
    """Motion, leak and sharpness of the mouth. Faces are aligned by the landmarks of the original."""

    def __init__(self, is_pause: IsPause | None = None, is_pause_of_truth: IsPause | None = None) -> None:
        self._generated, self._truth = _Mouth(is_pause), _Mouth(is_pause_of_truth)
        self._silent, self._added = Deviation(), Deviation()

    def add(self, pair: FramePair) -> None:
        """Add the next pair."""
        landmarks = pair.landmarks
        if landmarks is None or (pair.truth is not None and pair.both is None):
            return
        mouth = mouth_of(pair.generated.frame.yuv, landmarks)
        if mouth is None:
            return
        self._generated.add(pair.index, mouth, cut=pair.is_cut)
        if pair.truth is not None:
            original = mouth_of(pair.truth.frame.yuv, landmarks)
            if original is not None:
                self._truth.add(pair.index, original, cut=pair.is_cut)
        if pair.silent is not None and pair.silent.y.shape == pair.generated.frame.yuv.y.shape:
            quiet = mouth_of(pair.silent, landmarks)
            if quiet is not None:
                self._silent.add(quiet)
                self._added.add(mouth - quiet)

    def figures(self) -> dict[str, Figure]:
        """Return the figures."""
        generated, truth = self._generated, self._truth
        values = {
            "motion": (generated.deviation.value, truth.deviation.value),
            "pause_motion": (generated.pause_motion, truth.pause_motion),
            "sharpness": (generated.sharpness, truth.sharpness),
            "leak": (_ratio(self._silent.value, generated.deviation.value), None),
            "own": (_ratio(self._added.value, truth.deviation.value), None),
        }
        return {name: Figure(*pair) for name, pair in values.items() if pair[0] is not None}


def _ratio(value: float | None, reference: float | None) -> float | None:
    return None if value is None or not reference else value / reference
