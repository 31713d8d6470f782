"""Video writer: frames, audio, labels, and files that cannot be written."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from support.media_files import chirp, lag_of, number_of, numbered, scene, write_frames, write_wav
from wav2lip_npu.errors import MediaError, UsageError
from wav2lip_npu.media.audio_reader import measure_audio, read_audio
from wav2lip_npu.media.container import probe
from wav2lip_npu.media.video_reader import read_frames
from wav2lip_npu.media.video_writer import EncodeOptions, VideoTags, check_target, write_video
from wav2lip_npu.media.yuv_image import Colour, YuvImage

FAST = EncodeOptions(preset="ultrafast")
RATES = ["22.13", "24000/1001", "25", "30000/1001", "30", "60", "7.5", "1"]
SUFFIXES = ["mp4", "mov", "mkv", "avi"]


def yuv_images(count: int, colour: Colour = Colour()) -> Iterator[YuvImage]:
    return (YuvImage.from_image(numbered(number % 256), colour) for number in range(count))


def ends(path: Path) -> dict[str, float]:
    """Return the seconds at which each decoded track ends."""
    seconds = {}
    with av.open("file:" + str(path)) as container:
        for stream in container.streams:
            container.seek(0)
            last = start = None
            for frame in container.decode(stream):
                start = frame.time if start is None else start
                length = (
                    frame.samples / frame.sample_rate if stream.type == "audio" else 1 / stream.average_rate
                )
                last = frame.time + float(length)
            if container.format.name == "avi" and stream.type == "video":
                last -= start  # FFmpeg guesses the first time stamp in AVI
            seconds[stream.type] = last
    return seconds


@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_rate_and_number_of_frames(tmp_path, rate, suffix):
    path = tmp_path / f"a.{suffix}"
    assert write_video(yuv_images(30), path, fps=Fraction(rate), options=FAST) == 30
    info = probe(path)
    assert (info.fps, info.width, info.height, info.has_audio) == (Fraction(rate), 64, 48, False)
    assert info.frames in (30, None)
    assert [number_of(frame.image) for frame in read_frames(path)] == list(range(30))
    assert os.listdir(tmp_path) == [path.name]


@pytest.mark.parametrize("suffix", ["mp4", "mov", "mkv", "avi"])
@pytest.mark.parametrize("rate", [8000, 11025, 16000, 22050, 44100, 48000, 96000, 192000])
def test_audio_keeps_rate_and_position(tmp_path, rate, suffix):
    audio = write_wav(tmp_path / "a.wav", chirp(1, rate), rate)
    path = tmp_path / f"a.{suffix}"
    write_video(yuv_images(25), path, fps=Fraction(25), audio=audio, options=FAST)
    heard, wav = measure_audio(path), read_audio(path)
    assert heard.sample_rate == (rate if suffix == "avi" else min(rate, 96_000))
    assert heard.channels == 1
    assert abs(lag_of(wav, chirp(1))) <= 16
    error = wav[:16_000] - chirp(1)[: len(wav)]
    assert np.sqrt(np.mean(error**2)) < 0.02
    padding = 1024 / rate if suffix == "mkv" else 0  # Matroska does not trim the last AAC frame
    assert 0 <= float(heard.duration) - 1 <= padding + 0.001
    with av.open(str(path)) as container:
        assert container.streams[0].type == "video"
        assert container.streams.video[0].codec_context.name == "h264"
        assert container.streams.video[0].pix_fmt == "yuv420p"


@pytest.mark.slow
@pytest.mark.parametrize(
    "channels, suffix, rate",
    [
        *((channels, "mp4", 48_000) for channels in (1, 2, 3, 4, 5, 6, 7, 8, 10)),
        (7, "avi", 48_000),
        (6, "mp4", 192_000),
    ],
)
def test_audio_keeps_its_channels(tmp_path, channels, suffix, rate):
    weights = np.linspace(0.2, 1, channels)[:, None]
    weights[3:4] = 0.5
    audio = write_wav(tmp_path / "a.wav", weights * chirp(1, rate), rate)
    path = tmp_path / f"a.{suffix}"
    write_video(yuv_images(25), path, fps=Fraction(25), audio=audio, options=FAST)
    heard, wav = measure_audio(path), read_audio(path)
    assert heard.channels == (channels if channels <= 8 else 1)
    assert abs(lag_of(wav, chirp(1))) <= 16


@pytest.mark.parametrize("suffix", ["mp4", "mov", "mkv", "avi"])
@pytest.mark.parametrize("fps", ["25", "30000/1001", "22.13"])
def test_video_and_audio_end_together(tmp_path, suffix, fps):
    count = round(1.7 * Fraction(fps))
    seconds = float(count / Fraction(fps))
    audio = write_wav(tmp_path / "a.wav", chirp(seconds, 44_100), 44_100)
    path = tmp_path / f"a.{suffix}"
    write_video(yuv_images(count), path, fps=Fraction(fps), audio=audio, options=FAST)
    end = ends(path)
    assert abs(end["video"] - end["audio"]) <= 1 / Fraction(fps)


def test_audio_of_a_video_stays_aligned(tmp_path):
    source = write_frames(tmp_path / "a.mkv", [scene()] * 50, audio=chirp(1), audio_start=0.4)
    path = tmp_path / "b.mp4"
    write_video(yuv_images(35), path, fps=Fraction(25), audio=source, options=FAST)
    assert abs(lag_of(read_audio(path), chirp(1)) - 6400) <= 16


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "avi"])
def test_crf_0_is_lossless(tmp_path, suffix):
    chance = np.random.default_rng(0)
    given = [
        YuvImage(
            *(chance.integers(0, 256, size, np.uint8) for size in ((34, 50), (17, 25), (17, 25))), Colour()
        )
        for _ in range(4)
    ]
    path = tmp_path / f"a.{suffix}"
    write_video(given, path, fps=Fraction(25), options=EncodeOptions(crf=0))
    for frame, yuv in zip(read_frames(path), given, strict=True):
        assert all(np.array_equal(getattr(frame.yuv, plane), getattr(yuv, plane)) for plane in "yuv")


@pytest.mark.parametrize(
    "colour",
    [
        Colour(),
        Colour("bt709", False, (1, 1, 1, 1)),
        Colour("bt601", False, (1, 6, 6, 6)),
        Colour("bt601", False, (1, 5, 5, 6)),
        Colour("bt2020", False, (1, 9, 9, 14)),
        Colour("bt601", True, (2, 2, 2, 2)),
        Colour("bt709", True, (2, 1, 1, 1)),
        Colour("smpte240m", False, (1, 7, 7, 7)),
    ],
    ids=str,
)
@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
def test_colour_labels_are_kept(tmp_path, colour, suffix):
    path = tmp_path / f"a.{suffix}"
    image = scene(192, 128)
    write_video(
        [YuvImage.from_image(image, colour)] * 3, path, fps=Fraction(25), options=EncodeOptions(crf=2)
    )
    frame = next(read_frames(path))
    kept = frame.yuv.colour
    assert (kept.matrix, kept.full_range, kept.labels[1:]) == (
        colour.matrix,
        colour.full_range,
        colour.labels[1:],
    )
    assert kept.labels[0] in (colour.labels[0], colour.labels[0] or 1)
    assert np.abs(frame.image.astype(float) - image).mean() < 2


def test_pixel_aspect_comment_and_index_first(tmp_path):
    for suffix in ("mp4", "mov", "mkv"):
        path = tmp_path / f"a.{suffix}"
        write_video(
            yuv_images(5),
            path,
            fps=Fraction(25),
            options=FAST,
            tags=VideoTags(comment="written — here", pixel_aspect=Fraction(16, 15)),
        )
        assert probe(path).pixel_aspect == Fraction(16, 15)
        with av.open(str(path)) as container:
            tags = {key.lower(): value for key, value in container.metadata.items()}
        assert tags["comment"] == "written — here"
        if suffix != "mkv":
            data = path.read_bytes()
            assert 0 < data.index(b"moov") < data.index(b"mdat")


@pytest.mark.parametrize("size", [(2, 2), (4, 2), (16, 16), (1920, 1080)])
def test_sizes(tmp_path, size):
    path = tmp_path / "a.mp4"
    write_video([YuvImage.from_image(scene(*size), Colour())] * 2, path, fps=Fraction(25), options=FAST)
    assert (probe(path).width, probe(path).height) == size


# Errors


@pytest.mark.parametrize("kind", [RuntimeError, KeyboardInterrupt])
def test_exception_keeps_the_old_file(tmp_path, kind):
    path = tmp_path / "a.mp4"
    path.write_bytes(b"precious")
    audio = write_wav(tmp_path / "a.wav", chirp(1))
    before = len(os.listdir("/proc/self/fd"))

    def broken() -> Iterator[YuvImage]:
        yield from yuv_images(10)
        raise kind("stop")

    with pytest.raises(kind, match="stop"):
        write_video(broken(), path, fps=Fraction(25), audio=audio, options=FAST)
    assert path.read_bytes() == b"precious"
    assert sorted(os.listdir(tmp_path)) == ["a.mp4", "a.wav"]
    assert len(os.listdir("/proc/self/fd")) == before


def test_no_frames_or_no_audio_writes_nothing(tmp_path):
    path = tmp_path / "a.mp4"
    with pytest.raises(MediaError, match="no frame"):
        write_video([], path, fps=Fraction(25))
    with pytest.raises(MediaError, match=r"b\.mkv has no audio"):
        write_video(
            yuv_images(3), path, fps=Fraction(25), audio=write_frames(tmp_path / "b.mkv", [scene()] * 2)
        )
    assert os.listdir(tmp_path) == ["b.mkv"]


FULL_DISK = """
import resource, signal, sys
from fractions import Fraction
from wav2lip_npu.media.video_writer import EncodeOptions, write_video
from wav2lip_npu.errors import MediaError
from wav2lip_npu.media.yuv_image import Colour, YuvImage
import numpy as np
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
chance = np.random.default_rng(0)
images = [YuvImage.from_image(chance.integers(0, 256, (96, 128, 3)).astype(np.uint8), Colour()) for _ in range(10)]
for limit in map(int, sys.argv[2].split(",")):
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
    try:
        write_video(images, sys.argv[1], fps=Fraction(25), options=EncodeOptions(crf=10, preset="ultrafast"))
        print(limit, "written")
    except MediaError as error:
        print(limit, error)
"""


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "avi"])
def test_full_disk_keeps_the_old_file(tmp_path, suffix):
    """The disk may become full at any byte: in the frames, in the index, or when the index is moved to the front."""
    complete = tmp_path / f"whole.{suffix}"
    chance = np.random.default_rng(0)
    images = [
        YuvImage.from_image(chance.integers(0, 256, (96, 128, 3)).astype(np.uint8), Colour())
        for _ in range(10)
    ]
    write_video(images, complete, fps=Fraction(25), options=EncodeOptions(crf=10, preset="ultrafast"))
    size = complete.stat().st_size
    path = tmp_path / f"a.{suffix}"
    path.write_bytes(b"precious")
    limits = [0, 100, size // 2, size - 2000, size - 300, size - 20, size - 1]
    done = subprocess.run(
        [sys.executable, "-c", FULL_DISK, path, ",".join(map(str, limits))],
        capture_output=True, text=True, cwd=Path(__file__).parents[2],
    )  # fmt: skip
    assert done.stdout.splitlines() == [
        f"{limit} cannot write {path}: File too large. Free space or pass another --outfile."
        for limit in limits
    ], done.stderr
    assert path.read_bytes() == b"precious"
    assert sorted(os.listdir(tmp_path)) == sorted([path.name, complete.name])


@pytest.mark.parametrize("name", ["a.gif", "a", "a.mp4.txt", "a.webm"])
def test_unknown_suffix_raises(tmp_path, name):
    for write in (check_target, lambda out: write_video(yuv_images(2), out, fps=Fraction(25))):
        with pytest.raises(MediaError, match=r"\.mp4, \.m4v, \.mov, \.mkv, \.avi"):
            write(tmp_path / name)
    assert not os.listdir(tmp_path)


def test_target_folders(tmp_path):
    check_target(tmp_path / "new" / "deep" / "a.mp4")
    assert os.listdir(tmp_path) == []
    write_video(yuv_images(2), tmp_path / "other" / "a.MP4", fps=Fraction(25), options=FAST)
    assert os.listdir(tmp_path / "other") == ["a.MP4"]
    (tmp_path / "file").write_text("")
    for out in (tmp_path / "file" / "a.mp4", tmp_path / "file" / "b" / "a.mp4"):
        with pytest.raises(MediaError, match=r"cannot write .*a\.mp4: .*(is not a folder|Not a directory)"):
            check_target(out)
        with pytest.raises(MediaError, match=r"cannot write .*a\.mp4: "):
            write_video(yuv_images(2), out, fps=Fraction(25))
    (tmp_path / "folder.mp4").mkdir()
    with pytest.raises(MediaError, match=r"folder\.mp4: .*--outfile"):
        check_target(tmp_path / "folder.mp4")
    with pytest.raises(MediaError, match=r"cannot write /proc/nothing/a\.mp4: "):
        check_target("/proc/nothing/a.mp4")


NAMES = [
    b"with space.mp4", b"quo'te\".mp4", b"semi;colon.mp4", b"new\nline.mp4", "żółć 口.mp4".encode(), b"-dash.mp4",
    b"http:colon.mp4", b"per%03d.mp4", b"%s.mkv", b"\xff.mp4", b"x" * 251 + b".mp4", "口".encode() * 83 + b".mp4",
    b"[0].mp4", b".mp4.mp4",
]  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_any_name_can_be_written(tmp_path, name, monkeypatch):
    monkeypatch.chdir(tmp_path)
    out = os.fsdecode(name)
    check_target(out)
    assert not os.listdir(tmp_path)
    write_video(yuv_images(3), out, fps=Fraction(25), options=FAST)
    assert os.listdir(os.fsencode(tmp_path)) == [name]
    assert len(list(read_frames(out))) == 3


def test_too_long_name_raises(tmp_path):
    with pytest.raises(MediaError, match=r"cannot write .*: File name too long\."):
        write_video(yuv_images(3), tmp_path / ("x" * 300 + ".mp4"), fps=Fraction(25))
    assert not os.listdir(tmp_path)


@pytest.mark.parametrize("options, message", [
    ({"crf": -1}, "--crf -1 .*0"), ({"crf": 52}, "--crf 52 .*51"),
    ({"preset": "warp"}, "--preset 'warp'.*ultrafast"),
])  # fmt: skip
def test_encode_options_are_checked_at_construction(options, message):
    with pytest.raises(UsageError, match=message):
        EncodeOptions(**options)


def test_writer_reads_frames_one_by_one(tmp_path):
    asked = itertools.count()
    audio = write_wav(tmp_path / "a.wav", chirp(2))

    def counted() -> Iterator[YuvImage]:
        for yuv in yuv_images(50):
            next(asked)
            yield yuv

    assert write_video(counted(), tmp_path / "a.mp4", fps=Fraction(25), audio=audio, options=FAST) == 50
    assert next(asked) == 50


_ENCODE_TWICE = """
import hashlib, sys
from fractions import Fraction
from pathlib import Path
import numpy as np
from wav2lip_npu.media.video_writer import write_video
from wav2lip_npu.media.yuv_image import Colour, YuvImage
scene = np.random.default_rng(0).integers(0, 255, (30, 180, 3), np.uint8).repeat(8, 0).repeat(8, 1)
shown = [np.roll(scene, 3 * number, 1)[:240, :1080] for number in range(20)]
images = [YuvImage.from_image(np.ascontiguousarray(image), Colour()) for image in shown]
write_video(images, sys.argv[1], fps=Fraction(25))
print(hashlib.sha256(Path(sys.argv[1]).read_bytes()).hexdigest())
"""


@pytest.mark.slow
def test_output_does_not_depend_on_uninitialised_memory(tmp_path):
    """The AVX-512 code of x264 reads uninitialised memory, which glibc fills if MALLOC_PERTURB_ is set."""
    hashes = {
        subprocess.run(
            [sys.executable, "-c", _ENCODE_TWICE, tmp_path / "out.mp4"],
            env={**os.environ, "MALLOC_PERTURB_": str(filling)}, check=True, capture_output=True,
        ).stdout
        for filling in (1, 170, 255)
    }  # fmt: skip
    assert len(hashes) == 1
