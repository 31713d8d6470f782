"""Several tracks in one: at their times, in their spans, at one sample rate."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from support.media_files import write_wav
from wav2lip_npu.media.audio_mix import AudioMix, PlacedAudio
from wav2lip_npu.media.audio_reader import measure_audio, read_audio, read_mono

RATE = 16_000


def tone(seconds: float, hertz: float, rate: int = RATE) -> np.ndarray:
    return 0.2 * np.sin(2 * np.pi * hertz * np.arange(round(seconds * rate)) / rate).astype(np.float32)


def placed(path: Path, samples: np.ndarray, rate: int = RATE, **more) -> PlacedAudio:
    return PlacedAudio(source=measure_audio(write_wav(path, samples, rate)), **more)


def test_tracks_are_added_at_their_times(tmp_path):
    a, b = tone(1.5, 300), tone(1.2, 500)
    tracks = [placed(tmp_path / "a.wav", a), placed(tmp_path / "b.wav", b, start=Fraction(5, 4))]
    mix = AudioMix.of(tracks, "mix")
    expected = np.zeros(round(2.45 * RATE), np.float32)
    expected[: len(a)] += a
    expected[20_000:] += b
    assert mix.duration == Fraction(49, 20)
    np.testing.assert_allclose(read_audio(mix), expected, atol=2e-4)  # wav in 16 bits


def test_spans_cut_a_track_without_clicks(tmp_path):
    sound = np.full(3 * RATE, 0.25, np.float32)
    spans = ((Fraction(1, 2), Fraction(1)), (Fraction(2), Fraction(9)))
    mix = AudioMix.of([placed(tmp_path / "a.wav", sound, spans=spans)], "mix")
    heard = read_audio(mix)
    assert len(heard) == 3 * RATE
    times = np.arange(len(heard)) / RATE
    inside = ((times >= 0.51) & (times < 0.99)) | (times >= 2.01)
    outside = (times < 0.5) | ((times >= 1) & (times < 2))
    np.testing.assert_allclose(heard[inside], 0.25, atol=2e-4)
    assert not heard[outside].any()
    assert np.abs(np.diff(heard)).max() < 0.01


def test_part_of_a_file_is_placed_elsewhere(tmp_path):
    sound = np.arange(RATE, dtype=np.float32) / RATE / 2
    track = placed(tmp_path / "a.wav", sound, start=Fraction(-1, 4), spans=((Fraction(0), Fraction(1, 2)),))
    heard = read_audio(AudioMix.of([track], "mix"))
    assert len(heard) == RATE // 2
    np.testing.assert_allclose(heard[160:7800], sound[4160:11_800], atol=1e-3)


def test_rates_and_channels_are_converted(tmp_path):
    stereo = np.stack([tone(1, 300, 44_100), tone(1, 400, 44_100)])
    mono = tone(1, 500)
    mix = AudioMix.of([placed(tmp_path / "a.wav", stereo, 44_100), placed(tmp_path / "b.wav", mono)], "mix")
    assert (mix.sample_rate, mix.channels) == (44_100, 2)
    ((rate, block),) = mix.blocks()
    assert (rate, block.shape) == (44_100, (2, 44_100))
    power = np.abs(np.fft.rfft(block)) * 2 / 44_100
    assert [list(np.round(channel[[300, 400, 500]], 2)) for channel in power] == [
        [0.2, 0, 0.2],
        [0, 0.2, 0.2],
    ]


@pytest.mark.parametrize("rate", [16_000, 22_050])
def test_mono_is_the_mean_of_the_mix(tmp_path, rate):
    mix = AudioMix.of([placed(tmp_path / "a.wav", tone(2.5, 200, rate), rate)], "mix")
    np.testing.assert_allclose(
        np.concatenate(list(read_mono(mix))), read_audio(tmp_path / "a.wav"), atol=1e-6
    )


def test_files_are_open_only_while_they_are_heard(tmp_path, monkeypatch):
    from wav2lip_npu.media import audio_reader

    opened = []
    read_file = audio_reader._read_file

    def watched(path, track):
        opened.append(Path(path).stem)
        yield from read_file(path, track)

    tracks = [
        placed(tmp_path / f"{number}.wav", tone(0.5, 300), start=Fraction(2 * number)) for number in range(3)
    ]
    mix = AudioMix.of(tracks, "mix")
    monkeypatch.setattr(audio_reader, "_read_file", watched)
    blocks = mix.blocks()
    next(blocks)
    assert opened == ["0"]
    blocks.close()
    assert len(list(mix.blocks())) == 5
    assert opened == ["0", "0", "1", "2"]
