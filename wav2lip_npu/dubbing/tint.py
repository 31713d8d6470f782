"""Detect faces in black-and-white, sepia or tinted film.

In such film, luma determines the chroma of each pixel. The generator adds colours even to a grey face, so the
chroma of the mouth is taken from the film.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from wav2lip_npu.media.yuv_image import Array, Box, YuvImage

_TINTED, _COLOURED = 1.7, 2.5
"""RMS deviation of chroma from its mean at the same luma, in 8-bit levels. Up to the first, a face is tinted;
above the second, it is coloured. Measured on the faces of 27 colour clips and photos: 2.7 to 16; converted to
grey: 0; converted to sepia and encoded with H.264, crf 23: 0.6 to 1.6, except two of extreme contrast."""
_BIN = 8
"""Levels of luma that share a mean chroma."""
_BINS = 256 // _BIN
_GRID = 24
"""Rows and columns to which a face is averaged: this removes noise and codec blocks and keeps lips."""


@dataclass(frozen=True)
class Tint:
    """Chroma of tinted film as a function of luma."""

    u: NDArray[np.float32]
    """float32 [256], U for each Y."""
    v: NDArray[np.float32]
    """float32 [256], V for each Y."""
    weight: float
    """Fraction of the chroma that is replaced, in (0, 1]."""

    @property
    def is_constant(self) -> bool:
        """Whether all pixels have the same chroma."""
        return bool(self.weight == 1 and np.ptp(self.u) == 0 and np.ptp(self.v) == 0)

    def apply(self, luma: Array, chroma: Sequence[Array]) -> list[Array]:
        """Return float32 planes U and V of a mouth, blended with those of the film at the same luma."""
        level = np.clip(np.rint(luma), 0, 255).astype(np.uint8)
        planes = zip(chroma, (self.u, self.v), strict=True)
        return [plane + np.float32(self.weight) * (table[level] - plane) for plane, table in planes]


def tint_of(yuv: YuvImage, box: Box) -> Tint | None:
    """Return the tint of the face in a box; None if the face is coloured."""
    left, top = np.maximum(np.floor(box[:2] / 2).astype(int), 0)
    right, bottom = np.ceil(box[2:] / 2).astype(int)
    u, v = (plane[top:bottom, left:right] for plane in (yuv.u, yuv.v))
    if not u.size:
        return None
    if np.ptp(u) == 0 and np.ptp(v) == 0:
        return Tint(np.full(256, u[0, 0], np.float32), np.full(256, v[0, 0], np.float32), 1.0)
    full = yuv.y[2 * top : 2 * bottom, 2 * left : 2 * right]
    luma = _averaged(full).astype(int)
    bins = luma // _BIN
    counts = np.bincount(bins, minlength=_BINS)
    used = np.flatnonzero(counts)
    levels = np.bincount(bins, luma, minlength=_BINS)[used] / counts[used]
    tables, deviation = [], 0.0
    for plane in (u, v):
        values = _averaged(plane).astype(np.float32)
        means = np.bincount(bins, values, minlength=_BINS)[used] / counts[used]
        deviation += float(np.square(values - np.interp(luma, levels, means)).mean())
        tables.append(np.interp(np.arange(256), levels, means).astype(np.float32))
    weight = (_COLOURED - deviation**0.5) / (_COLOURED - _TINTED)
    return Tint(tables[0], tables[1], min(weight, 1.0)) if weight > 0 else None


def _averaged(plane: NDArray[np.uint8]) -> NDArray[np.uint8]:
    grid: Any = cv2.resize(plane, (_GRID, _GRID), interpolation=cv2.INTER_AREA)
    return np.asarray(grid, np.uint8).ravel()
