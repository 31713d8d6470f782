"""Distance of identities by dlib's face descriptor, with the weights of the user.

It is not CSIM, the cosine of ArcFace, and has another scale: below 0.6, dlib takes two faces for one person.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wav2lip_npu.errors import CheckpointError
from wav2lip_npu.evaluation.frame_pair import Figure, FramePair
from wav2lip_npu.faces.detection import Landmarks
from wav2lip_npu.media.yuv_image import YuvImage

PATHS = (Path("checkpoints/dlib_face_recognition_resnet_model_v1.dat"),)
"""Paths at which weights are searched, relative to the working directory."""
_EVERY = 5
"""One frame in five is compared, because identity changes slowly."""
_EYE = 0.19
"""Half of the width of an eye, relative to the distance of the eyes."""
_WIDER = 1.6
_SIZE = 300


class Descriptor:
    """dlib's face descriptor: 128 numbers per face."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        """Load the weights. Raises `CheckpointError`."""
        import dlib

        if not os.path.isfile(path):
            raise CheckpointError(f"cannot read weights {path}. Check --identity.")
        try:
            self._model: Any = dlib.face_recognition_model_v1(os.fspath(path))
        except RuntimeError as error:
            text = " ".join(str(error).split())
            raise CheckpointError(
                f"{path} is not dlib's face descriptor ({text:.80}). Pass another."
            ) from None

    def __call__(self, frame: YuvImage, landmarks: Landmarks) -> NDArray[np.float64]:
        """Return the descriptor [128] of the face at the landmarks."""
        import dlib

        centre, reach = landmarks.mean(axis=0), _WIDER * float(np.ptp(landmarks, axis=0).max())
        square = np.concatenate([centre - reach, centre + reach]).astype(np.float32)
        image = np.ascontiguousarray(frame.crop(square, _SIZE)[..., ::-1])
        points = (landmarks - square[:2]) * (_SIZE / (2 * reach))
        shape = dlib.full_object_detection(
            dlib.rectangle(0, 0, _SIZE, _SIZE),
            [dlib.point(*map(round, map(float, p))) for p in _corners(points)],
        )
        return np.asarray(self._model.compute_face_descriptor(image, shape))


def _corners(points: Landmarks) -> NDArray[np.float32]:
    """Return dlib's five points: corners of the right eye, of the left eye (in the image), and the nose."""
    left, right, nose = points[:3]
    half = _EYE * (right - left)
    return np.array([right + half, right - half, left - half, left + half, nose], np.float32)


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
