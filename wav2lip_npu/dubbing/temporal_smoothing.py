"""What was filmed does not speak: the face is known from a steady picture, and in pauses the mouth rests.

A network that knows a face from a picture with a moving mouth lets some of that movement through. It is
seen against a new sound, and most of all where that is silent.
"""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction

import numpy as np

from wav2lip_npu.media.yuv_image import Image
from wav2lip_npu.mel import TRAINING_FPS, Mel, mel_window

_STEADY = 0.9
"""Share of the pictures before in a reference, at 25 frames a second, of a head that keeps still."""
_MOVED = 20.0
"""Grey levels by which the upper half of a face differs from the one before when the head has moved."""
_HOLD = 0.7
"""Share of the mouth before, at 25 frames a second."""
_BELOW_SPEECH = 1.3
"""How far a pause lies under the loud parts of a recording, in units of the mel (12.5 dB each)."""
_SILENT = -2.4
"""Recordings that are nowhere louder hold no speech, some -60 dB."""
_LOUD = 95
"""Percentile of the columns that stands for the loud parts."""


def pauses(mel: Mel) -> np.ndarray:
    """Which columns of a mel [80, T] hold no speech, [T]: by loudness against the rest of the recording."""
    level = mel.mean(axis=0)
    loud = float(np.percentile(level, _LOUD))
    return np.asarray(level < (np.inf if loud < _SILENT else loud - _BELOW_SPEECH))


class ReferenceSmoother:
    """The picture that a face is known from: the mean of the last ones, as far as the head keeps still."""

    def __init__(self, fps: Fraction) -> None:
        self._hold = np.float32(_STEADY ** (TRAINING_FPS / float(fps)))
        self._before: np.ndarray | None = None

    def __call__(self, face: Image, cut: bool = False) -> Image:
        """The reference uint8 [S, S, 3] of a face of the same shape; `cut`: a new scene begins with it."""
        now = face.astype(np.float32)
        if self._before is None or cut:
            self._before = now
            return face
        upper = np.s_[: face.shape[0] // 2]
        moved = np.square(now[upper] - self._before[upper]).mean() / _MOVED**2
        self._before = now + self._hold * np.exp(-moved) * (self._before - now)
        reference: Image = np.rint(self._before).astype(np.uint8)
        return reference


class SilenceDamper:
    """Holds the mouths of one video still where its sound pauses; asked frame by frame, in order."""

    def __init__(self, mel: Mel, fps: Fraction, mel_shift: float) -> None:
        quiet = pauses(mel)[None]
        self._heard: Callable[[int], Mel] = lambda frame: mel_window(quiet, frame, fps, mel_shift)
        self._hold = np.float32(_HOLD ** (TRAINING_FPS / float(fps)))
        self._before: np.ndarray | None = None

    def __call__(self, frame: int, mouth: Image | None, cut: bool = False) -> Image | None:
        """The mouth uint8 [rows, S, channels] of a frame, as it was or at rest; none where there is no face.

        `cut`: whether another scene begins with the frame.
        """
        if mouth is None:
            self._before = None
            return None
        if self._before is None or cut or not self._heard(frame).all():
            self._before = mouth.astype(np.float32)
            return mouth
        self._before = mouth + self._hold * (self._before - mouth)
        rested: Image = np.rint(self._before).astype(np.uint8)
        return rested
