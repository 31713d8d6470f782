"""C5: in pauses the generator gets the mel of silence, so that the mouth closes, and opens in time."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest

from support.devices import DEVICE
from support.faces import SquareDetector
from support.media_files import write_wav
from wav2lip_npu.dubbing import inference, pipeline
from wav2lip_npu.dubbing.mel_stream import MelStream
from wav2lip_npu.dubbing.options import DubOptions
from wav2lip_npu.dubbing.pauses import rest_weights
from wav2lip_npu.errors import UsageError
from wav2lip_npu.media.audio_reader import measure_audio
from wav2lip_npu.media.video_reader import read_frames

RATE = 16_000
SPEECH = [(0.0, 0.92), (2.0, 2.92)]
"""Seconds of speech in the recording. The rest is room noise."""


def recording(room: float) -> np.ndarray:
    """Return 4 s: speech with short closures, a pause of 1 s, speech, and room noise at the end."""
    time = np.arange(4 * RATE) / RATE
    vowel = 0.3 * np.sign(np.sin(2 * np.pi * 120 * time)) * (time % 0.25 < 0.17)  # closures of 80 ms
    spoken = np.zeros(len(time), bool)
    for start, end in SPEECH:
        spoken |= (time >= start) & (time < end)
    return np.where(spoken, vowel, 0) + np.random.default_rng(0).normal(0, room, len(time))


@pytest.fixture(params=[0.0, 1e-3, 0.005])
def audio(request, tmp_path):
    return write_wav(tmp_path / "speech.wav", recording(request.param))


def windows(audio, threshold: float | None, fps: int = 25) -> np.ndarray:
    """Return the mel windows of all frames, float32 [N, 80, 16]."""
    with ThreadPoolExecutor(1) as pool:
        stream = MelStream(measure_audio(audio), Fraction(fps), 0, pool, pause_threshold=threshold)
        found = np.stack([stream.window(index) for index in range(4 * fps)])
        stream.close()
    return found


def test_mel_of_pauses_is_silence(audio):
    """C5: silence starts 120 ms after speech ends, and ends 40 ms before the next word."""
    plain, rested = windows(audio, None), windows(audio, 16)
    silent = (rested == -4).all(axis=(1, 2))
    times = np.arange(100) / 25
    for end, following in ((0.92, 2.0), (2.92, 99)):
        inside = (times >= end + 0.12) & (times + 0.2 < following - 0.12) & (times < 3.8)
        assert inside.sum() >= 12
        assert silent[inside].all()
    for start, end in SPEECH:
        # Windows with only speech, including plosive closures, are unchanged.
        inside = (times >= start) & (times + 0.2 <= end)
        np.testing.assert_array_equal(rested[inside], plain[inside])
    onset = plain[38:50, :, :] - rested[38:50, :, :]  # frames whose windows reach into the second sentence
    for number, difference in enumerate(onset, start=38):
        columns = np.arange(16) / 80 + number / 25
        assert not difference[:, columns >= 2.0 - 0.04].any()


def test_transitions_are_smooth():
    pauses = np.zeros(200, bool)
    pauses[50:100] = pauses[120:130] = True
    weights = rest_weights(pauses)
    assert not weights[:52].any() and not weights[96:].any()
    assert (weights[60:90] == 1).all()
    assert np.abs(np.diff(weights)).max() <= 0.21
    for silence in (np.ones(200, bool), np.ones(5, bool)):
        assert (rest_weights(silence) == 1).all()
    edges = np.concatenate([np.ones(30, bool), np.zeros(50, bool), np.ones(40, bool)])
    assert rest_weights(edges)[0] == rest_weights(edges)[-1] == 1
    assert not rest_weights(np.zeros(9, bool)).any()


def test_threshold_decides_what_is_a_pause(tmp_path):
    murmur = recording(0)
    murmur[RATE : 2 * RATE] = 0.1 * murmur[:RATE]  # 20 dB below
    audio = write_wav(tmp_path / "speech.wav", murmur)
    middle = slice(28, 36)
    assert (windows(audio, 10)[middle] == -4).all()
    assert not (windows(audio, 25)[middle] == -4).all(axis=(1, 2)).any()


@pytest.mark.parametrize(
    "values", [{"rest_threshold": 0}, {"rest_threshold": 101}, {"rest": "on"}, {"rest_threshold": "16"}]
)
def test_wrong_values_are_refused(values):
    (name,) = values
    with pytest.raises(UsageError, match=f"--{name} "):
        DubOptions(**values)


def test_rest_off_uses_the_mel_of_the_recording(tiny_checkpoint, face_video, tmp_path):
    """C5: in pauses, --rest off gives the mouth of the recording, auto that of silence."""
    models = inference.load_models(tiny_checkpoint, detector="hog", device=str(DEVICE))
    models = replace(models, detector=SquareDetector())
    noisy = write_wav(tmp_path / "noisy.wav", recording(0.005)[: 2 * RATE])
    quiet = recording(0.0)[: 2 * RATE]
    clean = write_wav(tmp_path / "clean.wav", quiet)

    def middle(audio, **values) -> np.ndarray:
        """Return the luma of frames in the pause."""
        out = tmp_path / "out.mp4"
        options = {"static": True, "crf": 0, "preset": "ultrafast", "box": (40, 200, 60, 220)} | values
        pipeline.dub(face_video, audio, out, models=models, **options)
        return np.stack([frame.yuv.y for frame in read_frames(out)][30:40]).astype(int)

    silent = middle(clean)
    assert np.abs(middle(noisy) - silent).max() <= 1
    assert np.abs(middle(noisy, rest="off") - silent).max() > 1
    assert np.abs(middle(noisy, blend="hard") - middle(noisy, blend="hard", rest="off")).max() == 0
