"""What is in front of a mouth: the bundled network, mask files, and what happens to the frames."""

from __future__ import annotations

import itertools
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from support.talk import face
from wav2lip_npu.dubbing import occlusion_file
from wav2lip_npu.dubbing.blend import load_mask, paste
from wav2lip_npu.dubbing.occlusion import (
    NOTHING,
    Front,
    LearnedOcclusion,
    Occlusion,
    front_of,
    load_network,
    load_occlusion,
)
from wav2lip_npu.dubbing.occlusion_file import MaskFileOcclusion
from wav2lip_npu.dubbing.selection import FaceLimits, select_frames
from wav2lip_npu.errors import CheckpointError
from wav2lip_npu.export.engines import make_file_session
from wav2lip_npu.faces.tracker import TrackedFrame
from wav2lip_npu.media.yuv_image import Colour, YuvImage

SIZE = 96
BOX = np.array([50, 50, 132, 164], np.float32)
"""The face in `support.talk.face()`."""
MASK = load_mask("soft", SIZE)
YUV = YuvImage.from_image(face(), Colour())
MOUTH = np.pad(MASK.weights, ((MASK.top_row, 0), (0, 0))) > 0.5


def crops(count: int) -> list[np.ndarray]:
    """Return face crops of a head that sways a little."""
    yuv = YuvImage.from_image(face(), Colour())
    return [yuv.crop(BOX + np.float32(1.5 * np.sin(number / 3)), SIZE) for number in range(count)]


def examine(finder: Occlusion, yuv: YuvImage, box: np.ndarray = BOX, *, cut: bool = False) -> Front:
    """Return what is in front of a face in the next frame."""
    return finder(TrackedFrame(SimpleNamespace(yuv=yuv), box, cut), yuv.crop(box, SIZE))


def bar(crop: np.ndarray, left: float, colour: tuple[int, int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Return a crop with a vertical bar from its lower edge, and the mask of the bar."""
    truth = np.zeros((SIZE, SIZE), np.float32)
    cv2.line(truth, (round(left), SIZE), (round(left) + 8, 58), 1, 13, cv2.LINE_AA)
    shaded = np.array(colour) * np.linspace(0.85, 1.15, SIZE)[:, None, None]
    return (crop * (1 - truth[..., None]) + shaded * truth[..., None]).round().astype(np.uint8), truth > 0.5


@pytest.fixture(scope="module")
def network():
    return load_network()


def test_free_face_is_free(network):
    finder = LearnedOcclusion(network)
    fronts = [finder.look(crop) for crop in crops(20)]
    assert not any(front.hides_mouth for front in fronts)
    assert sum(front.weights is not None and (front.weights > 0.5)[MOUTH].mean() for front in fronts) < 0.02


@pytest.mark.parametrize("colour", [(25, 25, 25), (110, 150, 205)], ids=["microphone", "finger"])
def test_bar_stays_in_front(network, colour):
    """B6."""
    finder = LearnedOcclusion(network)
    both = either = 0
    for number, crop in enumerate(crops(40)):
        if number < 15:
            finder.look(crop)
            continue
        covered, truth = bar(crop, 24 + 1.5 * (number - 15), colour)
        front = finder.look(covered)
        found = np.zeros_like(truth) if front.weights is None else front.weights > 0.5
        both += (found & truth & MOUTH).sum()
        either += ((found | truth) & MOUTH).sum()
    assert both / either > 0.6


def test_new_shot_forgets_the_face(network):
    """Another person is not an object in front of the first."""
    finder = LearnedOcclusion(network)
    frame = YuvImage.from_image(face(), Colour())
    other = YuvImage.from_image(np.ascontiguousarray(255 - face()), Colour())
    fresh = examine(LearnedOcclusion(network), other, cut=True)
    for _ in range(5):
        examine(finder, frame)
    again = examine(finder, other, cut=True)
    assert again.hides_mouth == fresh.hides_mouth
    assert (again.weights is None) == (fresh.weights is None)


def test_covered_mouth_and_doubt_keep_the_frame():
    shown = np.zeros((SIZE, SIZE), np.float32)
    assert front_of(shown) is NOTHING
    shown[60:, :40] = 1
    assert not front_of(shown).hides_mouth
    shown[60:, :] = 1
    assert front_of(shown).hides_mouth
    assert front_of(np.full((SIZE, SIZE), 0.55, np.float32)).hides_mouth


COVERED = Front(np.ones((SIZE, SIZE), np.float32), hides_mouth=True)


def selected(fronts, cuts=(0,)):
    """Return 25 fps frames selected with these fronts."""
    frames = [
        TrackedFrame(SimpleNamespace(index=number, yuv=YUV.copy()), BOX, number in cuts)
        for number in range(len(fronts))
    ]
    order = iter(fronts)
    return list(select_frames(frames, FaceLimits(), (), Fraction(25), 96, lambda *_: next(order)))


def test_covered_span_has_its_reason_and_a_cross_fade():
    chosen = selected([NOTHING] * 10 + [COVERED] * 5 + [NOTHING] * 15)
    reasons = [item.reason for item in chosen]
    assert reasons[:10] == [None] * 10 and reasons[10:15] == ["covered"] * 5 and reasons[25:] == [None] * 5
    assert [item.opacity for item in chosen[6:11]] == [1, 0.75, 0.5, 0.25, 0]
    assert sum(a != b for a, b in itertools.pairwise(reasons)) == 2


@pytest.mark.parametrize(
    ("fronts", "covered"),
    [
        ([NOTHING, COVERED, NOTHING, COVERED, NOTHING], []),
        ([COVERED, COVERED, NOTHING], [0, 1, 2]),
        ([NOTHING, NOTHING, COVERED, COVERED], []),  # the second is in the next shot
    ],
    ids=["single frames", "first frames", "cut"],
)
def test_only_two_covered_frames_in_a_row_begin_a_span(fronts, covered):
    reasons = [item.reason for item in selected(fronts, cuts=(0, 3))]
    assert [number for number, reason in enumerate(reasons) if reason == "covered"] == covered


def test_pixels_in_front_keep_their_values():
    yuv = YuvImage.from_image(face(), Colour())
    mouth = np.full((SIZE - MASK.top_row, SIZE, 3), 20, np.uint8)
    front = np.zeros((SIZE, SIZE), np.float32)
    front[:, :48] = 1
    pasted, plain = paste(yuv, mouth, BOX, MASK, front), paste(yuv, mouth, BOX, MASK)
    middle = round(float(BOX[0] + BOX[2]) / 2)
    assert (pasted.y[:, : middle - 2] == yuv.y[:, : middle - 2]).all()
    assert (pasted.y[:, middle + 2 :] == plain.y[:, middle + 2 :]).all()
    assert (plain.y[:, : middle - 2] != yuv.y[:, : middle - 2]).any()


def write_mask(path: Path, shape: list[int], channel: int, *, keep: int = 256, **more) -> Path:
    """Write a network whose mask is the red or another channel of its input."""
    axis = shape.index(3)
    starts, ends = np.zeros(4, np.int64), np.array(shape)
    starts[axis], ends[axis] = channel, channel + 1
    ends[1 if axis == 3 else 2] = keep
    initial = [
        helper.make_tensor(name, TensorProto.INT64, [4], values)
        for name, values in (("a", starts), ("b", ends))
    ]
    nodes = [helper.make_node("Slice", ["face", "a", "b"], ["mask"])]
    graph = helper.make_graph(
        nodes,
        "mask",
        [helper.make_tensor_value_info("face", more.get("dtype", TensorProto.FLOAT), shape)],
        [helper.make_tensor_value_info("mask", more.get("dtype", TensorProto.FLOAT), None)],
        initial,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    path.write_bytes(model.SerializeToString())
    return path


@pytest.mark.parametrize("shape", [[1, 256, 256, 3], [1, 3, 256, 256]], ids=["NHWC", "NCHW"])
def test_mask_file(tmp_path, shape):
    """Blue, green, red; 1 is the face."""
    image = np.zeros((100, 100, 3), np.uint8)
    image[:, 60:] = (0, 0, 255)
    finder = MaskFileOcclusion(write_mask(tmp_path / "m.onnx", shape, 2))
    front = examine(finder, YuvImage.from_image(image, Colour()), np.array([0, 0, 100, 100], np.float32))
    assert front.weights is not None
    assert front.weights[:, 62:].max() < 0.1 and front.weights[:, :52].min() > 0.9
    assert front.hides_mouth


def test_mask_file_is_loaded_once_unless_it_changes(tmp_path, monkeypatch):
    loaded = []
    monkeypatch.setattr(
        occlusion_file,
        "make_file_session",
        lambda path, *_: loaded.append(path) or make_file_session(path, *_),
    )
    path = write_mask(tmp_path / "m.onnx", [1, 256, 256, 3], 2)
    load_occlusion(str(path)), load_occlusion(str(path))
    assert loaded == [path]
    write_mask(path, [1, 3, 256, 256], 2)
    assert load_occlusion(str(path)) and len(loaded) == 2


def test_still_image_is_cropped_and_examined_once():
    faces = []

    def nothing(frame, face):
        faces.append(face)
        return NOTHING

    frames = [TrackedFrame(SimpleNamespace(index=number, yuv=YUV), BOX, False) for number in range(9)]
    chosen = list(select_frames(frames, FaceLimits(), (), Fraction(25), 96, nothing))
    assert len(faces) == 1 and all(item.face is faces[0] for item in chosen)


def test_refused_mask_files(tmp_path):
    good = [1, 256, 256, 3]
    damaged = tmp_path / "damaged.onnx"
    damaged.write_bytes(b"\x08" * 100)
    external = onnx.load(write_mask(tmp_path / "external.onnx", good, 2))
    tensor = external.graph.initializer[0]
    tensor.ClearField("int64_data")
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="/etc/passwd")
    (tmp_path / "external.onnx").write_bytes(external.SerializeToString())
    foreign, nested = (onnx.load(write_mask(tmp_path / "plain.onnx", good, 2)) for _ in range(2))
    foreign.graph.node[0].domain = "com.microsoft"
    (tmp_path / "foreign.onnx").write_bytes(foreign.SerializeToString())
    nested.graph.node[0].attribute.append(helper.make_attribute("body", external.graph))
    (tmp_path / "nested.onnx").write_bytes(nested.SerializeToString())
    files = [
        tmp_path / "foreign.onnx",
        tmp_path / "nested.onnx",
        tmp_path / "missing.onnx",
        tmp_path,
        damaged,
        tmp_path / "external.onnx",
        write_mask(tmp_path / "size.onnx", [1, 128, 128, 3], 2),
        write_mask(tmp_path / "type.onnx", good, 2, dtype=TensorProto.UINT8),
        write_mask(tmp_path / "output.onnx", good, 2, keep=200),
    ]
    for file in files:
        with pytest.raises(CheckpointError, match=file.name):
            MaskFileOcclusion(file)
