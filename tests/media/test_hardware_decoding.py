"""Hardware decoding: tried at the start, left to the CPU where it fails, differs or is slower."""

from __future__ import annotations

from dataclasses import replace
from itertools import islice

import av
import numpy as np
import pytest

from wav2lip_npu.dubbing.extent import face_frames
from wav2lip_npu.dubbing.options import DubOptions
from wav2lip_npu.media import container, hardware_decoding, video_reader
from wav2lip_npu.media.container import probe
from wav2lip_npu.media.frame_sequence import FrameSequence
from wav2lip_npu.media.hardware_decoding import on_hardware
from wav2lip_npu.media.video_reader import read_frames
from wav2lip_npu.media.yuv_image import YuvImage


@pytest.fixture
def info(face_video):
    return probe(face_video)


@pytest.fixture
def opened(monkeypatch):
    """Make the CPU play the hardware, and return the names of what is opened."""
    names = []

    def fake(name, *, allow_software_fallback):
        assert allow_software_fallback
        names.append(name)

    monkeypatch.setattr(container, "HWAccel", fake)
    monkeypatch.setattr(hardware_decoding, "_has_decoder", lambda info: True)
    return names


@pytest.fixture
def change(monkeypatch):
    """Return a function that changes what the hardware decodes."""

    def patch(function):
        plain = video_reader._upright

        def upright(info, frame, size):
            image = plain(info, frame, size)
            return image if info.hwaccel is None else function(image)

        monkeypatch.setattr(video_reader, "_upright", upright)

    return patch


@pytest.mark.parametrize("hardware", ["auto", "cuda", "vaapi", "videotoolbox"])
def test_without_hardware_the_cpu_decodes(info, caplog, hardware):
    if hardware in ("auto", "cuda") and on_cuda():
        pytest.skip("this machine has a decoder")
    assert on_hardware(info, hardware) is info
    (line,) = [record for record in caplog.records if record.levelname == "WARNING"]
    assert f"--hwaccel {hardware}" in line.getMessage()


def on_cuda():
    try:
        av.codec.hwaccel.HWAccel("cuda").create(av.Codec("h264", "r"))
    except (OSError, av.error.FFmpegError):
        return False
    return True


def test_cpu_is_the_default_and_tries_nothing(info, opened):
    assert on_hardware(info, "none") is info
    list(islice(read_frames(info), 2))
    assert not opened


def test_hardware_with_equal_frames_decodes_all_passes(info, opened, caplog):
    caplog.set_level("INFO", "wav2lip_npu")
    chosen = on_hardware(info, "cuda")
    assert chosen == replace(info, hwaccel="cuda")
    (line,) = caplog.messages
    assert "--hwaccel cuda" in line and info.path in line
    opened.clear()
    frames = list(islice(read_frames(chosen, loop="pingpong"), 2 * info.frames))
    assert set(opened) == {"cuda"} and len(opened) > 1
    for one, other in zip(frames, read_frames(info, loop="pingpong"), strict=False):
        np.testing.assert_array_equal(one.yuv.y, other.yuv.y)


def test_a_dub_reads_from_the_hardware_of_its_option(info, opened):
    by_cpu, by_hardware = (
        [frame.yuv.y for frame in islice(face_frames(info, DubOptions(hwaccel=name), 9), 9)]
        for name in ("none", "cuda")
    )
    assert opened == ["cuda"] * 2  # the trial, and the frames
    np.testing.assert_array_equal(by_cpu, by_hardware)


@pytest.mark.parametrize("seconds, expected", [((0.2, 0.1), "cuda"), ((0.1, 0.2), None)])
def test_auto_chooses_the_faster(info, opened, monkeypatch, seconds, expected):
    trials = iter(seconds)
    plain = hardware_decoding._trial
    monkeypatch.setattr(
        hardware_decoding, "_trial", lambda info: plain(info)._replace(seconds=next(trials, 0.3))
    )
    assert on_hardware(info, "auto").hwaccel == expected


CHANGES = {
    "pixels": lambda image: replace(image, y=image.y ^ 4),
    "colour": lambda image: replace(image, colour=replace(image.colour, full_range=True)),
    "crop": lambda image: replace(image, y=image.y[2:], u=image.u[1:], v=image.v[1:]),
    "rotation": lambda image: YuvImage(image.y[::-1], image.u[::-1], image.v[::-1], image.colour),
}


@pytest.mark.parametrize("kind", CHANGES)
def test_hardware_whose_frames_differ_is_not_used(info, opened, change, kind):
    change(CHANGES[kind])
    assert on_hardware(info, "cuda") is info
    assert opened


def test_rounding_is_allowed(info, opened, change):
    change(lambda image: replace(image, u=image.u ^ 1))
    assert on_hardware(info, "cuda").hwaccel == "cuda"


@pytest.mark.parametrize("error", [OSError(1, "no device"), RuntimeError("no decoder")])
def test_hardware_that_cannot_be_opened(info, monkeypatch, error):
    def fail(*args, **values):
        raise error

    monkeypatch.setattr(container, "HWAccel", fail)
    assert on_hardware(info, "cuda") is info


def test_photos_interlaced_videos_and_frames_in_memory_are_left_to_the_cpu(info, opened):
    frames = FrameSequence.of(np.zeros((2, 8, 8, 3), np.uint8), info.fps)
    for other in (frames, replace(info, kind="image"), replace(info, interlaced=True)):
        assert on_hardware(other, "cuda") is other
    assert not opened


@pytest.mark.parametrize("pixels", ["nv12", "p010le"])
@pytest.mark.parametrize("full_range", [1, 2])
def test_formats_of_hardware_give_the_image_of_the_cpu(pixels, full_range):
    random = np.random.default_rng(0).integers(0, 256, (96, 64), np.uint8)
    frame = av.VideoFrame.from_ndarray(random, "yuv420p")
    frame.color_range, frame.colorspace = full_range, 1
    converted = frame.reformat(format=pixels, src_color_range=full_range, dst_color_range=full_range)
    converted.color_range, converted.colorspace = full_range, 1
    one, other = (YuvImage.from_frame(each, 64, 64) for each in (frame, converted))
    assert hardware_decoding._are_equal(one, other)
