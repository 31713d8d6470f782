"""Detect faces without colours of their own, in black-and-white, sepia or tinted film.

There the chroma of each pixel follows from its luma. The generator adds colours even to a grey face, so the
chroma of a mouth is then taken from the film as well.
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
"""RMS deviation of chroma from its mean at the same luma, in levels of 8 bits. Up to the first, a face has no
colours of its own; above the second, it has. Faces of 27 colour clips and photos have 2.7 to 16; turned grey
0, and turned sepia 0.6 to 1.6 after H.264 with crf 23, apart from two of extreme contrast."""
_BIN = 8
"""Levels of luma that share a mean chroma."""
_BINS = 256 // _BIN
_GRID = 24
"""Rows and columns to which a face is averaged. It hides noise and blocks of a codec, but not lips."""


@dataclass(frozen=True)
class Tint:
    """Chroma of a film as a function of luma."""

    u: NDArray[np.float32]
    """float32 [256], U of each level of Y."""
    v: NDArray[np.float32]
    """float32 [256], V of each level of Y."""
    weight: float
    """Part of the chroma that follows from luma, in (0, 1]."""

    @property
    def is_constant(self) -> bool:
        """Whether all pixels have the same chroma."""
        return bool(self.weight == 1 and np.ptp(self.u) == 0 and np.ptp(self.v) == 0)

    def apply(self, luma: Array, chroma: Sequence[Array]) -> list[Array]:
        """Return the planes U and V, float32, of a mouth with this luma, replaced by those of the film."""
        level = np.clip(np.rint(luma), 0, 255).astype(np.uint8)
        planes = zip(chroma, (self.u, self.v), strict=True)
        return [plane + np.float32(self.weight) * (table[level] - plane) for plane, table in planes]


def tint_of(yuv: YuvImage, box: Box) -> Tint | None:
    """Return the tint of the face in a box; None if the face has colours of its own."""
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
