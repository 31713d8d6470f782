"""Read the orientation of a video, quarter turns and mirroring, from its display matrix."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from av.sidedata.sidedata import SideDataContainer
from av.video.frame import VideoFrame

_SIDE_DATA: Any = SideDataContainer
"""Not `frame.side_data`, which the frame keeps: then only the garbage collector frees the frame."""
_LARGEST_TILT = 1.0
"""Degrees by which a rotation may differ from a quarter turn without a warning, as in ffplay."""


@dataclass(frozen=True)
class Orientation:
    """Steps that make a decoded frame upright: mirror it left to right, then rotate it."""

    mirrored: bool = False
    quarters: int = 0
    """Counter-clockwise quarter turns."""
    tilt: float = 0.0
    """Degrees of further counter-clockwise rotation in the display matrix, which are not applied."""

    @property
    def is_tilted(self) -> bool:
        """Whether the rotation of the display matrix is not a quarter turn."""
        return abs(self.tilt) > _LARGEST_TILT


UPRIGHT = Orientation()


def orientation_of(frame: VideoFrame) -> Orientation:
    """Return the orientation of a decoded frame; upright without a usable display matrix."""
    try:
        matrix = _SIDE_DATA(frame).get("DISPLAYMATRIX")
    except ValueError:  # PyAV does not support other side data, such as EXIF
        return Orientation(quarters=round(frame.rotation / 90) % 4)
    if matrix is None:
        return UPRIGHT
    # ISO/IEC 14496-12, 6.2.2: a point (p, q) goes to (a p + c q, b p + d q), with q and y pointing down.
    a, b, _, c, d = (float(value) for value in np.frombuffer(bytes(matrix), np.int32)[:5])
    determinant = a * d - b * c
    if not determinant:  # a missing matrix, written as zeros
        return UPRIGHT
    # Mirroring left to right changes the sign of (a, b) only, so (c, d) is the rotation in both cases.
    degrees = math.degrees(math.atan2(c, d))
    quarters = math.floor(degrees / 90 + 0.5)
    return Orientation(determinant < 0, quarters % 4, degrees - 90 * quarters)
