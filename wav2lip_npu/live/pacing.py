"""Frames for readers that never stop: while no audio comes, the face keeps moving in silence."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from time import monotonic

from wav2lip_npu.live.frame import LiveFrame
from wav2lip_npu.live.stream import FaceStream

PATIENCE_S = 0.3
_AHEAD_S = 0.08
"""Seconds by which frames may be early, to absorb the jitter of the event loop."""


async def idle_frames(stream: FaceStream, *, patience: float = PATIENCE_S) -> AsyncIterator[LiveFrame]:
    """Yield the frames of a stream, and those of silence while no audio comes.

    For readers that keep the time themselves: without one, there are silent frames as fast as possible. They
    delay no audio, because the frames that are shown while it is looked ahead are silent ones.

    Args:
        stream: A stream with the option `sample_rate`.
        patience: Seconds to wait for audio that stopped without `flush`, before silence fills the gap.

    """
    while True:
        frame = stream.take_now()
        if frame is not None:
            yield frame
            continue
        if stream.is_done:
            return
        since = stream.unfed_since
        gap = None if since is None else since + patience - monotonic()
        if gap is not None and gap <= 0:
            stream.push_silence()
        else:
            await stream.wait(gap)


async def paced_frames(stream: FaceStream, *, patience: float = PATIENCE_S) -> AsyncIterator[LiveFrame]:
    """Yield the frames of `idle_frames` at the frame rate of the stream.

    For transports that take frames at any speed. A frame that is late is followed by the next one sooner.
    """
    period = float(1 / stream.fps)
    due = monotonic()
    async for frame in idle_frames(stream, patience=patience):
        due = max(due, monotonic() - period)
        await asyncio.sleep(max(0.0, due - _AHEAD_S - monotonic()))
        yield frame
        due += period
