"""The enhancement of mouths: alignment, paste-back, steadiness, files of networks, and a whole dub."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from support.devices import DEVICE
from support.landmarks import projected
from support.media_files import max_difference
from support.talk import face
from wav2lip_npu import EnhanceOptions, Enhancer, dub, load_models
from wav2lip_npu.devices import device as devices
from wav2lip_npu.dubbing.enhance import Enhancement, add_change, aligned_to_frame, region_mask
from wav2lip_npu.dubbing.restoration_file import RestorationFile
from wav2lip_npu.dubbing.selection import SelectedFrame
from wav2lip_npu.errors import CheckpointError, UsageError
from wav2lip_npu.faces.tracker import TrackedFrame
from wav2lip_npu.media.video_reader import read_frames
from wav2lip_npu.media.yuv_image import Colour, YuvImage

IMAGE = cv2.resize(face(), (720, 720))
YUV = YuvImage.from_image(IMAGE, Colour())
TEMPLATE = np.array([[0.377, 0.469], [0.623, 0.469], [0.501, 0.613], [0.393, 0.725], [0.612, 0.725]])
CPU = devices.resolve("cpu")


def shown(yuv: YuvImage, landmarks: np.ndarray | None, *, cut: bool = False, **more) -> tuple:
    tracked = TrackedFrame(
        SimpleNamespace(yuv=yuv), np.array([200, 200, 528, 656], np.float32), cut, landmarks
    )
    values = {"reason": None, "opacity": 1.0, "face": None, "front": None, **more}
    return SelectedFrame(tracked, **values), yuv


def landmarks(size: float, turn: float, x: float = 360.0, y: float = 400.0) -> np.ndarray:
    """Return the landmarks of an aligned face of this size and angle, in pixels of the frame."""
    rotation = cv2.getRotationMatrix2D((0, 0), turn, size)[:, :2]
    return ((TEMPLATE - 0.5) @ rotation.T + [x, y]).astype(np.float32)


def enhancement(restore, size: int = 128, **options) -> Enhancement:
    return Enhancement(Enhancer(restore, TEMPLATE * size, size), EnhanceOptions(**options))


@pytest.mark.parametrize(("size", "turn"), [(60, 0), (128, 20), (900, -35)])
def test_alignment_finds_scale_angle_and_place(size, turn):
    points = landmarks(size, turn)
    to_frame = aligned_to_frame(TEMPLATE * 128, points)
    found = np.column_stack([TEMPLATE * 128, np.ones(5)]) @ to_frame.T
    assert np.abs(found - points).max() < 1e-3


def test_alignment_of_real_proportions_is_close():
    points = projected(20, 5, 10)
    to_frame = aligned_to_frame(TEMPLATE * 512, points)
    found = np.column_stack([TEMPLATE * 512, np.ones(5)]) @ to_frame.T
    assert np.linalg.norm(found - points, axis=1).max() < 0.2 * np.ptp(points, axis=0).max()
    assert np.degrees(np.arctan2(to_frame[1, 0], to_frame[0, 0])) == pytest.approx(10, abs=6)


@pytest.mark.parametrize("side", [64, 128, 300])
def test_aligned_square_without_rotation_is_the_crop(side):
    box = np.array([101.3, 90.8, 101.3 + side, 90.8 + side], np.float32)
    to_image = np.array([[side / 96, 0, box[0]], [0, side / 96, box[1]]], np.float64)
    difference = np.abs(YUV.aligned(to_image, 96).astype(int) - YUV.crop(box, 96))
    assert difference.max() <= 8 and difference.mean() < 1


@pytest.mark.parametrize(
    ("size", "turn", "x"), [(60, 0, 360), (400, 25, 360), (900, -35, 360), (300, 0, 5), (300, 0, -900)]
)
def test_network_that_changes_nothing_leaves_every_pixel(size, turn, x):
    ((_, result),) = enhancement(lambda image: image)([shown(YUV, landmarks(size, turn, x))])
    for name in "yuv":
        assert np.array_equal(getattr(result, name), getattr(YUV, name))


@pytest.mark.parametrize(("size", "turn"), [(90, 0), (500, 30)])
def test_change_arrives_where_it_was_made_and_only_there(size, turn):
    """A brighter face is brighter by the blend in the middle of the region, and unchanged outside it."""
    grey = YuvImage.from_image(np.full((720, 720, 3), 100, np.uint8), Colour())
    points = landmarks(size, turn)
    restore = enhancement(lambda image: image + np.uint8(50), enhance_blend=0.5)
    ((_, result),) = restore([shown(grey, points)])
    change = result.y.astype(int) - grey.y
    mouth = points[3:].mean(axis=0)
    assert change[round(float(mouth[1])), round(float(mouth[0]))] == pytest.approx(50 * 219 / 255 / 2, abs=1)
    eyes = points[:2].mean(axis=0).round().astype(int)
    assert change[eyes[1] - 2 : eyes[1] + 2, eyes[0] - 2 : eyes[0] + 2].max() == 0
    assert (change > 0).sum() < 0.4 * size**2
    assert np.array_equal(result.u, grey.u)


def test_paste_back_is_exact_to_half_a_grey_level():
    """A change that is smooth in the frame arrives as it is, after alignment and paste-back."""
    to_frame = aligned_to_frame(TEMPLATE * 256, landmarks(200, 15))
    rows, columns = np.mgrid[0:256, 0:256] + 0.5
    wave = 20 * np.sin(columns / 40) * np.sin(rows / 40) * np.hypot(columns - 128, rows - 128).clip(0, 1)
    fade = np.clip(4 - np.hypot(columns - 128, rows - 128) / 30, 0, 1)
    change = np.dstack([wave * fade, 0 * wave, 0 * wave]).astype(np.float32)
    flat = YuvImage.from_image(np.full((720, 720, 3), 100, np.uint8), Colour())
    found = add_change(flat, change, to_frame).y.astype(np.float64) - flat.y
    y, x = np.mgrid[0:720, 0:720] + 0.5
    back = np.linalg.inv(np.vstack([to_frame, [0, 0, 1]]))
    u, v = (back[row, 0] * x + back[row, 1] * y + back[row, 2] for row in range(2))
    true = 20 * np.sin(u / 40) * np.sin(v / 40) * np.clip(4 - np.hypot(u - 128, v - 128) / 30, 0, 1)
    assert np.abs(found - true).max() < 0.5 + 0.1  # 0.5 is the rounding to whole grey levels


def test_flicker_of_a_network_is_damped_where_the_face_is_still_but_not_across_cuts():
    points = landmarks(300, 0)
    levels = iter([0, 40, 0, 40, 0, 40])
    restore = enhancement(lambda image: image + np.uint8(next(levels)), enhance_blend=1)
    grey = YuvImage.from_image(np.full((720, 720, 3), 100, np.uint8), Colour())
    y, x = points[3:].mean(axis=0).round().astype(int)[::-1]
    frames = [shown(grey, points, cut=number == 5) for number in range(6)]
    found = [int(yuv.y[y, x]) - int(grey.y[y, x]) for _, yuv in restore(frames)]
    full = round(40 * 219 / 255)
    assert found[0] == 0 and 0 < found[1] < 0.5 * full
    assert max(found[1:5]) - min(found[1:5]) < 0.6 * full
    assert found[5] == pytest.approx(full, abs=1)


def test_frames_as_filmed_and_objects_in_front_are_not_enhanced():
    bright = enhancement(lambda image: np.full_like(image, 255))
    points = landmarks(300, 0)
    half = np.zeros((96, 96), np.float32)
    half[:, 48:] = 1
    frames = [
        shown(YUV, points, opacity=0.0, reason="covered"),
        shown(YUV, None),
        shown(YUV, points, front=half),
    ]
    kept, without, behind = (yuv for _, yuv in bright(frames))
    assert kept is YUV and without is YUV
    middle = (200 + 528) // 2
    assert np.array_equal(behind.y[:, middle + 4 :], YUV.y[:, middle + 4 :])
    assert not np.array_equal(behind.y[:, : middle - 4], YUV.y[:, : middle - 4])


def test_region_of_the_face_is_larger_than_that_of_the_mouth():
    mouth, whole = region_mask("mouth", 128), region_mask("face", 128)
    assert 1.5 * mouth.sum() < whole.sum()
    assert mouth[:60].max() < 0.5 and mouth.max() == whole.max() == 1


def write_network(
    path: Path, size: int = 512, batch: int | str = 1, kind: int = TensorProto.FLOAT, **more
) -> Path:
    """Write a network that returns the image plus `weight` (if it has that input), minus 0.25."""
    shape = [batch, more.get("channels", 3), size, size]
    inputs = [helper.make_tensor_value_info("input", kind, shape)]
    constant = helper.make_tensor("c", kind, [], [more.get("add", -0.25)])
    nodes = [helper.make_node("Add", ["input", "c"], ["sum"])]
    last = "sum"
    if more.get("weight"):
        inputs.append(helper.make_tensor_value_info("weight", TensorProto.DOUBLE, [1]))
        nodes.append(helper.make_node("Cast", ["weight"], ["w"], to=kind))
        nodes.append(helper.make_node("Add", ["sum", "w"], ["out"]))
        last = "out"
    if more.get("pool"):
        nodes.append(helper.make_node("MaxPool", [last], ["small"], kernel_shape=[2, 2], strides=[2, 2]))
        last = "small"
    outputs = [helper.make_tensor_value_info(last, kind, None)]
    graph = helper.make_graph(nodes, "restoration", inputs, outputs, [constant])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    onnx.save(model, path)
    return path


@pytest.mark.parametrize(
    ("form", "weight", "change"),
    [
        ({}, 0.5, -0.25),
        ({"batch": "batch"}, 0.5, -0.25),
        ({"kind": TensorProto.FLOAT16}, 0.5, -0.25),
        ({"weight": True}, 0.5, 0.25),
        ({"weight": True}, 1.0, 0.75),
        ({"size": 256}, 0.5, -0.25),
    ],
    ids=["GFPGAN", "any batch", "float16", "CodeFormer", "CodeFormer's weight", "GPEN 256"],
)
def test_networks_are_told_by_their_inputs(tmp_path, form, weight, change):
    network = RestorationFile(write_network(tmp_path / "any name.onnx", **form), CPU, weight)
    image = np.zeros((network.size, network.size, 3), np.uint8)
    image[...] = (40, 60, 80)
    found = network(image).astype(int) - image
    expected = np.clip(image + change * 127.5, 0, 255) - image
    assert max_difference(found, expected) <= 1
    eye, nose = network.template[0] / network.size, network.template[2] / network.size
    assert (eye[1] < 0.42) == (network.size == 256) and 0.5 < nose[1] < 0.65


def test_files_that_are_not_restoration_networks_are_refused(tmp_path):
    damaged = tmp_path / "damaged.onnx"
    damaged.write_bytes(b"\x08\x07" + bytes(40))
    external = onnx.load(write_network(tmp_path / "plain.onnx"))
    tensor = external.graph.initializer[0]
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="/etc/passwd")
    (tmp_path / "external.onnx").write_bytes(external.SerializeToString())
    foreign = onnx.load(tmp_path / "plain.onnx")
    foreign.graph.node[0].domain = "other"
    (tmp_path / "foreign.onnx").write_bytes(foreign.SerializeToString())
    nested = onnx.load(tmp_path / "plain.onnx")
    nested.graph.node[0].attribute.append(helper.make_attribute("body", external.graph))
    (tmp_path / "nested.onnx").write_bytes(nested.SerializeToString())
    files = [
        tmp_path / "missing.onnx", tmp_path, damaged, tmp_path / "external.onnx", tmp_path / "foreign.onnx",
        tmp_path / "nested.onnx",
        write_network(tmp_path / "size.onnx", size=300),
        write_network(tmp_path / "channels.onnx", channels=1),
        write_network(tmp_path / "output.onnx", pool=True),
    ]  # fmt: skip
    for file in files:
        with pytest.raises(CheckpointError, match=file.name):
            RestorationFile(file, CPU, 0.5)


@pytest.mark.parametrize(("name", "value"), [("enhance_blend", 1.1), ("enhance_weight", float("nan"))])
def test_options_out_of_range_are_refused(name, value):
    with pytest.raises(UsageError, match=f"--{name}"):
        EnhanceOptions(**{name: value})


def test_enhancement_needs_landmarks(tmp_path, tiny_checkpoint, face_video, speech):
    file = write_network(tmp_path / "a.onnx", size=256)
    models = load_models(tiny_checkpoint, detector="hog", device=str(DEVICE))
    for options, named in (({}, "--detector hog"), ({"box": (20, 200, 40, 220)}, "--box")):
        with pytest.raises(UsageError, match=named):
            dub(face_video, speech, tmp_path / "a.mp4", models=models, enhance=str(file), **options)
    assert not (tmp_path / "a.mp4").exists()


@pytest.mark.any_device
def test_dub_with_a_network_that_changes_nothing_is_the_dub(tmp_path, tiny_checkpoint, face_video, speech):
    models = load_models(tiny_checkpoint, device=str(DEVICE))
    plain = dub(face_video, speech, tmp_path / "plain.mp4", models=models, crf=0)
    same = write_network(tmp_path / "same.onnx", size=256, add=0.0)
    darker = Enhancer(lambda image: image // 2, TEMPLATE * 128, 128)
    with_file = dub(face_video, speech, tmp_path / "file.mp4", models=models, crf=0, enhance=str(same))
    with_hook = dub(face_video, speech, tmp_path / "hook.mp4", models=replace(models, enhancer=darker), crf=0)
    assert plain.dubbed_frames == with_file.dubbed_frames > 0
    assert with_file.enhancer == str(same) and plain.enhancer is None and with_hook.enhancer is not None
    assert "enhance" in with_file.stages and "enhance" not in plain.stages
    images = [
        [frame.image for frame in read_frames(tmp_path / f"{name}.mp4")] for name in ("plain", "file", "hook")
    ]
    assert np.array_equal(images[0], images[1])
    assert (np.mean(images[2], axis=(1, 2, 3)) < np.mean(images[0], axis=(1, 2, 3)) - 0.1).any()
