"""A talking face for pipecat: a `FrameProcessor` between speech synthesis and the output transport.

    pipeline = Pipeline([..., tts, FaceProcessor(stream), transport.output()])

Needs the package pipecat-ai, see docs/live.md.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Any

import cv2
from pipecat.frames.frames import (
    CancelFrame,
    EndFrame,
    InterruptionFrame,
    OutputImageRawFrame,
    StartFrame,
    TTSAudioRawFrame,
    TTSStoppedFrame,
)
from pipecat.processors.frame_processor import FrameDirection, FrameProcessor

from wav2lip_npu.live.frame import LiveFrame
from wav2lip_npu.live.pacing import paced_frames
from wav2lip_npu.live.stream import FaceStream


class FaceProcessor(FrameProcessor):  # type: ignore[misc]
    """Takes the audio of speech synthesis; passes on images, and the audio at their pace.

    `TTSStoppedFrame` follows its last image, and an `EndFrame` waits for it. While nobody speaks, the face
    moves and there is no audio. An `InterruptionFrame` drops the audio that was not shown.

    Args:
        stream: A stream with the option `sample_rate`, the rate of the output transport. It is not closed.
        **options: Options of `FrameProcessor`.

    """

    def __init__(self, stream: FaceStream, **options: Any) -> None:
        super().__init__(**options)
        self._stream = stream
        self._showing: asyncio.Task[None] | None = None
        self._stopped: deque[tuple[int, Any]] = deque()
        """The number after the last frame of each speech, and what follows it."""
        self._all_shown = asyncio.Event()
        self._all_shown.set()

    async def process_frame(self, frame: Any, direction: FrameDirection) -> None:
        """Take a frame of the pipeline."""
        await super().process_frame(frame, direction)
        if isinstance(frame, TTSAudioRawFrame):
            self._all_shown.clear()
            await self._stream.push_audio_async(frame.audio, frame.sample_rate, frame.num_channels)
            return
        if isinstance(frame, TTSStoppedFrame):
            self._stopped.append((self._stream.flush(), frame))
            return
        if isinstance(frame, InterruptionFrame):
            self._stream.clear()
            self._stopped.clear()
            self._all_shown.set()
        elif isinstance(frame, EndFrame):
            await self._finish()
        elif isinstance(frame, CancelFrame):
            await self._stop()
        await self.push_frame(frame, direction)
        if isinstance(frame, StartFrame) and self._showing is None:
            self._showing = self.create_task(self._show())

    async def cleanup(self) -> None:
        """Stop showing."""
        await super().cleanup()  # type: ignore[no-untyped-call]
        await self._stop()

    async def _show(self) -> None:
        async for frame in paced_frames(self._stream):
            await self.push_frame(_image(frame))
            if not frame.is_idle:
                await self.push_frame(TTSAudioRawFrame(frame.audio.tobytes(), frame.sample_rate, 1))
            while self._stopped and frame.number + 1 >= self._stopped[0][0]:
                await self.push_frame(self._stopped.popleft()[1])
            if frame.is_idle and not self._stopped:
                self._all_shown.set()

    async def _finish(self) -> None:
        """Wait until all audio is shown."""
        self._stream.flush()
        if self._showing is not None and not self._showing.done():
            await self._all_shown.wait()
        await self._stop()

    async def _stop(self) -> None:
        showing, self._showing = self._showing, None
        if showing is not None:
            await self.cancel_task(showing)


def _image(frame: LiveFrame) -> Any:
    image = cv2.cvtColor(frame.image, cv2.COLOR_BGR2RGB)
    return OutputImageRawFrame(image=image.tobytes(), size=(image.shape[1], image.shape[0]), format="RGB")
