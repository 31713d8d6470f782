"""Open and probe media files: number of opens, metadata, damaged and unsuitable files."""

from __future__ import annotations

import itertools
import os
import random
import runpy
from fractions import Fraction

import av
import numpy as np
import pytest

from support.file_opens import record_opens
from support.media_files import (
    chirp,
    numbered,
    numbers_of,
    save_image,
    scene,
    to_pillow,
    write_frames,
    write_wav,
)
from wav2lip_npu.errors import MediaError
from wav2lip_npu.media import container
from wav2lip_npu.media.audio_reader import read_audio
from wav2lip_npu.media.container import open_media, probe
from wav2lip_npu.media.video_reader import read_frames
from wav2lip_npu.media.video_writer import VideoTags, write_video
from wav2lip_npu.media.yuv_image import Colour, YuvImage


@pytest.fixture
def opens(monkeypatch):
    return record_opens(monkeypatch)


def test_video_is_opened_three_times(tmp_path, opens):
    """Once to test for an image, once to probe it, once to read its frames."""
    path = write_frames(tmp_path / "a.mp4", map(numbered, range(5)))
    opens.clear()
    info = probe(path)
    assert opens.count(str(path)) == 2
    assert numbers_of(info) == list(range(5))
    assert opens.count(str(path)) == 3


@pytest.mark.parametrize("suffix", ["png", "webp"])
def test_image_is_opened_twice(tmp_path, opens, suffix):
    """Once to probe it, once to read it."""
    frames = {"save_all": True, "append_images": [to_pillow(scene()[::-1])]} if suffix == "webp" else {}
    path = save_image(tmp_path / f"a.{suffix}", to_pillow(scene()), suffix, **frames)
    opens.clear()
    info = probe(path)
    assert info.kind == ("webp" if suffix == "webp" else "image")
    next(read_frames(info))
    assert opens.count(str(path)) == 2


def test_audio_is_opened_twice(tmp_path, opens):
    """Once to check the length in its header, once to read it."""
    path = write_wav(tmp_path / "a.wav", chirp(1))
    opens.clear()
    read_audio(path)
    assert opens.count(str(path)) == 2


@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
def test_metadata_need_not_be_utf8(tmp_path, suffix):
    path = tmp_path / f"a.{suffix}"
    write_video(
        [YuvImage.from_image(scene(), Colour())] * 3,
        path,
        fps=Fraction(25),
        tags=VideoTags(comment="Cafe Muenchen"),
    )
    path.write_bytes(path.read_bytes().replace(b"Cafe Muenchen", b"Caf\xe9 M\xfc\xff\xfechen"))
    assert probe(path).width == 96
    with open_media(path) as opened:
        comment = {name.lower(): text for name, text in opened.metadata.items()}["comment"]
    assert comment.startswith("Caf") and comment.endswith("chen")


@pytest.mark.parametrize(("version", "has_argument"), [("17.1.0", True), ("18.1.0", True), ("19.0.2", False)])
def test_argument_that_pyav_19_removed_is_not_passed(monkeypatch, version, has_argument):
    """A17: without constraints, Python 3.12 and newer get PyAV 19."""
    monkeypatch.setattr(av, "__version__", version)
    names = runpy.run_path(container.__file__)
    assert ("metadata_errors" in names["_METADATA"]) == has_argument


def test_cover_art_is_not_a_video(tmp_path):
    cover = tmp_path / "cover.jpg"
    save_image(cover, to_pillow(scene()), "JPEG")
    for name, codec in (("a.mp3", "libmp3lame"), ("a.m4a", "aac")):
        path = tmp_path / name
        with av.open(str(path), "w", format="mp4" if name == "a.m4a" else "mp3") as container:
            audio = container.add_stream(codec, rate=16_000, layout="mono")
            art = container.add_stream("mjpeg")
            art.width, art.height, art.pix_fmt = 96, 64, "yuvj420p"
            art.disposition = av.stream.Disposition.attached_pic
            frame = av.AudioFrame.from_ndarray(chirp(1)[None], "flt", "mono")
            frame.sample_rate = 16_000
            container.mux(audio.encode(frame))
            container.mux(audio.encode(None))
            packet = av.Packet(cover.read_bytes())
            packet.stream = art
            packet.pts = packet.dts = 0
            packet.is_keyframe = True
            container.mux(packet)
        with pytest.raises(MediaError, match=f"{name} .*no video"):
            probe(path)
        with pytest.raises(MediaError, match=f"{name} .*no video"):
            next(read_frames(path))


@pytest.mark.parametrize(
    "name, content, message",
    [
        ("empty.mp4", b"", "is empty"),
        ("noise.mp4", bytes(np.random.default_rng(0).integers(0, 256, 5000, np.uint8)), "not a media file"),
        ("text.mp4", b"hello, this is not a video\n" * 40, "not a media file"),
        ("text.txt", b"hello, this is not a video\n" * 40, "not a media file"),
        ("riff.wav", b"RIFF\xff\xff\x00\x00WAVEfmt ", "is truncated: 16 bytes of 65,543"),
        ("page.html", b"<html><body>Not found</body></html>" * 40, "not a media file"),
    ],
)
def test_other_files_raise(tmp_path, name, content, message):
    path = tmp_path / name
    path.write_bytes(content)
    for use in (probe, lambda path: next(read_frames(path))):
        with pytest.raises(MediaError, match=message) as error:
            use(path)
        assert "\n" not in str(error.value) and name in str(error.value)


def test_folders_pipes_and_missing_files_raise(tmp_path):
    with pytest.raises(MediaError, match=f"{tmp_path}.* directory"):
        probe(tmp_path)
    with pytest.raises(MediaError, match=r"cannot read .*missing\.mp4: No such file or directory"):
        probe(tmp_path / "missing.mp4")
    with pytest.raises(MediaError, match=r"cannot read .*: Not a directory"):
        write_frames(tmp_path / "a.mp4", [scene()])
        probe(tmp_path / "a.mp4" / "b.mp4")
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(MediaError, match="pipe"):
        probe(tmp_path / "pipe")


def test_playlists_raise(tmp_path):
    """Playlists refer to other files or the network, and FFmpeg would wait for a live one to grow."""
    video = write_frames(tmp_path / "a.ts", [scene()] * 5)
    lists = {
        "a.m3u8": f"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\n{video}\n#EXTINF:9,\nhttp://127.0.0.1:9/x.ts\n",
        "b.mp4": f"#EXTM3U\n#EXTINF:9,\nfile:{video}\n#EXT-X-ENDLIST\n",
        "a.ffconcat": f"ffconcat version 1.0\nfile a.ts\nfile {video}\n",
    }
    for name, text in lists.items():
        path = tmp_path / name
        path.write_text(text)
        with pytest.raises(MediaError, match=f"{name} is not a media file"):
            probe(path)


@pytest.mark.parametrize(
    "suffix, codec", [("mp4", "libx264"), ("avi", "mpeg4"), ("mkv", "libx264"), ("mov", "mpeg4")]
)
@pytest.mark.parametrize("part", [0.01, 0.1, 0.3, 0.5, 0.7, 0.9, 0.99])
def test_truncated_videos_raise(tmp_path, suffix, codec, part):
    chance = np.random.default_rng(0)
    images = [chance.integers(0, 255, (48, 64, 3)).astype(np.uint8) for _ in range(50)]
    path = write_frames(
        tmp_path / f"a.{suffix}",
        images,
        codec=codec,
        options={"preset": "ultrafast"} if codec == "libx264" else {},
    )
    path.write_bytes(path.read_bytes()[: int(part * path.stat().st_size)])
    try:
        frames = sum(1 for _ in read_frames(path))
    except MediaError as error:
        assert "\n" not in str(error) and str(path) in str(error)
    else:
        assert suffix == "mkv" and 0 < frames <= 50


@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
def test_truncated_video_with_the_index_first_raises(tmp_path, suffix):
    path = tmp_path / f"a.{suffix}"
    chance = np.random.default_rng(0)
    from wav2lip_npu.media.video_writer import write_video
    from wav2lip_npu.media.yuv_image import Colour, YuvImage

    images = [
        YuvImage.from_image(chance.integers(0, 255, (48, 64, 3)).astype(np.uint8), Colour())
        for _ in range(75)
    ]
    write_video(images, path, fps=Fraction(25))
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    probe(path)
    with pytest.raises(MediaError, match=rf"a\.{suffix} is truncated.* 1\.\d s of 3\.0 s"):
        list(read_frames(path))


@pytest.mark.parametrize("suffix", ["mp4", "avi", "mkv", "webm", "mpg", "gif", "webp", "ts"])
def test_damaged_bytes_raise_media_error_only(tmp_path, suffix):
    if suffix in ("gif", "webp"):
        images = [to_pillow(scene())] * 2 + [to_pillow(scene()[::-1])]
        path = save_image(tmp_path / "a", images[0], suffix, save_all=True, append_images=images[1:])
    else:
        codec = {"avi": "mpeg4", "webm": "libvpx", "mpg": "mpeg1video"}.get(suffix, "libx264")
        options = {"deadline": "realtime"} if codec == "libvpx" else {}
        path = write_frames(tmp_path / f"a.{suffix}", map(numbered, range(20)), codec=codec, options=options)
    whole = path.read_bytes()
    chance = random.Random(suffix)
    for _ in range(15):
        data = bytearray(whole)
        for _ in range(chance.choice([1, 4, 40])):
            data[chance.randrange(len(data))] = chance.randrange(256)
        path.write_bytes(data)
        try:
            probe(path)
            sum(1 for _ in itertools.islice(read_frames(path), 300))
        except MediaError as error:
            assert "\n" not in str(error)


def test_unknown_codec_raises(tmp_path):
    path = write_frames(tmp_path / "a.mp4", [scene()] * 5)
    path.write_bytes(path.read_bytes().replace(b"avc1", b"zzzz").replace(b"avcC", b"zzzC"))
    with pytest.raises(MediaError, match=r"a\.mp4"):
        probe(path)


@pytest.mark.parametrize(
    "name", [b"with space.mp4", b"quo'te\".mp4", b"semi;colon.mp4", b"new\nline.mp4", "żółć 口.mp4".encode(),
             b"-dash.mp4", b"http:colon.mp4", b"per%03d.mp4", b"\xff.mp4", b"x" * 246 + b".mp4"],
)  # fmt: skip
def test_any_name_can_be_read(tmp_path, name, monkeypatch):
    plain = write_frames(tmp_path / "plain.mp4", map(numbered, range(3)))
    plain.rename(tmp_path / os.fsdecode(name))
    monkeypatch.chdir(tmp_path)
    assert numbers_of(os.fsdecode(name)) == [0, 1, 2]
