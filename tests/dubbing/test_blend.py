"""Pasting a mouth: position, unchanged pixels, soft rim."""

from __future__ import annotations

from typing import get_args

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from skimage import data

from wav2lip_npu.dubbing.blend import Blend, Mask, load_mask, paste
from wav2lip_npu.media.yuv_image import Box, Colour, Image, YuvImage

SIZE = 96
BLENDS = get_args(Blend)
SOFT, HARD = (load_mask(blend, SIZE) for blend in BLENDS)
COLOURS = [Colour(matrix, full_range) for matrix in ("bt601", "bt709") for full_range in (False, True)]
BOXES = [
    (60, 40, 156, 136),  # the size of the network
    (60.25, 39.5, 177.75, 181.3),  # larger
    (101.7, 80.2, 140.1, 121.9),  # smaller
    (30, 60, 230, 110),  # wider, lower
    (-40.5, -30.2, 90.1, 101.7),  # over the left top corner
    (190.3, 150.8, 311.2, 290.9),  # over the right bottom corner
    (-500, -700, 1500, 1400),  # larger than the frame
    (100, 100, 103, 104),
    (100.6, 100.2, 101.4, 101.1),
    (101, 77, 108, 85),
]


def box(*edges: float) -> Box:
    return np.array(edges, np.float32)


def noise(width: int = 256, height: int = 240, seed: int = 0) -> YuvImage:
    draw = np.random.default_rng(seed)
    half = (height // 2, width // 2)
    y, u, v = (draw.integers(0, 256, shape, dtype=np.uint8) for shape in ((height, width), half, half))
    return YuvImage(y, u, v, Colour())


def flat(level: int, colour: Colour = Colour("bt601", True), width: int = 256, height: int = 240) -> YuvImage:
    chroma = np.full((height // 2, width // 2), 128, np.uint8)
    return YuvImage(np.full((height, width), level, np.uint8), chroma, chroma.copy(), colour)


def smooth_photo(colour: Colour = Colour()) -> YuvImage:
    """Return the astronaut photo without details finer than the network's pixels."""
    image = np.ascontiguousarray(data.astronaut()[..., ::-1])
    return YuvImage.from_image(cv2.GaussianBlur(image, (0, 0), 3), colour)


def mouth_of(level: int, mask: Mask) -> Image:
    return np.full((SIZE, SIZE, 3), level, np.uint8)[mask.top_row :]


def planes_of(source: YuvImage) -> tuple[NDArray[np.uint8], NDArray[np.uint8], NDArray[np.uint8]]:
    return source.y, source.u, source.v


def lower_edges(face_box: Box, mask: Mask) -> Box:
    """Return the part of the box that the mouth covers."""
    x1, y1, x2, y2 = face_box
    return box(x1, y1 + (y2 - y1) * mask.top_row / SIZE, x2, y2)


# Unchanged pixels


@pytest.mark.parametrize("edges", BOXES)
def test_soft_blend_changes_nothing_above_its_top_row_or_outside_the_box(edges: tuple[float, ...]) -> None:
    before = noise()
    after = paste(before, noise_mouth(SOFT), box(*edges), SOFT)
    covered = lower_edges(box(*edges), SOFT)
    for ours, theirs, scale in zip(planes_of(after), planes_of(before), (1, 0.5, 0.5), strict=True):
        changed = ours != theirs
        left, top = np.maximum(np.floor(covered[:2] * scale), 0).astype(int)
        right, bottom = np.maximum(np.ceil(covered[2:] * scale), 0).astype(int)
        changed[top:bottom, left:right] = False
        assert not changed.any()
    assert after.colour == before.colour


def noise_mouth(mask: Mask, seed: int = 1) -> Image:
    return np.random.default_rng(seed).integers(0, 256, (SIZE - mask.top_row, SIZE, 3), dtype=np.uint8)


@pytest.mark.parametrize("side", [33, 60, 96, 150, 400])
def test_pixels_outside_the_mask_keep_their_bits(side: float) -> None:
    """The corners of the box are unchanged in all planes, for any mouth."""
    face_box = box(20.3, 10.6, 20.3 + side, 10.6 + 1.1 * side)
    before = noise(512, 500)
    after = paste(before, noise_mouth(SOFT), face_box, SOFT)
    for ours, theirs, scale in zip(planes_of(after), planes_of(before), (1, 0.5, 0.5), strict=True):
        rows, columns = np.indices(ours.shape)
        x1, y1, x2, y2 = face_box * scale
        across = (columns + 0.5 - x1) / (x2 - x1) * SIZE
        down = (rows + 0.5 - y1) / (y2 - y1) * SIZE - SOFT.top_row
        reach = int(
            np.ceil(1 + 1.5 * SIZE / min(x2 - x1, y2 - y1))
        )  # mask pixels that affect a pixel of the plane
        inside = np.pad(SOFT.weights > 0, 200).astype(np.uint8)
        padded = cv2.dilate(inside, np.ones((2 * reach + 1,) * 2))
        near = padded[
            np.clip(down + 200, 0, len(padded) - 1).astype(int),
            np.clip(across + 200, 0, padded.shape[1] - 1).astype(int),
        ]
        assert np.array_equal(ours[near == 0], theirs[near == 0])
        assert (ours != theirs).any()


@pytest.mark.parametrize("mask", [SOFT, HARD], ids=BLENDS)
@pytest.mark.parametrize("edges", BOXES)
def test_input_is_not_modified(edges: tuple[float, ...], mask: Mask) -> None:
    before, mouth, face_box = noise(), noise_mouth(mask), box(*edges)
    kept = before.copy()
    paste(before, mouth, face_box, mask)
    for ours, theirs in zip(planes_of(before), planes_of(kept), strict=True):
        assert np.array_equal(ours, theirs)
    assert np.array_equal(mouth, noise_mouth(mask))
    assert np.array_equal(face_box, box(*edges))


@pytest.mark.parametrize("mask", [SOFT, HARD], ids=BLENDS)
@pytest.mark.parametrize(
    "edges",
    [
        (300, 10, 400, 110),
        (10, 300, 110, 400),
        (-90, 0, -5, 90),
        (0, -90, 90, -1),
        (9, 9, 9, 9),
        (9, 9, 5, 5),
    ],
)
def test_box_outside_the_frame_or_empty(edges: tuple[float, ...], mask: Mask) -> None:
    before = noise()
    after = paste(before, noise_mouth(mask), box(*edges), mask)
    for ours, theirs in zip(planes_of(after), planes_of(before), strict=True):
        assert np.array_equal(ours, theirs)


@settings(max_examples=150, deadline=None)
@given(
    x=st.floats(-300, 400, width=32),
    y=st.floats(-300, 400, width=32),
    width=st.one_of(st.floats(0.125, 8, width=32), st.floats(8, 600, width=32)),
    height=st.one_of(st.floats(0.125, 8, width=32), st.floats(8, 600, width=32)),
    blend=st.sampled_from(BLENDS),
)
def test_any_box_gives_a_valid_image(x: float, y: float, width: float, height: float, blend: str) -> None:
    before, mask = flat(100), load_mask(blend, SIZE)
    after = paste(before, mouth_of(180, mask), box(x, y, x + width, y + height), mask)
    for ours, theirs in zip(planes_of(after), planes_of(before), strict=True):
        assert (ours.shape, ours.dtype) == (theirs.shape, theirs.dtype)
    assert after.y.min() >= 100  # no overshoot
    assert after.y.max() <= 180
    assert np.abs(after.u.astype(int) - 128).max() <= 1
    area = max(0.0, min(256, x + width) - max(0, x)) * max(0.0, min(240, y + height) - max(0, y))
    assert (after.y != 100).sum() <= area + 2 * (width + height) + 4


# The hard paste


@pytest.mark.parametrize("edges", BOXES)
def test_hard_replaces_the_rounded_box(edges: tuple[float, ...]) -> None:
    after = paste(flat(10), mouth_of(200, HARD), box(*edges), HARD)
    x1, y1, x2, y2 = np.maximum(np.round(box(*edges)), 0).astype(int)
    expected = np.full((240, 256), 10, np.uint8)
    expected[y1:y2, x1:x2] = 200
    assert np.array_equal(after.y, expected)


def test_hard_blend_resizes_like_the_original() -> None:
    """Up to the difference between cubic and linear interpolation on a smooth face."""
    photo = smooth_photo(Colour("bt601", True))
    face = photo.crop(box(150, 40, 330, 230), SIZE)
    after = paste(photo, face, box(50, 100, 200, 280), HARD).to_image()
    expected = cv2.resize(face, (150, 180))
    difference = np.abs(after[100:280, 50:200].astype(int) - expected)
    assert np.percentile(difference, 99) <= 6


# Position of the mouth


@pytest.mark.parametrize("mask", [SOFT, HARD], ids=BLENDS)
@pytest.mark.parametrize("side", [30, 48, 60.5, 95.5, 96, 97.25, 120.7, 199.9, 333.3, 700])
def test_impulse_is_pasted_at_its_position(side: float, mask: Mask) -> None:
    draw = np.random.default_rng(int(side))
    rows, columns = np.indices((SIZE, SIZE)).astype(np.float64)
    for _ in range(3):
        x, y = draw.uniform(2, 20, 2)
        face_box = box(x, y, x + side, y + 1.2 * side)
        across, down = draw.uniform(40, 56), draw.uniform(64, 74)
        spot = np.rint(120 * np.exp(-((columns - across) ** 2 + (rows - down) ** 2) / (2 * 2.5**2)))
        mouth = cv2.merge([(100 + spot).astype(np.uint8)] * 3)[mask.top_row :]
        background = flat(100, width=int(side + 40) // 2 * 2, height=int(1.2 * side + 40) // 2 * 2)
        seen = paste(background, mouth, face_box, mask).y.astype(np.float64) - 100
        spot[mask.top_row :] *= mask.weights
        spot[: mask.top_row] *= mask.exact
        x1, y1, x2, y2 = np.round(face_box) if mask.exact else face_box
        for axis, centre, start, length in ((1, columns, x1, x2 - x1), (0, rows, y1, y2 - y1)):
            expected = start + ((spot * centre).sum() / spot.sum() + 0.5) * length / SIZE - 0.5
            got = (seen.sum(axis=1 - axis) * np.arange(seen.shape[axis])).sum() / seen.sum()
            assert abs(got - expected) < 0.1


@pytest.mark.parametrize(
    "edges",
    [(180, 60, 276, 156), (181.3, 61.7, 279.9, 180.2), (170.4, 40.6, 300.9, 190.2), (150, 30, 310, 210)],
)
@pytest.mark.parametrize("mask", [SOFT, HARD], ids=BLENDS)
def test_crop_then_paste_changes_little(edges: tuple[float, ...], mask: Mask) -> None:
    photo, face_box = smooth_photo(), box(*edges)
    if mask.exact:
        face_box = np.round(face_box)
    after = paste(photo, photo.crop(face_box, SIZE)[mask.top_row :], face_box, mask)
    for ours, theirs in zip(planes_of(after), planes_of(photo), strict=True):
        difference = ours.astype(int) - theirs
        assert np.abs(difference).max() <= 6
        covered = np.prod(face_box[2:] - face_box[:2]) * difference.size / photo.y.size
        assert abs(difference.sum()) / covered < 0.3  # no tint
    left, top, right, bottom = face_box.astype(int)
    middle = slice(top + (bottom - top) * 5 // 8, bottom - 8), slice(left + 16, right - 16)
    (dx, dy), _ = cv2.phaseCorrelate(photo.y[middle].astype(np.float32), after.y[middle].astype(np.float32))
    assert max(abs(dx), abs(dy)) < 0.1


@pytest.mark.parametrize("colour", COLOURS, ids=str)
@pytest.mark.parametrize("mask", [SOFT, HARD], ids=BLENDS)
def test_colours_are_preserved(colour: Colour, mask: Mask) -> None:
    for bgr in ((20, 20, 20), (40, 60, 200), (200, 90, 30), (60, 180, 70), (235, 235, 235), (120, 150, 190)):
        source = YuvImage.from_image(np.full((200, 200, 3), bgr, np.uint8), colour)
        face_box = box(40.3, 30.2, 170.1, 180.9)
        after = paste(source, source.crop(face_box, SIZE)[mask.top_row :], face_box, mask)
        for ours, theirs in zip(planes_of(after), planes_of(source), strict=True):
            assert np.abs(ours.astype(int) - theirs).max() <= 2


# The rim of the mask


@pytest.mark.parametrize("side", [96, 150, 200, 400])
def test_seam_is_soft(side: int) -> None:
    """A mouth that is 60 levels too bright has no edge: the step is spread over several pixels of the rim."""
    face_box = box(30.4, 20.7, 30.4 + side, 20.7 + side)
    after = paste(flat(100, width=512, height=500), mouth_of(160, SOFT), face_box, SOFT).y.astype(int)
    assert after.max() == 160
    steps = max(np.abs(np.diff(after, axis=axis)).max() for axis in (0, 1))
    assert steps <= 60 * min(0.4, 36 / side) + 1
    hard = paste(flat(100, width=512, height=500), mouth_of(160, HARD), face_box, HARD).y.astype(int)
    assert np.abs(np.diff(hard, axis=0)).max() == 60


@pytest.mark.parametrize("side", [24, 96, 200, 500])
def test_mask_grows_from_rim_to_middle_without_a_ring(side: int) -> None:
    face_box = box(30, 20, 30 + side, 20 + side)
    after = paste(flat(0, width=600, height=540), mouth_of(255, SOFT), face_box, SOFT).y.astype(int)
    row = after[20 + round(0.72 * side), 30 : 30 + side]
    column = after[20 : 20 + side, 30 + side // 2]
    for line in (row, column):
        peak = int(np.argmax(line))
        assert line[peak] == 255
        assert (np.diff(line[: peak + 1]) >= 0).all()
        last = len(line) - 1 - int(np.argmax(line[::-1]))
        assert (line[peak : last + 1] == 255).all()
        assert (np.diff(line[last:]) <= 0).all()


def test_mask_is_symmetric_and_covers_the_lower_face() -> None:
    weights = SOFT.weights
    assert weights.shape == (SIZE - SOFT.top_row, SIZE)
    assert weights.dtype == np.float32
    np.testing.assert_allclose(weights, weights[:, ::-1], atol=1e-6)
    assert weights.min() == 0
    assert weights.max() == 1
    assert (weights[:, [0, -1]] == 0).all()
    assert (weights[-1] == 0).all()
    assert 38 <= SOFT.top_row < 48
    assert weights[70 - SOFT.top_row, 30:66].min() == 1
    assert HARD.top_row == 0
    assert (HARD.weights == 1).all()


def test_rim_keeps_the_grain_of_the_skin():
    grain = np.random.default_rng(0).normal(128, 8, (400, 400, 1)).clip(0, 255).astype(np.uint8)
    yuv = YuvImage.from_image(np.repeat(grain, 3, axis=2), Colour())
    mask = load_mask("soft", 96)
    box = np.array([8, 8, 392, 392], np.float32)
    pasted = paste(yuv, np.full((*mask.weights.shape, 3), 128, np.uint8), box, mask)
    weights = cv2.resize(np.pad(mask.weights, ((mask.top_row, 0), (0, 0))), (384, 384))
    rim = np.pad((weights > 0.3) & (weights < 0.5), 8)
    assert pasted.y[rim].std() > 0.9 * yuv.y[rim].std()
    assert pasted.y[np.pad(weights > 0.99, 8)].std() < 0.1 * yuv.y.std()
