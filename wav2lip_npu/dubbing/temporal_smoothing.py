"""Damp mouth motion in pauses of the audio.

If the mouth of the reference moves, the generated mouth copies some of that motion. It is most visible where
the new audio is silent.
"""

from __future__ import annotations

from fractions import Fraction

import numpy as np

from wav2lip_npu.dubbing.pauses import Pauses
from wav2lip_npu.media.yuv_image import Image
from wav2lip_npu.mel import TRAINING_FPS, mel_window

_PAUSE_DECAY = 0.85
"""Weight of the previous mouth at 25 fps in a pause."""
_CLOSING = 3
"""Frames of 1/25 s at the beginning of a pause that are not damped: a mouth closes in about 100 ms."""
_OPENING = 3
"""Frames of 1/25 s at the end of a pause that are not damped. Otherwise the mouth would snap open."""


class SilenceDamper:
    """Damps mouth motion of one video in pauses of its audio. Call it once per frame, in order.

    Beginning and end of a pause are not damped, so that the mouth can close and open.
    """

    def __init__(self, pauses: Pauses, fps: Fraction, mel_shift: float) -> None:
        self._pauses: np.ndarray = pauses[None]
        self._fps, self._mel_shift = fps, mel_shift
        self._damp = MouthDamper(fps)

    def __call__(self, index: int, mouth: Image | None, cut: bool = False) -> Image | None:
        """Return the mouth uint8 [rows, S, channels] of a frame, damped in a pause; None stays None.

        `cut` is True if a new scene begins with this frame.
        """
        is_pause = all(
            mel_window(self._pauses, number, self._fps, self._mel_shift).all()
            for number in (index, index + round(_OPENING / TRAINING_FPS * float(self._fps)))
        )
        return self._damp(mouth, is_pause and not cut)


class MouthDamper:
    """Damps mouth motion while the audio is silent. Call it once per frame, in order."""

    def __init__(self, fps: Fraction) -> None:
        self._step = TRAINING_FPS / float(fps)
        self._elapsed = 0.0
        """Frames of 1/25 s since the beginning of the pause."""
        self._mean: np.ndarray | None = None

    def __call__(self, mouth: Image | None, is_silent: bool) -> Image | None:
        """Return the mouth uint8 [rows, S, channels] of a frame, damped some time after silence began."""
        self._elapsed = self._elapsed + self._step if is_silent else 0.0
        if mouth is None or self._mean is None or self._elapsed <= _CLOSING:
            self._mean = None if mouth is None else mouth.astype(np.float32)
            return mouth
        damped_for = self._elapsed - _CLOSING
        decay = np.float32(min(_PAUSE_DECAY, damped_for / (damped_for + 1)) ** self._step)
        self._mean = mouth + decay * (self._mean - mouth)
        damped: Image = np.rint(self._mean).astype(np.uint8)
        return damped
