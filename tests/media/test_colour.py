"""Colours of frames: matrices, greyscale formats and transparency."""

from __future__ import annotations

import itertools
import logging
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import pytest
from PIL import Image as Pillow
from PIL import features

from support.media_files import max_difference, scene
from wav2lip_npu.errors import MediaError
from wav2lip_npu.media.colour import to_yuv
from wav2lip_npu.media.container import probe
from wav2lip_npu.media.video_reader import read_frames
from wav2lip_npu.media.yuv_image import Colour, YuvImage


def write_raw(
    path: Path,
    arrays: Any,
    codec: str,
    pix_fmt: str,
    source: str,
    options: dict[str, str] | None = None,
    **labels: int,
) -> Path:
    """Write frames from arrays in the format `source`, converted to `pix_fmt`, with colour labels."""
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream(codec, rate=25, options=options or {})
        for number, array in enumerate(arrays):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(array), source)
            if source != pix_fmt:
                frame = frame.reformat(format=pix_fmt)
            if not number:
                stream.width, stream.height, stream.pix_fmt = frame.width, frame.height, pix_fmt
                for name, value in labels.items():
                    setattr(stream.codec_context, name, value)
            for name, value in labels.items():
                setattr(frame, name, value)
            frame.pts, frame.time_base = number, Fraction(1, 25)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


# Transparency


def transparent() -> np.ndarray:
    """Return an RGBA image: opaque top left, half transparent bottom left, transparent on the right."""
    rgba = np.dstack([scene()[:, :, ::-1], np.full((64, 96), 255, np.uint8)])
    rgba[32:, :48, 3] = 128
    rgba[:, 48:, 3] = 0
    return rgba


ALPHA = {
    "qtrle.mov": ("qtrle", "argb"),
    "prores4444.mov": ("prores_ks", "yuva444p10le"),
    "png.mov": ("png", "rgba"),
    "yuva420p.mkv": ("ffv1", "yuva420p"),
    "yuva422p10.mkv": ("ffv1", "yuva422p10le"),
    "yuva444p.mkv": ("ffv1", "yuva444p"),
    "gbrap.avi": ("utvideo", "gbrap"),
    "gbrap10.mkv": ("ffv1", "gbrap10le"),
    "rgba64.mkv": ("ffv1", "rgba64le"),
    "raw.avi": ("rawvideo", "bgra"),
    "raw.nut": ("rawvideo", "yuva444p"),
    "vp8.webm": ("libvpx", "yuva420p"),
    "vp9.webm": ("libvpx-vp9", "yuva420p"),
    "vp9.mkv": ("libvpx-vp9", "yuva420p"),
    "a.apng": ("apng", "rgba"),
    "huffyuv.avi": ("huffyuv", "bgra"),
}


@pytest.mark.parametrize("name", ALPHA)
def test_transparent_pixels_become_white(tmp_path, name, caplog):
    """B4: one rule for all codecs and pixel formats with an alpha channel, and a log line."""
    codec, pix_fmt = ALPHA[name]
    options = {"auto-alt-ref": "0", "b": "4M"} if codec == "libvpx" else {}
    path = write_raw(tmp_path / name, [transparent()] * 3, codec, pix_fmt, "rgba", options)
    with caplog.at_level(logging.INFO):
        info = probe(path)
    assert name in caplog.text and "alpha" in caplog.text
    alpha = transparent()[:, :, 3:] / 255
    expected = scene() * alpha + 255 * (1 - alpha)
    for frame in itertools.islice(read_frames(info), 3):
        assert frame.image[:, 52:].min() >= 250
        assert np.abs(frame.image - expected)[:, :46].mean() < (6 if codec == "libvpx" else 2)


@pytest.mark.parametrize("pix_fmt", ["ya8", "ya16be"])
def test_transparent_grey_becomes_white(tmp_path, pix_fmt):
    """B4: grey with an alpha channel."""
    path = write_raw(tmp_path / "a.mov", [transparent()] * 2, "png", pix_fmt, "rgba")
    image = next(read_frames(path)).image
    grey = cv2.cvtColor(scene(), cv2.COLOR_BGR2GRAY)[:32, :46, None]
    assert image[:, 52:].min() >= 250 and np.abs(image[:32, :46].astype(int) - grey).max() <= 3


@pytest.mark.parametrize(
    "form", ["PNG", "WEBP", "TIFF", "GIF", *(["AVIF"] if features.check("avif") else [])]
)
def test_transparent_images_become_white(tmp_path, form, caplog):
    """B4: the same rule and log line for images."""
    path = tmp_path / f"a.{form.lower()}"
    Pillow.fromarray(transparent()).save(path, form)
    with caplog.at_level(logging.INFO):
        info = probe(path)
    assert info.is_image and path.name in caplog.text and "alpha" in caplog.text
    assert next(read_frames(info)).image[:, 52:].min() >= 250


# Matrices


@pytest.mark.parametrize("pix_fmt", ["yuv420p", "yuv444p", "yuv422p10le"])
def test_ycgco_is_converted(tmp_path, pix_fmt):
    """B10: FFmpeg's scaler does not support the matrix YCgCo."""
    yuv = to_yuv(scene(), Colour("ycgco"))
    half = [cv2.resize(yuv[:, :, plane], (48, 32), interpolation=cv2.INTER_AREA) for plane in (1, 2)]
    packed = np.concatenate([yuv[:, :, 0], *(plane.reshape(-1, 96) for plane in half)])
    path = write_raw(tmp_path / "a.mp4", [packed] * 2, "libx264", "yuv420p", "yuv420p", colorspace=8)
    if pix_fmt != "yuv420p":
        with av.open(str(path)) as container:
            frame = next(container.decode(video=0)).reformat(
                format=pix_fmt, src_colorspace=1, dst_colorspace=1
            )
        arrays = [frame.to_ndarray()] * 2
        path = write_raw(tmp_path / "b.mp4", arrays, "libx264", pix_fmt, pix_fmt, colorspace=8)
    frame = next(read_frames(path))
    assert frame.yuv.colour.labels[1] == 8
    assert np.abs(frame.image.astype(int) - scene()).mean() < 4


@pytest.mark.parametrize("space", range(1, 18))
@pytest.mark.parametrize("pix_fmt", ["yuv420p", "yuv422p", "yuv420p10le"])
def test_any_matrix_is_converted_or_refused(tmp_path, space, pix_fmt):
    """B10: an error names the video and the matrix; grey is grey in each supported one."""
    grey = np.full((64, 96, 3), 90, np.uint8)
    path = write_raw(tmp_path / "a.mp4", [grey] * 2, "libx264", pix_fmt, "bgr24", colorspace=space)
    if space in (11, 14):
        with pytest.raises(MediaError, match=r"a\.mp4 .*(Y'D'zD'x|ICtCp)"):
            probe(path)
    else:
        image = next(read_frames(path)).image
        assert np.ptp(image) <= 3 and abs(int(image[0, 0, 0]) - 90) <= 3


@pytest.mark.parametrize("transfer", [1, 2, 4, 5, 6, 7, 8, 9, 11, 13, 14, 15, 16, 17, 18])
@pytest.mark.parametrize("pix_fmt", ["yuv420p", "yuv420p10le"])
def test_any_transfer_function_is_passed_on(tmp_path, transfer, pix_fmt):
    """B10: HDR and other transfer functions."""
    labels = {"colorspace": 9, "color_primaries": 9, "color_trc": transfer}
    path = write_raw(tmp_path / "a.mp4", [scene()] * 2, "libx264", pix_fmt, "bgr24", **labels)
    assert next(read_frames(path)).yuv.colour.labels[1:] == (9, 9, transfer)


@pytest.mark.parametrize(
    "codec, pix_fmt, suffix",
    [
        ("ffv1", "gray", "mkv"),
        ("ffv1", "gray10le", "mkv"),
        ("ffv1", "gray12le", "mkv"),
        ("ffv1", "gray16le", "mkv"),
        ("libx264", "gray", "mp4"),
        ("libx265", "gray", "mkv"),  # the writer of mp4 now and then refuses its headers
        ("png", "gray", "mov"),
        ("png", "gray16be", "mov"),
        ("rawvideo", "gray", "avi"),
        ("ffv1", "bgr0", "mkv"),
    ],
)
def test_grey_formats_have_constant_chroma(tmp_path, codec, pix_fmt, suffix):
    """B8: greyscale pixel formats are read without a tint."""
    grey = cv2.cvtColor(cv2.cvtColor(scene(), cv2.COLOR_BGR2GRAY), cv2.COLOR_GRAY2BGR)
    path = write_raw(tmp_path / f"a.{suffix}", [grey] * 2, codec, pix_fmt, "bgr24")
    yuv = next(read_frames(path)).yuv
    assert set(np.unique(yuv.u)) == set(np.unique(yuv.v)) == {128}
    assert max_difference(yuv.to_image(), grey) <= 12


@pytest.mark.parametrize(
    "pix_fmt, neutral", [("yuv420p10le", 512), ("yuv422p10le", 512), ("yuv444p12le", 2048)]
)
def test_deep_grey_has_constant_chroma(tmp_path, pix_fmt, neutral):
    """B8: black-and-white film with 10 or more bits, such as ProRes 422, is read without a tint."""
    frame = av.VideoFrame(96, 64, pix_fmt)
    chance = np.random.default_rng(0)
    for number, plane in enumerate(frame.planes):
        values = np.frombuffer(plane, np.uint16)
        values[:] = neutral if number else chance.integers(neutral // 8, neutral, values.shape)
    yuv = YuvImage.from_frame(frame, 96, 64)
    assert set(np.unique(yuv.u)) == set(np.unique(yuv.v)) == {128}
