"""Distance of identities by dlib's face descriptor, with the weights of the user.

It is not CSIM, the cosine of ArcFace, and has another scale: below 0.6, dlib takes two faces for one person.
"""

from __future__ import annotations

import numpy as np

from wav2lip_npu.evaluation.frame_pair import Figure, FramePair
from wav2lip_npu.faces.descriptor import Descriptor

_EVERY = 5
"""One frame in five is compared, because identity changes slowly."""


class IdentityMeasure:
    """Mean distance of the descriptors of generated and original faces."""

    def __init__(self, descriptor: Descriptor) -> None:
        self._descriptor = descriptor
        self._sum, self._count = 0.0, 0

    def add(self, pair: FramePair) -> None:
        """Add the next pair."""
        landmarks, both = pair.landmarks, pair.both
        if pair.index % _EVERY or landmarks is None or both is None:
            return
        generated, truth = (self._descriptor(frame, landmarks) for frame in both)
        self._sum += float(np.linalg.norm(generated - truth))
        self._count += 1

    def figures(self) -> dict[str, Figure]:
        """Return the mean."""
        return {"identity": Figure(self._sum / self._count)} if self._count else {}
