"""Image files: formats, depths, orientation, animations and damaged files."""

from __future__ import annotations

import itertools
import random

import cv2
import numpy as np
import pytest
from PIL import Image as Pillow

from support.media_files import max_difference, numbered, numbers_of, save_image, scene, to_pillow
from wav2lip_npu.errors import MediaError
from wav2lip_npu.media.container import probe
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
