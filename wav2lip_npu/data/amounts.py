"""Amounts of augmentation of a whole batch, from counter-based random numbers.

The distributions are those of `Augmentation.faces`, `degrade` and `mels`, which draw for one
sample at a time. `R` rows are changed separately. Random numbers are in [0, 1).
"""

from __future__ import annotations

from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from wav2lip_npu.data.augmentation import BENDS, BEST_JPEG, WORST_JPEG, Augmentation
from wav2lip_npu.data.window_table import Uniforms

NOISE_ROWS = 1 << 14
"""Rows of noise, from which each sample takes consecutive ones."""
_CURVES = 2 * BENDS * BENDS
FACE_PARTS = {
    "affine": 6, "bends": _CURVES, "gains": 3, "saturation": 1, "power": 1, "sigma": 1, "noise": 1,
    "noise_row": 1, "jpeg": 1,
}  # fmt: skip
"""Numbers of each part of the amounts of a row."""
FACE_AMOUNTS = sum(FACE_PARTS.values())
FACE_RANDOMS = 15 + _CURVES
"""Random numbers of a row."""
MEL_AMOUNTS = 3

Amounts = NDArray[np.float32]
_Rows = NDArray[np.float64]


class _Drawn(NamedTuple):
    """Random numbers of a row by purpose."""

    flip: _Rows
    stretch: _Rows
    turn: _Rows
    shift: _Rows
    bends: _Rows
    gains: _Rows
    gamma: _Rows
    blur: _Rows
    noise: _Rows
    noise_row: _Rows
    jpeg: _Rows


WIDTHS = (1, 2, 1, 2, _CURVES, 4, 1, 1, 1, 1, 1)
"""Random numbers of each purpose."""


def face_amounts(options: Augmentation, random: Uniforms, changed: NDArray[np.bool_]) -> Amounts:
    """Return the changes of faces [R, FACE_AMOUNTS], in the order of `FACE_PARTS`.

    Args:
        options: Largest changes.
        random: [R, FACE_RANDOMS].
        changed: Whether each row changes at all, [R].

    """
    on = changed[:, None].astype(float)
    draw = _Drawn(*np.split(random, np.cumsum(WIDTHS)[:-1], axis=1))

    def spread(part: _Rows, maximum: float) -> _Rows:
        rows: _Rows = (2 * part - 1) * maximum * on
        return rows

    across, down = np.exp(spread(draw.stretch, options.stretch)).T
    across_mirrored = across * np.where((draw.flip[:, 0] < options.flip) & changed, -1, 1)
    mirror = across_mirrored / across
    angle = np.radians(spread(draw.turn, options.turn))[:, 0]
    cos, sin = np.cos(angle), np.sin(angle)
    right, below = spread(draw.shift, options.shift).T
    affine = np.stack(
        [cos * across_mirrored, -sin * across, right, sin * down * mirror, cos * down, below], 1
    )
    gains = np.exp(spread(draw.gains, options.colour))
    jpeg = _half_the_time(spread(draw.jpeg, options.jpeg))
    parts = {
        "affine": affine,
        "bends": spread(draw.bends, options.bend),
        "gains": gains[:, :3],
        "saturation": gains[:, 3:],
        "power": np.exp(spread(draw.gamma, np.log1p(options.gamma))),
        "sigma": _half_the_time(spread(draw.blur, options.blur)),
        "noise": _half_the_time(spread(draw.noise, options.noise)),
        "noise_row": np.floor(draw.noise_row * NOISE_ROWS),
        "jpeg": np.where(jpeg > 0, _quantization(np.rint(BEST_JPEG - jpeg * (BEST_JPEG - WORST_JPEG))), 0),
    }
    amounts: Amounts = np.concatenate([parts[name] for name in FACE_PARTS], axis=1).astype(np.float32)
    return amounts


def mel_amounts(options: Augmentation, random: Uniforms, changed: NDArray[np.bool_]) -> Amounts:
    """Return the changes of mels [R, 3]: factor of the bands, level and tilt in dB; random numbers [R, 3]."""
    maxima = np.array([options.formants, options.loudness, options.tilt])
    amounts: Amounts = ((2 * random - 1) * maxima * changed[:, None]).astype(np.float32)
    amounts[:, 0] = np.exp(amounts[:, 0])
    return amounts


def bend_curves(size: int) -> NDArray[np.float32]:
    """Return the matrix [S, 4] that interpolates displacements as OpenCV does."""
    columns = np.eye(BENDS, dtype=np.float32)
    return np.asarray(cv2.resize(columns, (BENDS, size), interpolation=cv2.INTER_CUBIC), np.float32)


def _half_the_time(amounts: _Rows) -> _Rows:
    return np.maximum(amounts, 0)


def _quantization(quality: _Rows) -> _Rows:
    """Return the scale of libjpeg's quantization tables for a quality, in percent."""
    return np.where(quality < 50, np.floor(5000 / quality), 200 - 2 * quality)
