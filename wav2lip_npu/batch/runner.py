"""Run jobs on one device: faces are detected once per video, outputs share passes, failures are isolated.

The metadata of an output contains the key of its job, so finished outputs are recognised and never rewritten,
even after a process was killed.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from queue import Empty, SimpleQueue
from time import monotonic
from typing import TYPE_CHECKING, Any

from wav2lip_npu import signals
from wav2lip_npu.batch import results
from wav2lip_npu.batch.face_cache import FaceCache, SpeakerCache, faces_key
from wav2lip_npu.batch.job_checks import job_inputs, job_output_problems, job_outputs
from wav2lip_npu.batch.job_keys import file_record, job_key, key_comment, read_key
from wav2lip_npu.batch.jobs import Job, as_jobs
from wav2lip_npu.batch.progress import JobBusy, JobCancelled, JobEvent, JobProgress
from wav2lip_npu.batch.results import JobResult
from wav2lip_npu.dubbing.dialogue_files import heard
from wav2lip_npu.dubbing.outputs import Output
from wav2lip_npu.dubbing.pipeline import dub_many
from wav2lip_npu.dubbing.report import DubReport
from wav2lip_npu.dubbing.speakers import dub_dialogue
from wav2lip_npu.errors import UsageError, Wav2LipError
from wav2lip_npu.faces.detectors import detector_inputs
from wav2lip_npu.media.container import VideoInfo, probe
from wav2lip_npu.storage.atomic import real_name
from wav2lip_npu.storage.locks import lock_output
from wav2lip_npu.storage.outputs import check_outputs

if TYPE_CHECKING:
    from wav2lip_npu.dubbing.inference import Models

log = logging.getLogger(__name__)

MAX_OUTPUTS = 4
"""Outputs of one pass over a video of up to 1920x1080; fewer of a larger one, because each has an encoder."""
_PASS_PIXELS = MAX_OUTPUTS * 1920 * 1088
_PROGRESS_S, _POLL_S = 0.5, 0.1
_LOCK_WAIT_S = 1.0
"""Seconds to wait for another batch that writes an output before other jobs are run."""
JobGroup = tuple[Job, ...]
"""Jobs with the same face video and options, which are dubbed in one pass."""


def run_jobs(
    jobs: Job | Iterable[Job],
    models: Models | Callable[[Job], Models],
    *,
    cache: FaceCache | None = None,
    in_flight: int = 1,
) -> Iterator[JobResult]:
    """Run jobs in this process, on the device of the models, and yield their results as they finish.

    Jobs with the same face video and options share a pass: the video is decoded and its faces are detected
    once. A failed job does not affect the others; its result has the reason. Outputs that are up to date are
    skipped. Closing the generator cancels the passes in progress and leaves their outputs unchanged.

    Args:
        jobs: A job or several. Their `device` is ignored. If two have the same output, the second one fails.
        models: Models for all jobs, see `load_models`, or a function that loads those of a job.
        cache: Cache of tracked faces; `FaceCache.at(None)` is that of `wav2lip-npu batch`. Default: none.
        in_flight: Number of concurrent passes; 2 keep an accelerator busy.

    Returns:
        An iterator over the results. A failed job is a result with `status="failed"`, not an exception.

    Raises:
        UsageError: One of the jobs is not a `Job`.
        DeviceError: The device of `models` can no longer be used.

    Example:
        >>> from wav2lip_npu import Job, load_models, run_jobs
        >>> job = Job(face="talk.mp4", audio="speech.wav", outfile="dubbed.mp4")
        >>> for result in run_jobs([job], load_models("starter")):
        ...     print(result.job, result.status, result.detail)

    """
    jobs = as_jobs(jobs)
    if not callable(models):
        from wav2lip_npu.dubbing.inference import expect_models

        models = expect_models(models)
        weights, precision = os.fspath(models.weights), models.precision_option
        chosen: dict[str, Any] = {"checkpoint_path": weights, "precision": precision, **asdict(models.design)}
        jobs = [replace(job, **chosen) for job in jobs]
    unique: dict[str, Job] = {}
    for job in jobs:
        if unique.setdefault(real_name(job.outfile), job) is not job:
            error = UsageError(f"{job.outfile} is also the output of another job. Rename one of them.")
            yield results.failed_result(job, error)
    waiting = []
    for job, problems in zip(unique.values(), job_output_problems([*unique.values()]), strict=True):
        if (problem := next(filter(None, problems), None)) is not None:
            yield results.failed_result(job, problem)
        else:
            waiting.append(job)
    while waiting:  # outputs that another batch is writing come last
        busy: set[str] = set()
        groups = group_jobs(waiting)
        for event in run_groups(groups, models, cache=cache or FaceCache(None), in_flight=in_flight):
            if isinstance(event, JobResult):
                yield event
            elif isinstance(event, JobBusy):
                busy.add(event.job)
        waiting = [job for job in waiting if results.name_of(job) in busy]


def group_jobs(jobs: Iterable[Job]) -> list[JobGroup]:
    """Return groups of up to `MAX_OUTPUTS` jobs that can share a pass, in the order of their first jobs."""
    groups: dict[Any, list[Job]] = {}
    for job in jobs:
        models = job.checkpoint_path, job.precision, job.compile, job.face_size, job.audio_refine
        alone = job.outfile if job.has_speakers else None
        groups.setdefault((job.face, job.dub, models, job.device, alone), []).append(job)
    return [
        tuple(group[start : start + MAX_OUTPUTS])
        for group in groups.values()
        for start in range(0, len(group), MAX_OUTPUTS)
    ]


def run_groups(
    groups: Sequence[JobGroup],
    models: Models | Callable[[Job], Models],
    *,
    cache: FaceCache,
    in_flight: int = 1,
    is_cancelled: Callable[[Job], bool] = lambda job: False,
) -> Iterator[JobEvent]:
    """Run groups of jobs like `run_jobs`; yield progress, and one other event per job.

    Other threads call `is_cancelled` while a job runs. If it returns True, this job ends, and no other.
    """
    load = models if callable(models) else lambda job: models
    waiting: SimpleQueue[JobGroup] = SimpleQueue()
    for group in groups:
        waiting.put(group)
    events: SimpleQueue[JobEvent | BaseException | None] = SimpleQueue()
    cancelled = threading.Event()

    def work() -> None:
        """Run groups until none is left. Put their events on the queue, then `None`."""
        signals.abandoned_after(cancelled)
        try:
            while not cancelled.is_set():
                group = waiting.get_nowait()
                _Pass(group, load, cache, events.put, cancelled, is_cancelled).run()
        except Empty:
            pass
        except BaseException as error:
            events.put(error)
        finally:
            events.put(None)

    running = max(1, min(in_flight, len(groups)))
    with signals.deferred() as pause, ThreadPoolExecutor(running, thread_name_prefix="pass") as pool:
        for _ in range(running):
            pool.submit(work)
        try:
            while running:
                signals.check()
                try:
                    event = events.get(timeout=_POLL_S)
                except Empty:
                    continue
                if isinstance(event, BaseException):
                    raise event
                if event is None:
                    running -= 1
                else:
                    with pause():
                        yield event
        finally:
            cancelled.set()


class _CancelledError(Exception):
    """The job was cancelled, or the consumer has closed the generator of results."""


@dataclass(frozen=True)
class _Pass:
    """A pass over a face video for one group of jobs; runs in a thread and reports through `emit`."""

    group: JobGroup
    load: Callable[[Job], Models]
    cache: FaceCache
    emit: Callable[[JobEvent], None]
    cancelled: threading.Event
    is_cancelled: Callable[[Job], bool]

    def run(self) -> None:
        """Dub the jobs whose outputs are not up to date and not being written by another batch."""
        with ExitStack() as locks:
            keys: dict[Job, str] = {}
            for job in self.group:
                try:
                    self._check(job)
                    key = self._start(job, locks)
                except Exception as error:
                    self._fail(job, error)
                else:
                    if key is not None:
                        keys[job] = key
            if keys:
                self._dub_all(keys)

    def _start(self, job: Job, locks: ExitStack) -> str | None:
        """Lock the output of a job and return the key; None if the output is up to date or being written."""
        key = job_key(job)
        is_current = read_key(job.outfile) == key
        if not is_current:
            check_outputs(job_outputs([job]), [*job_inputs([job]), *detector_inputs()])
            if not locks.enter_context(lock_output(job.outfile, _LOCK_WAIT_S)):
                self.emit(JobBusy(results.name_of(job)))
                return None
            is_current = read_key(job.outfile) == key  # another batch may have just written it
        if is_current:
            self.emit(results.existing_result(job, key))
            return None
        return key

    def _dub_all(self, keys: Mapping[Job, str]) -> None:
        jobs = list(keys)
        try:
            info = probe(jobs[0].face)
        except Exception as error:
            for job in jobs:
                self._fail(job, error)
            return
        while jobs and not self.cancelled.is_set():
            size = max(1, min(MAX_OUTPUTS, _PASS_PIXELS // max(1, info.width * info.height)))
            self._dub(info, {job: keys[job] for job in jobs[:size]})
            del jobs[:size]

    def _dub(self, info: VideoInfo, keys: dict[Job, str]) -> None:
        first, *_ = keys
        reports: Sequence[DubReport | Exception]
        try:
            models = self.load(first)
            faces = faces_key(file_record(first.face)["sha256"], models.detector.name, first.dub)
            outputs = [self._output(job, key) for job, key in keys.items()]
            if (dialogue := first.dialogue) is not None:
                tracks = SpeakerCache(self.cache, faces, len(dialogue.faces))
                dub_dialogue(info, outputs[0], dialogue, models=models, options=first.dub, tracks=tracks)
                return
            memory = self.cache.read(faces)
            reports = dub_many(info, outputs, models=models, options=first.dub, memory=memory)
            self.cache.write(faces, memory)
        except Exception as error:
            reports = [error] * len(keys)
        for job, report in zip(keys, reports, strict=True):
            if isinstance(report, Exception):
                self._fail(job, report)

    def _output(self, job: Job, key: str) -> Output:
        last = monotonic()  # of the writer thread of this output, which calls `progress`

        def progress(frames: int, total: int) -> None:
            nonlocal last
            if self.cancelled.is_set():
                raise _CancelledError
            if frames == total or monotonic() - last > _PROGRESS_S:
                last = monotonic()
                self._check(job)
                self.emit(JobProgress(results.name_of(job), frames, total))

        def finished(report: DubReport) -> None:
            if job.report is not None:
                report.write(job.report)
            self.emit(results.finished_result(job, key, report))

        audio = heard(dialogue) if (dialogue := job.dialogue) else job.audio
        return Output(audio, job.outfile, key_comment(key), progress, finished, job.voice)

    def _check(self, job: Job) -> None:
        """End a job that was cancelled."""
        if self.is_cancelled(job):
            self.emit(JobCancelled(results.name_of(job)))
            raise _CancelledError

    def _fail(self, job: Job, error: Exception) -> None:
        if isinstance(error, _CancelledError):
            return
        if not isinstance(error, Wav2LipError):
            log.warning("unexpected error in row %d, %s", job.row, job.outfile, exc_info=error)
        self.emit(results.failed_result(job, error))
