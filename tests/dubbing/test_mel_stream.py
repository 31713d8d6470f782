"""The audio of a dub is streamed: bounded memory, and errors that affect one output."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from support.faces import write_audio
from support.media_files import write_wav
from support.memory import traced_peak
from wav2lip_npu.dubbing import inference, mel_stream, pipeline
from wav2lip_npu.dubbing.mel_stream import MelStream
from wav2lip_npu.dubbing.options import DubOptions
from wav2lip_npu.dubbing.pipeline import dub_many
from wav2lip_npu.errors import MediaError
from wav2lip_npu.faces.find_faces import FaceOptions
from wav2lip_npu.media.audio_reader import measure_audio, read_mono
from wav2lip_npu.media.video_writer import EncodeOptions
from wav2lip_npu.mel import columns_of

OPTIONS = DubOptions(encode=EncodeOptions(preset="ultrafast"), faces=FaceOptions(box=(40, 200, 60, 220)))


@pytest.fixture(scope="module")
def models(tiny_checkpoint) -> inference.Models:
    return inference.load_models(tiny_checkpoint, detector="hog", device="cpu")


def peak_of_stream(path: Path, seconds: int) -> int:
    """Return the peak memory in bytes while the audio of a dub at 25 fps is read."""
    noise = np.random.default_rng(0).normal(0, 0.05, 16_000)
    audio = write_wav(path / f"{seconds}.wav", np.tile(noise, seconds))
    with traced_peak() as peak:
        info = measure_audio(audio)
        with ThreadPoolExecutor(1) as pool:
            stream = MelStream(info, Fraction(25), 0, pool, pause_threshold=16)
            assert len(stream.pauses()) == columns_of(info.samples)
            for index in range(0, round(25 * info.duration), 50):
                assert stream.window(index).shape == (80, 16)
            stream.close()
        return peak()


def test_memory_does_not_grow_with_the_audio(tmp_path):
    """A16: 50 s of audio and mel are 5 MB. benchmarks/memory.py measures whole dubs."""
    short, long = (peak_of_stream(tmp_path, seconds) for seconds in (20, 50))
    assert long < 1.1 * short


@pytest.mark.parametrize("failing_pass", ["pauses", "windows"])
def test_audio_that_becomes_unreadable_fails_one_output(
    models, face_video, tmp_path, monkeypatch, failing_pass
):
    """A16: the audio of one output becomes unreadable during the second or third pass."""
    lost, kept = (write_audio(tmp_path / name, 1.5) for name in ("lost.wav", "kept.wav"))

    def read(audio):
        in_pool = threading.current_thread().name.startswith("mel")
        for number, chunk in enumerate(read_mono(audio)):
            if audio.path == str(lost) and in_pool == (failing_pass == "pauses") and number == 5:
                raise MediaError(f"cannot read {lost}: Input/output error.")
            yield chunk

    monkeypatch.setattr(mel_stream, "read_mono", read)
    outs = [tmp_path / "lost.mp4", tmp_path / "kept.mp4"]
    results = dub_many(face_video, list(zip((lost, kept), outs, strict=True)), models=models, options=OPTIONS)
    assert isinstance(results[0], MediaError) and "lost.wav" in str(results[0])
    assert results[1].frames == 38 and outs[1].exists() and not outs[0].exists()
    monkeypatch.undo()
    pipeline.dub(face_video, kept, tmp_path / "alone.mp4", models=models, options=OPTIONS)
    assert outs[1].read_bytes() == (tmp_path / "alone.mp4").read_bytes()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith(("mel", "prefetch"))]
