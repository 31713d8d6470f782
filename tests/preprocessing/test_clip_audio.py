"""The audio of clips is streamed from the video to the clip."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from support.media_files import chirp, write_wav
from support.memory import traced_peak
from wav2lip_npu.data.clip import read_clip
from wav2lip_npu.data.clip_writer import write_clip
from wav2lip_npu.errors import MediaError
from wav2lip_npu.mel import DEFAULT_MEL, log_mel
from wav2lip_npu.preprocessing.clip_audio import measure_clip_audio


def peak_of_clip(folder: Path, seconds: int) -> int:
    """Write a clip with audio of this length, compute its mel as for a foreign clip, and return the peak memory."""
    noise = np.random.default_rng(0).normal(0, 0.05, 16_000)
    video = write_wav(folder / f"{seconds}.wav", np.tile(noise, seconds))
    with traced_peak() as peak:
        audio = measure_clip_audio(video)
        description = {"format": 1, "frames": [*range(30)], "cuts": [], "samples": audio.samples}
        description["mel"] = DEFAULT_MEL.__dict__
        clip = folder / f"clip {seconds}"
        write_clip(clip, description, [], audio.blocks())
        (clip / "mel.npy").unlink()
        read_clip("clip", clip)
        return peak()


def test_memory_does_not_grow_with_the_audio(tmp_path):
    """A16: preprocessing and the mel of a foreign clip; 50 s of audio and mel are 5 MB."""
    short, long = (peak_of_clip(tmp_path, seconds) for seconds in (20, 50))
    assert long < 1.1 * short
    clip = read_clip("clip", tmp_path / "clip 20")
    assert clip.held_mel is None
    np.testing.assert_array_equal(clip.mel(), log_mel(clip.audio()))


def test_silent_and_changed_audio(tmp_path):
    path = write_wav(tmp_path / "a.wav", chirp(1))
    audio = measure_clip_audio(path)
    assert (audio.samples, audio.is_silent) == (16_000, False)
    assert sum(map(len, audio.blocks())) == 16_000
    for seconds in (0.5, 1.5):
        write_wav(path, chirp(seconds))
        with pytest.raises(MediaError, match=r"a\.wav changed"):
            list(audio.blocks())
    assert measure_clip_audio(write_wav(path, np.full(16_000, 1e-5), subtype="FLOAT")).is_silent
