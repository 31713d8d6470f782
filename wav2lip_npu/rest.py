"""Where nobody speaks the mouth rests.

A network that knows a face from a picture with a moving mouth lets some of that movement through, which is
seen where the new sound is silent. There each mouth is drawn towards the one before it.
"""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction

import numpy as np

from wav2lip_npu.mel import TRAINING_FPS, Mel, mel_window
from wav2lip_npu.planes import Image

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


class Rest:
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
