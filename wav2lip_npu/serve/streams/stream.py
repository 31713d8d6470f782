"""A live stream in the live process: its pace, its viewers, and its figures."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Iterator
from time import monotonic
from typing import Any

import numpy as np

from wav2lip_npu.live.frame import LiveFrame
from wav2lip_npu.live.pacing import paced_frames
from wav2lip_npu.live.stream import FaceStream

_PIECE_S = 0.25
"""Longer chunks of audio are pushed in such pieces, between which the other streams have their turn."""
_POLL_S = 0.05
_DELAYS = 250
"""Latest frames whose delays are counted."""


class LiveStream:
    """A stream of a face and those who look at it. Belongs to the event loop of the live process.

    Frames come at the frame rate, of silence while no audio comes, and go to all viewers. If it is not paced,
    they come with the audio, and only `chunk` takes them.
    """

    def __init__(self, name: str, face: FaceStream, sample_rate: int, *, is_paced: bool = True) -> None:
        self.name, self.face, self.sample_rate = name, face, sample_rate
        self._is_paced = is_paced
        self._closed = asyncio.Event()
        self._pushing = asyncio.Lock()
        self._interruptions = 0
        self._has_ended = False
        self._viewers: set[Viewer] = set()
        self._delays: deque[float] = deque(maxlen=_DELAYS)

    def watch(self, size: int) -> Viewer:
        """Return a new viewer, which keeps up to `size` frames that wait for it. Close it at the end."""
        viewer = Viewer(self._viewers, size)
        self._viewers.add(viewer)
        if self._has_ended:
            viewer.close()
        return viewer

    async def push(self, pcm: bytes) -> None:
        """Append int16 samples, after those of earlier calls. Waits while the stream has enough audio.

        `clear` drops those that wait.
        """
        interruptions, size = self._interruptions, 2 * int(_PIECE_S * self.sample_rate)
        async with self._pushing:
            for start in range(0, len(pcm), size):
                if self._interruptions != interruptions:
                    return
                await self.face.push_audio_async(pcm[start : start + size], self.sample_rate)

    def clear(self) -> None:
        """Drop the audio and the frames that were not shown yet."""
        self._interruptions += 1
        self.face.clear()

    async def chunk(self, pcm: bytes, *, is_whole: bool) -> AsyncIterator[LiveFrame]:
        """Append audio, and yield its frames that are complete; of a whole chunk, all frames."""
        size = 2 * int(_PIECE_S * self.sample_rate)
        for start in range(0, len(pcm), size):
            pushing = asyncio.ensure_future(self.push(pcm[start : start + size]))
            while not pushing.done():  # it waits while there are too many frames
                for frame in self._taken():
                    yield frame
                await asyncio.wait([pushing], timeout=_POLL_S)
            await pushing
        if is_whole:
            self.face.hurry()
        while True:
            for frame in self._taken():
                yield frame
            if self.face.unfed_since is not None or self.face.is_done:
                return
            await self.face.wait(_POLL_S)

    async def run(self) -> None:
        """Pass the frames on until the stream is closed. Raises the error that ended it."""
        try:
            if self._is_paced:
                async for frame in paced_frames(self.face):
                    self._note_delay(frame)
                    for viewer in self._viewers:
                        viewer.offer(frame)
            else:
                await self._closed.wait()
        finally:
            self.face.close()
            self._has_ended = True
            for viewer in list(self._viewers):
                viewer.close()

    def close(self) -> None:
        """End the stream."""
        self.face.close()
        self._closed.set()

    def _taken(self) -> Iterator[LiveFrame]:
        """Take the frames that are there."""
        while (frame := self.face.take_now()) is not None:
            self._note_delay(frame)
            yield frame

    def _note_delay(self, frame: LiveFrame) -> None:
        """Count the delay of a frame that goes out now."""
        if frame.pushed is not None:
            self._delays.append(monotonic() - frame.pushed)

    def figures(self) -> dict[str, Any]:
        """Return counts of frames, and the delays of the latest ones behind their audio."""
        stats = self.face.stats
        delays = [round(value * 1000) for value in np.percentile(self._delays or [0], (50, 95))]
        return {
            "frames": stats.frames,
            "late": stats.late,
            "silent": stats.silent,
            "cleared": stats.cleared,
            "viewers": len(self._viewers),
            "delay_ms": {"median": delays[0], "p95": delays[1]} if self._delays else None,
        }


class Viewer:
    """The frames for one viewer. One that is too slow misses the oldest."""

    def __init__(self, others: set[Viewer], size: int) -> None:
        self._others = others
        self._frames: deque[LiveFrame] = deque(maxlen=size)
        self._changed = asyncio.Event()
        self._is_closed = False
        self.missed = 0
        """Frames that came while `size` others were waiting."""

    def offer(self, frame: LiveFrame) -> None:
        """Add a frame."""
        self.missed += len(self._frames) == self._frames.maxlen
        self._frames.append(frame)
        self._changed.set()

    async def __aiter__(self) -> AsyncIterator[LiveFrame]:
        """Yield the frames until the stream ends or the viewer is closed."""
        while True:
            while self._frames:
                yield self._frames.popleft()
            if self._is_closed:
                return
            self._changed.clear()
            await self._changed.wait()

    def close(self) -> None:
        """Take no more frames."""
        self._is_closed = True
        self._others.discard(self)
        self._changed.set()
