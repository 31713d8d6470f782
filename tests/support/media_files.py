"""Small real media files of many kinds, written with PyAV."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import soundfile
from PIL import Image as Pillow

from wav2lip_npu.media.video_reader import read_frames
from wav2lip_npu.media.yuv_image import Image


def scene(width: int = 96, height: int = 64) -> Image:
    """Return a gradient: red top left, green top right, blue bottom left, grey bottom right."""
    corners = np.array([[[40, 40, 210], [50, 190, 60]], [[200, 60, 40], [140, 140, 140]]], float)
    down = np.linspace(0, 1, height)[:, None, None]
    across = np.linspace(0, 1, width)[None, :, None]
    top = corners[0, 0] * (1 - across) + corners[0, 1] * across
    bottom = corners[1, 0] * (1 - across) + corners[1, 1] * across
    return np.rint(top * (1 - down) + bottom * down).astype(np.uint8)


def numbered(number: int, width: int = 64, height: int = 48) -> Image:
    """Return an image that shows a number as eight black or white bars."""
    image = np.full((height, width, 3), 128, np.uint8)
    for bit in range(8):
        image[:, bit * width // 8 : (bit + 1) * width // 8] = 230 if number >> bit & 1 else 25
    return image


def number_of(image: Image) -> int:
    """Return the number that an image of `numbered` shows."""
    height, width = image.shape[:2]
    return sum(int(image[height // 2, (2 * bit + 1) * width // 16].mean() > 128) << bit for bit in range(8))


def numbers_of(source: Any, count: int | None = None, **options: Any) -> list[int]:
    """Return the numbers that the frames of a video of `numbered` images show; `options` are for the reader."""
    frames = itertools.islice(read_frames(source, **options), count)
    return [number_of(frame.image) for frame in frames]


def max_difference(one: np.ndarray, other: np.ndarray) -> float:
    """Return the largest difference between two images of the same shape."""
    assert one.shape == other.shape
    return float(np.abs(one.astype(int) - other).max())


def to_pillow(image: np.ndarray) -> Pillow.Image:
    """Return a BGR image as a Pillow image."""
    return Pillow.fromarray(np.ascontiguousarray(image[:, :, ::-1]))


def save_image(path: Path, image: Pillow.Image, form: str, **options: Any) -> Path:
    """Write an image file with Pillow and return its path."""
    image.save(path, format=form, **options)
    return path


def write_frames(
    path: Path,
    images: Iterable[Image],
    *,
    fps: Fraction = Fraction(25),
    codec: str = "libx264",
    pix_fmt: str = "yuv420p",
    stamps: Sequence[int] | None = None,
    time_base: Fraction | None = None,
    rotation: int = 0,
    form: str | None = None,
    options: dict[str, str] | None = None,
    labels: dict[str, int] | None = None,
    aspect: Fraction | None = None,
    audio: np.ndarray | None = None,
    audio_start: float = 0,
    audio_codec: str = "aac",
    rate: int = 16_000,
) -> Path:
    """Write a video and return its path.

    `stamps` count in `time_base`; `audio` is [samples] or [channels, samples] and starts `audio_start` seconds
    late.
    """
    with av.open("file:" + str(path), "w", format=form) as container:
        video: Any = container.add_stream(codec, rate=fps, options=options or {})
        track: Any = None
        if audio is not None:
            audio = np.atleast_2d(audio).astype(np.float32)
            track = container.add_stream(audio_codec, rate=rate, layout={1: "mono", 2: "stereo"}[len(audio)])
        base = time_base or 1 / fps
        for number, image in enumerate(images):
            if number == 0:
                video.height, video.width = image.shape[:2]
                video.pix_fmt = pix_fmt
                video.time_base = base
                video.codec_context.time_base = base
                if aspect:
                    video.codec_context.sample_aspect_ratio = aspect
                for name, value in (labels or {}).items():
                    setattr(video.codec_context, name, value)
                if rotation:
                    video.set_display_rotation(rotation)
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), "bgr24")
            frame = frame.reformat(
                format=pix_fmt,
                dst_colorspace={1: 1, 9: 9}.get((labels or {}).get("colorspace", 2), 5),
                dst_color_range=(labels or {}).get("color_range", 0) or None,
            )
            frame.pts = number if stamps is None else stamps[number]
            frame.time_base = base
            container.mux(video.encode(frame))
        container.mux(video.encode(None))
        if track is not None:
            _encode_audio(container, track, audio, rate, audio_start)
    return path


def write_audio(
    path: Path, audio: np.ndarray, rate: int, codec: str, layout: str = "", **options: Any
) -> Path:
    """Write an audio file of [samples] or [channels, samples] with any encoder of FFmpeg."""
    audio = np.atleast_2d(audio).astype(np.float32)
    with av.open("file:" + str(path), "w", **options) as container:
        stream: Any = container.add_stream(
            codec, rate=rate, layout=layout or {1: "mono", 2: "stereo", 6: "5.1"}[len(audio)]
        )
        stream.bit_rate = 128_000
        _encode_audio(container, stream, audio, rate, 0)
    return path


def _encode_audio(container: Any, stream: Any, audio: np.ndarray, rate: int, start: float) -> None:
    packed = np.ascontiguousarray(audio.T).reshape(1, -1)
    frame = av.AudioFrame.from_ndarray(packed, "flt", stream.codec_context.layout.name)
    frame.sample_rate = rate
    frame.time_base = Fraction(1, rate)
    frame.pts = round(start * rate)
    container.mux(stream.encode(frame))
    container.mux(stream.encode(None))


def write_wav(path: Path, audio: np.ndarray, rate: int = 16_000, subtype: str = "PCM_16") -> Path:
    """Write a WAV or FLAC file of [samples] or [channels, samples]."""
    soundfile.write(path, audio.T, rate, subtype=subtype)
    return path


def chirp(seconds: float, rate: int = 16_000, level: float = 0.5) -> np.ndarray:
    """Return a sweep from 200 to 1600 Hz that fades in and out; its position in time can be measured."""
    time = np.arange(round(seconds * rate)) / rate
    phase = 2 * np.pi * (200 * time + 700 * time**2 / seconds)
    fade = np.clip(np.minimum(time, seconds - time) / 0.02, 0, 1)
    return (level * fade * np.sin(phase)).astype(np.float32)


def lag_of(heard: np.ndarray, sent: np.ndarray) -> int:
    """Return the delay of `heard` relative to `sent` in samples, by cross-correlation."""
    size = len(heard) + len(sent)
    product = np.fft.rfft(heard, size) * np.conj(np.fft.rfft(sent, size))
    lag = int(np.argmax(np.fft.irfft(product, size)))
    return lag - size if lag > size // 2 else lag
