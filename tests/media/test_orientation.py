"""Orientation of videos: quarter turns and mirroring from the display matrix."""

from __future__ import annotations

import logging
import struct
from pathlib import Path

import numpy as np
import pytest

from support.media_files import max_difference, scene, write_frames
from wav2lip_npu.media.container import probe
from wav2lip_npu.media.video_reader import read_frames

ONE = 1 << 16


def with_matrix(path: Path, a: float, b: float, c: float, d: float) -> Path:
    """Write a matrix into the track header of an MP4: a point (p, q) is shown at (a p + c q, b p + d q)."""
    data = bytearray(path.read_bytes())
    at = data.index(b"tkhd") + 4 + 40  # version 0
    values = [round(value * ONE) for value in (a, b, 0, c, d, 0, 0, 0)]
    data[at : at + 36] = struct.pack(">9i", *values, 1 << 30)
    path.write_bytes(data)
    return path


SHOWN = {
    (1, 0, 0, 1): lambda image: image,
    (0, 1, -1, 0): lambda image: np.rot90(image, -1),
    (-1, 0, 0, -1): lambda image: np.rot90(image, 2),
    (0, -1, 1, 0): lambda image: np.rot90(image),
    (-1, 0, 0, 1): lambda image: image[:, ::-1],
    (1, 0, 0, -1): lambda image: image[::-1],
    (0, 1, 1, 0): lambda image: image.transpose(1, 0, 2),
    (0, -1, -1, 0): lambda image: np.rot90(image, 2).transpose(1, 0, 2),
}


@pytest.mark.parametrize("suffix", ["mp4", "mov"])
@pytest.mark.parametrize("matrix", SHOWN, ids=str)
def test_whole_matrix_is_applied(tmp_path, matrix, suffix):
    """B9: the whole display matrix determines the orientation, not only its angle."""
    path = with_matrix(write_frames(tmp_path / f"a.{suffix}", [scene()] * 3), *matrix)
    expected = SHOWN[matrix](scene())
    info = probe(path)
    assert (info.height, info.width) == expected.shape[:2]
    for frame in read_frames(path):
        assert max_difference(frame.image, expected) <= 12


@pytest.mark.parametrize("matrix", [(0, 0, 0, 0), (1, 1, 1, 1), (0, 0, 0, 1)], ids=str)
def test_singular_matrix_is_ignored(tmp_path, matrix):
    """B9: a matrix of zeros turned the video by 90 degrees."""
    path = with_matrix(write_frames(tmp_path / "a.mp4", [scene()] * 3), *matrix)
    assert (probe(path).rotation, probe(path).mirrored) == (0, False)
    assert max_difference(next(read_frames(path)).image, scene()) <= 12


@pytest.mark.parametrize("degrees, quarters", [(30, 0), (60, 1), (100, 1), (-80, 3), (0.5, 0)])
def test_other_angles_become_the_nearest_quarter_turn(tmp_path, caplog, degrees, quarters):
    """B9: the rest of the angle is not applied, and a warning says so."""
    angle = np.radians(degrees)
    cos, sin = np.cos(angle), np.sin(angle)
    path = with_matrix(write_frames(tmp_path / "a.mp4", [scene()] * 3), cos, -sin, sin, cos)
    with caplog.at_level(logging.WARNING):
        assert probe(path).rotation == 90 * quarters
    assert ("a.mp4" in caplog.text) == (degrees != 0.5)
    assert max_difference(next(read_frames(path)).image, np.rot90(scene(), quarters)) <= 12
