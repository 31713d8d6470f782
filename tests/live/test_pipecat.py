"""The adapter for pipecat, in its real pipelines."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest

pytest.importorskip("pipecat")

from pipecat.frames.frames import (
    InterruptionFrame,
    OutputImageRawFrame,
    TTSAudioRawFrame,
    TTSStartedFrame,
    TTSStoppedFrame,
)
from pipecat.tests.utils import SleepFrame, run_test

from wav2lip_npu.integrations.pipecat import FaceProcessor
from wav2lip_npu.live.options import StreamOptions

OPTIONS = StreamOptions(max_sessions=16, max_delay=None, avatar_seconds=0.6, sample_rate=16_000)


def speech(pcm: np.ndarray) -> list:
    parts = np.split(pcm, range(320, len(pcm), 320))
    return [
        TTSStartedFrame(),
        *(TTSAudioRawFrame(part.tobytes(), 16_000, 1) for part in parts),
        TTSStoppedFrame(),
    ]


def run(models, face_video, frames) -> list:
    async def inside() -> list:
        with models.stream(face_video, options=OPTIONS) as stream:
            down, _ = await run_test(FaceProcessor(stream), frames_to_send=frames, start_timeout=10)
        return list(down)

    return asyncio.run(inside())


def test_speech_is_shown_at_its_pace_and_the_end_waits_for_it(models, face_video, pcm):
    down = run(models, face_video, speech(pcm[:16_000]))
    images = [frame for frame in down if isinstance(frame, OutputImageRawFrame)]
    sounds = [frame for frame in down if isinstance(frame, TTSAudioRawFrame)]
    heard = np.concatenate([np.frombuffer(sound.audio, np.int16) for sound in sounds])
    start = int(np.flatnonzero(heard)[0])
    np.testing.assert_array_equal(heard[start : start + 16_000 - start], pcm[: 16_000 - start])
    assert len(images) >= len(sounds) >= 25
    assert (images[0].size, images[0].format) == ((320, 240), "RGB") and len(images[0].image) == 320 * 240 * 3
    stopped = next(number for number, frame in enumerate(down) if isinstance(frame, TTSStoppedFrame))
    assert isinstance(down[stopped - 1], TTSAudioRawFrame), "the end of speech follows its last sound"


def test_interruption_drops_what_was_not_shown(models, face_video, pcm):
    frames = [*speech(pcm), SleepFrame(0.6), InterruptionFrame(), SleepFrame(0.3)]
    down = run(models, face_video, frames)
    sounds = [frame for frame in down if isinstance(frame, TTSAudioRawFrame)]
    assert 5 < len(sounds) < 35 and not any(isinstance(frame, TTSStoppedFrame) for frame in down)
    assert isinstance(down[-1], OutputImageRawFrame), "the face goes on"
