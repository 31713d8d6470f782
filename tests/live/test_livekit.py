"""The adapter for livekit-agents, with the real package: its queue, its runner and its synchroniser."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest

pytest.importorskip("livekit.agents")

from livekit import rtc
from livekit.agents.voice.avatar import AudioSegmentEnd, AvatarRunner, QueueAudioOutput

from wav2lip_npu.errors import UsageError
from wav2lip_npu.integrations.livekit import FaceVideoGenerator, avatar_options
from wav2lip_npu.live.options import StreamOptions

OPTIONS = StreamOptions(max_sessions=16, max_delay=None, avatar_seconds=0.6, sample_rate=16_000)


def audio_frame(pcm: np.ndarray) -> rtc.AudioFrame:
    return rtc.AudioFrame(pcm.tobytes(), 16_000, 1, len(pcm))


def test_segments_are_shown_with_their_audio_and_ends(models, face_video, pcm):
    async def run() -> tuple[list, list]:
        with models.stream(face_video, options=OPTIONS) as stream:
            generator = FaceVideoGenerator(stream)
            for start in range(0, 16_000, 480):
                await generator.push_audio(audio_frame(pcm[start : min(start + 480, 16_000)]))
            await generator.push_audio(AudioSegmentEnd())
            items, idle = [], []
            async for item in generator:
                ended = bool(items) and isinstance(items[-1], AudioSegmentEnd)
                (idle if ended else items).append(item)
                if len(idle) == 5:
                    return items, idle
        raise AssertionError

    items, idle = asyncio.run(run())
    images = [item for item in items if isinstance(item, rtc.VideoFrame)]
    sounds = [item for item in items if isinstance(item, rtc.AudioFrame)]
    assert len(images) == len(sounds) == 25 and (images[0].width, images[0].height) == (320, 240)
    np.testing.assert_array_equal(np.concatenate([sound.data for sound in sounds]), pcm[:16_000])
    assert all(isinstance(item, rtc.VideoFrame) for item in idle), "no audio while nobody speaks"


def test_interruption_drops_what_was_not_shown(models, face_video, pcm):
    async def run() -> list:
        with models.stream(face_video, options=OPTIONS) as stream:
            generator = FaceVideoGenerator(stream)
            await generator.push_audio(audio_frame(pcm))
            await generator.push_audio(AudioSegmentEnd())
            heard, count = [], 0
            async for item in generator:
                assert not isinstance(item, AudioSegmentEnd)
                count += isinstance(item, rtc.VideoFrame)
                if isinstance(item, rtc.AudioFrame):
                    heard.append(item)
                if count == 5:
                    generator.clear_buffer()
                if count == 40:
                    return heard
        raise AssertionError

    assert 4 <= len(asyncio.run(run())) <= 6


def test_runner_of_livekit_plays_it(models, face_video, pcm, monkeypatch):
    """`AvatarRunner` with its own audio and video sources; only the tracks are not published to a room."""

    async def run() -> tuple[float, list]:
        published, finished = [], asyncio.Event()

        async def publish(self) -> None:
            self._video_publication = self._audio_publication = object()
            published.append(self)

        monkeypatch.setattr(AvatarRunner, "_publish_track", publish)
        with models.stream(face_video, options=OPTIONS) as stream:
            receiver = QueueAudioOutput(sample_rate=16_000)
            receiver.on("playback_finished", lambda event: (played.append(event), finished.set()))
            played: list = []
            runner = AvatarRunner(
                rtc.Room(),
                audio_recv=receiver,
                video_gen=FaceVideoGenerator(stream),
                options=avatar_options(stream),
            )
            await runner.start()
            for start in range(0, 16_000, 480):
                await receiver.capture_frame(audio_frame(pcm[start : min(start + 480, 16_000)]))
            receiver.flush()
            await asyncio.wait_for(finished.wait(), 20)
            position = played[0].playback_position
            await runner.aclose()
            return position, published

    position, published = asyncio.run(run())
    assert position == pytest.approx(1.0) and published


def test_sample_rate_is_needed(models, face_video):
    stream = models.stream(face_video, options=OPTIONS, sample_rate=None)
    with stream, pytest.raises(UsageError, match="sample_rate"):
        avatar_options(stream)
