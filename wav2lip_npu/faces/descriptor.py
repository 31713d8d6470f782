"""dlib's face descriptor, with the weights of the user.

Two faces whose descriptors are closer than 0.6 are those of one person.
"""

from __future__ import annotations

import os
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wav2lip_npu.errors import CheckpointError
from wav2lip_npu.faces.detection import Landmarks
from wav2lip_npu.media.yuv_image import YuvImage

_FILE = "dlib_face_recognition_resnet_model_v1.dat"
PATHS = (Path("checkpoints") / _FILE,)
"""Paths at which weights are searched, relative to the working directory."""
_PACKAGE = "face_recognition_models"
"""A package on PyPI that has the weights."""
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


def find_weights() -> Path | None:
    """Return the path of the weights in `PATHS` or in the package face_recognition_models, if any."""
    return next((path for path in PATHS if path.is_file()), None) or packaged_file(_FILE)


def packaged_file(name: str) -> Path | None:
    """Return the path of a file of dlib's models in the package face_recognition_models, if it is installed.

    The package is not imported: that would need setuptools.
    """
    spec = find_spec(_PACKAGE)
    folders = spec.submodule_search_locations if spec is not None else None
    packaged = (Path(folder) / "models" / name for folder in folders or ())
    return next((path for path in packaged if path.is_file()), None)
