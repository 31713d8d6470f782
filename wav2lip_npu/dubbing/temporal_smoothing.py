"""Smoothing over time: a stable reference, and a still mouth in pauses of the audio.

A generator whose reference shows a moving mouth lets some of that movement through. It is most visible
where the new audio is silent.
"""

from __future__ import annotations

from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from wav2lip_npu.media.yuv_image import Image
from wav2lip_npu.mel import TRAINING_FPS, Mel, mel_window

_REFERENCE_DECAY = 0.9
"""Weight of the previous reference at 25 fps while the head is still."""
_MOTION = 20.0
"""Difference of the upper face, in grey levels RMS, above which the head has moved."""
_PAUSE_DECAY = 0.7
"""Weight of the previous mouth at 25 fps in a pause."""
_BELOW_SPEECH = 1.3
"""Loudness of a pause below the loud parts of a recording, in mel units of 12.5 dB."""
_SILENCE = -2.4
"""Mel level, about -60 dB. A recording whose loud parts are below it contains no speech."""
_LOUD_PERCENTILE = 95
"""Percentile of the loudness of mel columns that represents the loud parts."""


Pauses = NDArray[np.bool_]
"""bool [T]: which mel columns contain no speech"""


def loudness(mel: Mel) -> NDArray[np.float32]:
    """Return the loudness of mel columns, float32 [T] in [-4, 4]."""
    return np.asarray(mel.mean(axis=0))


def pauses(loudness_of_columns: NDArray[np.float32]) -> Pauses:
    """Return which mel columns contain no speech, from the loudness of all columns of the recording."""
    loud = float(np.percentile(loudness_of_columns, _LOUD_PERCENTILE))
    return np.asarray(loudness_of_columns < (np.inf if loud < _SILENCE else loud - _BELOW_SPEECH))


class ReferenceSmoother:
    """Averages the latest faces of a video into the reference while the head keeps still."""

    def __init__(self, fps: Fraction) -> None:
        self._decay = np.float32(_REFERENCE_DECAY ** (TRAINING_FPS / float(fps)))
        self._mean: np.ndarray | None = None

    def __call__(self, face: Image, cut: bool = False) -> Image:
        """Return the reference, uint8 [S, S, 3], for the next face of that shape.

        `cut` is True if a new scene begins with this face.
        """
        now = face.astype(np.float32)
        if self._mean is None or cut:
            self._mean = now
            return face
        upper = np.s_[: face.shape[0] // 2]
        motion = np.square(now[upper] - self._mean[upper]).mean() / _MOTION**2
        self._mean = now + self._decay * np.exp(-motion) * (self._mean - now)
        reference: Image = np.rint(self._mean).astype(np.uint8)
        return reference


class SilenceDamper:
    """Damps mouth motion of one video in pauses of its audio. Call it once per frame, in order."""

    def __init__(self, pauses: Pauses, fps: Fraction, mel_shift: float) -> None:
        self._pauses: np.ndarray = pauses[None]
        self._fps, self._mel_shift = fps, mel_shift
        self._decay = np.float32(_PAUSE_DECAY ** (TRAINING_FPS / float(fps)))
        self._mean: np.ndarray | None = None

    def __call__(self, index: int, mouth: Image | None, cut: bool = False) -> Image | None:
        """Return the mouth uint8 [rows, S, channels] of a frame, damped in a pause; None stays None.

        `cut` is True if a new scene begins with this frame.
        """
        if mouth is None:
            self._mean = None
            return None
        is_pause = mel_window(self._pauses, index, self._fps, self._mel_shift).all()
        if self._mean is None or cut or not is_pause:
            self._mean = mouth.astype(np.float32)
            return mouth
        self._mean = mouth + self._decay * (self._mean - mouth)
        damped: Image = np.rint(self._mean).astype(np.uint8)
        return damped
