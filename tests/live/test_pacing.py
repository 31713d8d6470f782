"""While no audio comes, the face keeps moving in silence, which delays no audio."""

from __future__ import annotations

import asyncio
import time

import numpy as np
import pytest

from wav2lip_npu.errors import UsageError
from wav2lip_npu.live.options import StreamOptions
from wav2lip_npu.live.pacing import idle_frames, paced_frames

OPTIONS = StreamOptions(max_sessions=16, max_delay=None, avatar_seconds=0.6, sample_rate=16_000)


def test_silence_is_shown_until_audio_comes_and_after_it(models, face_video, pcm):
    async def run() -> list:
        with models.stream(face_video, options=OPTIONS) as stream:
            frames, ends = [], []
            async for frame in idle_frames(stream):
                frames.append(frame)
                if len(frames) == 10:
                    stream.push_audio(pcm[:8_000], 16_000)
                    ends.append(stream.flush())
                if len(frames) == 60:
                    stream.finish()
                assert len(frames) < 100
            return frames, ends

    frames, ends = asyncio.run(run())
    assert [frame.number for frame in frames] == list(range(len(frames)))
    heard = [frame.number for frame in frames if not frame.is_idle]
    first = heard[0]
    assert heard == list(range(first, ends[0])) and 10 <= first <= 17, "what was looked ahead, and the queue"
    audio = np.concatenate([frame.audio for frame in frames[first : ends[0]]])
    start = int(np.flatnonzero(audio)[0])
    np.testing.assert_array_equal(audio[start : start + 8_000], pcm[:8_000])
    assert not any(np.any(frame.audio) for frame in frames if frame.is_idle)
    assert not frames[-1].speaks


def test_gap_without_flush_is_filled_after_some_patience(models, face_video, pcm):
    async def run() -> list:
        with models.stream(face_video, options=OPTIONS) as stream:
            stream.push_audio(pcm[:8_000], 16_000)
            frames = []
            start = time.monotonic()
            async for frame in idle_frames(stream, patience=0.3):
                frames.append(frame)
                if frame.is_idle:
                    return frames, time.monotonic() - start
        raise AssertionError

    frames, seconds = asyncio.run(run())
    assert seconds >= 0.3 and len(frames) == 14


def test_frames_come_at_the_pace_of_the_stream(models, face_video):
    async def run() -> float:
        with models.stream(face_video, options=OPTIONS) as stream:
            start = time.monotonic()
            async for frame in paced_frames(stream):
                if frame.number == 25:
                    return time.monotonic() - start
        raise AssertionError

    assert asyncio.run(run()) > 0.85


def test_sample_rate_is_needed(models, face_video):
    async def run() -> None:
        with models.stream(face_video, options=OPTIONS, sample_rate=None) as stream:
            async for _ in idle_frames(stream):
                raise AssertionError

    with pytest.raises(UsageError, match="sample_rate"):
        asyncio.run(run())
