"""Face detectors: the convention of their boxes, S3FD's decoding against a slow reference, and errors."""

from __future__ import annotations

import ast
import logging
import math
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from skimage import data

from wav2lip_npu.errors import CheckpointError, FaceError
from wav2lip_npu.faces import detectors
from wav2lip_npu.faces.detectors import (
    HogDetector,
    S3fdDetector,
    decode_s3fd,
    hog_to_s3fd,
    load_detector,
    suppress,
)

PHOTOS = Path(__file__).parents[3] / "shared" / "data" / "photos"
PHOTO = np.ascontiguousarray(data.astronaut()[:, :, ::-1])


def test_hog_finds_the_astronaut_with_the_mouth_in_the_lower_half_and_the_chin_inside() -> None:
    best = max(HogDetector()([PHOTO])[0], key=lambda each: each.score)
    x1, y1, x2, y2 = best.box
    mouth, chin = (223, 148), (227, 174)
    assert best.score > 0.5 and best.box.dtype == np.float32
    assert x1 < mouth[0] < x2 and (y1 + y2 + 10) / 2 < mouth[1] and chin[1] < y2 + 10


def test_hog_boxes_match_the_estimate_of_s3fds_box() -> None:
    image = cv2.imread(str(PHOTOS / "one_face_450.jpg"))
    if image is None:
        pytest.skip(f"needs the photo {PHOTOS / 'one_face_450.jpg'}")
    sizes = [round(450 * 1.2 ** (step / 8)) for step in range(8)]
    detector, boxes = HogDetector(), []
    for size in sizes:
        for each in detector([cv2.resize(image, (size, size), interpolation=cv2.INTER_AREA)])[0]:
            boxes.append(each.box * (450 / size))
    # Reference section 7: about (140, 150, 335, 360); the face is turned, so dlib's box sits to one side.
    np.testing.assert_allclose(np.mean(boxes, axis=0), [140, 150, 335, 360], atol=25)
    np.testing.assert_allclose(np.mean(boxes, axis=0)[[1, 3]], [150, 360], atol=10)


@given(st.floats(-50, 50), st.floats(-50, 50), st.floats(10, 500))
def test_hog_to_s3fd_keeps_the_middle_and_scales(x: float, y: float, side: float) -> None:
    x1, y1, x2, y2 = hog_to_s3fd(x, y, x + side, y + side)
    assert (x1 + x2) / 2 == pytest.approx(x + side / 2, abs=1e-3)
    assert y1 < y and y2 > y + side and x1 < x and x2 > x + side
    np.testing.assert_allclose([x2 - x1, y2 - y1], np.array([1.10, 1.25]) * side, rtol=1e-3)


# S3FD
def reference_candidates(outputs: list[np.ndarray], image: int) -> list[list[float]]:
    """One location at a time, after section 1.9 of the reference."""
    rows = []
    for level in range(len(outputs) // 2):
        classes, offsets = outputs[2 * level][image], outputs[2 * level + 1][image]
        stride = 2 ** (level + 2)
        for row in range(classes.shape[1]):
            for column in range(classes.shape[2]):
                background, face = (math.exp(value) for value in classes[:, row, column])
                score = face / (background + face)
                if score <= 0.05:
                    continue
                anchor = 4 * stride
                x = stride / 2 + column * stride + offsets[0, row, column] * 0.1 * anchor
                y = stride / 2 + row * stride + offsets[1, row, column] * 0.1 * anchor
                width = anchor * math.exp(0.2 * offsets[2, row, column])
                height = anchor * math.exp(0.2 * offsets[3, row, column])
                rows.append([x - width / 2, y - height / 2, x + width / 2, y + height / 2, score])
    return rows


@given(st.integers(0, 2**31), st.integers(1, 3), st.integers(1, 5), st.integers(1, 5), st.floats(-4, 4))
def test_decoding_equals_a_loop_over_all_places(
    seed: int, batch: int, height: int, width: int, bias: float
) -> None:
    rng = np.random.default_rng(seed)
    outputs = []
    for level in range(3):
        shape = (max(1, height - level), max(1, width - level))
        classes = rng.normal(0, 3, (batch, 2, *shape))
        classes[:, 1] += bias
        outputs += [classes.astype(np.float32), rng.normal(0, 2, (batch, 4, *shape)).astype(np.float32)]
    for image, (boxes, scores) in enumerate(decode_s3fd(outputs)):
        expected = np.array(reference_candidates(outputs, image)).reshape(-1, 5)
        np.testing.assert_allclose(np.column_stack([boxes, scores]), expected, rtol=1e-4, atol=1e-3)


def reference_suppression(boxes: np.ndarray, scores: np.ndarray, overlap: float) -> list[int]:
    kept: list[int] = []
    for i in sorted(range(len(boxes)), key=lambda k: -scores[k]):
        alone = True
        for k in kept:
            width = min(boxes[i][2], boxes[k][2]) - max(boxes[i][0], boxes[k][0]) + 1
            height = min(boxes[i][3], boxes[k][3]) - max(boxes[i][1], boxes[k][1]) + 1
            common = max(0.0, width) * max(0.0, height)
            areas = [(boxes[j][2] - boxes[j][0] + 1) * (boxes[j][3] - boxes[j][1] + 1) for j in (i, k)]
            alone &= common <= overlap * (sum(areas) - common)
        if alone:
            kept.append(i)
    return kept


whole = st.integers(0, 60)


@given(
    st.lists(st.tuples(whole, whole, st.integers(1, 40), st.integers(1, 40)), max_size=25),
    st.randoms(use_true_random=False),
)
def test_suppression_equals_a_plain_one(places: list[tuple[int, int, int, int]], random: object) -> None:
    boxes = np.array([[x, y, x + w, y + h] for x, y, w, h in places], np.float32).reshape(-1, 4)
    order = list(range(len(boxes)))
    random.shuffle(order)  # type: ignore[attr-defined]
    scores = np.array(order, np.float32) / 100
    assert suppress(boxes, scores, 0.3) == reference_suppression(boxes.astype(float), scores, 0.3)


@pytest.fixture(scope="module")
def network() -> torch.nn.Module:
    from face_alignment.detection.sfd.net_s3fd import s3fd

    with torch.random.fork_rng():
        torch.manual_seed(0)
        return s3fd().eval()


def test_s3fd_has_the_published_shape(network: torch.nn.Module) -> None:
    assert sum(each.numel() for each in network.parameters()) == 22_459_110
    assert len(network.state_dict()) == 65


def test_s3fd_in_a_batch_equals_one_by_one(network: torch.nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    detector = S3fdDetector(network, "cpu")
    images = [PHOTO[:96, :128], PHOTO[40:136, 100:228], PHOTO[:64, :64]]
    seen = []
    forward = S3fdDetector._forward

    def watched(self: S3fdDetector, batch: np.ndarray) -> list[np.ndarray]:
        seen.append(batch.shape)
        outputs = forward(self, batch)
        for classes in outputs[::2]:  # untrained, it is sure of nothing
            classes[:, 1] += 4 * (classes[:, 1] - classes[:, 1].mean(axis=(1, 2), keepdims=True))
        return outputs

    monkeypatch.setattr(S3fdDetector, "_forward", watched)
    together = detector(images)
    assert seen == [(2, 96, 128, 3), (1, 64, 64, 3)]
    assert any(together)
    for image, found in zip(images, together, strict=True):
        alone = detector([image])[0]
        assert len(alone) == len(found)
        for one, other in zip(alone, found, strict=True):
            np.testing.assert_allclose(one.box, other.box, rtol=1e-3, atol=0.05)
            assert one.score > 0.5
    assert detector([]) == []


def test_s3fd_reads_its_weights_and_sees_bgr_less_the_means(
    network: torch.nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("checkpoints").mkdir()
    torch.save(network.state_dict(), "checkpoints/s3fd-619a316812.pth")
    detector = load_detector("s3fd")
    assert isinstance(detector, S3fdDetector)
    pixels = PHOTO[:64, :96].astype(np.float32) - np.array([104, 117, 123], np.float32)
    with torch.no_grad():
        expected = network(torch.from_numpy(pixels.transpose(2, 0, 1)[None]))
    for ours, theirs in zip(detector._forward(PHOTO[None, :64, :96]), expected, strict=True):
        np.testing.assert_allclose(ours, theirs.numpy(), atol=1e-4)


# Errors and choice
def test_an_unknown_detector_is_answered_with_the_names() -> None:
    with pytest.raises(FaceError, match=r"unknown face detector 'haar'.*auto, s3fd, hog, blazeface"):
        load_detector("haar")


def test_missing_s3fd_weights_name_the_places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        FaceError, match=r"checkpoints/s3fd.pth, .*face_detection/detection/sfd/s3fd.pth"
    ) as caught:
        load_detector("s3fd")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", ["text", "other network"])
def test_damaged_s3fd_weights_name_the_file(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = Path("checkpoints/s3fd.pth")
    path.parent.mkdir()
    if kind == "text":
        path.write_text("<html>not found</html>")
    else:
        torch.save({"weight": torch.zeros(3)}, path)
    with pytest.raises(FaceError, match=r"checkpoints/s3fd\.pth does not hold S3FD weights") as caught:
        load_detector("auto")
    assert "\n" not in str(caught.value) and isinstance(
        caught.value.__cause__, (CheckpointError, RuntimeError)
    )


def test_auto_takes_hog_without_weights_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    with caplog.at_level(logging.INFO, "wav2lip_npu.faces.detectors"):
        assert isinstance(load_detector("auto"), HogDetector)
    assert "hog" in caplog.text and "checkpoints/s3fd.pth" in caplog.text


@pytest.mark.parametrize("name", list(detectors._OTHERS))
def test_other_detectors_never_download(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))

    def forbidden(*args: object, **options: object) -> None:
        raise AssertionError("a download was tried")

    monkeypatch.setattr(torch.hub, "download_url_to_file", forbidden)
    with pytest.raises(FaceError, match=rf"{name} needs .* in {tmp_path}") as caught:
        load_detector(name)
    assert "\n" not in str(caught.value)


def test_a_local_blazeface_is_used_and_sees_rgb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from face_alignment.detection import blazeface
    from face_alignment.detection.blazeface.net_blazeface import BlazeFace

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    folder = tmp_path / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    with torch.random.fork_rng():
        torch.save(BlazeFace().state_dict(), folder / "blazeface.pth")
    np.save(folder / "anchors.npy", np.full((896, 4), 0.5, np.float32))

    def found(self: object, image: np.ndarray) -> list[list[float]]:
        np.testing.assert_array_equal(image, PHOTO[:, :, ::-1])
        return [[1, 2, 30, 40, 0.75], []]

    monkeypatch.setattr(blazeface.FaceDetector, "detect_from_image", found)
    ((only,),) = load_detector("blazeface", "npu:0")([PHOTO])
    np.testing.assert_array_equal(only.box, [1, 2, 30, 40])
    assert only.score == 0.75


def test_the_module_imports_no_torch() -> None:
    tree = ast.parse(Path(detectors.__file__).read_text())
    names = [alias.name for node in tree.body if isinstance(node, ast.Import) for alias in node.names]
    names += [node.module or "" for node in tree.body if isinstance(node, ast.ImportFrom)]
    assert not {"torch", "dlib", "face_alignment", "wav2lip_npu.models.checkpoint"} & set(names)


def test_hog_takes_any_size() -> None:
    detector = HogDetector()
    for height, width in [(1, 1), (1, 40), (2, 3), (16, 16), (40, 5), (81, 79)]:
        assert detector([np.zeros((height, width, 3), np.uint8)]) == [[]]
