"""Video reader: frame rates, rotation, pixel formats and loops."""

from __future__ import annotations

import gc
import itertools
import os
import random
import weakref
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from PIL import Image as Pillow

from support.media_files import (
    chirp,
    max_difference,
    number_of,
    numbered,
    numbers_of,
    scene,
    write_audio,
    write_frames,
)
from wav2lip_npu.errors import MediaError, UsageError
from wav2lip_npu.media import video_reader
from wav2lip_npu.media.container import probe
from wav2lip_npu.media.geometry import Geometry
from wav2lip_npu.media.video_reader import read_frames


def count_video(path: Path, count: int, **options) -> Path:
    return write_frames(path, (numbered(number) for number in range(count)), **options)


# Rate and time


@pytest.mark.parametrize("rate", ["22.13", "24000/1001", "25", "30000/1001", "30", "60", "15/2"])
@pytest.mark.parametrize("suffix", ["mp4", "mkv", "avi", "mov"])
def test_frame_rate_is_exact(tmp_path, rate, suffix):
    path = count_video(tmp_path / f"a.{suffix}", 12, fps=Fraction(rate))
    assert probe(path).fps == Fraction(rate)
    assert numbers_of(path) == list(range(12))


@pytest.mark.parametrize("rate", [24, 25, Fraction(30000, 1001), 60])
def test_millisecond_time_stamps_keep_every_frame(tmp_path, rate):
    stamps = [round(1000 * number / rate) for number in range(100)]
    path = count_video(
        tmp_path / "a.mkv", 100, fps=Fraction(rate), stamps=stamps, time_base=Fraction(1, 1000)
    )
    assert numbers_of(path) == list(range(100))


def test_uneven_time_stamps_keep_every_frame(tmp_path):
    chance = random.Random(1)
    stamps = [number * 1000 + chance.randint(-400, 400) for number in range(1, 61)]
    path = count_video(tmp_path / "a.mp4", 60, fps=Fraction(30), stamps=stamps, time_base=Fraction(1, 30000))
    assert numbers_of(path, fps=Fraction(30)) == list(range(60))


def test_held_frame_is_repeated(tmp_path):
    stamps = [0, 1, 2, 3, 30, 31, 32, 33]
    path = count_video(tmp_path / "a.mp4", 8, stamps=stamps, time_base=Fraction(1, 25))
    assert numbers_of(path, fps=Fraction(25)) == [0, 1, 2] + [3] * 27 + [4, 5, 6, 7]
    frames = list(read_frames(path, fps=Fraction(25)))
    assert frames[3].yuv is frames[29].yuv
    assert [frame.index for frame in frames] == [frame.source for frame in frames] == list(range(34))


@pytest.mark.parametrize(
    "source, wanted", [(30, 25), (24, 30), (60, 25), (25, 50), (Fraction(2213, 100), 25)]
)
def test_times_at_another_rate_are_within_a_frame(tmp_path, source, wanted):
    path = count_video(tmp_path / "a.mp4", 90, fps=Fraction(source))
    shown = numbers_of(path, fps=Fraction(wanted))
    assert abs(len(shown) - 90 * wanted / source) <= 1
    late = [number / source - position / wanted for position, number in enumerate(shown)]
    assert max(map(abs, late)) <= max(1 / wanted, 1 / source)
    assert shown == sorted(shown)


def test_variable_rate_keeps_times(tmp_path):
    stamps, now, chance = [], 0, random.Random(2)
    for _ in range(80):
        stamps.append(now)
        now += chance.choice([20, 33, 40, 66, 150])
    path = count_video(tmp_path / "a.mp4", 80, fps=Fraction(25), stamps=stamps, time_base=Fraction(1, 1000))
    shown = numbers_of(path, fps=Fraction(25))
    late = [position * 40 - stamps[number] for position, number in enumerate(shown)]
    assert min(late) >= -40
    assert all(-40 <= value <= 190 for value in late)


@pytest.mark.parametrize("jump", [900, 100_000])
def test_clock_jump_does_not_hold_a_frame(tmp_path, jump):
    stamps = [*range(10), *range(jump * 25, jump * 25 + 10)]
    path = count_video(tmp_path / "a.mkv", 20, stamps=stamps, time_base=Fraction(1, 25))
    frames = read_frames(path, fps=Fraction(25))
    assert [number_of(frame.image) for frame in itertools.islice(frames, 20)] == list(range(20))


def test_joined_recordings_continue(tmp_path):
    one, two = (count_video(tmp_path / f"{n}.mpg", 30, codec="mpeg1video", form="mpeg") for n in "ab")
    joined = tmp_path / "joined.mpg"
    joined.write_bytes(one.read_bytes() + two.read_bytes())
    assert numbers_of(joined)[:58] == [*range(30), *range(28)]
    order = numbers_of(joined, 150, loop="pingpong")
    assert order[60:118] == order[1:59][::-1] and order[118:150] == order[:32]


def test_last_frame_of_an_animation_keeps_its_duration(tmp_path):
    images = [Pillow.fromarray(numbered(number)) for number in range(4)]
    path = tmp_path / "a.gif"
    images[0].save(path, save_all=True, append_images=images[1:], duration=[100, 100, 100, 2000])
    assert numbers_of(path, fps=Fraction(10)) == [0, 1, 2] + [3] * 20


# Size, orientation and colour


@pytest.mark.parametrize("rotation", [0, 90, 180, 270])
def test_frames_are_upright(tmp_path, rotation):
    upright = scene(96, 64)
    path = write_frames(tmp_path / "a.mp4", [np.rot90(upright, -rotation // 90)] * 5, rotation=rotation)
    info = probe(path)
    assert (info.width, info.height, info.rotation) == (96, 64, rotation)
    for frame in read_frames(path):
        assert max_difference(frame.image, upright) <= 12


def test_pixel_aspect_of_rotated_video(tmp_path):
    assert probe(
        write_frames(tmp_path / "a.mp4", [scene()] * 2, aspect=Fraction(4, 3))
    ).pixel_aspect == Fraction(4, 3)
    turned = write_frames(tmp_path / "b.mp4", [scene()] * 2, aspect=Fraction(4, 3), rotation=90)
    assert probe(turned).pixel_aspect == Fraction(3, 4)
    assert probe(write_frames(tmp_path / "c.mp4", [scene()] * 2)).pixel_aspect == 1


@pytest.mark.parametrize(
    "suffix, codec, pix_fmt",
    [
        ("mp4", "libx264", "yuv444p"),
        ("avi", "mpeg4", "yuv420p"),
        ("avi", "mjpeg", "yuvj420p"),
        ("mkv", "ffv1", "yuv420p"),
        ("mkv", "ffv1", "yuv422p"),
        ("mkv", "ffv1", "gray"),
    ],
)
def test_odd_sizes_keep_every_pixel(tmp_path, suffix, codec, pix_fmt):
    path = write_frames(tmp_path / f"a.{suffix}", [scene(101, 99)] * 3, codec=codec, pix_fmt=pix_fmt)
    with av.open(str(path)) as container:
        decoded = next(container.decode(video=0))
    luma = np.frombuffer(decoded.planes[0], np.uint8).reshape(99, -1)[:, :101]
    yuv = next(read_frames(path)).yuv
    assert (yuv.width, yuv.height) == (102, 100)
    assert np.array_equal(yuv.y[:99, :101], luma)
    info = probe(path)
    assert (info.width, info.height) == (101, 99)


BT709 = {"colorspace": 1, "color_primaries": 1, "color_trc": 1, "color_range": 1}
BT601 = {"colorspace": 6, "color_primaries": 6, "color_trc": 6, "color_range": 1}
BT2020 = {"colorspace": 9, "color_primaries": 9, "color_trc": 14, "color_range": 1}


@pytest.mark.parametrize(
    "suffix, codec, pix_fmt, labels",
    [
        ("mp4", "libx264", "yuv420p", {}),
        ("mp4", "libx264", "yuv420p", BT709),
        ("mp4", "libx264", "yuv420p", BT601),
        ("mp4", "libx264", "yuv420p", BT2020),
        ("mp4", "libx264", "yuvj420p", {**BT601, "color_range": 2}),
        ("mp4", "libx264", "yuv420p", {**BT709, "color_range": 2}),
        ("mp4", "libx264", "yuv422p", BT709),
        ("mp4", "libx264", "yuv444p", BT709),
        ("mp4", "libx264", "yuv420p10le", BT709),
        ("mp4", "libx264", "yuv422p10le", {}),
        ("mkv", "ffv1", "yuv444p10le", BT601),
        ("avi", "mjpeg", "yuvj422p", {}),
        ("mkv", "ffv1", "bgr0", {}),
        ("mkv", "ffv1", "gbrp10le", {}),
        ("mov", "png", "rgb24", {}),
        ("avi", "rawvideo", "bgr24", {}),
        ("mkv", "libvpx", "yuv420p", {}),
        ("mp4", "mpeg4", "yuv420p", {}),
    ],
)
def test_colours_match_the_source(tmp_path, suffix, codec, pix_fmt, labels):
    options = {"crf": "4"} if codec in ("libx264", "libvpx") else {}
    image = scene(192, 128)
    path = write_frames(
        tmp_path / f"a.{suffix}", [image] * 2, codec=codec, pix_fmt=pix_fmt, labels=labels, options=options
    )
    frame = next(read_frames(path))
    error = np.abs(frame.image.astype(float) - image)
    # PyAV 17 (Python 3.10) writes one of the sources with a wrong matrix.
    mean, largest = (2, 16) if int(av.__version__.partition(".")[0]) >= 18 else (4, 20)
    assert error.mean() < mean and error.max() <= largest
    if labels:
        kept = [labels[key] for key in ("color_range", "colorspace", "color_primaries", "color_trc")]
        assert list(frame.yuv.colour.labels) == kept


def test_grey_stays_grey(tmp_path):
    image = cv2.cvtColor(cv2.cvtColor(scene(), cv2.COLOR_BGR2GRAY), cv2.COLOR_GRAY2BGR)
    path = write_frames(tmp_path / "a.mkv", [image] * 2, codec="ffv1", pix_fmt="gray")
    assert max_difference(next(read_frames(path)).image, image) <= 2


def test_frames_of_another_size_are_resized(tmp_path):
    one = write_frames(tmp_path / "a.m2v", [scene(96, 64)] * 5, codec="mpeg1video", form="mpeg1video")
    two = write_frames(tmp_path / "b.m2v", [scene(192, 128)] * 5, codec="mpeg1video", form="mpeg1video")
    joined = tmp_path / "c.m1v"
    joined.write_bytes(one.read_bytes() + two.read_bytes())
    shapes = {frame.image.shape for frame in read_frames(joined)}
    assert shapes == {(64, 96, 3)}


# Loops


def ways(count: int) -> dict[str, list[int]]:
    forwards = list(range(count))
    backwards = forwards[-2::-1]
    return {
        "none": forwards,
        "loop": forwards * 3,
        "pingpong": forwards + (backwards + forwards[1:]) * 2,
        "hold": forwards + [count - 1] * count,
    }


@pytest.mark.parametrize("loop", video_reader.LOOPS)
@pytest.mark.parametrize("count", [1, 2, 40])
def test_frame_order_of_loops(tmp_path, loop, count):
    path = count_video(tmp_path / "a.mp4", count)
    expected = ways(count)[loop]
    frames = list(itertools.islice(read_frames(path, loop=loop), len(expected)))
    assert [number_of(frame.image) for frame in frames] == [frame.source for frame in frames] == expected
    assert [frame.index for frame in frames] == list(range(len(expected)))


SOURCES = {
    "h264": {"codec": "libx264", "form": "h264"},
    "hevc": {"codec": "libx265", "form": "hevc", "options": {"x265-params": "log-level=none:keyint=12"}},
    "mpg": {"codec": "mpeg1video", "form": "mpeg", "options": {"g": "12", "bf": "2"}},
    "vob": {"codec": "mpeg2video", "form": "vob", "options": {"g": "12", "bf": "2"}},
    "ts": {"codec": "libx264", "form": "mpegts", "options": {"x264-params": "keyint=12:bframes=3"}},
    "m2ts": {"codec": "mpeg2video", "form": "mpegts", "options": {"g": "12", "bf": "2"}},
    "avi": {"codec": "mpeg4", "options": {"g": "12", "bf": "2"}},
    "x264.avi": {"codec": "libx264", "options": {"x264-params": "keyint=12:bframes=3"}},
    "mkv": {"codec": "libx264", "options": {"x264-params": "keyint=12:bframes=3:open-gop=1:scenecut=0"}},
    "mp4": {
        "codec": "libx264",
        "options": {"x264-params": "keyint=12:min-keyint=12:bframes=3:open-gop=1:scenecut=0:b-pyramid=2"},
    },
    "m2.mkv": {"codec": "mpeg2video", "options": {"g": "12", "bf": "2"}},
    "hevc.mp4": {
        "codec": "libx265",
        "options": {"x265-params": "log-level=none:keyint=12:open-gop=1:scenecut=0"},
    },
    "webm": {"codec": "libvpx", "options": {"g": "12", "deadline": "realtime"}},
    "vp9.webm": {"codec": "libvpx-vp9", "options": {"g": "12", "deadline": "realtime", "cpu-used": "8"}},
    "mov": {"codec": "mjpeg", "pix_fmt": "yuvj420p"},
    "one.mp4": {"codec": "libx264", "options": {"x264-params": "keyint=1000:bframes=3"}},
    "flv": {"codec": "libx264", "options": {"x264-params": "keyint=12:bframes=2"}},
}


@pytest.mark.parametrize("suffix", SOURCES)
def test_pingpong_repeats_the_same_bytes(tmp_path, suffix, monkeypatch):
    """Read pieces of eight frames, across key frames, open GOPs and containers with inexact seeking."""
    monkeypatch.setattr(video_reader, "_REVERSE_BYTES", 1)
    count = 45
    path = count_video(tmp_path / f"a.{suffix}", count, **SOURCES[suffix])
    frames = itertools.islice(read_frames(path, loop="pingpong"), 3 * count)
    first: dict[int, video_reader.Frame] = {}
    order = []
    for frame in frames:
        order.append(frame.source)
        same = first.setdefault(frame.source, frame)
        for plane in "yuv":
            assert np.array_equal(getattr(frame.yuv, plane), getattr(same.yuv, plane)), frame
    assert order == ways(count)["pingpong"][: 3 * count]
    assert [number_of(first[number].image) for number in range(count)] == list(range(count))


@pytest.mark.parametrize("loop", video_reader.LOOPS)
def test_memory_is_bounded(tmp_path, loop, monkeypatch):
    monkeypatch.setattr(video_reader, "_REVERSE_BYTES", 1)
    path = count_video(tmp_path / "a.mp4", 120, options={"x264-params": "keyint=1000"})
    alive: weakref.WeakSet[video_reader.YuvImage] = weakref.WeakSet()
    most = 0
    from_frame = video_reader.YuvImage.from_frame

    class Counted(video_reader.YuvImage):
        __hash__ = object.__hash__

        @classmethod
        def from_frame(cls, *given):
            yuv = from_frame(*given)
            counted = Counted(yuv.y, yuv.u, yuv.v, yuv.colour)
            alive.add(counted)
            return counted

    monkeypatch.setattr(video_reader, "YuvImage", Counted)
    for _ in itertools.islice(read_frames(path, loop=loop), 400):
        most = max(most, len(alive))
    assert 1 <= most <= 12


def test_decoded_frames_are_freed_without_garbage_collection(tmp_path):
    path = write_frames(tmp_path / "a.mp4", [scene()] * 30)
    gc.collect()
    gc.disable()
    try:
        for frame in read_frames(path):
            del frame
        kept = [item for item in gc.get_objects() if isinstance(item, av.VideoFrame)]
    finally:
        gc.enable()
    assert not kept


def test_file_that_changes_during_reading_raises(tmp_path):
    path = count_video(tmp_path / "a.mp4", 10)
    frames = read_frames(path, loop="loop")
    for _ in range(10):
        next(frames)
    count_video(path, 5)
    with pytest.raises(MediaError, match=r"a\.mp4 changed"):
        list(itertools.islice(frames, 10))


def test_geometry_applies_to_every_frame(tmp_path):
    path = count_video(tmp_path / "a.mp4", 20)
    geometry = Geometry(resize_factor=2, rotate=True, crop=(1, -1, 3, -1))
    for frame in itertools.islice(read_frames(path, loop="pingpong", geometry=geometry), 50):
        assert frame.image.shape == (32, 22, 3)
    with pytest.raises(UsageError, match=r"--crop 0 1000 0 -1 .*64x48"):
        next(read_frames(path, geometry=Geometry(crop=(0, 1000, 0, -1))))


def test_files_are_closed(tmp_path):
    path = count_video(tmp_path / "a.mp4", 30)
    write_frames(tmp_path / "s.mp4", [scene()] * 30, audio=chirp(1.2))
    open_files = len(os.listdir("/proc/self/fd"))
    for loop in video_reader.LOOPS:
        frames = read_frames(path, loop=loop)
        for _ in range(20):
            next(frames)
        assert len(os.listdir("/proc/self/fd")) == open_files + 1
        frames.close()
        assert len(os.listdir("/proc/self/fd")) == open_files
    frames = read_frames(path, loop="pingpong")
    list(itertools.islice(frames, 45))
    frames.close()
    probe(path)
    with pytest.raises(MediaError):
        probe(write_audio(tmp_path / "a.mp3", chirp(1), 16_000, "libmp3lame"))
    gc.collect()
    assert len(os.listdir("/proc/self/fd")) == open_files


def test_real_clips(shared_data):
    for path in sorted((shared_data / "clips").glob("*"))[::5]:
        info = probe(path)
        frames = list(itertools.islice(read_frames(path), 10))
        assert len(frames) == 10 and frames[0].image.shape[:2] == (
            info.height + info.height % 2,
            info.width + info.width % 2,
        )
