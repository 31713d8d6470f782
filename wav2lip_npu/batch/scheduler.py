"""Assign jobs to workers, and retry jobs whose worker died."""

from __future__ import annotations

import logging
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace

from wav2lip_npu.batch.jobs import Job
from wav2lip_npu.batch.progress import JobBusy, JobCancelled, JobEvent, JobProgress
from wav2lip_npu.batch.results import JobResult, failed_result, name_of
from wav2lip_npu.batch.runner import JobGroup, group_jobs
from wav2lip_npu.parallel.work_queue import Failure

log = logging.getLogger(__name__)

_MAX_ATTEMPTS = 2


class Scheduler:
    """Remaining jobs and the number of attempts of each; a `work_queue.WorkSource`.

    A worker gets up to `in_flight` groups at once. As long as there are others, the jobs of a face video go
    to one worker, so that its faces are detected once. `refill` supplies further jobs when none are left.
    """

    def __init__(self, in_flight: int = 1, refill: Callable[[], Iterable[Job]] | None = None) -> None:
        self.attempts: Counter[str] = Counter()
        self.is_open = refill is not None
        self._in_flight, self._refill = in_flight, refill
        self._waiting: deque[JobGroup] = deque()
        self._postponed: set[str] = set()
        self._faces: dict[str, set[str]] = {}
        """Face videos in progress, by worker."""

    def add(self, jobs: Iterable[Job]) -> None:
        """Add jobs, in groups that share a pass."""
        self._waiting.extend(group_jobs(jobs))

    def retry(self, job: Job) -> None:
        """Add a job again, after all others and in its own pass."""
        self._waiting.append((job,))

    def postpone(self, job: Job) -> None:
        """Add a job that was not started to the end of the queue."""
        name = name_of(job)
        self.attempts[name] -= 1
        if name not in self._postponed:
            self._postponed.add(name)
            log.info("%s is being written by another batch and is postponed", name)
        self._waiting.append((job,))

    def take(self, worker: str) -> JobGroup | None:
        """Return the next jobs for a worker; `None` if there are currently none for it."""
        if not self._waiting and self._refill is not None:
            self.add(self._refill())
        self._faces[worker] = set()
        taken: list[Job] = []
        for _ in range(self._in_flight):
            group = self._pick(worker)
            if group is None or (taken and self._is_retry(group)):
                break
            self._waiting.remove(group)
            taken += group
            self._faces[worker].add(group[0].face)
            if self._is_retry(group):
                break
        self.attempts.update(map(name_of, taken))
        return tuple(taken) or None

    def _is_retry(self, group: JobGroup) -> bool:
        return len(group) == 1 and self.attempts[name_of(group[0])] > 0

    def _pick(self, worker: str) -> JobGroup | None:
        elsewhere = {face for other, faces in self._faces.items() if other != worker for face in faces}
        groups = [group for group in self._waiting if group[0].device in (None, worker)]
        return next((group for group in groups if group[0].face not in elsewhere), next(iter(groups), None))


def needed_devices(devices: Sequence[str], jobs: Sequence[Job]) -> list[str]:
    """Return all devices that jobs require, and others up to the number of jobs."""
    named = [name for name in devices if any(job.device == name for job in jobs)]
    others = [name for name in devices if name not in named]
    return [*named, *others][: max(len(named), len(jobs))]


def collect_results(
    answers: Iterable[tuple[JobGroup, JobEvent | Failure | None]],
    scheduler: Scheduler,
) -> Iterator[JobResult | JobProgress]:
    """Yield the progress and one result of each job from the answers of workers.

    A job whose worker died is retried once, alone. So are the jobs of a group that timed out; a single job
    that times out fails. Jobs whose output another batch is writing are postponed.
    """
    finished: set[str] = set()
    busy: set[str] = set()
    for jobs, answer in answers:
        if isinstance(answer, JobProgress):
            yield answer
        elif isinstance(answer, JobResult):
            if answer.job not in finished:
                finished.add(answer.job)
                yield replace(answer, attempts=scheduler.attempts[answer.job])
        elif isinstance(answer, (JobBusy, JobCancelled)):  # a batch cancels no job
            busy.add(answer.job)
        else:
            failure = answer or Failure("its worker returned no result", "bug")
            for job in jobs:
                name = name_of(job)
                if name in finished:
                    continue
                if name in busy:
                    busy.remove(name)
                    scheduler.postpone(job)
                    continue
                attempts = scheduler.attempts[name]
                is_last = len(jobs) == 1 and (failure.kind == "timeout" or attempts >= _MAX_ATTEMPTS)
                if failure.kind == "bug" or is_last:
                    finished.add(name)
                    yield replace(failed_result(job, failure.detail, failure.kind), attempts=attempts)
                else:
                    scheduler.retry(job)
