"""Dub many videos on one device: faces found once, several sounds in a pass, no failure stops another.

A video that is finished is known by the key of its job, which it carries in its metadata: it is never made
again, whoever was killed when.
"""

from __future__ import annotations

import logging
import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from queue import Queue
from time import monotonic
from typing import TYPE_CHECKING, Any

from wav2lip_npu.batch import results
from wav2lip_npu.batch.face_cache import FaceCache, faces_key
from wav2lip_npu.batch.job_keys import Contents, key_of, mark
from wav2lip_npu.batch.jobs import Job
from wav2lip_npu.batch.results import JobResult
from wav2lip_npu.dubbing.outputs import Output
from wav2lip_npu.dubbing.pipeline import dub_many
from wav2lip_npu.dubbing.report import DubReport
from wav2lip_npu.errors import Wav2LipError
from wav2lip_npu.faces.detection import Detection, Detector
from wav2lip_npu.media.container import probe
from wav2lip_npu.media.yuv_image import Image

if TYPE_CHECKING:
    from wav2lip_npu.dubbing.inference import Models

log = logging.getLogger(__name__)

TOGETHER = 4
"""Sounds in one pass over a video of up to 1920x1080; fewer of a larger one, as each has an encoder."""
_PASS_PIXELS = TOGETHER * 1920 * 1088
_PROGRESS_S = 0.5
Unit = tuple[Job, ...]
"""Jobs that share a face video and all options: they are done in one pass."""


@dataclass(frozen=True)
class Progress:
    """How far a job is."""

    job: str
    """As `JobResult.job`."""
    frames: int
    of: int


def run_jobs(
    jobs: Iterable[Job],
    models: Models | Callable[[Job], Models],
    *,
    cache: FaceCache = FaceCache(None),
    in_flight: int = 1,
) -> Iterator[JobResult]:
    """Do jobs on the device of the models, and give what became of each, in the order of their ends.

    Jobs that share a face video and options are done in one pass. A job fails alone, with its reason in its
    result. `models` are used for all jobs, whatever weights and precision they name, or are what loads those
    that a job names. `in_flight` passes run at the same time, for a device that waits for decoders.
    """
    if not callable(models):
        from wav2lip_npu.device import precision_name

        weights, precision = os.fspath(models.weights), precision_name(models.precision)
        jobs = [replace(job, checkpoint_path=weights, precision=precision) for job in jobs]
    for event in work_on(units_of(jobs), models, cache=cache, in_flight=in_flight):
        if isinstance(event, JobResult):
            yield event


def units_of(jobs: Iterable[Job]) -> list[Unit]:
    """Jobs in passes, in the order of their first ones."""
    groups: dict[Any, list[Job]] = {}
    for job in jobs:
        groups.setdefault((job.face, job.dub, job.checkpoint_path, job.precision, job.device), []).append(job)
    return [
        tuple(group[start : start + TOGETHER])
        for group in groups.values()
        for start in range(0, len(group), TOGETHER)
    ]


def work_on(
    units: Sequence[Unit],
    models: Models | Callable[[Job], Models],
    *,
    cache: FaceCache,
    in_flight: int = 1,
) -> Iterator[JobResult | Progress]:
    """`run_jobs` with progress. Each job has one result, and no progress after it.

    Closing this generator gives up the passes in progress; their outputs are as they were before.
    """
    load = models if callable(models) else lambda job: models
    in_turn = threading.Lock()
    said: Queue[JobResult | Progress | BaseException | None] = Queue()
    waiting = deque(units)
    is_over = threading.Event()
    contents = Contents()

    def work() -> None:
        """Units one after the other, until none is left or nobody listens."""
        try:
            while True:
                try:
                    unit = waiting.popleft()
                except IndexError:
                    return
                _Pass(unit, load, cache, contents, said.put, is_over, in_turn).run()
        except BaseException as error:
            said.put(error)
        finally:
            said.put(None)

    workers = max(1, min(in_flight, len(units)))
    with ThreadPoolExecutor(workers, thread_name_prefix="pass") as pool:
        for _ in range(workers):
            pool.submit(work)
        try:
            while workers:
                event = said.get()
                if isinstance(event, BaseException):
                    raise event
                if event is None:
                    workers -= 1
                else:
                    yield event
        finally:
            waiting.clear()
            is_over.set()


class _InTurn:
    """A detector that several passes share, and that one at a time may call."""

    def __init__(self, detector: Detector, lock: threading.Lock) -> None:
        self.name, self.views = detector.name, detector.views
        self.short_side, self.face_side = detector.short_side, detector.face_side
        self._detector, self._lock = detector, lock

    def __call__(self, images: Sequence[Image]) -> list[list[Detection]]:
        """See `Detector`."""
        with self._lock:
            return self._detector(images)


class _OverError(Exception):
    """Nobody waits for the result any more."""


@dataclass(frozen=True)
class _Pass:
    """One unit on its way; `say` is told what becomes of its jobs."""

    unit: Unit
    load: Callable[[Job], Models]
    cache: FaceCache
    contents: Contents
    say: Callable[[JobResult | Progress], None]
    is_over: threading.Event
    in_turn: threading.Lock

    def run(self) -> None:
        """Do those jobs whose videos are not there."""
        todo: dict[Job, str] = {}
        for job in self.unit:
            try:
                key = self.contents.key(job)
                if key_of(job.outfile) != key:
                    todo[job] = key
                else:
                    self.say(results.found(job, key, self.contents))
            except Exception as error:
                self._fail(job, error)
        jobs = list(todo)
        while jobs and not self.is_over.is_set():
            size = self._together(jobs[0])
            self._dub({job: todo[job] for job in jobs[:size]})
            del jobs[:size]

    def _together(self, job: Job) -> int:
        try:
            info = probe(job.face)
        except Wav2LipError:
            return TOGETHER  # they fail together
        return max(1, min(TOGETHER, _PASS_PIXELS // max(1, info.width * info.height)))

    def _dub(self, keys: dict[Job, str]) -> None:
        first, *_ = keys
        made: Sequence[DubReport | Exception]
        try:
            models = self.load(first)
            models = replace(models, detector=_InTurn(models.detector, self.in_turn))
            place = faces_key(self.contents(first.face), models.detector.name, first.dub)
            memory = self.cache.read(place)
            outputs = [self._output(job, key) for job, key in keys.items()]
            made = dub_many(first.face, outputs, models=models, options=first.dub, memory=memory)
            self.cache.write(place, memory)
        except Exception as error:
            made = [error] * len(keys)
        for job, each in zip(keys, made, strict=True):
            if isinstance(each, Exception):
                self._fail(job, each)

    def _output(self, job: Job, key: str) -> Output:
        told = monotonic()

        def progress(frames: int, of: int) -> None:
            nonlocal told
            if self.is_over.is_set():
                raise _OverError
            if monotonic() - told > _PROGRESS_S:
                told = monotonic()
                self.say(Progress(results.name_of(job), frames, of))

        def on_done(made: DubReport) -> None:
            if job.report is not None:
                made.write(job.report)
            self.say(results.done(job, key, self.contents, made))

        return Output(job.audio, job.outfile, mark(key), progress, on_done)

    def _fail(self, job: Job, error: Exception) -> None:
        if isinstance(error, _OverError):
            return
        if not isinstance(error, Wav2LipError):
            log.warning("an unexpected error in row %d, %s", job.row, job.outfile, exc_info=error)
        self.say(results.failed(job, error))
