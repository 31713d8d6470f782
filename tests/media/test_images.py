"""Image files: formats, depths, orientation, animations and damaged files."""

from __future__ import annotations

import itertools
import random
import struct

import av
import cv2
import numpy as np
import pytest
from PIL import Image as Pillow
from PIL import features

from support.heif_files import write_heic
from support.media_files import max_difference, numbered, numbers_of, save_image, scene, to_pillow
from wav2lip_npu.errors import MediaError
from wav2lip_npu.media import images
from wav2lip_npu.media.container import probe
from wav2lip_npu.media.heif import read_grid
from wav2lip_npu.media.video_reader import read_frames


@pytest.mark.parametrize(
    "name, form, options",
    [
        ("jpg.mp4", "JPEG", {"quality": 98, "subsampling": 0}),
        ("png.txt", "PNG", {}),
        ("a.webp", "WEBP", {"lossless": True}),
        ("a.bmp", "BMP", {}),
        ("a.tiff", "TIFF", {}),
        ("a.gif", "GIF", {}),
        ("no_suffix", "PNG", {}),
        ("two.jpg", "MPO", {"save_all": True, "quality": 98, "append_images": [Pillow.new("RGB", (96, 64))]}),
        ("two.tiff", "TIFF", {"save_all": True, "append_images": [Pillow.new("RGB", (96, 64))]}),
    ],
)
def test_images_are_detected_by_content(tmp_path, name, form, options):
    path = save_image(tmp_path / name, to_pillow(scene()), form, **options)
    info = probe(path)
    assert info.is_image and (info.width, info.height, info.frames, info.fps) == (96, 64, 1, 25)
    one, two = itertools.islice(read_frames(path), 2)
    assert (one.index, two.index, one.source, two.source) == (0, 1, 0, 0)
    assert one.yuv is two.yuv
    assert np.abs(one.image.astype(float) - scene()).mean() < (6 if form == "GIF" else 3)


def test_odd_images_keep_every_pixel(tmp_path):
    path = save_image(tmp_path / "a.png", to_pillow(scene(101, 99)), "PNG")
    image = next(read_frames(path)).image
    assert image.shape == (100, 102, 3)
    assert max_difference(image[:99, :101], scene(101, 99)) <= 6


def test_transparency_becomes_white(tmp_path):
    rgba = np.dstack([scene()[:, :, ::-1], np.full((64, 96), 255, np.uint8)])
    rgba[:, 48:, 3] = 0
    path = save_image(tmp_path / "a.png", Pillow.fromarray(rgba), "PNG")
    image = next(read_frames(path)).image
    assert image[:, 52:].min() >= 253
    assert max_difference(image[:, :44], scene()[:, :44]) <= 6


@pytest.mark.parametrize("mode", ["L", "LA", "P", "1", "CMYK", "I;16", "I"])
def test_images_of_any_depth(tmp_path, mode):
    grey = cv2.cvtColor(scene(), cv2.COLOR_BGR2GRAY)
    if mode == "I;16":
        stored = Pillow.fromarray(grey.astype(np.uint16) * 257)
    elif mode == "I":
        stored = Pillow.fromarray(grey.astype(np.int32))
    else:
        stored = to_pillow(scene()).convert(mode)
    path = save_image(tmp_path / "a", stored, "TIFF" if mode in ("CMYK", "I") else "PNG")
    expected = scene() if mode in ("P", "CMYK") else cv2.cvtColor(grey, cv2.COLOR_GRAY2BGR)
    error = np.abs(next(read_frames(path)).image.astype(float) - expected)
    assert abs(error.mean()) < {"P": 16, "1": 130}.get(mode, 3)


@pytest.mark.parametrize("orientation, quarters", [(1, 0), (3, 2), (6, 1), (8, 3)])
def test_exif_orientation(tmp_path, orientation, quarters):
    exif = Pillow.Exif()
    exif[0x0112] = orientation
    path = save_image(
        tmp_path / "a.jpg", to_pillow(np.rot90(scene(), quarters)), "JPEG", exif=exif, quality=98
    )
    assert (probe(path).width, probe(path).height) == (96, 64)
    assert np.abs(next(read_frames(path)).image.astype(float) - scene()).mean() < 3


@pytest.mark.parametrize("form", ["GIF", "PNG", "WEBP"])
def test_animations_are_videos(tmp_path, form):
    images = [Pillow.fromarray(numbered(number)) for number in range(5)]
    options = {"save_all": True, "append_images": images[1:], "duration": 100}
    path = save_image(
        tmp_path / "a", images[0], form, **options, **({"lossless": True} if form == "WEBP" else {})
    )
    info = probe(path)
    assert not info.is_image and (info.width, info.height, info.fps) == (64, 48, 10)
    assert numbers_of(path) == [0, 1, 2, 3, 4]
    assert numbers_of(path, 12, loop="pingpong") == [0, 1, 2, 3, 4, 3, 2, 1, 0, 1, 2, 3]
    assert max_difference(next(read_frames(path)).image, numbered(0)) <= 12


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "BMP", "TIFF"])
@pytest.mark.parametrize("part", [0.3, 0.8])
def test_truncated_images_raise(tmp_path, form, part):
    noise = np.random.default_rng(0).integers(0, 255, (64, 96, 3)).astype(np.uint8)
    path = save_image(tmp_path / "a", Pillow.fromarray(noise), form)
    path.write_bytes(path.read_bytes()[: int(part * path.stat().st_size)])
    with pytest.raises(MediaError, match=str(path)) as error:
        next(read_frames(path))
    assert "\n" not in str(error.value)


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF"])
def test_damaged_images_raise_media_error_only(tmp_path, form):
    path = save_image(tmp_path / "a", to_pillow(scene(32, 24)), form)
    content = path.read_bytes()
    chance = random.Random(form)
    for _ in range(25):
        data = bytearray(content)
        for _ in range(chance.choice([1, 4, 20])):
            data[chance.randrange(len(data))] = chance.randrange(256)
        path.write_bytes(data)
        try:
            probe(path)
            sum(1 for _ in itertools.islice(read_frames(path), 3))
        except MediaError as error:
            assert "\n" not in str(error)


# HEIC, AVIF and other formats that phones and cameras write


@pytest.mark.parametrize("size", [(128, 64), (150, 100), (97, 131), (64, 64)])
def test_heic_in_tiles(tmp_path, size):
    """B1: phones store a HEIC photo as a grid of tiles, which FFmpeg decodes as separate streams."""
    path = write_heic(tmp_path / "a.jpg", scene(*size))
    assert read_grid(write_heic(tmp_path / "wide.heic", scene(*size), wide=True)) == read_grid(path)
    info = probe(path)
    assert info.is_image and (info.width, info.height, info.fps, info.frames) == (*size, 25, 1)
    one, two = itertools.islice(read_frames(info), 2)
    assert one.yuv is two.yuv
    assert max_difference(one.image[: size[1], : size[0]], scene(*size)) <= 12


@pytest.mark.parametrize("angle", range(4))
@pytest.mark.parametrize("mirror", [None, 0, 1])
def test_heic_orientation(tmp_path, angle, mirror):
    """B1: mirrored, then rotated counter-clockwise, according to the file."""
    path = write_heic(tmp_path / "a.heic", scene(128, 64), angle=angle, mirror=mirror)
    shown = {None: scene(128, 64), 0: scene(128, 64)[::-1], 1: scene(128, 64)[:, ::-1]}[mirror]
    shown = np.rot90(shown, angle)
    info = probe(path)
    assert (info.height, info.width) == shown.shape[:2]
    assert max_difference(next(read_frames(path)).image, shown) <= 12


def test_damaged_heic_raises_media_error_only(tmp_path):
    """B1: any byte of the index may be wrong."""
    path = write_heic(tmp_path / "a.heic", scene(128, 64))
    whole = path.read_bytes()
    chance = random.Random(1)
    for _ in range(60):
        data = bytearray(whole)
        for _ in range(chance.choice([1, 3])):
            data[chance.randrange(24, 600)] = chance.randrange(256)
        path.write_bytes(data)
        try:
            next(read_frames(probe(path)))
        except MediaError as error:
            assert "\n" not in str(error) and "a.heic" in str(error)


def box(kind: str, content: bytes) -> bytes:
    return struct.pack(">I", len(content) + 8) + kind.encode() + content


def test_malicious_index_of_a_heic(tmp_path):
    """B1: boxes that claim huge offsets or any number of extents in no bytes; a grid that is cut short."""
    infe = box("infe", struct.pack(">IHH4sx", 2 << 24, 1, 0, b"grid"))
    pitm, iinf = box("pitm", struct.pack(">IH", 0, 1)), box("iinf", struct.pack(">IH", 0, 1) + infe)
    many = struct.pack(">HHH", 2, 0, 0xFFFF) * 0xFFFF
    located = {
        "extents": struct.pack(">IBBH", 0, 0, 0, 0xFFFF) + many,
        "offset": struct.pack(">IBBHHHHQQ", 0, 0x88, 0, 1, 1, 0, 1, 1 << 64 - 1, 9),
        "short": struct.pack(">IBBHHHHHII", 1 << 24, 0x44, 0, 1, 1, 1, 0, 1, 0, 2),
    }
    path = tmp_path / "a.heic"
    for iloc in located.values():
        path.write_bytes(box("meta", bytes(4) + pitm + iinf + box("iloc", iloc) + box("idat", b"\0\0")))
        with pytest.raises(MediaError, match=r"a\.heic"):
            read_grid(path)
    for size in (1 << 63, (1 << 64) - 1):
        path.write_bytes(struct.pack(">I4sQ", 1, b"free", size))
        with pytest.raises(MediaError, match=r"a\.heic"):
            read_grid(path)


needs_avif = pytest.mark.skipif(not features.check("avif"), reason="Pillow cannot write AVIF")


@needs_avif
@pytest.mark.parametrize(
    "form, options", [("AVIF", {"quality": 98, "subsampling": "4:4:4"}), ("AVIF", {"quality": 95})]
)
def test_avif(tmp_path, form, options, monkeypatch):
    """B1: a still image at 25 fps, whether Pillow or FFmpeg decodes it."""
    path = save_image(tmp_path / "a", to_pillow(scene()), form, **options)
    for formats in (images._formats(), ("JPEG", "PNG")):
        monkeypatch.setattr(images, "_formats", lambda formats=formats: formats)
        info = probe(path)
        assert info.is_image and (info.width, info.height, info.fps) == (96, 64, 25)
        assert max_difference(next(read_frames(info)).image, scene()) <= 14


@needs_avif
def test_animated_avif_is_a_video(tmp_path):
    """B1: only a single frame is a still image."""
    frames = [Pillow.fromarray(numbered(number)) for number in range(5)]
    options = {"save_all": True, "append_images": frames[1:], "duration": 100, "quality": 90}
    path = save_image(tmp_path / "a", frames[0], "AVIF", **options)
    info = probe(path)
    assert not info.is_image and info.fps == 10
    assert numbers_of(path) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("codec, suffix", [("qoi", "qoi"), ("sgi", "sgi"), ("pcx", "pcx")])
def test_other_image_formats_are_images(tmp_path, codec, suffix):
    """B1: formats that only FFmpeg supports."""
    path = tmp_path / f"a.{suffix}"
    with av.open(str(path), "w", format="image2") as container:
        stream = container.add_stream(codec, rate=1)
        stream.width, stream.height, stream.pix_fmt = 96, 64, "rgb24"
        frame = av.VideoFrame.from_ndarray(scene(), "bgr24").reformat(format=stream.pix_fmt)
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    info = probe(path)
    assert info.is_image and (info.width, info.height, info.fps) == (96, 64, 25)
    assert max_difference(next(read_frames(info)).image, scene()) <= 8


@pytest.mark.parametrize("content", ["codestream", "container"])
def test_jpeg_xl_is_refused_by_name(tmp_path, content):
    """B1: FFmpeg has no decoder for JPEG XL; the error names file and format."""
    stream = bytes.fromhex("ff0afa1f41911106016000") + bytes(200)
    signature = bytes.fromhex("0000000c4a584c200d0a870a00000014667479706a786c20000000006a786c20")
    data = stream if content == "codestream" else signature + bytes(4) + b"jxlc" + stream
    (tmp_path / "a.jxl").write_bytes(data)
    with pytest.raises(MediaError, match=r"jpegxl.*a\.jxl"):
        probe(tmp_path / "a.jxl")


@pytest.mark.parametrize("depth", ["RGB16", "float", "float above 1"])
def test_deep_images(tmp_path, depth):
    """B1: images with 16 bits per channel or floating point."""
    grey = cv2.cvtColor(scene(), cv2.COLOR_BGR2GRAY)
    path = tmp_path / ("a.png" if depth == "RGB16" else "a.tiff")
    if depth == "RGB16":
        cv2.imwrite(str(path), scene().astype(np.uint16) * 257)
        expected = scene()
    else:
        scale = 255 if depth == "float" else 1
        Pillow.fromarray(grey.astype(np.float32) / scale).save(path)
        expected = cv2.cvtColor(grey, cv2.COLOR_GRAY2BGR)
    assert max_difference(next(read_frames(path)).image, expected) <= 6


def test_image_with_too_many_pixels_is_refused(tmp_path, monkeypatch):
    path = save_image(tmp_path / "a.png", to_pillow(scene()), "PNG")
    monkeypatch.setattr(Pillow, "MAX_IMAGE_PIXELS", 1500)
    with pytest.raises(MediaError, match=r"a\.png has more than 3,000 pixels.*Scale") as raised:
        probe(path)
    assert "bomb" not in str(raised.value)
