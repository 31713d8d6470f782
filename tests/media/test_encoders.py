"""Encoders: the bytes of x264 on any number of cores, and hardware that answers or does not."""

from __future__ import annotations

from fractions import Fraction
from itertools import islice
from pathlib import Path

import av
import numpy as np
import pytest

from wav2lip_npu.errors import MediaError
from wav2lip_npu.media import encoders
from wav2lip_npu.media.encoders import EncodeOptions
from wav2lip_npu.media.video_reader import read_frames
from wav2lip_npu.media.video_writer import write_video
from wav2lip_npu.media.yuv_image import Colour, YuvImage


def moving(count: int) -> list[YuvImage]:
    """Return images of a texture that moves by up to 40 pixels per frame, with a scene cut."""
    texture = np.random.default_rng(0).integers(0, 256, (60, 60, 3), np.uint8).repeat(12, 0).repeat(12, 1)
    steps = np.cumsum(np.random.default_rng(1).integers(-40, 41, (count, 2)), axis=0) % 400
    images = [texture[y : y + 272, x : x + 240] for y, x in steps]
    return [
        YuvImage.from_image(255 - image if 2 * n > count else image, Colour())
        for n, image in enumerate(images)
    ]


def encoded(path: Path, images: list[YuvImage], options: EncodeOptions) -> bytes:
    write_video(images, path, fps=Fraction(25), options=options)
    return path.read_bytes()


def fake(codec: str = "libx264", **options: str) -> encoders._Hardware:
    return encoders._Hardware(codec, "nv12", ("qp",), options)


@pytest.mark.parametrize("options", [{}, {"preset": "slow"}, {"crf": 0, "preset": "ultrafast"}], ids=str)
@pytest.mark.parametrize("suffix", ["mp4", "avi"])
def test_bytes_do_not_depend_on_the_cores(tmp_path, monkeypatch, suffix, options):
    images, files = moving(24), set()
    for cores in (1, 2, 5, 64):
        monkeypatch.setattr(encoders, "cpu_count", lambda cores=cores: cores)
        files.add(encoded(tmp_path / f"{cores}.{suffix}", images, EncodeOptions(**options)))
    assert len(files) == 1
    assert b"threads=" not in files.pop()


@pytest.mark.parametrize(
    "hardware", [fake("no_such_codec"), fake(profile="unknown")], ids=["none", "refuses"]
)
@pytest.mark.parametrize("encoder", ["nvenc", "auto"])
def test_hardware_that_does_not_answer(tmp_path, monkeypatch, caplog, hardware, encoder):
    monkeypatch.setattr(encoders, "_HARDWARE", dict.fromkeys(("nvenc", "qsv"), hardware))
    images = moving(6)
    file = encoded(tmp_path / "a.mp4", images, EncodeOptions(encoder=encoder))
    assert file == encoded(tmp_path / "b.mp4", images, EncodeOptions())
    (line,) = caplog.messages
    assert f"--encoder {encoder}" in line


def test_hardware_that_answers(tmp_path, monkeypatch, caplog):
    caplog.set_level("INFO", "wav2lip_npu")
    working = fake(preset="ultrafast")
    monkeypatch.setattr(encoders, "_HARDWARE", {"nvenc": fake("no_such_codec"), "qsv": working})
    images = moving(12)
    paths = {}
    for crf in (5, 40, 0):
        paths[crf] = tmp_path / f"{crf}.mkv"
        encoded(paths[crf], images, EncodeOptions(encoder="auto", crf=crf))
    assert [message.split(": ")[1] for message in caplog.messages] == ["libx264"] * 2  # not with --crf 0
    for crf, path in paths.items():
        with av.open(str(path)) as container:
            assert container.streams.video[0].pix_fmt == "yuv420p"
        frames = list(read_frames(path))
        assert len(frames) == 12
        error = np.mean(
            [np.abs(f.yuv.y.astype(int) - i.y).mean() for f, i in zip(frames, images, strict=True)]
        )
        assert error < {5: 2, 40: 40, 0: 1e-9}[crf]
    assert paths[5].stat().st_size > 2 * paths[40].stat().st_size


def test_hardware_that_fails_later(tmp_path, monkeypatch):
    def fail(self: encoders.VideoEncoder, frame: av.VideoFrame | None) -> None:
        raise av.error.FFmpegError(5, "device lost")

    monkeypatch.setattr(encoders, "_HARDWARE", {"nvenc": fake(preset="ultrafast")})
    monkeypatch.setattr(encoders.VideoEncoder, "write", fail)
    with pytest.raises(MediaError, match="device lost.*--encoder x264"):
        encoded(tmp_path / "a.mp4", moving(2), EncodeOptions(encoder="nvenc"))


@pytest.mark.parametrize("name", list(encoders._HARDWARE))
def test_each_encoder_writes_a_video_on_any_machine(tmp_path, name):
    images = moving(8)
    encoded(tmp_path / "a.mp4", images, EncodeOptions(encoder=name, crf=20))
    assert len(list(islice(read_frames(tmp_path / "a.mp4"), 9))) == 8
