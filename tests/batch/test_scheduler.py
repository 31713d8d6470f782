"""Assignment of jobs to workers, and retries of jobs whose worker died."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from wav2lip_npu.batch.jobs import Job
from wav2lip_npu.batch.progress import JobBusy, JobProgress
from wav2lip_npu.batch.results import JobResult, failed_result, name_of
from wav2lip_npu.batch.scheduler import Scheduler, collect_results, needed_devices
from wav2lip_npu.parallel.work_queue import Failure


def job(row: int, face: str = "a.mp4", **more: Any) -> Job:
    return Job(face=face, audio=f"{row}.wav", outfile=f"{row}.mp4", row=row, **more)


def rows(group: tuple[Job, ...] | None) -> list[int]:
    return [job.row for job in group or ()]


def ok(done: Job) -> JobResult:
    return replace(failed_result(done, "x"), status="ok", reason=None, detail=None)


def test_jobs_of_a_video_go_to_one_worker():
    scheduler = Scheduler()
    scheduler.add([*(job(row) for row in range(6)), *(job(row, "b.mp4") for row in range(10, 12))])
    assert rows(scheduler.take("left")) == [0, 1, 2, 3]
    assert rows(scheduler.take("right")) == [10, 11]
    assert rows(scheduler.take("right")) == [4, 5]  # better than waiting
    assert scheduler.take("left") is None
    assert not scheduler.is_open


def test_job_waits_for_its_device():
    scheduler = Scheduler()
    scheduler.add([job(1, device="npu:1"), job(2, "b.mp4")])
    assert rows(scheduler.take("npu:0")) == [2]
    assert scheduler.take("npu:0") is None
    assert rows(scheduler.take("npu:1")) == [1]


def test_devices_required_by_jobs_are_used():
    devices = ["npu:0", "npu:1", "npu:2"]
    assert needed_devices(devices, [job(1, device="npu:2")]) == ["npu:2"]
    assert needed_devices(devices, [job(1), job(2, device="npu:1")]) == ["npu:1", "npu:0"]
    assert needed_devices(devices, [job(row) for row in range(9)]) == devices


def test_several_groups_at_once_and_retries_alone():
    scheduler = Scheduler(in_flight=2)
    scheduler.add([job(0), job(10, "b.mp4"), job(11, "b.mp4"), job(20, "c.mp4")])
    first = scheduler.take("cpu")
    assert rows(first) == [0, 10, 11]
    scheduler.retry(first[0])
    scheduler.retry(first[1])
    assert rows(scheduler.take("cpu")) == [20]
    assert rows(scheduler.take("cpu")) == [0]
    assert rows(scheduler.take("cpu")) == [10]
    assert scheduler.attempts[name_of(first[0])] == 2


def test_refilled_scheduler_stays_open():
    coming = iter([[], [job(1)], []])
    scheduler = Scheduler(refill=lambda: next(coming))
    assert scheduler.take("cpu") is None
    assert rows(scheduler.take("cpu")) == [1]
    assert scheduler.is_open


class Workers:
    """Yield the answers of workers; `answers` has one for each job and attempt."""

    def __init__(self, scheduler: Scheduler, answers: dict[int, list[Any]]) -> None:
        self.scheduler, self.answers, self.groups = scheduler, answers, []

    def __iter__(self) -> Iterator[Any]:
        while (group := self.scheduler.take("cpu")) is not None:
            self.groups.append(rows(group))
            for job in group:
                answer = self.answers[job.row].pop(0)
                if isinstance(answer, Failure):
                    yield group, answer
                    break
                yield group, JobProgress(name_of(job), 1, 2)
                yield group, answer
            else:
                yield group, None


DIED = Failure("its process died (signal 9: Killed)")


def test_job_whose_worker_died_is_retried_alone():
    scheduler = Scheduler()
    jobs = [job(row) for row in range(3)]
    scheduler.add(jobs)
    workers = Workers(scheduler, {0: [DIED, ok(jobs[0])], 1: [DIED] * 2, 2: [ok(jobs[2])]})
    results = {
        result.row: result for result in collect_results(workers, scheduler) if isinstance(result, JobResult)
    }
    assert [results[row].reason or "ok" for row in range(3)] == ["ok", "died", "ok"]
    assert workers.groups == [[0, 1, 2], [0], [1], [2]]
    assert results[0].attempts == 2
    assert results[1].detail == DIED.detail


def test_group_that_times_out_is_retried_alone():
    scheduler = Scheduler()
    jobs = [job(row) for row in range(2)]
    scheduler.add(jobs)
    late = Failure("it took longer than 2 s", "timeout")
    workers = Workers(scheduler, {0: [late, ok(jobs[0])], 1: [late]})
    results = {
        result.row: result for result in collect_results(workers, scheduler) if isinstance(result, JobResult)
    }
    assert (results[0].status, results[1].reason) == ("ok", "timeout")
    assert workers.groups == [[0, 1], [0], [1]]


def test_duplicate_results_count_once():
    scheduler = Scheduler()
    jobs = [job(row) for row in range(2)]
    scheduler.add(jobs)
    again = ok(jobs[0])

    def events() -> Iterator[Any]:
        group = scheduler.take("cpu")
        yield group, ok(jobs[0])
        yield group, again
        yield group, ok(jobs[1])
        yield group, None

    assert [result.row for result in collect_results(events(), scheduler)] == [0, 1]


def test_missing_results_and_bugs():
    scheduler = Scheduler()
    scheduler.add([job(0), job(1, "b.mp4")])

    def events() -> Iterator[Any]:
        yield scheduler.take("cpu"), None
        yield scheduler.take("cpu"), Failure("ZeroDivisionError: division by zero", "bug")

    results = list(collect_results(events(), scheduler))
    assert [result.reason for result in results] == ["bug", "bug"]
    assert "no result" in results[0].detail


def test_busy_jobs_are_postponed():
    """A14: a job whose output another batch is writing is tried again after all others, without limit."""
    jobs = [job(row) for row in range(3)]
    scheduler = Scheduler()
    scheduler.add(jobs)

    def answers() -> Iterator[Any]:
        tries = 0
        while (group := scheduler.take("cpu")) is not None:
            for one in group:
                busy = one.row == 0 and tries < 5
                tries += busy
                yield group, JobBusy(name_of(one)) if busy else ok(one)
            yield group, None

    results = list(collect_results(answers(), scheduler))
    assert [result.row for result in results if isinstance(result, JobResult)] == [1, 2, 0]
    assert [result.attempts for result in results if isinstance(result, JobResult)] == [1, 1, 1]
