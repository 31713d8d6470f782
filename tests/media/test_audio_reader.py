"""Audio reader: codecs, sample rates, bit depths, channels, and alignment with the video."""

from __future__ import annotations

import itertools
import os
import random
from fractions import Fraction

import numpy as np
import pytest
import soundfile

from support.media_files import chirp, lag_of, scene, write_audio, write_frames, write_wav
from wav2lip_npu.errors import MediaError, NoAudioError
from wav2lip_npu.media.audio_reader import measure_audio, read_audio, read_blocks

SECOND = chirp(1)


def level(wav: np.ndarray) -> float:
    """Return the amplitude of a sine from its mean power in the middle."""
    middle = wav[len(wav) // 4 : 3 * len(wav) // 4].astype(float)
    return float(np.sqrt(2 * np.mean(middle**2)))


@pytest.mark.parametrize("subtype", ["PCM_U8", "PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE"])
def test_depths(tmp_path, subtype):
    path = write_wav(tmp_path / "a.wav", SECOND, subtype=subtype)
    audio, wav = measure_audio(path), read_audio(path)
    assert (audio.sample_rate, audio.channels, audio.duration) == (16_000, 1, 1)
    assert wav.dtype == np.float32 and wav.shape == (16_000,)
    assert np.abs(wav - SECOND).max() < (0.01 if subtype == "PCM_U8" else 1e-4)


@pytest.mark.parametrize("rate", [8000, 11025, 16000, 22050, 44100, 48000, 96000, 192000])
def test_rates(tmp_path, rate):
    samples = rate + 7
    path = write_wav(tmp_path / "a.wav", chirp(samples / rate, rate), rate)
    audio, wav = measure_audio(path), read_audio(path)
    assert audio.duration == Fraction(samples, rate) and audio.sample_rate == rate
    assert abs(len(wav) - samples * 16_000 / rate) <= 1
    assert abs(lag_of(wav, chirp(samples / rate))) <= 1
    assert level(wav) == pytest.approx(0.5, abs=0.01)


@pytest.mark.parametrize("channels", [1, 2, 3, 6, 7, 8, 10, 16])
def test_channels_are_averaged(tmp_path, channels):
    weights = np.arange(1, channels + 1) / channels
    path = write_wav(tmp_path / "a.wav", weights[:, None] * SECOND, subtype="FLOAT")
    audio, wav = measure_audio(path), read_audio(path)
    assert audio.channels == channels
    assert np.abs(wav - weights.mean() * SECOND).max() < 1e-3


@pytest.mark.parametrize(
    "name, codec, late",
    [
        ("a.flac", "flac", 0),
        ("a.mp3", "libmp3lame", 0),
        ("a.m4a", "aac", 0),
        ("a.mka", "aac", 0),
        ("a.ogg", "libopus", 0),
        ("a.webm", "libopus", 0),
        ("a.mp4", "aac", 0),
        ("a.mov", "alac", 0),
        ("a.wav", "adpcm_ima_wav", 0),
    ],
)
@pytest.mark.parametrize("channels", [1, 2])
def test_codecs_do_not_shift_the_audio(tmp_path, name, codec, late, channels):
    rate = 48_000
    sent = np.tile(chirp(1, rate), (channels, 1))
    path = write_audio(tmp_path / name, sent, rate, codec)
    audio, wav = measure_audio(path), read_audio(path)
    assert (audio.sample_rate, audio.channels) == (rate, channels)
    assert abs(lag_of(wav, SECOND) - late) <= 8
    assert level(wav) == pytest.approx(0.5, abs=0.03)
    assert float(audio.duration) == pytest.approx(1, abs=0.06)


def test_samples_above_full_scale_are_kept(tmp_path):
    loud = 3 * SECOND
    assert np.abs(read_audio(write_wav(tmp_path / "a.wav", loud, subtype="FLOAT")) - loud).max() < 1e-4


def test_resampling_to_another_rate(tmp_path):
    assert read_audio(write_wav(tmp_path / "a.wav", SECOND), 8000).shape == (8000,)


@pytest.mark.parametrize("suffix", ["mkv", "mp4", "mov"])
@pytest.mark.parametrize("late", [0.4, 1.3])
def test_late_audio_is_padded(tmp_path, suffix, late):
    path = write_frames(tmp_path / f"a.{suffix}", [scene()] * 60, audio=SECOND, audio_start=late)
    audio, wav = measure_audio(path), read_audio(path)
    assert abs(lag_of(wav, SECOND) - late * 16_000) <= 16
    assert float(audio.duration) == pytest.approx(1 + late, abs=0.07)


@pytest.mark.parametrize("suffix", ["mkv", "mp4", "mov"])
def test_audio_before_the_video_is_cut(tmp_path, suffix):
    stamps = range(10, 60)
    path = write_frames(tmp_path / f"a.{suffix}", [scene()] * 50, stamps=stamps, audio=chirp(3))
    audio, wav = measure_audio(path), read_audio(path)
    expected = chirp(3)[6400:]
    assert abs(lag_of(wav, expected)) <= 16
    assert float(audio.duration) == pytest.approx(2.6, abs=0.07)


@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
def test_long_audio_before_the_video_is_not_truncation(tmp_path, suffix):
    path = write_frames(tmp_path / f"a.{suffix}", [scene()] * 10, stamps=range(50, 60), audio=chirp(3))
    assert float(measure_audio(path).duration) == pytest.approx(1, abs=0.07)


def test_gap_is_filled_with_silence(tmp_path):
    import av

    path = tmp_path / "a.mkv"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=16_000, layout="mono")
        for start in (0, 8000 + 24_000):
            for at in range(0, 8000, 1000):
                block = (SECOND[(at + (8000 if start else 0)) :][:1000] * 32767).astype(np.int16)
                frame = av.AudioFrame.from_ndarray(block[None], "s16", "mono")
                frame.sample_rate = 16_000
                frame.time_base = Fraction(1, 16_000)
                frame.pts = start + at
                container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    expected = np.concatenate([SECOND[:8000], np.zeros(24_000), SECOND[8000:]])
    audio, wav = measure_audio(path), read_audio(path)
    assert audio.duration == Fraction(5, 2)
    assert np.abs(wav - expected).max() < 1e-3


def test_ac3_in_avi(tmp_path):
    path = write_frames(
        tmp_path / "a.avi",
        [scene()] * 25,
        codec="mpeg4",
        audio=chirp(1, 48_000),
        audio_codec="ac3",
        rate=48_000,
    )
    wav = read_audio(path)
    assert 0 <= lag_of(wav, SECOND) <= 90  # AVI does not store that AC-3 starts 256 samples late


def test_blocks_are_bounded(tmp_path):
    """A long recording is never completely in memory."""
    path = write_wav(tmp_path / "a.wav", np.tile(SECOND, 60), subtype="FLOAT")
    sizes = [block.shape[1] for _, block in read_blocks(path)]
    assert sum(sizes) == 60 * 16_000 and max(sizes) < 16_000


@pytest.mark.parametrize("rate", [1, 99, 10**9])
def test_impossible_sample_rates(tmp_path, rate):
    """A8: a header that claims one sample per second makes hours of audio out of some kB."""
    path = write_wav(tmp_path / "a.wav", SECOND)
    data = bytearray(path.read_bytes())
    data[24:28] = rate.to_bytes(4, "little")
    path.write_bytes(data)
    with pytest.raises(MediaError, match=rf"a\.wav.* {rate} "):
        measure_audio(path)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_nan_and_infinity_raise_media_error(tmp_path, bad):
    broken = SECOND.copy()
    broken[8000] = bad
    path = write_wav(tmp_path / "a.wav", broken, subtype="FLOAT")
    with pytest.raises(MediaError, match=r"a\.wav .* 0\.\d\d s"):
        measure_audio(path)


def test_no_audio(tmp_path):
    with pytest.raises(NoAudioError, match=r"a\.mp4 .*--audio"):
        measure_audio(write_frames(tmp_path / "a.mp4", [scene()] * 3))
    with pytest.raises(NoAudioError, match=r"empty\.wav"):
        measure_audio(write_wav(tmp_path / "empty.wav", np.zeros(0)))
    (tmp_path / "none.wav").write_bytes(b"")
    with pytest.raises(MediaError, match=r"none\.wav is empty"):
        measure_audio(tmp_path / "none.wav")
    with pytest.raises(MediaError, match=r"cannot read .*absent\.wav: No such file"):
        measure_audio(tmp_path / "absent.wav")


def test_one_sample(tmp_path):
    path = write_wav(tmp_path / "a.wav", np.array([0.5]), 44_100)
    audio, wav = measure_audio(path), read_audio(path)
    assert audio.duration == Fraction(1, 44_100) and len(wav) <= 1


@pytest.mark.parametrize("part", [0.2, 0.5, 0.8])
def test_truncated_files_raise(tmp_path, part):
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, 64_000)
    files = [
        write_wav(tmp_path / "a.wav", noise),
        write_wav(tmp_path / "a.flac", noise),
        write_audio(tmp_path / "slow.mp4", noise, 16_000, "aac"),
        write_audio(
            tmp_path / "fast.mp4", noise, 16_000, "aac", container_options={"movflags": "+faststart"}
        ),
    ]
    for path in files:
        path.write_bytes(path.read_bytes()[: int(part * path.stat().st_size)])
        with pytest.raises(MediaError, match=r"truncated") as error:
            measure_audio(path)
        assert "\n" not in str(error.value)


def test_wav_without_a_length(tmp_path):
    path = write_wav(tmp_path / "a.wav", SECOND)
    data = bytearray(path.read_bytes())
    data[4:8] = data[40:44] = b"\xff" * 4
    path.write_bytes(data)
    assert measure_audio(path).duration == 1


def test_riff_length_that_includes_the_header(tmp_path):
    path = write_wav(tmp_path / "a.wav", SECOND)
    data = bytearray(path.read_bytes())
    data[4:8] = len(data).to_bytes(4, "little")
    path.write_bytes(data)
    assert measure_audio(path).duration == 1


@pytest.mark.parametrize("name, codec", [("a.wav", "pcm_s16le"), ("a.flac", "flac"), ("a.mp3", "libmp3lame"),
                                         ("a.m4a", "aac"), ("a.ogg", "libopus")])  # fmt: skip
def test_damaged_bytes_raise_media_error_only(tmp_path, name, codec):
    path = write_audio(tmp_path / name, chirp(0.5, 48_000), 48_000, codec)
    whole = path.read_bytes()
    chance = random.Random(name)
    for _ in range(15):
        data = bytearray(whole)
        for _ in range(chance.choice([1, 4, 40])):
            data[chance.randrange(len(data))] = chance.randrange(256)
        path.write_bytes(data)
        try:
            measure_audio(path)
        except MediaError as error:
            assert "\n" not in str(error)


def test_files_are_closed(tmp_path):
    path = write_wav(tmp_path / "a.wav", np.tile(SECOND, 5))
    before = len(os.listdir("/proc/self/fd"))
    blocks = read_blocks(path)
    list(itertools.islice(blocks, 3))
    assert len(os.listdir("/proc/self/fd")) == before + 1
    blocks.close()
    measure_audio(path)
    assert len(os.listdir("/proc/self/fd")) == before


def test_real_recordings(shared_data):
    for path in sorted((shared_data / "audio").iterdir()):
        audio, wav = measure_audio(path), read_audio(path)
        assert 0.005 < np.sqrt(np.mean(wav**2)) < 0.5
        assert abs(len(wav) - audio.duration * 16_000) <= 1
        if path.suffix in (".wav", ".flac"):
            info = soundfile.info(path)
            assert audio.duration == Fraction(info.frames, info.samplerate)
