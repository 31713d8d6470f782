"""A live stream: audio chunks in, speaking frames out."""

from __future__ import annotations

import asyncio
import contextlib
import math
import threading
import weakref
from collections.abc import AsyncIterator, Callable, Iterator
from fractions import Fraction
from time import monotonic
from typing import Any

import numpy as np

from wav2lip_npu import signals
from wav2lip_npu.dubbing.inference import Models
from wav2lip_npu.errors import BusyError, UsageError
from wav2lip_npu.live.audio_feed import AudioFeed
from wav2lip_npu.live.device_loop import DeviceLoop
from wav2lip_npu.live.frame import LiveFrame
from wav2lip_npu.live.options import StreamOptions
from wav2lip_npu.live.pcm import Pcm
from wav2lip_npu.live.session import Session, StreamStats

_POLL_S = 0.1


class FaceStream:
    """A live stream, opened by `Models.stream`: push audio, and iterate over frames.

    Iterate with `for` in a thread, or with `async for` in an event loop; pushing and reading may happen in
    different threads. Each frame holds its image and its part of the audio: frame `n` is that from `n / fps`
    on, 173 ms behind its audio at the earliest, because the generator looks ahead. In silence the mouth is
    closed; push silence to keep the face moving while nobody speaks.

    Example:
        >>> async def speak(stream, chunks):
        ...     async def push():
        ...         async for pcm in chunks:
        ...             await stream.push_audio_async(pcm, 24_000)
        ...         stream.finish()
        ...     pushing = asyncio.create_task(push())
        ...     async for frame in stream:
        ...         show(frame.image, frame.audio)
        ...     await pushing

    """

    def __init__(self, loop: DeviceLoop, session: Session, options: StreamOptions) -> None:
        self._loop, self._session = loop, session
        self.models: Models = loop.models
        shift = loop.models.mel_shift if options.mel_shift is None else options.mel_shift
        self._feed = AudioFeed(
            options.exact_fps, shift, sample_rate=options.sample_rate, threshold=options.dub.pause_threshold
        )
        self._feeding = threading.Lock()
        self._pushed = 0.0
        """Time of the last audio that was not followed by a flush."""
        self.options = options
        """The options of the stream."""
        # A stream that is forgotten, without `close`, does not occupy the device.
        weakref.finalize(self, session.abandon)

    @property
    def fps(self) -> Fraction:
        """Frames per second."""
        return self._session.fps

    @property
    def size(self) -> tuple[int, int]:
        """Width and height of the images."""
        return self._session.avatar.width, self._session.avatar.height

    @property
    def stats(self) -> StreamStats:
        """Counts of frames so far."""
        return self._session.stats

    # Audio

    def push_audio(self, pcm: Pcm, rate: int, channels: int = 1) -> None:
        """Append audio of any length. Waits while `buffer_seconds` of audio wait for the device.

        Args:
            pcm: Interleaved 16-bit samples as bytes, or an array of int16 or float, [samples] or
                [samples, channels].
            rate: Samples per second, 8,000 to 192,000.
            channels: Channels of bytes, which are mixed.

        Raises:
            UsageError: The chunk is invalid, in which case nothing is appended; or the stream has ended.
            BusyError: It would have to wait in the thread of an event loop. Nothing is appended. Use
                `push_audio_async` there.

        """
        epoch = self._wait_for_room()
        self._push(pcm, rate, channels, epoch)

    async def push_audio_async(self, pcm: Pcm, rate: int, channels: int = 1) -> None:
        """Do the same as `push_audio`, without blocking the event loop."""
        with self._loop.lock:
            epoch = self._session.epoch
        while not self._may_push(epoch):
            await self._change(lambda: self._may_push_locked(epoch))
        self._push(pcm, rate, channels, epoch)

    def flush(self) -> int:
        """Complete the frames of all audio so far, as at the end of a sentence. Silence fills the last frame.

        Without it, the last 0.2 s are shown when more audio follows. Returns the number of the frame after
        the last one.
        """
        with self._feeding:
            self._add(self._feed.flush())
            self._pushed = 0.0
            return self._feed.next_frame

    def hurry(self) -> int:
        """Complete the frames of all audio so far as if it went on as it ends, for answers to chunks.

        The mouth is less exact in the last 0.2 s. Returns the number of the frame after the last one.
        """
        with self._feeding:
            self._add(self._feed.hurry())
            return self._feed.next_frame

    def clear(self) -> None:
        """Drop the audio and the frames that the reader has not taken, for an interruption.

        The face goes on where it is, and the next frame continues the time.
        """
        with self._feeding, self._loop.lock:
            self._session.clear()
            self._feed.clear(self._session.next_number)
            self._pushed = 0.0

    def finish(self) -> None:
        """End the audio: the iteration ends after the last frame."""
        self.flush()
        with self._loop.lock:
            self._session.finish()

    def close(self) -> None:
        """End the stream now, without the frames that remain."""
        self._loop.close(self._session)

    def __enter__(self) -> FaceStream:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # Frames

    def __iter__(self) -> Iterator[LiveFrame]:
        """Yield the frames; wait for each."""
        while True:
            with self._loop.lock:
                while (frame := self._take()) is None and not self._session.is_done:
                    self._wait()
            if frame is None:
                break
            yield frame
        self._raise_error()

    def __aiter__(self) -> AsyncIterator[LiveFrame]:
        """Yield the frames; wait for each without blocking the event loop."""
        return self._frames()

    async def _frames(self) -> AsyncIterator[LiveFrame]:
        while True:
            if (frame := self.take_now()) is not None:
                yield frame
            elif self.is_done:
                break
            else:
                await self.wait()

    def take_now(self) -> LiveFrame | None:
        """Return the next frame; None if there is none yet, or no more.

        Raises the error that ended the stream.
        """
        with self._loop.lock:
            frame = self._take()
        if frame is None and self._session.is_closed:
            self._raise_error()
        return frame

    @property
    def is_done(self) -> bool:
        """Whether the reader has taken the last frame."""
        with self._loop.lock:
            return self._session.is_done

    async def wait(self, seconds: float | None = None) -> None:
        """Wait until there is a frame or the stream is done, at most some seconds."""
        session = self._session
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self._change(lambda: session.has_frame or session.is_done), seconds)

    @property
    def unfed_since(self) -> float | None:
        """Time, as of `monotonic`, of the last audio, if all of it has become frames; None if not.

        0 after `flush` and `clear`, and at the beginning.
        """
        with self._loop.lock:
            return self._pushed if self._session.is_starved else None

    def push_silence(self) -> None:
        """Append silence for one frame, which fills a gap. Needs the option `sample_rate`."""
        rate = self.options.sample_rate
        if rate is None:
            raise UsageError("silence needs StreamOptions(sample_rate=...), its sample rate.")
        with self._feeding:
            silence = np.zeros(math.ceil(rate / self.fps), np.int16)
            self._add(self._feed.push(silence, rate, is_idle=True))

    def _take(self) -> LiveFrame | None:
        """Return the next frame, if there is one, and let the device use the room. Needs the lock."""
        frame = self._session.take()
        if frame is not None and self._session.wants_work:
            self._loop.wake()
        return frame

    def _raise_error(self) -> None:
        if self._session.error is not None:
            raise self._session.error

    def _wait_for_room(self) -> int:
        """Wait until audio may be pushed, and return the number of interruptions before."""
        with self._loop.lock:
            epoch = self._session.epoch
            while not self._may_push_locked(epoch):
                if _is_event_loop():
                    raise BusyError(
                        f"push_audio: {self.options.buffer_seconds:g} s of audio wait for the device. "
                        "Use await push_audio_async(...) in an event loop."
                    )
                self._wait()
        return epoch

    def _wait(self) -> None:
        """Wait for a change of the session, in a thread. The lock must be held."""
        self._session.changed.wait(_POLL_S)
        signals.check()

    def _may_push(self, epoch: int) -> bool:
        with self._loop.lock:
            return self._may_push_locked(epoch)

    def _may_push_locked(self, epoch: int) -> bool:
        session = self._session
        return session.has_room or session.is_closed or session.epoch != epoch

    def _push(self, pcm: Pcm, rate: int, channels: int, epoch: int) -> None:
        self._raise_error()
        if self._session.is_closed or self._session.has_ended:
            raise UsageError("the stream has ended. Open another one with models.stream(...).")
        with self._feeding:
            if self._session.epoch != epoch:  # an interruption drops the chunk that waited, too
                return
            self._add(self._feed.push(pcm, rate, channels))
            self._pushed = monotonic()

    def _add(self, frames: list[Any]) -> None:
        if not frames:
            return
        with self._loop.lock:
            self._session.sample_rate = self._feed.sample_rate or 0
            self._session.add(frames)
            self._loop.wake()

    async def _change(self, has_come: Callable[[], bool]) -> None:
        """Wait for the next change of the session, unless the condition, checked under the lock, is true."""
        events = asyncio.get_running_loop()
        changed = asyncio.Event()

        def notify() -> None:
            if not events.is_closed():
                events.call_soon_threadsafe(changed.set)

        with self._loop.lock:
            if has_come():
                return
            self._session.on_change.append(notify)
        await changed.wait()


def _is_event_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True
