"""YUV images: colour conversion and crops with subpixel precision."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from support.media_files import scene
from wav2lip_npu.errors import UsageError
from wav2lip_npu.media.geometry import Geometry, crop, rotate, shrink
from wav2lip_npu.media.yuv_image import Colour, YuvImage, to_yuv

COLOURS = [
    Colour(matrix, full) for matrix in ("bt601", "bt709", "bt2020", "smpte240m") for full in (False, True)
]


def apart(one: np.ndarray, other: np.ndarray) -> int:
    return int(np.abs(one.astype(int) - other).max())


@pytest.mark.parametrize("colour", COLOURS, ids=lambda colour: f"{colour.matrix}-{colour.full_range}")
def test_colours_survive_conversion_to_yuv_and_back(colour):
    image = scene(384, 256)
    back = YuvImage.from_image(image, colour).to_image()
    assert apart(back, image) <= 3 and np.abs(back.astype(float) - image).mean() < 1


@pytest.mark.parametrize("colour", COLOURS, ids=lambda colour: f"{colour.matrix}-{colour.full_range}")
@settings(max_examples=20, deadline=None)
@given(bgr=st.tuples(*[st.integers(0, 255)] * 3))
def test_uniform_colour_survives_within_two_levels(colour, bgr):
    image = np.full((4, 4, 3), bgr, np.uint8)
    assert apart(YuvImage.from_image(image, colour).to_image(), image) <= 2


@pytest.mark.parametrize(
    "colour, white, black, red",
    [
        (Colour("bt601", False), (235, 128, 128), (16, 128, 128), (81, 90, 240)),
        (Colour("bt709", False), (235, 128, 128), (16, 128, 128), (63, 102, 240)),
        (Colour("bt601", True), (255, 128, 128), (0, 128, 128), (76, 85, 255)),
    ],
)
def test_standard_colours_have_standard_values(colour, white, black, red):
    image = np.array([[[255, 255, 255], [0, 0, 0], [0, 0, 255]]], np.uint8)
    assert apart(to_yuv(image, colour)[0], np.array([white, black, red])) <= 1


@pytest.mark.parametrize("width, height", [(1, 1), (101, 99), (100, 99), (101, 100)])
def test_odd_sides_are_doubled(width, height):
    image = scene(width, height)
    planes = YuvImage.from_image(image, Colour())
    assert (planes.width, planes.height) == (width + width % 2, height + height % 2)
    assert planes.u.shape == planes.v.shape == (planes.height // 2, planes.width // 2)
    assert np.array_equal(planes.y[:height, :width], cv2.split(to_yuv(image, Colour()))[0])
    assert np.array_equal(planes.y[-1, :width], planes.y[height - 1, :width])


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_crop_is_exact_in_luma(data):
    planes = YuvImage.from_image(scene(40, 30), Colour())
    top, left = data.draw(st.integers(0, 29)), data.draw(st.integers(0, 39))
    bottom, right = data.draw(st.integers(top + 1, 30)), data.draw(st.integers(left + 1, 40))
    cropped = crop(planes, top, bottom, left, right)
    assert np.array_equal(cropped.y[: bottom - top, : right - left], planes.y[top:bottom, left:right])
    assert cropped.width % 2 == cropped.height % 2 == 0
    assert cropped.u.shape == cropped.v.shape == (cropped.height // 2, cropped.width // 2)
    assert (
        apart(cropped.to_image()[: bottom - top, : right - left], scene(40, 30)[top:bottom, left:right]) <= 8
    )


def test_rotation_by_quarter_turns():
    planes = YuvImage.from_image(scene(), Colour())
    for quarters in range(-1, 4):
        turned = rotate(planes, quarters)
        assert np.array_equal(turned.y, np.rot90(planes.y, quarters))
        assert apart(turned.to_image(), np.rot90(planes.to_image(), quarters)) <= 4
    assert np.array_equal(rotate(rotate(planes, 1), -1).y, planes.y)


@pytest.mark.parametrize("factor, size", [(2, (48, 32)), (3, (32, 22)), (5, (20, 12)), (1000, (2, 2))])
def test_shrinking_averages(factor, size):
    planes = YuvImage.from_image(scene(), Colour())
    small = shrink(planes, factor)
    assert (small.width, small.height) == size
    expected = YuvImage.from_image(cv2.resize(scene(), size, interpolation=cv2.INTER_AREA), Colour())
    assert max(apart(getattr(small, plane), getattr(expected, plane)) for plane in "yuv") <= 1
    if factor == 2:
        mean = planes.y.reshape(32, 2, 48, 2).astype(float).mean(axis=(1, 3))
        assert np.abs(small.y - mean).max() <= 0.5


@pytest.mark.parametrize("width, height", [(96, 64), (48, 32), (20, 13), (200, 150)])
def test_scaling_matches_opencv(width, height):
    method = cv2.INTER_AREA if width < 96 else cv2.INTER_LINEAR
    expected = cv2.resize(scene(), (width, height), interpolation=method)
    assert apart(YuvImage.from_image(scene(), Colour()).scaled(width, height), expected) <= 4


@pytest.mark.parametrize("side", [96, 192, 288])
@pytest.mark.parametrize("x, y", [(0, 0), (10, 20), (11, 33)])
def test_crop_of_a_box_is_the_resized_crop(side, x, y):
    image = scene(400, 400)
    cut = YuvImage.from_image(image, Colour()).crop(np.array([x, y, x + side, y + side], np.float32), 96)
    expected = cv2.resize(image[y : y + side, x : x + side], (96, 96), interpolation=cv2.INTER_AREA)
    assert apart(cut, expected) <= 3


@settings(max_examples=30, deadline=None)
@given(x=st.floats(5, 40), y=st.floats(5, 40), side=st.floats(60, 250))
def test_crop_has_subpixel_precision(x, y, side):
    rows, columns = np.mgrid[:300, :300]
    image = np.repeat(np.rint((columns + rows) * 0.4 + 5).astype(np.uint8)[:, :, None], 3, axis=2)
    cut = YuvImage.from_image(image, Colour()).crop(np.array([x, y, x + side, y + side], np.float32), 96)
    down, across = ((np.mgrid[:96, :96] + 0.5) * side / 96 - 0.5) + np.array([y, x])[:, None, None]
    assert np.abs(cut[:, :, 1] - ((down + across) * 0.4 + 5)).max() < 2.5
    assert abs((cut[:, :, 1] - ((down + across) * 0.4 + 5)).mean()) < 0.6


def test_half_a_pixel():
    image = np.zeros((64, 64, 3), np.uint8)
    image[:, 32:] = 200
    planes = YuvImage.from_image(image, Colour())
    there = planes.crop(np.array([16, 16, 48, 48], np.float32), 32)[16, :, 1].astype(int)
    half = planes.crop(np.array([16.5, 16, 48.5, 48], np.float32), 32)[16, :, 1].astype(int)
    assert there[15] < 5 and there[16] > 195
    assert abs(half[15] - 100) < 5 and half[14] < 5 and half[16] > 195


def test_border_pixel_is_repeated_outside_the_image():
    cut = YuvImage.from_image(scene(), Colour()).crop(np.array([-96, -64, 0, 32], np.float32), 96)
    assert apart(cut[:64], np.broadcast_to(scene()[0, 0], (64, 96, 3))) <= 3


def test_geometry_shrinks_then_rotates_then_crops():
    planes = YuvImage.from_image(scene(200, 120), Colour())
    changed = Geometry(resize_factor=2, rotate=True, crop=(10, -1, 5, 45)).apply(planes)
    small = cv2.resize(scene(200, 120), (100, 60), interpolation=cv2.INTER_AREA)
    assert apart(changed.to_image(), np.rot90(small, -1)[10:, 5:45]) <= 4
    assert Geometry().apply(planes) is planes


@pytest.mark.parametrize(
    "crop", [(0, 200, 0, -1), (50, 50, 0, -1), (0, -1, -2, -1), (0, -1, 90, 20), (0, -1, 0, 97)]
)
def test_crop_outside_the_frame_raises(crop):
    with pytest.raises(UsageError, match="--crop .* 96x64"):
        Geometry(crop=crop).apply(YuvImage.from_image(scene(), Colour()))


@pytest.mark.parametrize("factor", [0, -3])
def test_resize_factor_below_one_raises(factor):
    with pytest.raises(UsageError, match=f"--resize_factor {factor} "):
        Geometry(resize_factor=factor)
