"""Envelope and pauses of the audio of a video."""

from __future__ import annotations

import numpy as np
import soundfile

from support.media_files import numbered, write_frames
from wav2lip_npu.evaluation.audio_track import read_track


def test_pauses_and_envelope(tmp_path):
    time = np.arange(16_000 * 4) / 16_000
    wav = 0.3 * np.sin(2 * np.pi * 200 * time) * np.where((time > 1) & (time < 2), 0.003, 1)
    soundfile.write(tmp_path / "a.wav", wav, 16_000)
    track = read_track(tmp_path / "a.wav")
    assert track is not None and len(track.envelope) == len(track.pauses) == 100
    pauses = [frame for frame in range(100) if track.is_pause(frame)]
    assert 20 <= len(pauses) <= 25 and 25 <= pauses[0] <= pauses[-1] <= 50
    assert track.envelope[10] - track.envelope[40] > 3  # 50 dB
    assert track.is_pause(200)


def test_video_without_audio_has_no_track(tmp_path):
    assert read_track(write_frames(tmp_path / "a.mp4", [numbered(0)] * 5)) is None
    soundfile.write(tmp_path / "short.wav", np.ones(800), 16_000)
    assert read_track(tmp_path / "short.wav") is None
