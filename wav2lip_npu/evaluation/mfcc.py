"""MFCC as the published evaluation computes them: `python_speech_features.mfcc` with its defaults.

Audio is mono at 16 kHz, in units of 16-bit integers. A column is 25 ms of audio, one every 10 ms.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import cache

import numpy as np
from numpy.typing import NDArray

from wav2lip_npu.models.syncnet_v2 import COLUMNS

SAMPLE_RATE = 16_000
SAMPLES_PER_FRAME = 640
"""Samples of a frame at 25 fps, from one window to the next."""
_COEFFICIENTS, _FILTERS, _LIFTER = 13, 26, 22
_LENGTH, _HOP, _N_FFT = 400, 160, 512
_PREEMPHASIS = 0.97
_WINDOW = (COLUMNS - 1) * _HOP + _LENGTH
"""Samples of an MFCC window."""
_STEP = SAMPLES_PER_FRAME // _HOP
_BATCH = 64
"""Windows that are computed at once."""

Wav = NDArray[np.float32]
Array = NDArray[np.float64]


def int16(wav: Wav) -> NDArray[np.int16]:
    """Return audio in [-1, 1] as 16-bit integers, as FFmpeg converts it."""
    scaled = np.rint(wav * 32768.0)
    return np.asarray(np.clip(scaled, -32768, 32767), np.int16)


def mfcc(samples: NDArray[np.int16]) -> Array:
    """Return the MFCC float64 [T, 13] of a whole recording, padded with zeros to a whole column."""
    columns = 1 + max(0, -(-(len(samples) - _LENGTH) // _HOP))
    padded = np.zeros((columns - 1) * _HOP + _LENGTH)
    padded[: len(samples)] = _emphasised(samples.astype(np.float64), None)
    return _columns(padded)


def mfcc_windows(chunks: Iterable[Wav], start: int = 0) -> Iterator[NDArray[np.float32]]:
    """Yield batches float32 [up to 64, 13, 20]: the MFCC window of each frame at 25 fps, in order.

    Only windows within the audio are computed. Holds about three seconds of audio.

    Args:
        chunks: Consecutive parts of the audio, in [-1, 1].
        start: Sample at which the first window begins. The audio before it is ignored.

    """
    held: NDArray[np.int16] = np.empty(0, np.int16)
    before: int | None = None
    skipped = start
    for chunk in chunks:
        dropped = min(skipped, len(chunk))
        skipped -= dropped
        held = np.concatenate([held, int16(chunk[dropped:])])
        while len(held) >= (_BATCH - 1) * SAMPLES_PER_FRAME + _WINDOW:
            yield _windows(held, _BATCH, before)
            held, before = held[_BATCH * SAMPLES_PER_FRAME :], int(held[_BATCH * SAMPLES_PER_FRAME - 1])
    count = (len(held) - _WINDOW) // SAMPLES_PER_FRAME + 1
    if count > 0:
        yield _windows(held, count, before)


def _windows(samples: NDArray[np.int16], count: int, before: int | None) -> NDArray[np.float32]:
    needed = samples[: (count - 1) * SAMPLES_PER_FRAME + _WINDOW].astype(np.float64)
    columns = _columns(_emphasised(needed, before)).astype(np.float32)
    first = np.arange(count)[:, None] * _STEP + np.arange(COLUMNS)
    return np.ascontiguousarray(columns[first].transpose(0, 2, 1))


def _emphasised(samples: Array, before: float | None) -> Array:
    """Return the samples after pre-emphasis. `before` is the sample before them; None at the beginning."""
    emphasised: Array = samples.copy()
    emphasised[1:] -= _PREEMPHASIS * samples[:-1]
    if before is not None:
        emphasised[0] -= _PREEMPHASIS * before
    return emphasised


def _columns(emphasised: Array) -> Array:
    """Return the MFCC float64 [T, 13] of audio after pre-emphasis."""
    frames = np.lib.stride_tricks.sliding_window_view(emphasised, _LENGTH)[::_HOP]
    power = np.square(np.abs(np.fft.rfft(frames, _N_FFT))) / _N_FFT
    energy = _not_zero(power.sum(axis=1))
    bands = np.log(_not_zero(power @ _filter_bank().T))
    lifter = 1 + _LIFTER / 2 * np.sin(np.pi * np.arange(_COEFFICIENTS) / _LIFTER)
    coefficients: Array = bands @ _cosines().T * lifter
    coefficients[:, 0] = np.log(energy)
    return coefficients


def _not_zero(values: Array) -> Array:
    positive: Array = np.where(values == 0, np.finfo(float).eps, values)
    return positive


@cache
def _filter_bank() -> Array:
    """Return the triangular filters float64 [26, 257], evenly spaced on the mel scale from 0 to 8 kHz."""
    top = 2595 * np.log10(1 + SAMPLE_RATE / 2 / 700)
    hertz = 700 * (10 ** (np.linspace(0, top, _FILTERS + 2) / 2595) - 1)
    edges = np.floor((_N_FFT + 1) * hertz / SAMPLE_RATE)
    bins = np.arange(_N_FFT // 2 + 1)
    low, centre, high = (np.asarray(edges[offset : offset + _FILTERS, None]) for offset in range(3))
    rising = (bins - low) / np.maximum(centre - low, 1)
    falling = (high - bins) / np.maximum(high - centre, 1)
    inside = (bins >= low) & (bins < high)
    return np.asarray(np.where(inside, np.where(bins < centre, rising, falling), 0.0))


@cache
def _cosines() -> Array:
    """Return the orthonormal DCT-II float64 [13, 26]."""
    rows, columns = np.arange(_COEFFICIENTS)[:, None], np.arange(_FILTERS)[None]
    scale = np.where(rows == 0, np.sqrt(1 / _FILTERS), np.sqrt(2 / _FILTERS))
    return np.asarray(scale * np.cos(np.pi * rows * (2 * columns + 1) / (2 * _FILTERS)))
