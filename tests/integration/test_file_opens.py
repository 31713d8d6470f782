"""A dub opens its face file no more often than necessary."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import cv2
import pytest

from support.faces import write_audio
from support.file_opens import record_opens
from wav2lip_npu.cli.main import main
from wav2lip_npu.media.video_reader import read_frames

BOX = ("--box", "20", "220", "60", "260", "--preset", "ultrafast")


@pytest.fixture
def dub(tiny_checkpoint, speech, tmp_path):
    def run(face: Path, *options: str, audio: Path = speech) -> None:
        code = main(
            ["dub", "--checkpoint_path", str(tiny_checkpoint), "--face", str(face), "--audio", str(audio),
             "--outfile", str(tmp_path / "out.mp4"), "--device", "cpu", *BOX, *options]
        )  # fmt: skip
        assert code == 0

    return run


def test_dub_of_a_video_opens_it_three_times(dub, face_video, monkeypatch):
    """Once to test for an image, once to probe it, once to read its frames."""
    opens = record_opens(monkeypatch)
    dub(face_video, "--extend", "hold")  # the decoder runs ahead of the end and would start over
    assert opens.count(str(face_video)) == 3


def test_each_repetition_of_a_short_video_opens_it_once_more(dub, face_video, tmp_path, monkeypatch):
    from wav2lip_npu.media.video_writer import EncodeOptions, write_video

    short = tmp_path / "short.mp4"
    frames = [frame.yuv for _, frame in zip(range(20), read_frames(face_video), strict=False)]
    write_video(frames, short, fps=Fraction(25), options=EncodeOptions(preset="ultrafast"))
    opens = record_opens(monkeypatch)
    dub(short, audio=write_audio(tmp_path / "long.wav", 1.5))
    assert 4 <= opens.count(str(short)) <= 5  # 1.5 s of 0.8 s; the decoder may be a repetition ahead


def test_dub_of_an_image_opens_it_twice(dub, face_video, tmp_path, monkeypatch):
    """Once to probe it, once to read it."""
    photo = tmp_path / "photo.png"
    cv2.imwrite(str(photo), next(read_frames(face_video)).image)
    opens = record_opens(monkeypatch)
    dub(photo)
    assert opens.count(str(photo)) == 2
