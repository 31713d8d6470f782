"""Copies of a section of a video and of a recording."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from support.media_files import chirp, numbered, numbers_of, write_frames
from wav2lip_npu.media.audio_reader import read_audio
from wav2lip_npu.media.container import probe
from wav2lip_npu.media.section import copy_audio, copy_video


def write_numbers(path: Path, count: int = 100, **more: object) -> Path:
    return write_frames(
        path,
        map(numbered, range(count)),
        fps=Fraction(25),
        options={"g": "10", "bf": "2"},
        **more,  # type: ignore[arg-type]
    )


def test_section_begins_at_a_key_frame(tmp_path: Path) -> None:
    source = write_numbers(tmp_path / "a.mp4", audio=chirp(4.0))
    offset = copy_video(probe(source), tmp_path / "b.mkv", 1.7, 2.4)
    assert offset is not None
    first = round(offset * 25)
    assert 32 <= first <= 42
    numbers = numbers_of(tmp_path / "b.mkv")
    assert numbers == list(range(first, first + len(numbers)))
    assert 60 <= numbers[-1] < 99
    assert not probe(tmp_path / "b.mkv").has_audio


def test_orientation_is_kept(tmp_path: Path) -> None:
    source = write_numbers(tmp_path / "a.mp4", rotation=90)
    info = probe(source)
    assert copy_video(info, tmp_path / "b.mkv", 2, 2.4) is not None
    copied = probe(tmp_path / "b.mkv")
    assert (copied.width, copied.height, copied.rotation) == (info.width, info.height, info.rotation)


def test_video_without_time_stamps_is_not_cut(tmp_path: Path) -> None:
    assert copy_video(probe(write_numbers(tmp_path / "a.avi")), tmp_path / "b.mkv", 2, 2.4) is None


def test_section_of_a_recording(tmp_path: Path) -> None:
    source = write_numbers(tmp_path / "a.mp4", audio=chirp(4.0))
    copy_audio(source, tmp_path / "b.wav", 1.2, 2.5)
    whole, part = read_audio(source), read_audio(tmp_path / "b.wav")
    assert len(part) == round(1.3 * 16_000)
    assert np.abs(whole[19_200:40_000] - part).max() < 1e-4
    copy_audio(source, tmp_path / "c.wav", 3.0, 9.0)
    assert len(read_audio(tmp_path / "c.wav")) == pytest.approx(16_000, abs=100)
