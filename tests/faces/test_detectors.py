"""Choice of the detector, and the HOG detector."""

from __future__ import annotations

import subprocess
import sys

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from skimage import data

from support.faces import SHARED
from wav2lip_npu.errors import FaceError
from wav2lip_npu.faces.detectors import HogDetector, hog_to_s3fd, load_detector

PHOTO = np.ascontiguousarray(data.astronaut()[:, :, ::-1])


def test_hog_box_contains_mouth_and_chin() -> None:
    best = max(HogDetector()([PHOTO])[0], key=lambda detection: detection.score)
    x1, y1, x2, y2 = best.box
    mouth, chin = (223, 148), (227, 174)
    assert best.score > 0.5 and best.box.dtype == np.float32
    assert x1 < mouth[0] < x2 and (y1 + y2 + 10) / 2 < mouth[1] and chin[1] < y2 + 10


def test_hog_boxes_match_s3fd_boxes() -> None:
    path = SHARED / "photos" / "one_face_450.jpg"
    image = cv2.imread(str(path))
    if image is None:
        pytest.skip(f"needs the photo {path}")
    sizes = [round(450 * 1.2 ** (step / 8)) for step in range(8)]
    detector, boxes = HogDetector(), []
    for size in sizes:
        for detection in detector([cv2.resize(image, (size, size), interpolation=cv2.INTER_AREA)])[0]:
            boxes.append(detection.box * (450 / size))
    # About (140, 150, 335, 360). The face is turned, so dlib's box is off to one side.
    np.testing.assert_allclose(np.mean(boxes, axis=0), [140, 150, 335, 360], atol=25)
    np.testing.assert_allclose(np.mean(boxes, axis=0)[[1, 3]], [150, 360], atol=10)


@given(st.floats(-50, 50), st.floats(-50, 50), st.floats(10, 500))
def test_hog_to_s3fd_keeps_the_centre_and_scales(x: float, y: float, side: float) -> None:
    x1, y1, x2, y2 = hog_to_s3fd(x, y, x + side, y + side)
    assert (x1 + x2) / 2 == pytest.approx(x + side / 2, abs=1e-3)
    assert y1 < y and y2 > y + side and x1 < x and x2 > x + side
    np.testing.assert_allclose([x2 - x1, y2 - y1], np.array([1.10, 1.25]) * side, rtol=1e-3)


def test_hog_accepts_any_size() -> None:
    detector = HogDetector()
    for height, width in [(1, 1), (1, 40), (2, 3), (16, 16), (40, 5), (81, 79)]:
        assert detector([np.zeros((height, width, 3), np.uint8)]) == [[]]


@pytest.mark.parametrize("name", ["haar", "blazeface", "dlib"])
def test_unknown_detector_is_an_error(name: str) -> None:
    with pytest.raises(FaceError, match=rf"'{name}'.*auto, hog, retinaface, s3fd"):
        load_detector(name)


def test_auto_is_retinaface() -> None:
    assert load_detector("auto").name == "retinaface"


def test_hog_imports_neither_torch_nor_face_alignment() -> None:
    program = (
        "import sys; from wav2lip_npu.faces import find_faces, detectors; detectors.load_detector('hog');"
        "print(*{'torch', 'face_alignment'} & set(sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, check=True).stdout == b"\n"
