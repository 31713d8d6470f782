"""YUV images: colour conversion and crops with subpixel precision."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from support.media_files import max_difference, scene
from wav2lip_npu.media.yuv_image import Colour, YuvImage, to_yuv

COLOURS = [
    Colour(matrix, full) for matrix in ("bt601", "bt709", "bt2020", "smpte240m") for full in (False, True)
]


@pytest.mark.parametrize("colour", COLOURS, ids=lambda colour: f"{colour.matrix}-{colour.full_range}")
def test_colours_survive_conversion_to_yuv_and_back(colour):
    image = scene(384, 256)
    back = YuvImage.from_image(image, colour).to_image()
    assert max_difference(back, image) <= 3 and np.abs(back.astype(float) - image).mean() < 1


@pytest.mark.parametrize("colour", COLOURS, ids=lambda colour: f"{colour.matrix}-{colour.full_range}")
@settings(max_examples=20, deadline=None)
@given(bgr=st.tuples(*[st.integers(0, 255)] * 3))
def test_uniform_colour_survives_within_two_levels(colour, bgr):
    image = np.full((4, 4, 3), bgr, np.uint8)
    assert max_difference(YuvImage.from_image(image, colour).to_image(), image) <= 2


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
    assert max_difference(to_yuv(image, colour)[0], np.array([white, black, red])) <= 1


@pytest.mark.parametrize("width, height", [(1, 1), (101, 99), (100, 99), (101, 100)])
def test_odd_sides_are_padded(width, height):
    image = scene(width, height)
    yuv = YuvImage.from_image(image, Colour())
    assert (yuv.width, yuv.height) == (width + width % 2, height + height % 2)
    assert yuv.u.shape == yuv.v.shape == (yuv.height // 2, yuv.width // 2)
    assert np.array_equal(yuv.y[:height, :width], cv2.split(to_yuv(image, Colour()))[0])
    assert np.array_equal(yuv.y[-1, :width], yuv.y[height - 1, :width])


@pytest.mark.parametrize("width, height", [(96, 64), (48, 32), (20, 13), (200, 150)])
def test_scaling_matches_opencv(width, height):
    method = cv2.INTER_AREA if width < 96 else cv2.INTER_LINEAR
    expected = cv2.resize(scene(), (width, height), interpolation=method)
    assert max_difference(YuvImage.from_image(scene(), Colour()).scaled(width, height), expected) <= 4


@pytest.mark.parametrize("side", [96, 192, 288])
@pytest.mark.parametrize("x, y", [(0, 0), (10, 20), (11, 33)])
def test_crop_of_a_box_is_the_resized_crop(side, x, y):
    image = scene(400, 400)
    cut = YuvImage.from_image(image, Colour()).crop(np.array([x, y, x + side, y + side], np.float32), 96)
    expected = cv2.resize(image[y : y + side, x : x + side], (96, 96), interpolation=cv2.INTER_AREA)
    assert max_difference(cut, expected) <= 3


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
    yuv = YuvImage.from_image(image, Colour())
    row = yuv.crop(np.array([16, 16, 48, 48], np.float32), 32)[16, :, 1].astype(int)
    half = yuv.crop(np.array([16.5, 16, 48.5, 48], np.float32), 32)[16, :, 1].astype(int)
    assert row[15] < 5 and row[16] > 195
    assert abs(half[15] - 100) < 5 and half[14] < 5 and half[16] > 195


def test_border_pixel_is_repeated_outside_the_image():
    cut = YuvImage.from_image(scene(), Colour()).crop(np.array([-96, -64, 0, 32], np.float32), 96)
    assert max_difference(cut[:64], np.broadcast_to(scene()[0, 0], (64, 96, 3))) <= 3


@pytest.mark.parametrize("side", [287.5, 300, 611.3, 1300])
@pytest.mark.parametrize("x", [-40.3, 0, 101.7])
def test_large_crop_is_the_mean_of_its_areas(side, x):
    """Waves, whose means over areas are known. They are dithered, so that rounding is unbiased."""
    length = 400
    wave = 120 + 60 * np.sin(2 * np.pi * (np.arange(900) + 0.5) / length)
    dither = np.random.default_rng(0).uniform(0, 1, (700, 900))
    image = np.repeat((wave + dither).astype(np.uint8)[..., None], 3, axis=2)
    yuv = YuvImage.from_image(image, Colour())
    cut = yuv.crop(np.array([x, 20, x + side, 20 + side], np.float32), 96)
    edges = x + side * np.arange(97) / 96
    inside = (edges[:-1] >= 2) & (edges[1:] <= 898)
    middles = (edges[:-1] + edges[1:]) / 2
    expected = 120 + 60 * np.sinc(side / 96 / length) * np.sin(2 * np.pi * middles / length)
    assert abs((cut[30, :, 1] - expected)[inside].mean()) < 1.3
    assert np.abs(cut[30, :, 1] - expected)[inside].max() < 3
