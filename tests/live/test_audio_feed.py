"""Audio that arrives in chunks becomes frames: exact mel, exact samples, any chunk sizes."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from support.memory import traced_peak
from wav2lip_npu.errors import UsageError
from wav2lip_npu.live.audio_feed import AudioFeed, AudioFrame
from wav2lip_npu.mel import log_mel, mel_window

FPS = Fraction(25)
WAV = (np.random.default_rng(0).normal(0, 0.1, 20_000) * np.repeat([1, 0, 0.7, 0, 1], 4_000)).astype(
    np.float32
)
PCM = np.clip(np.rint(WAV * 32768), -32768, 32767).astype(np.int16)
EXACT = PCM / np.float32(32768)


def fed(chunks, rate=16_000, *, fps=FPS, shift=0.0, threshold=None, **options) -> list[AudioFrame]:
    """Return all frames of chunks, flushed at the end."""
    feed = AudioFeed(fps, shift, threshold=threshold, **options)
    frames = [frame for chunk in chunks for frame in feed.push(chunk, rate)]
    return frames + feed.flush()


def cut(pcm: np.ndarray, sizes) -> list[np.ndarray]:
    """Return the audio in chunks of these sizes and the rest."""
    ends = np.cumsum(sizes)
    return [part for part in np.split(pcm, ends[ends < len(pcm)]) if len(part)]


@pytest.mark.parametrize("shift", [0, -1, 2.5])
def test_mel_equals_that_of_the_file_away_from_the_end(shift):
    mel = log_mel(EXACT)
    frames = fed(cut(PCM, [320] * 70), shift=shift)
    assert len(frames) == 32  # 20,000 samples are 31.25 frames
    for frame in frames[:24]:
        np.testing.assert_allclose(frame.mel, mel_window(mel, frame.number, FPS, shift), atol=2e-5)


@settings(max_examples=25)
@given(sizes=st.lists(st.integers(1, 5000), min_size=1, max_size=30), threshold=st.sampled_from([None, 16]))
def test_result_does_not_depend_on_the_sizes_of_the_chunks(sizes, threshold):
    whole = fed([PCM], threshold=threshold)
    parts = fed(cut(PCM, sizes), threshold=threshold)
    assert [frame.number for frame in parts] == list(range(32))
    for one, other in zip(whole, parts, strict=True):
        np.testing.assert_array_equal(one.mel, other.mel)
        np.testing.assert_array_equal(one.audio, other.audio)
        assert one.is_silent == other.is_silent


def test_audio_is_passed_on_unchanged_and_filled_with_silence():
    audio = np.concatenate([frame.audio for frame in fed(cut(PCM, [333] * 80))])
    np.testing.assert_array_equal(audio[: len(PCM)], PCM)
    assert len(audio) == 32 * 640 and not audio[len(PCM) :].any()


@pytest.mark.parametrize("fps", ["24000/1001", "25", "30000/1001", "60"])
@pytest.mark.parametrize("rate", [8_000, 24_000, 44_100, 48_000])
def test_frames_of_any_rate_do_not_drift(rate, fps):
    seconds = 3
    fps = Fraction(fps)
    feed = AudioFeed(fps, -1, threshold=None)
    samples = np.zeros(rate * seconds, np.int16)
    frames = [frame for chunk in cut(samples, [rate // 50] * 200) for frame in feed.push(chunk, rate)]
    position = 0
    for frame in frames:
        assert abs(position - frame.number / fps * rate) < 1
        position += len(frame.audio)
    late = seconds * fps - len(frames)
    assert 0.15 * fps < late < 0.36 * fps  # waiting for the end of its window, and for the resampler


@pytest.mark.slow
def test_one_hour_does_not_drift():
    """At the least convenient rates; memory stays flat."""
    fps, rate = Fraction(30_000, 1001), 44_100
    feed = AudioFeed(fps, -1, threshold=16)
    second = np.random.default_rng(0).normal(0, 3000, rate).astype(np.int16)
    samples = number = 0
    with traced_peak() as peak:
        for passed in range(3600):
            for frame in feed.push(second, rate):
                assert frame.number == number and abs(samples - frame.number / fps * rate) < 1
                samples += len(frame.audio)
                number += 1
            assert abs(passed + 1 - number / fps) < 0.36
            if passed == 60:
                early = peak()
        assert peak() < 1.1 * early


def test_frame_is_complete_172_ms_after_its_beginning():
    feed = AudioFeed(FPS, -1, threshold=None)
    assert not feed.push(PCM[:3399], 16_000)
    assert len(feed.push(PCM[3399:3400], 16_000)) == 2, "the first window begins with the audio"
    last = 6 * 640 + 2759
    assert len(feed.push(PCM[3400:last], 16_000)) == 4
    assert len(feed.push(PCM[last : last + 1], 16_000)) == 1


def test_resampled_mel_is_that_of_the_resampled_file():
    import soxr

    wide = soxr.resample(EXACT, 16_000, 48_000, quality="VHQ").astype(np.float32)
    frames = fed(cut(wide, [960] * 80), 48_000)
    mel = log_mel(soxr.resample(wide, 48_000, 16_000, quality="HQ").astype(np.float32))
    for frame in frames[1:24]:
        np.testing.assert_allclose(frame.mel, mel_window(mel, frame.number, FPS), atol=1e-3)


def test_channels_and_formats_are_mixed():
    stereo = np.stack([PCM, PCM], axis=1)
    feed = AudioFeed(FPS, 0, threshold=None)
    frames = feed.push(stereo.tobytes(), 16_000, 2) + feed.flush()
    for one, other in zip(frames, fed([EXACT]), strict=True):
        np.testing.assert_array_equal(one.audio, other.audio)


def test_rate_may_change_and_that_of_the_frames_stays():
    feed = AudioFeed(FPS, 0, threshold=None)
    frames = feed.push(np.zeros(24_000, np.int16), 24_000) + feed.push(np.zeros(48_000, np.float32), 48_000)
    frames += feed.flush()
    assert {len(frame.audio) for frame in frames} == {960} and len(frames) == 50


def test_numbers_continue_after_a_flush_and_an_interruption():
    feed = AudioFeed(FPS, 0, threshold=None)
    assert [frame.number for frame in feed.push(PCM[:1000], 16_000) + feed.flush()] == [0, 1]
    assert feed.flush() == []
    frames = feed.push(PCM[:9600], 16_000)
    assert frames[0].number == 2
    feed.clear(7)
    frames = feed.push(PCM[:9600], 16_000)
    assert frames[0].number == 7
    np.testing.assert_array_equal(frames[0].audio, PCM[:640])


@pytest.mark.parametrize("room", [0, 30])
def test_pauses_are_silent_and_speech_is_not(room):
    rng = np.random.default_rng(1)
    time = np.arange(16_000) / 16_000
    speech = 8000 * np.sign(np.sin(2 * np.pi * 120 * time)) * (0.6 + 0.4 * np.sin(2 * np.pi * 5 * time))
    wav = np.concatenate([speech, np.zeros(32_000), speech, np.zeros(80_000)])
    pcm = (wav + rng.normal(0, 1, len(wav)) * room).astype(np.int16)
    silent = [frame.is_silent for frame in fed(cut(pcm, [320] * 1000), threshold=16)]
    assert not any(silent[:24]) and all(silent[40:66]), "the mouth opens before the second word"
    assert not any(silent[72:99]) and all(silent[115:])


GARBAGE = {
    "odd": (b"123", 16_000, 1),
    "half a stereo sample": (b"12", 16_000, 2),
    "NaN": (np.array([0.1, np.nan], np.float32), 16_000, 1),
    "infinite": (np.array([np.inf], np.float32), 16_000, 1),
    "integers as float": (np.full(10, 20_000.0), 16_000, 1),
    "text": ("text", 16_000, 1),
    "None": (None, 16_000, 1),
    "int32": (np.zeros(4, np.int32), 16_000, 1),
    "cube": (np.zeros((2, 2, 2), np.int16), 16_000, 1),
    "rate": (b"12", 0, 1),
    "rate as text": (b"12", "16000", 1),
    "channels": (b"12", 16_000, 0),
}


@pytest.mark.parametrize("chunk", GARBAGE.values(), ids=GARBAGE)
def test_invalid_chunks_are_refused_and_change_nothing(chunk):
    feed = AudioFeed(FPS, 0, threshold=16)
    frames = feed.push(PCM[:9000], 16_000)
    with pytest.raises(UsageError):
        feed.push(*chunk)
    frames += feed.push(PCM[9000:], 16_000) + feed.flush()
    for one, other in zip(frames, fed([PCM], threshold=16), strict=True):
        np.testing.assert_array_equal(one.mel, other.mel)


def test_hurried_frames_are_exact_except_at_the_end_of_a_chunk():
    """Same audio, same windows, but for the columns after the end of each chunk: its last one, repeated."""
    pcm = np.random.default_rng(0).integers(-8000, 8000, 4 * 7680).astype(np.int16)
    exact = AudioFeed(Fraction(25), -1, sample_rate=16_000, threshold=None)
    feed = AudioFeed(Fraction(25), -1, sample_rate=16_000, threshold=None)
    expected = exact.push(pcm, 16_000) + exact.flush()
    frames = []
    for start in range(0, len(pcm), 7680):
        frames += feed.push(pcm[start : start + 7680], 16_000) + feed.hurry()
        assert len(frames) == feed.next_frame == (start + 7680) // 640
    assert [frame.number for frame in frames] == list(range(48))
    for frame, other in zip(frames, expected, strict=True):
        np.testing.assert_array_equal(frame.audio, other.audio)
        columns = 16 if frame.number % 12 < 8 else 3
        np.testing.assert_allclose(frame.mel[:, :columns], other.mel[:, :columns], atol=1e-5)
    assert np.ptp(frames[-1].mel[:, 8:], axis=1).max() == 0
    assert not feed.hurry() and not AudioFeed(Fraction(25), -1, sample_rate=16_000, threshold=None).hurry()
