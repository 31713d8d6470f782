"""Find pauses while the audio arrives: a running level takes the place of that of a whole recording."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from wav2lip_npu.dubbing.pauses import DB_PER_UNIT, SILENCE, Pauses
from wav2lip_npu.mel import DEFAULT_MEL

_MEMORY = round(3 * DEFAULT_MEL.columns_per_second)
"""Columns (3 s) whose level counts."""
_LOUD, _QUIET = 95, 10
"""Percentiles of the loudness of these columns that represent loud and quiet parts."""
_SPEECH_RANGE = 12 / DB_PER_UNIT
"""Distance of both from which the columns hold speech: 12 dB. Steady noise has 3 to 6 dB."""
_FALL = 2 / DB_PER_UNIT / DEFAULT_MEL.columns_per_second
"""Fall of the level per column while there is speech: 2 dB per second, so that a quieter voice is heard."""
_FIRST_LEVEL = -1.2
"""Loudness that counts as loud before anything was heard; of 11 recordings, the quietest had -0.8."""
_EVERY = 4
"""Columns (50 ms) after which the level is determined again."""


class RunningPauses:
    """Tells which mel columns are pauses, column by column.

    The level of speech rises at once, falls slowly while there is speech, and stays in pauses and in noise.
    """

    def __init__(self, threshold: float) -> None:
        self._below = threshold / DB_PER_UNIT
        self._memory: NDArray[np.float32] = np.full(_MEMORY, -DEFAULT_MEL.max_abs, np.float32)
        self._count = 0
        self.level = _FIRST_LEVEL
        """Loudness of the loud parts, a mel level."""

    def __call__(self, loudness: NDArray[np.float32]) -> Pauses:
        """Return whether the next columns, of this loudness, are pauses: bool [T]."""
        pauses = np.empty(len(loudness), np.bool_)
        for number, value in enumerate(loudness):
            self._memory[self._count % _MEMORY] = value
            self._count += 1
            if self._count % _EVERY == 0:
                self._update()
            pauses[number] = value < self.level - self._below
        return pauses

    def _update(self) -> None:
        quiet, loud = np.percentile(self._memory, (_QUIET, _LOUD))
        if loud > self.level:
            self.level = float(loud)
        elif loud - quiet > _SPEECH_RANGE and self._count >= _MEMORY:
            self.level = max(float(loud), self.level - _FALL * _EVERY, SILENCE)
