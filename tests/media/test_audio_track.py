"""The audio of output videos: a part of a file, cut or padded to the frames."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest

from support.media_files import chirp, numbered, write_wav
from wav2lip_npu.media.audio_reader import read_audio
from wav2lip_npu.media.audio_track import Soundtrack
from wav2lip_npu.media.video_writer import EncodeOptions, write_video
from wav2lip_npu.media.yuv_image import Colour, YuvImage

FPS = Fraction(25)
IMAGE = YuvImage.from_image(numbered(3), Colour())


def written(path, frames: int, audio: Soundtrack) -> np.ndarray:
    write_video([IMAGE] * frames, path, fps=FPS, audio=audio, options=EncodeOptions(preset="ultrafast"))
    return read_audio(path)


@pytest.mark.parametrize("suffix", ["avi", "mp4"])
@pytest.mark.parametrize("rate", [16_000, 44_100, 192_000])
def test_part_of_a_file(tmp_path, suffix, rate):
    source = write_wav(tmp_path / "a.wav", chirp(2, rate), rate)
    heard = written(tmp_path / f"o.{suffix}", 10, Soundtrack(source=source, start=Fraction(3, 4), fit=True))
    assert abs(len(heard) - 6400) <= 20
    assert np.sqrt(np.mean((heard[:6380] - chirp(2)[12_000:18_380]) ** 2)) < 0.03


def test_audio_is_padded_or_cut_to_the_frames(tmp_path):
    source = write_wav(tmp_path / "a.wav", chirp(1))
    for frames, samples in ((10, 6400), (24, 15_360), (25, 16_000), (26, 16_640), (100, 64_000)):
        heard = written(tmp_path / "o.avi", frames, Soundtrack(source=source, fit=True))
        expected = np.concatenate([chirp(1), np.zeros(48_000)])[:samples]
        assert len(heard) == samples
        assert np.abs(heard - expected).max() < 1e-3
    for seconds in (0.99, 1.01, 1.019):  # audio that ends within half a frame after the last frame is kept
        source = write_wav(tmp_path / "b.wav", chirp(seconds))
        heard = written(tmp_path / "o.avi", 25, Soundtrack(source=source, fit=True))
        assert len(heard) == max(16_000, round(seconds * 16_000))
    assert (
        len(
            written(
                tmp_path / "o.avi", 25, Soundtrack(source=write_wav(tmp_path / "c.wav", chirp(1.5)), fit=True)
            )
        )
        == 16_000
    )


def test_start_after_the_end_is_silence(tmp_path):
    source = write_wav(tmp_path / "a.wav", chirp(1))
    heard = written(tmp_path / "o.avi", 10, Soundtrack(source=source, start=Fraction(5), fit=True))
    np.testing.assert_array_equal(heard, np.zeros(6400))
