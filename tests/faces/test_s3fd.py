"""S3FD: decoding and suppression against a slow reference, batches, weights files."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage import data

from wav2lip_npu.errors import CheckpointError, FaceError
from wav2lip_npu.faces.detectors import load_detector
from wav2lip_npu.faces.s3fd import S3fdDetector, decode, suppress

PHOTO = np.ascontiguousarray(data.astronaut()[:, :, ::-1])


def reference_candidates(outputs: list[np.ndarray], image: int) -> list[list[float]]:
    """Decode one cell at a time."""
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


@settings(deadline=None)  # the first example imports face_alignment
@given(st.integers(0, 2**31), st.integers(1, 3), st.integers(1, 5), st.integers(1, 5), st.floats(-4, 4))
def test_decoding_equals_a_loop_over_all_cells(
    seed: int, batch: int, height: int, width: int, bias: float
) -> None:
    rng = np.random.default_rng(seed)
    outputs = []
    for level in range(3):
        shape = (max(1, height - level), max(1, width - level))
        classes = rng.normal(0, 3, (batch, 2, *shape))
        classes[:, 1] += bias
        outputs += [classes.astype(np.float32), rng.normal(0, 2, (batch, 4, *shape)).astype(np.float32)]
    for image, candidates in enumerate(decode(outputs)):
        expected = np.array(reference_candidates(outputs, image)).reshape(-1, 5)
        np.testing.assert_allclose(candidates, expected, rtol=1e-4, atol=1e-3)


def test_huge_outputs_decode_to_finite_boxes() -> None:
    classes, offsets = np.full((1, 2, 1, 1), 300, np.float32), np.full((1, 4, 1, 1), 3e4, np.float32)
    assert np.isfinite(decode([classes, offsets])[0]).all()


def reference_suppression(boxes: np.ndarray, scores: np.ndarray, max_overlap: float) -> list[int]:
    kept: list[int] = []
    for i in sorted(range(len(boxes)), key=lambda k: -scores[k]):
        is_alone = True
        for k in kept:
            width = min(boxes[i][2], boxes[k][2]) - max(boxes[i][0], boxes[k][0]) + 1
            height = min(boxes[i][3], boxes[k][3]) - max(boxes[i][1], boxes[k][1]) + 1
            common = max(0.0, width) * max(0.0, height)
            areas = [(boxes[j][2] - boxes[j][0] + 1) * (boxes[j][3] - boxes[j][1] + 1) for j in (i, k)]
            is_alone &= common / (sum(areas) - common) <= max_overlap
        if is_alone:
            kept.append(i)
    return kept


position = st.integers(0, 60)


@given(
    st.lists(
        st.tuples(position, position, st.integers(1, 40), st.integers(1, 40), st.integers(0, 9)), max_size=25
    )
)
def test_suppression_equals_a_loop_over_all_pairs(rectangles: list[tuple[int, int, int, int, int]]) -> None:
    rows = [[x, y, x + w, y + h, score / 10] for x, y, w, h, score in rectangles]
    candidates = np.array(rows, np.float32).reshape(-1, 5)
    kept = reference_suppression(candidates[:, :4].astype(float), candidates[:, 4], 0.3)
    np.testing.assert_array_equal(suppress(candidates, 0.3), candidates[kept])


@pytest.fixture(scope="module")
def network() -> torch.nn.Module:
    from face_alignment.detection.sfd.net_s3fd import s3fd

    with torch.random.fork_rng():
        torch.manual_seed(0)
        return s3fd().eval()


def test_network_has_the_published_shape(network: torch.nn.Module) -> None:
    assert sum(parameter.numel() for parameter in network.parameters()) == 22_459_110
    assert len(network.state_dict()) == 65


def test_batch_equals_single_images(network: torch.nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    detector = S3fdDetector(network, "cpu")
    images = [PHOTO[:96, :128], PHOTO[40:136, 100:228], PHOTO[:64, :64]]
    shapes = []
    forward = S3fdDetector._forward

    def confident(self: S3fdDetector, batch: np.ndarray) -> list[np.ndarray]:
        shapes.append(batch.shape)
        outputs = forward(self, batch)
        for classes in outputs[::2]:  # without training, all scores are near 0.5
            classes[:, 1] += 4 * (classes[:, 1] - classes[:, 1].mean(axis=(1, 2), keepdims=True))
        return outputs

    monkeypatch.setattr(S3fdDetector, "_forward", confident)
    together = detector(images)
    assert shapes == [(2, 96, 128, 3), (1, 64, 64, 3)]
    assert any(together)
    for image, detections in zip(images, together, strict=True):
        alone = detector([image])[0]
        assert len(alone) == len(detections)
        for a, b in zip(alone, detections, strict=True):
            np.testing.assert_allclose(a.box, b.box, rtol=1e-3, atol=0.05)
            assert a.score > 0.5
    assert detector([]) == []


def test_detections_equal_those_of_face_alignment(network: torch.nn.Module, tmp_path: Path) -> None:
    from face_alignment.detection.sfd import FaceDetector

    state = network.state_dict()
    for name in [name for name in state if name.endswith("_mbox_conf.bias")]:
        margin = 2.0 if name.startswith("conv5_3") else -8.0
        state[name][:-1], state[name][-1] = -margin, margin
    torch.save(state, tmp_path / "s3fd.pth")
    theirs = FaceDetector("cpu", path_to_detector=str(tmp_path / "s3fd.pth"))
    image = PHOTO[:192, 100:292]
    expected = np.array(theirs.detect_from_image(np.ascontiguousarray(image[:, :, ::-1])))
    detections = S3fdDetector(theirs.face_detector, "cpu")([image])[0]
    ours = np.array([[*detection.box, detection.score] for detection in detections])
    assert len(ours) > 1
    np.testing.assert_allclose(ours, expected, rtol=1e-4, atol=1e-3)


def test_weights_are_loaded_and_input_is_bgr_minus_means(
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


def test_missing_weights_name_the_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FaceError, match=r"checkpoints/s3fd.pth.*face_detection/detection/sfd/s3fd.pth.*hog"):
        load_detector("s3fd")


@pytest.mark.parametrize("content", ["text", "other network"])
def test_damaged_weights_name_the_file(content: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = Path("checkpoints/s3fd.pth")
    path.parent.mkdir()
    if content == "text":
        path.write_text("<html>not found</html>")
    else:
        torch.save({"weight": torch.zeros(3)}, path)
    with pytest.raises(FaceError, match=r"checkpoints/s3fd\.pth") as caught:
        load_detector("s3fd")
    assert "\n" not in str(caught.value)
    assert isinstance(caught.value.__cause__, (CheckpointError, RuntimeError))
