"""Choice among several audio tracks."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from support.media_files import scene
from wav2lip_npu.errors import MediaError
from wav2lip_npu.media.audio_reader import measure_audio, read_audio, read_blocks

RATE = 16_000
PITCHES = (300, 700, 1500)


def tone(pitch: int, seconds: float = 1.0) -> np.ndarray:
    return (0.4 * np.sin(2 * np.pi * pitch * np.arange(round(seconds * RATE)) / RATE)).astype(np.float32)


def write_tracks(
    path: Path,
    pitches: Sequence[int] = PITCHES[:2],
    default: int | None = None,
    codec: str = "aac",
    video: bool = False,
) -> Path:
    """Write a file with an audio track per pitch, of which one is flagged as default."""
    with av.open(str(path), "w") as container:
        image: Any = None
        if video:
            image = container.add_stream("libx264", rate=25)
            image.width, image.height, image.pix_fmt = 96, 64, "yuv420p"
        tracks: list[Any] = [container.add_stream(codec, rate=RATE, layout="mono") for _ in pitches]
        for number, track in enumerate(tracks):
            track.disposition = av.stream.Disposition.default if number == default else 0
        if image is not None:
            for number in range(25):
                frame = av.VideoFrame.from_ndarray(scene(), "bgr24").reformat(format="yuv420p")
                frame.pts, frame.time_base = number, Fraction(1, 25)
                container.mux(image.encode(frame))
            container.mux(image.encode(None))
        for track, pitch in zip(tracks, pitches, strict=True):
            audio = av.AudioFrame.from_ndarray(tone(pitch)[None], "flt", "mono")
            audio.sample_rate, audio.time_base, audio.pts = RATE, Fraction(1, RATE), 0
            container.mux(track.encode(audio))
            container.mux(track.encode(None))
    return path


def pitch_of(wav: np.ndarray) -> int:
    return int(np.argmax(np.abs(np.fft.rfft(wav[:RATE])))) * RATE // min(len(wav), RATE)


def is_pitch(wav: np.ndarray, pitch: int) -> bool:
    return abs(pitch_of(wav) - pitch) <= 3


@pytest.mark.parametrize("suffix", ["mka", "mkv", "mp4", "mov"])
@pytest.mark.parametrize("default", [0, 1, 2])
def test_default_track_is_read(tmp_path, suffix, default):
    """B5: the track that FFmpeg prefers, here by its default flag."""
    codec = "alac" if suffix == "mov" else "aac"
    path = write_tracks(tmp_path / f"a.{suffix}", PITCHES, default, codec, video=suffix in ("mkv", "mp4"))
    assert is_pitch(read_audio(path), PITCHES[default])
    assert measure_audio(path).track == default


@pytest.mark.parametrize("suffix", ["mka", "mkv", "mp4", "mov", "ts"])
@pytest.mark.parametrize("track", [0, 1, 2])
def test_track_can_be_chosen(tmp_path, suffix, track, caplog):
    """B5: by index, whichever track is the default; the log states it."""
    codec = {"mov": "alac", "ts": "mp2"}.get(suffix, "aac")
    path = write_tracks(tmp_path / f"a.{suffix}", PITCHES, 1, codec)
    with caplog.at_level(logging.INFO):
        info = measure_audio(path, track)
    assert info.track == track and f"--audio_track {track}" in caplog.text
    assert is_pitch(read_audio(info), PITCHES[track])
    assert is_pitch(np.concatenate([block[0] for _, block in read_blocks(path, track)]), PITCHES[track])


def test_missing_track_raises(tmp_path):
    """B5: the error states the file, the flag and the numbers that exist."""
    path = write_tracks(tmp_path / "a.mka")
    with pytest.raises(MediaError, match=r"a\.mka .*2.*--audio_track 0, 1") as error:
        measure_audio(path, 2)
    assert "\n" not in str(error.value)


def test_one_track_is_not_logged(tmp_path, caplog):
    """B5: files with one track need no choice."""
    with caplog.at_level(logging.INFO):
        assert measure_audio(write_tracks(tmp_path / "a.mka", PITCHES[:1])).track == 0
    assert not caplog.text
