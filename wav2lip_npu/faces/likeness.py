"""Whether two detections show one person: small aligned copies of the face are compared.

It distinguishes people who are in one shot under one light, over a few frames. It does not recognise anybody.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from wav2lip_npu.faces.detection import Landmarks, eyes_and_mouth
from wav2lip_npu.media.yuv_image import Box, Image

MAX_LIKENESS = 0.8
"""Likeness from which two looks are of one person, even if a face beside it is more similar."""
Look = NDArray[np.float32]
"""float32 [24, 24, 3] of norm 1, each channel of mean 0: a face with eyes and mouth at fixed positions"""
_SIZE = 24
_CENTRE = np.array([11.5, 12.0])
_EYES_TO_MOUTH = 10.0
"""Pixels."""


def look(image: Image, landmarks: Landmarks) -> Look | None:
    """Return the look of a face in a BGR image; None if its eyes are at its mouth."""
    eyes, mouth = eyes_and_mouth(landmarks)
    down = (mouth - eyes) / _EYES_TO_MOUTH
    if float(np.hypot(*down)) < 0.1:
        return None
    turn = np.array([[down[1], down[0]], [-down[0], down[1]]])
    corner = (eyes + mouth) / 2 - turn @ _CENTRE
    matrix = np.column_stack([turn, corner])
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    size, blurred = (_SIZE, _SIZE), cv2.blur(image, (3, 3))
    copy = cv2.warpAffine(blurred, matrix, size, flags=flags, borderMode=cv2.BORDER_REPLICATE)
    copy = copy.astype(np.float32) - copy.mean(axis=(0, 1))
    return np.asarray(copy / max(float(np.linalg.norm(copy)), 1e-6), np.float32)


@dataclass(frozen=True)
class Other:
    """Another face in the shot."""

    box: Box
    look: Look | None = None


def is_other(seen: Look | None, known: Look | None, others: Sequence[Other]) -> bool:
    """Return whether a face looks more like one of the others than like the known one."""
    if seen is None or known is None:
        return False
    like = likeness(seen, known)
    return like < MAX_LIKENESS and any(
        other.look is not None and likeness(seen, other.look) > like for other in others
    )


def likeness(a: Look, b: Look) -> float:
    """Return the correlation of two looks: 1 for the same image."""
    return float((a * b).sum())
