"""S3FD (Zhang et al. 2017), the face detector that Wav2Lip was trained with.

face-alignment provides the network, the box decoding and the non-maximum suppression. Its `SFDDetector` is
not used: it downloads weights, rejects NPUs, and its batch decoding runs a Python loop over all candidates
of all images.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from wav2lip_npu.errors import CheckpointError, FaceError
from wav2lip_npu.faces.detection import Detection
from wav2lip_npu.faces.torch_detector import TorchDetector

if TYPE_CHECKING:
    from torch import Tensor, nn

Boxes = NDArray[np.float32]
"""float32 [K, 5]: x1 y1 x2 y2 score"""

S3FD_PATHS = (
    Path("checkpoints/s3fd.pth"),
    Path("checkpoints/s3fd-619a316812.pth"),
    Path("face_detection/detection/sfd/s3fd.pth"),
)
"""Paths at which weights are searched, relative to the working directory."""
S3FD_MEANS = (104.0, 117.0, 123.0)
"""Subtracted from BGR pixels, as S3FD was trained. The copy in Wav2Lip swapped the channels."""
_VARIANCES = (0.1, 0.2)
"""Scales of box offsets and log sizes, as S3FD was trained."""
_CANDIDATE_SCORE, _MIN_SCORE, _MAX_OVERLAP = 0.05, 0.5, 0.3
"""Thresholds of Wav2Lip and face-alignment."""
_MAX_GROWTH = 50.0
"""Bound of log sizes before scaling, so that the exponential cannot overflow."""


class S3fdDetector(TorchDetector):
    """S3FD on a torch device: 73 GMAC for a whole frame of 640 x 360. Thread-safe."""

    name = "s3fd"
    # The finest anchors are 16 px, so 320 px still detects a face of a twentieth of the short side.
    short_side = 320
    face_side = 96
    views = cell = 1

    def _normalised(self, batch: Tensor) -> Tensor:
        return batch - batch.new_tensor(S3FD_MEANS).view(1, 3, 1, 1)

    def _faces(self, outputs: Sequence[NDArray[np.float32]]) -> Iterator[list[Detection]]:
        for candidates in decode(outputs):
            kept = suppress(candidates, _MAX_OVERLAP)
            yield [Detection(row[:4], float(row[4])) for row in kept if row[4] > _MIN_SCORE]


def decode(outputs: Sequence[NDArray[np.float32]], threshold: float = _CANDIDATE_SCORE) -> list[Boxes]:
    """Return the candidates of each image before suppression.

    `outputs` alternate class scores [B, 2, h, w] and box offsets [B, 4, h, w] of six levels, finest first.
    A level of stride s has one square anchor with sides of 4 s at the centre of each cell.
    """
    from face_alignment.detection.sfd.bbox import decode as decode_boxes

    candidates: list[list[Boxes]] = [[] for _ in range(len(outputs[0]))]
    for level, (classes, offsets) in enumerate(zip(outputs[::2], outputs[1::2], strict=True)):
        stride = 4 * 2**level
        margin = np.clip(classes[:, 0] - classes[:, 1], -80, 80)  # softmax over two classes
        probability = 1 / (1 + np.exp(margin))
        image, row, column = np.nonzero(probability > threshold)
        side = np.full(len(image), 4.0 * stride)
        anchors = np.stack([(column + 0.5) * stride, (row + 0.5) * stride, side, side], axis=1)
        offset = offsets[image, :, row, column]
        offset[:, 2:] = np.minimum(offset[:, 2:], _MAX_GROWTH)
        boxes = decode_boxes(offset, anchors, _VARIANCES)
        rows = np.column_stack([boxes, probability[image, row, column]]).astype(np.float32)
        for i, rows_of_image in enumerate(candidates):
            rows_of_image.append(rows[image == i])
    return [np.concatenate(levels) for levels in candidates]


def suppress(candidates: Boxes, max_overlap: float) -> Boxes:
    """Return the candidates that no better one overlaps by more than this IoU, best first.

    Corners are the centres of pixels, as in face_alignment, whose import would load numba.
    """
    candidates = candidates[np.argsort(-candidates[:, 4], kind="stable")]
    kept = []
    rest, areas = candidates, _areas(candidates[:, :2], candidates[:, 2:4])
    while len(rest):
        best = rest[0]
        kept.append(best)
        common = _areas(np.maximum(best[:2], rest[:, :2]), np.minimum(best[2:4], rest[:, 2:4]))
        apart = common / (areas[0] + areas - common) <= max_overlap
        apart[0] = False
        rest, areas = rest[apart], areas[apart]
    return np.stack(kept) if kept else candidates


def _areas(low: NDArray[np.float32], high: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the areas [N] of boxes with these corners [N, 2]; 0 for those whose corners are reversed."""
    sides = np.maximum(high - low + 1, 0)
    areas: NDArray[np.float32] = sides[:, 0] * sides[:, 1]
    return areas


def find_weights() -> Path | None:
    """Return the first of `S3FD_PATHS` that exists."""
    return next((path for path in S3FD_PATHS if path.is_file()), None)


def s3fd_path() -> Path:
    """Return the first of `S3FD_PATHS` that exists. Raises `FaceError` if none does."""
    path = find_weights()
    if path is None:
        raise FaceError(
            f"no S3FD weights in {', '.join(map(str, S3FD_PATHS))}. "
            "Put s3fd.pth into checkpoints/, or pass --detector hog, which needs no weights."
        )
    return path


def load_s3fd(path: Path | None = None) -> nn.Module:
    """Return S3FD in eval mode with the weights of a file, by default `s3fd_path()`.

    Raises `FaceError` if the weights are missing, damaged or for another network.
    """
    path = path or s3fd_path()
    from face_alignment.detection.sfd.net_s3fd import s3fd

    from wav2lip_npu.models.checkpoint import load_tensors

    network: nn.Module = s3fd()
    try:
        network.load_state_dict(load_tensors(path))
    except (CheckpointError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise FaceError(
            f"{path} does not hold S3FD weights ({reason}). Copy it again, or pass --detector hog."
        ) from error
    return network.eval()
