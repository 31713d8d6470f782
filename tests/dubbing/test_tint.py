"""Black-and-white, sepia and tinted film keeps its colours."""

from __future__ import annotations

import itertools
from fractions import Fraction
from typing import get_args

import cv2
import numpy as np
import pytest
from skimage import data

from wav2lip_npu.dubbing.blend import Blend, load_mask, paste
from wav2lip_npu.dubbing.tint import tint_of
from wav2lip_npu.media.video_reader import read_frames
from wav2lip_npu.media.video_writer import EncodeOptions, write_video
from wav2lip_npu.media.yuv_image import Colour, Image, YuvImage

BOX = np.array([30.5, 20.25, 210.25, 200.75], np.float32)
SEPIA = np.array([[0.131, 0.168, 0.189], [0.534, 0.686, 0.769], [0.272, 0.349, 0.393]])
"""Matrix of the sepia filter of image editors, for rows of BGR."""


def face() -> Image:
    """Return a colour photo of a face, 256 x 240."""
    return np.ascontiguousarray(data.astronaut()[0:240, 100:356, ::-1])


def grey(image: Image) -> Image:
    return cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_BGR2GRAY), cv2.COLOR_GRAY2BGR)


def sepia(image: Image) -> Image:
    return np.clip(np.rint(image @ SEPIA), 0, 255).astype(np.uint8)


def mouth(blend: Blend) -> Image:
    """Return a reddish, uneven mouth, like that of a generator."""
    size = 96
    red = np.full((size, size, 3), (60, 70, 200), np.uint8)
    red[::7] = (150, 160, 240)
    return red[load_mask(blend, size).top_row :]


def coded(image: Image, crf: int, tmp_path) -> YuvImage:
    """Return the image after H.264."""
    path = tmp_path / "a.mp4"
    yuv = YuvImage.from_image(image, Colour("bt709", False, (1, 1, 1, 1)))
    write_video([yuv] * 3, path, fps=Fraction(25), options=EncodeOptions(crf=crf, preset="ultrafast"))
    return next(itertools.islice(read_frames(path), 2, None)).yuv


@pytest.mark.parametrize("blend", get_args(Blend))
@pytest.mark.parametrize("level", [(128, 128), (110, 140)])
def test_constant_chroma_stays(blend, level):
    """B8: constant chroma does not change."""
    yuv = YuvImage.from_image(face(), Colour())
    yuv.u.fill(level[0])
    yuv.v.fill(level[1])
    pasted = paste(yuv, mouth(blend), BOX, load_mask(blend, 96))
    assert np.array_equal(pasted.u, yuv.u) and np.array_equal(pasted.v, yuv.v)
    assert (pasted.y != yuv.y).mean() > 0.1


@pytest.mark.parametrize("crf", [18, 28, 35])
def test_coded_grey_stays_grey(tmp_path, crf):
    """B8: black-and-white film whose codec left noise in the chroma."""
    yuv = coded(grey(face()), crf, tmp_path)
    pasted = paste(yuv, mouth("soft"), BOX, load_mask("soft", 96))
    for plane in (pasted.u, pasted.v):
        assert np.abs(plane.astype(int) - 128).max() <= 2


@pytest.mark.parametrize("crf", [10, 18, 26])
def test_sepia_stays_sepia(tmp_path, crf):
    """B8: the mouth keeps the relation between chroma and luma, as in sepia."""
    yuv = coded(sepia(face()), crf, tmp_path)
    tint = tint_of(yuv, BOX)
    assert tint is not None and tint.weight > 0.8
    pasted = paste(yuv, mouth("soft"), BOX, load_mask("soft", 96))
    y = cv2.resize(pasted.y, pasted.u.shape[::-1], interpolation=cv2.INTER_AREA)
    assert (np.abs(pasted.y.astype(int) - yuv.y) > 8).mean() > 0.05
    for plane, table in ((pasted.u, tint.u), (pasted.v, tint.v)):
        assert np.abs(plane - table[y])[60:90, 40:80].mean() < 3


def test_colour_film_gets_the_colours_of_the_mouth(tmp_path):
    """B8: lips of a colour film keep their own colour."""
    for crf in (10, 23, 35):
        yuv = coded(face(), crf, tmp_path)
        assert tint_of(yuv, BOX) is None
    pasted = paste(yuv, mouth("soft"), BOX, load_mask("soft", 96))
    centre = np.s_[70:80, 55:65]
    assert pasted.v[centre].mean() > yuv.v[centre].mean() + 20


def test_box_outside_the_frame():
    """B8: a face outside the frame has no tint."""
    yuv = YuvImage.from_image(grey(face()), Colour())
    assert tint_of(yuv, np.array([300, 300, 400, 400], np.float32)) is None
    assert tint_of(yuv, np.array([-50, -60, 1, 1], np.float32)) is not None
