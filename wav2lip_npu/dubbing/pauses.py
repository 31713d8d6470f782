"""Find pauses in speech, and replace the mel of a recording by the mel of silence in them.

With the mel of room noise or a breath, the generator leaves the mouth half open; with the mel of silence, it
closes the mouth. The mel window reaches 160 to 200 ms ahead, so the mouth opens in time for the next word.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from wav2lip_npu.mel import DEFAULT_MEL, Mel

Pauses = NDArray[np.bool_]
"""bool [T]: True for mel columns without speech."""

DB_PER_UNIT = -DEFAULT_MEL.min_level_db / (2 * DEFAULT_MEL.max_abs)
"""12.5 dB per unit of mel."""
SILENCE = -2.4
"""Mel level of about -60 dB. A recording whose loud parts are below it is one pause."""
_NOTHING = -DEFAULT_MEL.max_abs
"""Mel level of digital silence."""
_LOUD_PERCENTILE = 95
"""Percentile of the loudness of mel columns that represents the loud parts."""
_SHORTEST = DEFAULT_MEL.columns_per_window
"""Minimum length of a pause in columns (200 ms). Plosive closures, 40 to 120 ms, belong to speech."""
_AFTER, _BEFORE = 2, 4
"""Columns (25 and 50 ms) kept at the beginning and end of a pause, where soft consonants may be as quiet."""
_RAMP = 4
"""Columns (50 ms) of the cross-fade between the mel of the recording and that of silence."""


def loudness(mel: Mel) -> NDArray[np.float32]:
    """Return the loudness of mel columns, float32 [T] in [-4, 4]."""
    return np.asarray(mel.mean(axis=0))


def find_pauses(
    loudness_of_columns: NDArray[np.float32], threshold: float, *, has_gaps: bool = False
) -> Pauses:
    """Return the pauses of a recording, from the loudness of all its mel columns.

    Columns at least `threshold` dB below the loud parts are pauses. With `has_gaps`, columns of digital
    silence do not count as parts of the recording.
    """
    heard = loudness_of_columns
    if has_gaps:
        heard = heard[heard > _NOTHING] if (heard > _NOTHING).any() else heard
    loud = float(np.percentile(heard, _LOUD_PERCENTILE))
    return np.asarray(loudness_of_columns < (np.inf if loud < SILENCE else loud - threshold / DB_PER_UNIT))


def long_pauses(pauses: Pauses) -> list[tuple[int, int]]:
    """Return the first column of each pause of at least 200 ms, and that after its last."""
    edges = np.flatnonzero(np.diff(pauses, prepend=False, append=False)).tolist()
    spans = zip(edges[::2], edges[1::2], strict=True)
    return [(first, end) for first, end in spans if end - first >= min(_SHORTEST, len(pauses))]


def rest_weights(pauses: Pauses) -> NDArray[np.float32]:
    """Return the weight of silence in each mel column, float32 [T]: 1 in a pause, 0 in speech, with ramps."""
    weights = np.zeros(len(pauses), np.float32)
    for first, end in long_pauses(pauses):
        columns = np.arange(first, end)
        rise = (columns + 1 - first - _AFTER) / (_RAMP + 1) if first > 0 else np.ones(len(columns))
        fall = (end - _BEFORE - columns) / (_RAMP + 1) if end < len(pauses) else np.ones(len(columns))
        weights[first:end] = np.clip(np.minimum(rise, fall), 0, 1)
    return weights


def with_silence(mel: Mel, weights: NDArray[np.float32]) -> Mel:
    """Return mel columns mixed with the mel of silence by its weight in each column."""
    mixed: Mel = mel * (1 - weights) - np.float32(DEFAULT_MEL.max_abs) * weights
    return mixed
