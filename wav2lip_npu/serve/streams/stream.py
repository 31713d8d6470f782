"""A live stream in the live process: its pace, its viewers, and its figures."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
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
        self._viewers: set[Viewer] = set()
        self._delays: deque[float] = deque(maxlen=_DELAYS)

    def watch(self, size: int) -> Viewer:
        """Return a new viewer, which keeps up to `size` frames that wait for it. Close it at the end."""
        viewer = Viewer(self._viewers, size)
        self._viewers.add(viewer)
        return viewer

    async def push(self, pcm: bytes) -> None:
        """Append int16 samples. Waits while the stream has enough audio."""
        size = 2 * int(_PIECE_S * self.sample_rate)
        for start in range(0, len(pcm), size):
            await self.face.push_audio_async(pcm[start : start + size], self.sample_rate)

    async def chunk(self, pcm: bytes, *, is_whole: bool) -> list[LiveFrame]:
        """Append audio, and return its frames that are complete; of a whole chunk, all frames."""
        frames: list[LiveFrame] = []
        size = 2 * int(_PIECE_S * self.sample_rate)
        for start in range(0, len(pcm), size):
            pushing = asyncio.ensure_future(self.push(pcm[start : start + size]))
            while not pushing.done():  # it waits while there are too many frames
                frames += self._taken()
                await asyncio.wait([pushing], timeout=_POLL_S)
            await pushing
        if is_whole:
            self.face.hurry()
        while True:
            frames += self._taken()
            if self.face.unfed_since is not None or self.face.is_done:
                return frames
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
            for viewer in list(self._viewers):
                viewer.close()

    def close(self) -> None:
        """End the stream."""
        self.face.close()
        self._closed.set()

    def _taken(self) -> list[LiveFrame]:
        """Take the frames that are there."""
        frames = []
        while (frame := self.face.take_now()) is not None:
            self._note_delay(frame)
            frames.append(frame)
        return frames

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
