"""A talking face for livekit-agents: a `VideoGenerator` for its `AvatarRunner`.

    runner = AvatarRunner(
        room, audio_recv=receiver, video_gen=FaceVideoGenerator(stream), options=avatar_options(stream)
    )

Needs the package livekit-agents, see docs/live.md.
"""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator
from typing import Any

from livekit import rtc
from livekit.agents.voice.avatar import AudioSegmentEnd, AvatarOptions, VideoGenerator

from wav2lip_npu.errors import UsageError
from wav2lip_npu.live.frame import LiveFrame
from wav2lip_npu.live.pacing import idle_frames
from wav2lip_npu.live.stream import FaceStream


def avatar_options(stream: FaceStream) -> Any:
    """Return the `AvatarOptions` of a stream with the option `sample_rate`."""
    if stream.options.sample_rate is None:
        raise UsageError("livekit needs StreamOptions(sample_rate=...), the sample rate of its audio track.")
    width, height = stream.size
    return AvatarOptions(
        video_width=width,
        video_height=height,
        video_fps=float(stream.fps),
        audio_sample_rate=stream.options.sample_rate,
        audio_channels=1,
    )


class FaceVideoGenerator(VideoGenerator):  # type: ignore[misc]
    """Shows a live stream. While nobody speaks, the face moves and there is no audio.

    Args:
        stream: A stream with the option `sample_rate`. Closing it ends the iteration.

    """

    def __init__(self, stream: FaceStream) -> None:
        self._stream = stream
        self._ends: deque[int] = deque()
        """Numbers of the frames after the last ones of segments."""

    async def push_audio(self, frame: Any) -> None:
        """Push an `AudioFrame`, or the end of a segment."""
        if isinstance(frame, AudioSegmentEnd):
            self._ends.append(self._stream.flush())
        else:
            await self._stream.push_audio_async(bytes(frame.data), frame.sample_rate, frame.num_channels)

    def clear_buffer(self) -> None:
        """Drop the audio that was not shown, for an interruption."""
        self._stream.clear()
        self._ends.clear()

    def __aiter__(self) -> AsyncIterator[Any]:
        """Yield a `VideoFrame` for each frame, its `AudioFrame` unless it is idle, and ends of segments."""
        return self._frames()

    async def _frames(self) -> AsyncIterator[Any]:
        async for frame in idle_frames(self._stream):
            yield _video(frame)
            if not frame.is_idle:
                yield rtc.AudioFrame(frame.audio.tobytes(), frame.sample_rate, 1, len(frame.audio))
            while self._ends and frame.number + 1 >= self._ends[0]:
                self._ends.popleft()
                yield AudioSegmentEnd()


def _video(frame: LiveFrame) -> Any:
    yuv = frame.yuv
    planes = b"".join(plane.tobytes() for plane in (yuv.y, yuv.u, yuv.v))
    return rtc.VideoFrame(yuv.width, yuv.height, rtc.VideoBufferType.I420, planes)
