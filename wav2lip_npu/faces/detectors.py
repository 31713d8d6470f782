"""Face detectors: a picture in, boxes out, all in the convention of S3FD (forehead, cheeks and chin).

To add one, write a class with the attributes of `Detector` and give its name an `if` in
`load_detector`. Nothing is ever downloaded: a detector whose weights are missing says where to put them.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from wav2lip_npu.device import HOST, for_libraries, memory_format
from wav2lip_npu.errors import CheckpointError, FaceError
from wav2lip_npu.media.yuv_image import Box, Image

if TYPE_CHECKING:
    from torch import Tensor, nn

log = logging.getLogger(__name__)

S3FD_PATHS = (
    Path("checkpoints/s3fd.pth"),
    Path("checkpoints/s3fd-619a316812.pth"),
    Path("face_detection/detection/sfd/s3fd.pth"),
)
"""Where the S3FD weights are looked for, relative to the working directory."""
S3FD_MEANS = (104.0, 117.0, 123.0)
"""What is taken off BGR pixels, as S3FD was trained; Wav2Lip's copy swapped the channels."""

# face_alignment's other detectors and the files that it would otherwise fetch into torch's hub folder.
_OTHERS = {
    "blazeface": ("blazeface.pth", "anchors.npy"),
    "dlib": ("mmod_human_face_detector.dat",),
    "retinaface": ("retinaface_mobilenet0.25.pth",),
    "scrfd": ("scrfd_2.5g_bnkps.onnx",),
    "yunet": ("face_detection_yunet_2023mar.onnx",),
}
NAMES = ("auto", "s3fd", "hog", *_OTHERS)

# From dlib's square HOG box (brows to chin, cheek to cheek) to S3FD's, in units of the square's side:
# fitted on data/photos/one_face_450.jpg and checked by eye on 15 photos and clips.
_HOG_WIDTH, _HOG_HEIGHT, _HOG_DOWN = 1.10, 1.25, -0.07


@dataclass(frozen=True)
class Detection:
    """A face found: its box and how sure the detector is, 0..1; 0.5 is its ordinary threshold."""

    box: Box
    score: float


class Detector(Protocol):
    """Finds faces in pictures.

    `name`: as `load_detector` knows it.
    `short_side`: px, the size of the copy in which to search a whole frame.
    `face_side`: px, the size of a face at which its box is measured best.
    `views`: how many crops at slightly different scales are averaged for one exact box; above 1 for a
    detector that steps through a pyramid, whose boxes come in coarse steps.
    """

    name: str
    short_side: int
    face_side: int
    views: int

    def __call__(self, images: Sequence[Image]) -> list[list[Detection]]:
        """For each BGR uint8 [h, w, 3] the faces in its pixels. Scores under 0.5 only confirm a face."""
        ...


def load_detector(name: str, device: str = HOST) -> Detector:
    """The detector called `name`, on a torch device where it uses torch.

    Raises `FaceError` for an unknown name and for weights that are missing or damaged.
    """
    if name == "auto":
        name = "s3fd" if _s3fd_weights() else "hog"
        reason = "its weights are there" if name == "s3fd" else f"no {S3FD_PATHS[0]}, which s3fd needs"
        log.info("face detector: %s (%s)", name, reason)
    if name == "hog":
        return HogDetector()
    if name == "s3fd":
        return S3fdDetector(load_s3fd().to(device), device)
    if name in _OTHERS:
        return _FaceAlignmentDetector(name, device)
    raise FaceError(f"unknown face detector {name!r}. Choose one of: {', '.join(NAMES)}")


def weights_files() -> dict[str, list[Path]]:
    """By detector the weights that it has or lacks, where they are looked for."""
    from torch import hub

    folder = Path(hub.get_dir()) / "checkpoints"
    others = {name: [folder / file for file in files] for name, files in _OTHERS.items()}
    return {"hog": [], "s3fd": [_s3fd_weights() or S3FD_PATHS[0]], **others}


class HogDetector:
    """The frontal detector of dlib: gradient histograms, a model inside the library, 80 ns a pixel."""

    name = "hog"
    # Its template is 80 px wide, so at 720 it finds a face of a ninth of the short side.
    short_side = 720
    # A face a little above the template has a pyramid level on either side of its own.
    face_side = 112
    # The pyramid steps by 1.2 in size and by 8 px in place. Crops that step by 1.2 ** (1 / views) average
    # that out.
    views = 7

    def __init__(self) -> None:
        import dlib

        self._run = dlib.fhog_object_detector.run
        self._detector = dlib.get_frontal_face_detector()

    def __call__(self, images: Sequence[Image]) -> list[list[Detection]]:
        """See `Detector`."""
        return [self._detect(image) for image in images]

    def _detect(self, image: Image) -> list[Detection]:
        found, raw, _ = self._run(self._detector, cv2.cvtColor(image, cv2.COLOR_BGR2GRAY), 0, -0.4)
        return [
            Detection(
                hog_to_s3fd(each.left(), each.top(), each.right() + 1, each.bottom() + 1), _logistic(score)
            )
            for each, score in zip(found, raw, strict=True)
        ]


def _logistic(raw: float) -> float:
    return 1 / (1 + math.exp(-2 * raw))


def hog_to_s3fd(left: float, top: float, right: float, bottom: float) -> Box:
    """The square box of dlib as S3FD would draw it, [4] in the same pixels."""
    side = 0.5 * (right - left + bottom - top)
    x, y = 0.5 * (left + right), 0.5 * (top + bottom) + _HOG_DOWN * side
    half_width, half_height = 0.5 * _HOG_WIDTH * side, 0.5 * _HOG_HEIGHT * side
    return np.array([x - half_width, y - half_height, x + half_width, y + half_height], np.float32)


class S3fdDetector:
    """S3FD, the detector that Wav2Lip was trained with; 73 GMAC for a whole frame of 640 x 360."""

    name = "s3fd"
    # Its finest anchors are 16 px, so 320 still finds a face of a twentieth of the short side.
    short_side = 320
    face_side = 96
    views = 1

    def __init__(self, network: nn.Module, device: str) -> None:
        self._network = network
        self._device = device

    def __call__(self, images: Sequence[Image]) -> list[list[Detection]]:
        """See `Detector`; pictures of one size run as one batch."""
        found: list[list[Detection]] = [[] for _ in images]
        for shape in dict.fromkeys(image.shape for image in images):
            same = [i for i, image in enumerate(images) if image.shape == shape]
            outputs = self._forward(np.stack([images[i] for i in same]))
            for i, (boxes, scores) in zip(same, decode_s3fd(outputs), strict=True):
                kept = [k for k in suppress(boxes, scores, 0.3) if scores[k] > 0.5]
                found[i] = [Detection(boxes[k].astype(np.float32), float(scores[k])) for k in kept]
        return found

    def _forward(self, images: NDArray[np.uint8]) -> list[NDArray[np.float32]]:
        import torch

        with torch.inference_mode():
            batch = torch.from_numpy(images).to(self._device).permute(0, 3, 1, 2).float()
            batch = batch.contiguous(memory_format=memory_format(batch.device))
            batch = batch - torch.tensor(S3FD_MEANS, device=self._device).view(1, 3, 1, 1)
            outputs: list[Tensor] = self._network(batch)
            return [output.float().cpu().numpy() for output in outputs]


def decode_s3fd(
    outputs: Sequence[NDArray[np.float32]], threshold: float = 0.05
) -> list[tuple[NDArray[np.float32], NDArray[np.float32]]]:
    """For each picture its candidates, boxes [K, 4] and scores [K], from S3FD's six levels.

    `outputs`: class scores [B, 2, h, w] and box offsets [B, 4, h, w] in turn, finest level first. A
    level of stride s has one square anchor of 4 s at the centre of each cell (Zhang et al. 2017).
    """
    candidates: list[list[NDArray[np.float32]]] = [[] for _ in range(len(outputs[0]))]
    for level, (classes, offsets) in enumerate(zip(outputs[::2], outputs[1::2], strict=True)):
        stride = 4 * 2**level
        margin = np.clip(classes[:, 0] - classes[:, 1], -80, 80)  # softmax over two classes
        probability = 1 / (1 + np.exp(margin))
        image, row, column = np.nonzero(probability > threshold)
        dx, dy, grow_x, grow_y = offsets[image, :, row, column].T
        x = (column + 0.5) * stride + dx * 0.1 * 4 * stride
        y = (row + 0.5) * stride + dy * 0.1 * 4 * stride
        half_width = 2 * stride * np.exp(np.minimum(grow_x * 0.2, 10))
        half_height = 2 * stride * np.exp(np.minimum(grow_y * 0.2, 10))
        edges = [x - half_width, y - half_height, x + half_width, y + half_height]
        rows = np.stack([*edges, probability[image, row, column]], axis=1).astype(np.float32)
        for i in range(len(candidates)):
            candidates[i].append(rows[image == i])
    joined = [np.concatenate(levels) for levels in candidates]
    return [(each[:, :4], each[:, 4]) for each in joined]


def suppress(boxes: NDArray[np.float32], scores: NDArray[np.float32], overlap: float) -> list[int]:
    """Indices of the boxes [K, 4] that no better one overlaps by more than `overlap` (IoU), best first.

    Areas count the last pixel in, as in the original.
    """
    sides = boxes[:, 2:] - boxes[:, :2] + 1
    areas = sides[:, 0] * sides[:, 1]
    order = np.argsort(-scores, kind="stable")
    kept: list[int] = []
    while len(order):
        best, rest = int(order[0]), order[1:]
        kept.append(best)
        low = np.maximum(boxes[best, :2], boxes[rest, :2])
        high = np.minimum(boxes[best, 2:], boxes[rest, 2:])
        common = np.prod(np.maximum(high - low + 1, 0), axis=1)
        order = rest[common <= overlap * (areas[best] + areas[rest] - common)]
    return kept


def _s3fd_weights() -> Path | None:
    return next((path for path in S3FD_PATHS if path.is_file()), None)


def s3fd_path() -> Path:
    """Where the weights of S3FD are. Raises `FaceError` when they are nowhere."""
    path = _s3fd_weights()
    if path is None:
        looked = ", ".join(map(str, S3FD_PATHS))
        way_out = "Put s3fd.pth into checkpoints/; without it --detector hog finds faces."
        raise FaceError(f"no S3FD weights; looked for {looked}. {way_out}")
    return path


def load_s3fd(path: Path | None = None) -> nn.Module:
    """The network S3FD in eval mode, with its weights from a file. Raises `FaceError`."""
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


class _FaceAlignmentDetector:
    """Another detector of face_alignment, by name; its boxes are taken as they come."""

    short_side = 480
    face_side = 120
    views = 1

    def __init__(self, name: str, device: str) -> None:
        from importlib import import_module

        self.name = name
        files = weights_files()[name]
        missing = [path.name for path in files if not path.is_file()]
        if missing:
            raise FaceError(
                f"face detector {name} needs {', '.join(missing)} in {files[0].parent}. "
                "Put it there or choose hog"
            )
        module = import_module(f"face_alignment.detection.{name}")
        # Its base class knows cpu, cuda and mps only; the dlib one would silently become HOG on the cpu.
        if name == "dlib":
            import dlib

            network = dlib.cnn_face_detection_model_v1(str(files[0]))
            self._boxes: Any = lambda image: [_mmod_box(each) for each in network(image)]
        else:
            self._boxes = module.FaceDetector(device=for_libraries(device)).detect_from_image

    def __call__(self, images: Sequence[Image]) -> list[list[Detection]]:
        """See `Detector`."""
        return [[_from_row(row) for row in self._boxes(_to_rgb(image)) if len(row) > 4] for image in images]


def _mmod_box(found: Any) -> list[float]:
    rect = found.rect
    return [
        *hog_to_s3fd(rect.left(), rect.top(), rect.right() + 1, rect.bottom() + 1),
        _logistic(found.confidence),
    ]


def _from_row(row: Sequence[float]) -> Detection:
    return Detection(np.asarray(row[:4], np.float32), float(row[4]))


def _to_rgb(image: Image) -> Image:
    return np.ascontiguousarray(image[:, :, ::-1])
