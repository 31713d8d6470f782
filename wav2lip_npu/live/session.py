"""The state of one live stream: audio that waits for the device, and frames that wait for the reader."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from time import monotonic

from wav2lip_npu.dubbing.temporal_smoothing import MouthDamper
from wav2lip_npu.live.audio_feed import AudioFrame
from wav2lip_npu.live.avatar import Avatar
from wav2lip_npu.live.frame import LiveFrame
from wav2lip_npu.live.options import StreamOptions
from wav2lip_npu.media.yuv_image import YuvImage


@dataclass
class StreamStats:
    """Counts of a stream since its beginning."""

    frames: int = 0
    """Frames that the reader took."""
    late: int = 0
    """Frames that repeat an image, because the device was too slow."""
    silent: int = 0
    """Frames without speech, which do not use the network."""
    cleared: int = 0
    """Frames that `clear` dropped."""


@dataclass(frozen=True)
class Task:
    """The next frame of a session, for the device."""

    session: Session
    audio: AudioFrame
    epoch: int
    """Number of interruptions before the frame."""
    is_late: bool


class Session:
    """Queues of one stream. Methods are called while holding `lock`, which all sessions of a device share."""

    def __init__(self, avatar: Avatar, options: StreamOptions, lock: threading.Lock) -> None:
        fps = options.exact_fps
        self.avatar, self.fps = avatar, fps
        self.changed = threading.Condition(lock)
        """Notified when a frame or room for audio appears, and at the end."""
        self.on_change: list[Callable[[], None]] = []
        """Functions to call once at the next change."""
        self.stats = StreamStats()
        self.next_number = 0
        """Number of the next frame for the reader."""
        self.sample_rate = 0
        self.has_ended = False
        """Whether no more audio comes."""
        self.is_closed = self.is_abandoned = False
        self.error: Exception | None = None
        self.damper = MouthDamper(fps)
        self.shown: YuvImage | None = None
        """The image of the last frame. Only the thread that works for the session uses it."""
        self._period = float(1 / fps)
        self._max_delay = options.max_delay
        self._max_waiting = max(1, int(options.buffer_seconds * fps))
        self._max_ready = max(1, int(options.queue_seconds * fps))
        self._waiting: deque[tuple[AudioFrame, float]] = deque()
        self._ready: deque[LiveFrame] = deque()
        self._is_working = False
        self._epoch = 0
        self._due = self._room_since = 0.0
        """Time when the last frame was due, and since when the queue of the reader has had room."""

    # For the side that pushes.

    @property
    def has_room(self) -> bool:
        """Whether more audio may be pushed."""
        return len(self._waiting) < self._max_waiting

    @property
    def epoch(self) -> int:
        """Number of interruptions."""
        return self._epoch

    def add(self, frames: list[AudioFrame]) -> None:
        """Append frames for the device."""
        now = monotonic()
        self._waiting.extend((frame, now) for frame in frames)

    def clear(self) -> None:
        """Drop everything that the reader has not taken."""
        self._epoch += 1
        self.stats.cleared += len(self._waiting) + len(self._ready) + self._is_working
        self._waiting.clear()
        self._ready.clear()
        self._due = 0.0
        self._notify()

    def finish(self) -> None:
        """Let the reader end after the last frame."""
        self.has_ended = True
        self._notify()

    def close(self, error: Exception | None = None) -> None:
        """End the stream, now."""
        self.is_closed, self.error = True, error
        self._waiting.clear()
        self._ready.clear()
        self._notify()

    # For the reader.

    @property
    def has_frame(self) -> bool:
        """Whether there is a frame to take."""
        return bool(self._ready)

    @property
    def is_starved(self) -> bool:
        """Whether all audio has become frames that the reader took."""
        return not (self._waiting or self._ready or self._is_working)

    def abandon(self) -> None:
        """Mark the stream as forgotten by its user. May be called at any time, without the lock."""
        self.is_abandoned = True

    def take(self) -> LiveFrame | None:
        """Return the next frame; None if there is none now."""
        if not self._ready:
            return None
        if len(self._ready) == self._max_ready:
            self._room_since = monotonic()
        frame = self._ready.popleft()
        self.next_number = frame.number + 1
        self.stats.frames += 1
        return frame

    @property
    def is_done(self) -> bool:
        """Whether the reader gets no more frames."""
        return self.is_closed or (self.has_ended and self.is_starved)

    # For the device.

    @property
    def wants_work(self) -> bool:
        """Whether a frame can be made now."""
        has_room = len(self._ready) < self._max_ready
        return bool(self._waiting) and has_room and not self._is_working and not self.is_closed

    def start(self) -> Task:
        """Take the next frame, which `deliver` or `abandon` ends."""
        audio, arrival = self._waiting.popleft()
        self._is_working = True
        now = monotonic()
        # Audio that arrives at once is played at its own pace, and a reader that waits is not late.
        self._due = max(arrival, self._room_since, self._due + self._period)
        is_late = self._max_delay is not None and now > self._due + self._max_delay
        self._notify()
        return Task(self, audio, self._epoch, is_late and self.shown is not None)

    def deliver(self, task: Task, yuv: YuvImage) -> None:
        """Pass the image of a task on to the reader, unless there was an interruption."""
        self._is_working = False
        if not self.is_closed and task.epoch == self._epoch:
            audio = task.audio
            self.stats.late += task.is_late
            self.stats.silent += audio.is_silent
            self._ready.append(
                LiveFrame(
                    audio.number,
                    self.fps,
                    yuv,
                    audio.audio,
                    self.sample_rate,
                    speaks=not audio.is_silent,
                    is_late=task.is_late,
                    pushed=audio.pushed,
                )
            )
        self._notify()

    def _notify(self) -> None:
        self.changed.notify_all()
        waiting, self.on_change = self.on_change, []
        for call in waiting:
            call()
