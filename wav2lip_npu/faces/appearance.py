"""How similar two faces look: by dlib's descriptor if its weights are there, else by small aligned copies."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from wav2lip_npu.faces.descriptor import Descriptor, find_weights
from wav2lip_npu.faces.detection import Detection
from wav2lip_npu.faces.head_pose import head_pose
from wav2lip_npu.faces.likeness import likeness
from wav2lip_npu.faces.people import landmarks_of, view_of
from wav2lip_npu.media.yuv_image import YuvImage

Look = NDArray[Any] | None
"""A descriptor float64 [128], or a `likeness.Look`. None: the face cannot be compared."""

_MAX_YAW = 50
"""Degrees; faces that are turned further are not dubbed by default."""


@dataclass(frozen=True)
class Appearance:
    """A measure of similarity, and the values that decide."""

    name: Literal["dlib", "likeness"]
    descriptor: Descriptor | None
    sure: float
    """Similarity from which two faces are of one person."""
    possible: float
    """Similarity below which they are not."""
    margin: float
    """Difference to the similarity of another person that decides between the two."""

    def look(self, yuv: YuvImage, face: Detection) -> Look:
        """Return the look of a face in a frame; None if it is turned away, as profiles look alike."""
        if face.landmarks is not None and abs(head_pose(face.landmarks).yaw) > _MAX_YAW:
            return None
        if self.descriptor is not None:
            return self.descriptor(yuv, landmarks_of(face))
        return view_of(0, face, yuv).look

    def similarity(self, known: Sequence[Look], look: Look) -> float:
        """Return the similarity, at most 1, to the most similar of the known looks."""
        if look is None:
            return -1.0
        return max((self._of(one, look) for one in known if one is not None), default=-1.0)

    def _of(self, a: NDArray[Any], b: NDArray[Any]) -> float:
        return likeness(a, b) if self.descriptor is None else 1 - float(np.linalg.norm(a - b))


@cache
def load_appearance() -> Appearance:
    """Return the best measure at hand. Raises `CheckpointError` if the weights of dlib are damaged.

    The values follow from 18 people of the sample clips, frames 1.6 s apart: of different people, 99 % have a
    likeness below 0.66 and a distance of descriptors above 0.59; of one person, the median is 0.73 and 0.39.
    """
    weights = find_weights()
    if weights is not None:
        return Appearance("dlib", Descriptor(weights), sure=0.5, possible=0.38, margin=0.08)
    return Appearance("likeness", None, sure=0.72, possible=0.5, margin=0.15)
