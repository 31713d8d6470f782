"""Resizing, rotation and cropping of frames."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from support.media_files import max_difference, scene
from wav2lip_npu.errors import UsageError
from wav2lip_npu.media.geometry import Geometry, crop, rotate, shrink
from wav2lip_npu.media.yuv_image import Colour, YuvImage

COLOURS = [
    Colour(matrix, full) for matrix in ("bt601", "bt709", "bt2020", "smpte240m") for full in (False, True)
]


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_crop_is_exact_in_luma(data):
    yuv = YuvImage.from_image(scene(40, 30), Colour())
    top, left = data.draw(st.integers(0, 29)), data.draw(st.integers(0, 39))
    bottom, right = data.draw(st.integers(top + 1, 30)), data.draw(st.integers(left + 1, 40))
    cropped = crop(yuv, top, bottom, left, right)
    assert np.array_equal(cropped.y[: bottom - top, : right - left], yuv.y[top:bottom, left:right])
    assert cropped.width % 2 == cropped.height % 2 == 0
    assert cropped.u.shape == cropped.v.shape == (cropped.height // 2, cropped.width // 2)
    assert (
        max_difference(
            cropped.to_image()[: bottom - top, : right - left], scene(40, 30)[top:bottom, left:right]
        )
        <= 8
    )


def test_rotation_by_quarter_turns():
    yuv = YuvImage.from_image(scene(), Colour())
    for quarters in range(-1, 4):
        turned = rotate(yuv, quarters)
        assert np.array_equal(turned.y, np.rot90(yuv.y, quarters))
        assert max_difference(turned.to_image(), np.rot90(yuv.to_image(), quarters)) <= 4
    assert np.array_equal(rotate(rotate(yuv, 1), -1).y, yuv.y)


@pytest.mark.parametrize("factor, size", [(2, (48, 32)), (3, (32, 22)), (5, (20, 12)), (1000, (2, 2))])
def test_shrinking_averages(factor, size):
    yuv = YuvImage.from_image(scene(), Colour())
    small = shrink(yuv, factor)
    assert (small.width, small.height) == size
    expected = YuvImage.from_image(cv2.resize(scene(), size, interpolation=cv2.INTER_AREA), Colour())
    assert max(max_difference(getattr(small, plane), getattr(expected, plane)) for plane in "yuv") <= 1
    if factor == 2:
        mean = yuv.y.reshape(32, 2, 48, 2).astype(float).mean(axis=(1, 3))
        assert np.abs(small.y - mean).max() <= 0.5


def test_geometry_shrinks_then_rotates_then_crops():
    yuv = YuvImage.from_image(scene(200, 120), Colour())
    changed = Geometry(resize_factor=2, rotate=True, crop=(10, -1, 5, 45)).apply(yuv)
    small = cv2.resize(scene(200, 120), (100, 60), interpolation=cv2.INTER_AREA)
    assert max_difference(changed.to_image(), np.rot90(small, -1)[10:, 5:45]) <= 4
    assert Geometry().apply(yuv) is yuv


@pytest.mark.parametrize("crop", [(0, 200, 0, -1), (70, -1, 0, -1), (0, -1, 0, 97), (0, -1, 96, -1)])
def test_crop_outside_the_frame_raises(crop):
    with pytest.raises(UsageError, match="--crop .* 96x64"):
        Geometry(crop=crop).apply(YuvImage.from_image(scene(), Colour()))


@pytest.mark.parametrize("factor", [0, -3])
def test_resize_factor_below_one_raises(factor):
    with pytest.raises(UsageError, match=f"--resize_factor {factor} "):
        Geometry(resize_factor=factor)


@pytest.mark.parametrize("crop", [(50, 50, 0, -1), (0, -1, -2, -1), (-1, -1, 0, -1), (0, -1, 90, 20)])
def test_empty_or_negative_crop_raises_at_construction(crop):
    with pytest.raises(UsageError, match=f"--crop {' '.join(map(str, crop))} "):
        Geometry(crop=crop)
