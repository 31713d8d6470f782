"""Run the queued jobs on one device, in a worker process that is replaced when it dies."""

from __future__ import annotations

import contextlib
import errno
import json
import logging
import os
import shutil
import threading
from collections.abc import Callable, Iterable
from fractions import Fraction
from pathlib import Path
from time import monotonic, time
from typing import Any, Literal

from wav2lip_npu.batch.jobs import Job
from wav2lip_npu.batch.progress import JobBusy, JobCancelled, JobEvent, JobProgress
from wav2lip_npu.batch.results import FAILED, JobResult, reason_of
from wav2lip_npu.batch.runner import MAX_OUTPUTS, JobGroup
from wav2lip_npu.batch.worker import default_in_flight
from wav2lip_npu.errors import OutputError, Wav2LipError
from wav2lip_npu.media.container import probe
from wav2lip_npu.parallel.processes import run_in_processes
from wav2lip_npu.parallel.work_queue import Failure
from wav2lip_npu.serve.engine_options import EngineOptions
from wav2lip_npu.serve.jobs import job_of, public_report, public_text, video_id_of
from wav2lip_npu.serve.queue import JobQueue
from wav2lip_npu.serve.records import Stage, Video, Worker
from wav2lip_npu.serve.store import OUTPUT, REPORT
from wav2lip_npu.serve.worker import StartServeWorker
from wav2lip_npu.storage.atomic import remove_stale_parts
from wav2lip_npu.storage.locks import remove_stale_lock
from wav2lip_npu.storage.outputs import write_output

log = logging.getLogger(__name__)

_CANCEL_S = 10.0
"""Seconds in which a worker must notice that a job was cancelled, before it is killed."""
_LOOK_EVERY_S = 1.0
"""Seconds between two looks for cancelled jobs."""
_FULL = errno.ENOSPC, errno.EDQUOT
_FIRST_DELAY_S, _MAX_DELAY_S = 1.0, 60.0
"""Seconds before a device that failed is tried again, doubled with each failure."""


class DeviceLoop:
    """The loop of one device, and the source of its worker (a `work_queue.WorkSource`)."""

    def __init__(
        self,
        name: str,
        queue: JobQueue,
        options: EngineOptions,
        stopped: threading.Event,
        idle: set[str] | None = None,
    ) -> None:
        self.name = name
        self._idle = set() if idle is None else idle
        """Devices without a job; the loops of an engine share it."""
        self._queue, self._store, self._options, self._stopped = queue, queue.store, options, stopped
        self._in_flight = options.in_flight or default_in_flight([name])
        self._videos: dict[str, Video] = {}
        """Jobs of the worker that have not ended, by ID."""
        self._began: dict[str, tuple[float, int]] = {}
        """Time and frame of their first progress."""
        self._busy: set[str] = set()
        self._next_look = 0.0
        self._cancelled_at: float | None = None

    @property
    def is_open(self) -> bool:
        """Whether further jobs may arrive."""
        return not self._stopped.is_set()

    def run(self) -> None:
        """Run jobs until `stopped` is set."""
        delay = _FIRST_DELAY_S
        while not self._stopped.is_set():
            self._set_state("starting")
            started = monotonic()
            start_worker = StartServeWorker(self._options.folder, self._options.in_flight)
            try:
                with contextlib.closing(
                    run_in_processes([self.name], self, start_worker, self._timeout)
                ) as answers:
                    for jobs, answer in answers:
                        self._record(jobs, answer)
            except Wav2LipError as error:
                self._set_state("failed", str(error))
                self._died(Failure(str(error)))
                delay = _FIRST_DELAY_S if monotonic() - started > _MAX_DELAY_S else delay
                log.error("%s: %s It is tried again in %g s.", self.name, error, delay)
                self._stopped.wait(delay)
                delay = min(_MAX_DELAY_S, 2 * delay)

    # ---- the source of the worker ----

    def take(self, worker: str) -> JobGroup | None:
        """Claim jobs from the store; None if none is waiting."""
        jobs: list[Job] = []
        self._videos, self._began, self._cancelled_at = {}, {}, None
        self._busy.clear()
        self._idle.add(self.name)
        passes = 0 if self._stopped.is_set() else 1 if len(self._idle) > 1 else self._in_flight
        try:
            for _ in range(passes):
                jobs += self._jobs_of(self._queue.claim(MAX_OUTPUTS))
        except OutputError as error:
            log.error("no job can be started: %s", error)
        if jobs:
            self._idle.discard(self.name)
        return tuple(jobs) or None

    def _jobs_of(self, videos: Iterable[Video]) -> list[Job]:
        """Return the jobs of the videos that can be made; the others fail."""
        jobs = []
        for video in videos:
            self._videos[video.id] = video
            try:
                jobs.append(job_of(video, self._store, self._options.checkpoints))
            except Wav2LipError as error:
                self._fail(video.id, reason_of(error), str(error))
        return jobs

    def _timeout(self, jobs: JobGroup) -> float | None:
        """Return the seconds that these jobs may take, 0 to end their worker now."""
        if self._stopped.is_set():
            return 0.0
        now = monotonic()
        if now > self._next_look:
            self._next_look = now + _LOOK_EVERY_S
            is_cancelled = len(self._queue.running(list(self._videos))) < len(self._videos)
            self._cancelled_at = (self._cancelled_at or now) if is_cancelled else None
        if self._is_abandoned:
            return 0.0
        return None if self._options.timeout is None else self._options.timeout * len(jobs)

    @property
    def _is_abandoned(self) -> bool:
        """Whether the worker is killed for no fault of its jobs."""
        is_late = self._cancelled_at is not None and monotonic() - self._cancelled_at > _CANCEL_S
        return self._stopped.is_set() or is_late

    # ---- its answers ----

    def _record(self, jobs: JobGroup, answer: JobEvent | Failure | None) -> None:
        if isinstance(answer, JobProgress):
            self._progress(video_id_of(answer.job), answer.frames, answer.total)
        elif isinstance(answer, JobBusy):
            self._busy.add(video_id_of(answer.job))
        elif isinstance(answer, JobCancelled):
            self._drop(video_id_of(answer.job))
        elif isinstance(answer, Failure):
            self._died(answer)
        elif answer is None:
            self._died(Failure("its worker returned no result", "bug"))
        elif answer.status == FAILED:
            self._fail(video_id_of(answer.job), answer.reason or "bug", answer.detail or "")
        else:
            self._finish(answer)

    def _progress(self, video_id: str, done: int, total: int) -> None:
        start, first = self._began.setdefault(video_id, (monotonic(), done))
        seconds = monotonic() - start
        fps = (done - first) / seconds if done > first else None
        stage: Stage = "finishing" if done >= total else "dubbing"
        with contextlib.suppress(OutputError):  # the next one is enough
            self._queue.progress(
                video_id,
                stage=stage,
                frames_done=done,
                frames=total,
                fps=None if fps is None else round(fps, 2),
                seconds_left=None if fps is None else round((total - done) / fps, 1),
            )

    def _finish(self, result: JobResult) -> None:
        video_id = video_id_of(result.job)
        video = self._videos.pop(video_id)
        written = _read_report(self._store.video_folder(video_id) / REPORT)
        if written is None:  # the engine was killed between the output and its report
            info = probe(result.job)
            frames, size = info.frames or 0, f"{info.width}x{info.height}"
            seconds, report = float(frames / info.fps), None
        else:
            frames, size = written["frames"], f"{written['width']}x{written['height']}"
            seconds = float(frames / Fraction(written["fps"]))
            report = public_report(written, video, self._store, self._options.checkpoints)
            public = json.dumps(report).encode()
            self._durably(lambda: write_output(self._store.video_folder(video_id) / REPORT, public))
        remove_stale_parts(result.job)
        remove_stale_lock(result.job)  # of a worker that was killed
        self._durably(
            lambda: self._queue.finish(video_id, report=report, frames=frames, seconds=seconds, size=size)
        )
        self._remove_unwanted(video_id)

    def _fail(self, video_id: str, reason: str, detail: str) -> None:
        video = self._videos.pop(video_id)
        text = public_text(detail, video, self._store, self._options.checkpoints)
        if any(f"cannot write {OUTPUT}: {os.strerror(code)}" in text for code in _FULL):
            reason, text = "storage", "the disk of the service was full. Start a new job later."
        self._durably(lambda: self._queue.fail(video_id, reason, text))
        self._remove_unwanted(video_id)

    def _died(self, failure: Failure) -> None:
        """Decide what happens to the jobs of the worker that have no result."""
        running = self._queue.running(list(self._videos))
        for video_id in list(self._videos):
            if video_id not in running:  # cancelled
                self._drop(video_id)
        ids = list(self._videos)
        busy = [video_id for video_id in ids if self._is_abandoned or video_id in self._busy]
        left = [video_id for video_id in ids if video_id not in busy]
        self._durably(lambda: self._queue.release(busy))
        if failure.kind == "bug" or (failure.kind == "timeout" and len(left) == 1):
            for video_id in left:
                self._fail(video_id, failure.kind, failure.detail)
        else:
            self._durably(lambda: self._queue.worker_died(left, failure.detail))
        self._videos = {}

    def _drop(self, video_id: str) -> None:
        """Forget a job that was cancelled."""
        del self._videos[video_id]
        self._remove_unwanted(video_id)

    def _remove_unwanted(self, video_id: str) -> None:
        """Remove the files of a job that was cancelled or deleted while it ran."""
        video = self._store.video(video_id)
        if video is None or video.status == "cancelled":
            shutil.rmtree(self._store.video_folder(video_id), ignore_errors=True)

    def _durably(self, change: Callable[[], object]) -> None:
        """Make a change of the store; wait while its disk is full."""
        while True:
            try:
                change()
                return
            except OutputError as error:
                log.error("%s", error)
                if self._stopped.wait(1):
                    return

    def _set_state(self, state: Literal["starting", "failed"], detail: str = "") -> None:
        worker = Worker(name=self.name, state=state, detail=detail, changed_at=int(time()))
        self._durably(lambda: self._queue.set_worker(worker))


def _read_report(path: Path) -> dict[str, Any] | None:
    """Return a report; None if there is none."""
    try:
        content: dict[str, Any] = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None
    return content
