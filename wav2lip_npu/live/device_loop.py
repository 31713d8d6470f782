"""The loop of one device: takes a frame of each live stream in turn, and runs the generator on all of them.

Its threads take the frames of all streams, so that a stream whose reader is slow, or whose audio is late,
takes no time from the others.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from time import perf_counter

import numpy as np

from wav2lip_npu.devices import device as devices
from wav2lip_npu.dubbing.blend import Blend, composite, load_mask
from wav2lip_npu.dubbing.inference import GeneratorRunner, Models
from wav2lip_npu.errors import BusyError
from wav2lip_npu.live.avatar import Avatar
from wav2lip_npu.live.options import StreamOptions
from wav2lip_npu.live.session import Session, Task
from wav2lip_npu.media.yuv_image import Image, YuvImage
from wav2lip_npu.mel import DEFAULT_MEL, Mel
from wav2lip_npu.parallel.thread_counts import one_core_each, opencv_threads

log = logging.getLogger(__name__)

_MAX_LOAD = 0.8
"""Share of the time of a device that streams may take."""
_TRIALS = 3
_POLL_S = 1
"""Seconds after which streams that were forgotten without `close` are noticed."""
SILENCE: Mel = np.full((DEFAULT_MEL.n_mels, DEFAULT_MEL.columns_per_window), -DEFAULT_MEL.max_abs, np.float32)
"""Mel window of silence."""


class DeviceLoop:
    """Makes the frames of all streams of one `Models` object. Its threads run while there is a stream.

    Args:
        models: The networks.
        max_batch: Most frames in a batch, each of another stream. None: 1 on a CPU, where a larger batch is
            no faster; the default of the models on an accelerator.

    """

    def __init__(self, models: Models, max_batch: int | None = None) -> None:
        self.models = models
        self.lock = threading.Lock()
        self._work = threading.Condition(self.lock)
        self._opening = threading.Lock()
        """Held while a stream is added, so that one at a time is measured."""
        self._sessions: list[Session] = []
        """In the order in which they are served next."""
        self._runners: dict[Blend, GeneratorRunner] = {}
        self._frame_seconds: dict[Blend, float] = {}
        self._is_fast = devices.is_accelerator(models.device)
        self._max_batch = max_batch or (models.batch if self._is_fast else 1)
        self.lanes = devices.lanes(models.device)
        self._running = 0
        self._threads: list[threading.Thread] = []

    # Streams

    def open(self, avatar: Avatar, options: StreamOptions) -> Session:
        """Add a stream. Raises `BusyError` if the device holds no more."""
        with self._opening:
            limit = options.max_sessions or self.capacity(avatar, options)
            with self.lock:
                self._close_abandoned()
                if len(self._sessions) >= limit:
                    raise BusyError(
                        f"{self.models.device} is busy: it holds {len(self._sessions)} of {limit} streams. "
                        "Close one, or pass another --device."
                    )
                session = Session(avatar, options, self.lock)
                self._sessions.append(session)
                missing, self._running = self.lanes - self._running, self.lanes
            started = [
                threading.Thread(target=self._run, name=f"live-{number}", daemon=True)
                for number in range(missing)
            ]
            self._threads = [thread for thread in self._threads if thread.is_alive()] + started
            for thread in started:
                thread.start()
        return session

    def close(self, session: Session, error: Exception | None = None) -> None:
        """Remove a stream, and with the last one the threads: PyTorch aborts a process that they outlive."""
        with self.lock:
            self._close(session, error)
            ending = [] if self._sessions else self._threads
        for thread in ending:
            if thread is not threading.current_thread():
                thread.join(_POLL_S)

    def capacity(self, avatar: Avatar, options: StreamOptions) -> int:
        """Return the number of streams that the device holds, measured once while it is idle."""
        seconds = self._frame_seconds.get(options.blend)
        if seconds is None:
            seconds = self._frame_seconds[options.blend] = self._measure(avatar, options.blend)
        workers = 1 if self._is_fast else self.lanes  # lanes of an accelerator share it
        streams = max(1, int(_MAX_LOAD * workers / (seconds * float(options.exact_fps))))
        log.debug("%s: %.1f ms a frame, %d streams", self.models.device, seconds * 1000, streams)
        return streams

    @property
    def streams(self) -> int:
        """Number of open streams."""
        with self.lock:
            return len(self._sessions)

    def wake(self) -> None:
        """Let the threads look for work. The lock must be held."""
        self._work.notify_all()

    def runner(self, blend: Blend) -> GeneratorRunner:
        """Return the runner of the generator for a way of blending."""
        if blend not in self._runners:
            self._runners[blend] = GeneratorRunner(self.models, None, load_mask(blend, self.models.face_size))
        return self._runners[blend]

    def _close(self, session: Session, error: Exception | None) -> None:
        if session in self._sessions:
            self._sessions.remove(session)
        session.close(error)
        self._work.notify_all()

    def _close_abandoned(self) -> None:
        for session in [session for session in self._sessions if session.is_abandoned]:
            self._close(session, None)

    def _measure(self, avatar: Avatar, blend: Blend) -> float:
        """Return the seconds that one thread needs for a frame in a full batch, the best of some trials.

        The smaller batches run too, because an accelerator compiles kernels for each size.
        """
        runner = self.runner(blend)
        index = next(index for index, frame in enumerate(avatar.frames) if not frame.reason)
        sizes = sorted({self._batch_size(count) for count in range(1, self._max_batch + 1)})
        best = float("inf")
        with self._prepared():
            for size in [*sizes, *[self._max_batch] * _TRIALS]:
                start = perf_counter()
                face = avatar.encoded(index, runner)
                for mouth in runner.decode_faces([face] * size, [SILENCE] * size):
                    composite(avatar.frames[index], mouth, avatar.mask)
                best = min(best, (perf_counter() - start) / size)
        return best

    def _batch_size(self, count: int) -> int:
        """Return the size of the batch for some frames: on an accelerator, one of few sizes."""
        return min(1 << (count - 1).bit_length(), self._max_batch) if self._is_fast else count

    # Threads

    @contextlib.contextmanager
    def _prepared(self) -> Iterator[None]:
        with one_core_each(self.models.device) as prepare, opencv_threads().borrowed(1):
            prepare()
            yield

    def _run(self) -> None:
        with self._prepared():
            while tasks := self._next_tasks():
                self._work_on(tasks)

    def _next_tasks(self) -> list[Task]:
        """Wait for frames to make, of as many streams as fit into a batch; none if all streams have ended."""
        with self.lock:
            while True:
                self._close_abandoned()
                if not self._sessions:
                    self._running -= 1
                    return []
                wanting = [session for session in self._sessions if session.wants_work]
                if wanting:
                    share = -(-len(wanting) // self.lanes)  # the other threads take the rest
                    chosen = wanting[: min(share, self._max_batch)]
                    self._sessions = [s for s in self._sessions if s not in chosen] + chosen
                    if len(wanting) > len(chosen):
                        self._work.notify()
                    return [session.start() for session in chosen]
                self._work.wait(_POLL_S)

    def _work_on(self, tasks: Sequence[Task]) -> None:
        """Make the images of the tasks, and pass them on. A stream that fails does not end the others."""
        plans = [_Plan.of(task) for task in tasks]
        try:
            self._generate(plans)
        except Exception as error:
            if len(tasks) == 1:
                self._fail(tasks[0].session, error)
            else:
                for task in tasks:
                    self._work_on([task])
            return
        for plan in plans:
            try:
                yuv = self._show(plan)
            except Exception as error:
                self._fail(plan.task.session, error)
                continue
            with self.lock:
                plan.task.session.deliver(plan.task, yuv)

    def _fail(self, session: Session, error: Exception) -> None:
        log.debug("a live stream failed", exc_info=error)
        self.close(session, error)

    def _show(self, plan: _Plan) -> YuvImage:
        """Return the image of a task."""
        session = plan.task.session
        if plan.task.is_late and session.shown is not None:
            return session.shown
        cut = session.avatar.is_cut(plan.task.audio.number)
        mouth = session.damper(plan.mouth, plan.task.audio.is_silent and not cut)
        session.shown = composite(session.avatar.frames[plan.index], mouth, session.avatar.mask)
        return session.shown

    def _generate(self, plans: Sequence[_Plan]) -> None:
        """Generate the missing mouths, those of one way of blending in one batch."""
        for blend in ("soft", "hard"):
            some = [plan for plan in plans if plan.needs_mouth and plan.blend == blend]
            if not some:
                continue
            runner = self.runner(blend)
            faces = [plan.task.session.avatar.encoded(plan.index, runner) for plan in some]
            mels = [SILENCE if plan.task.audio.is_silent else plan.task.audio.mel for plan in some]
            more = self._batch_size(len(some)) - len(some)
            mouths = runner.decode_faces(faces + faces[-1:] * more, mels + mels[-1:] * more)
            for plan, mouth in zip(some, mouths, strict=False):
                plan.mouth = mouth
                if plan.task.audio.is_silent:
                    plan.task.session.avatar.keep_closed_mouth(plan.index, mouth)


@dataclass
class _Plan:
    """What a task needs."""

    task: Task
    index: int
    """Frame of the avatar."""
    needs_mouth: bool
    mouth: Image | None

    @classmethod
    def of(cls, task: Task) -> _Plan:
        avatar = task.session.avatar
        index = avatar.index(task.audio.number)
        closed = avatar.closed_mouth(index) if task.audio.is_silent else None
        stays = task.is_late or avatar.frames[index].reason is not None
        return cls(task, index, closed is None and not stays, None if stays else closed)

    @property
    def blend(self) -> Blend:
        return "hard" if self.task.session.avatar.mask.exact else "soft"
