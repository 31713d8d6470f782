"""Which worker gets which jobs, and what comes of those whose worker fails."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from wav2lip_npu.batch.jobs import Job
from wav2lip_npu.batch.results import JobResult, failed, name_of
from wav2lip_npu.batch.runner import Progress
from wav2lip_npu.batch.scheduler import JobBoard, results_of
from wav2lip_npu.parallel.work_queue import Failure


def job(row: int, face: str = "a.mp4", **more: Any) -> Job:
    return Job(face=face, audio=f"{row}.wav", outfile=f"{row}.mp4", row=row, **more)


def rows(unit: tuple[Job, ...] | None) -> list[int]:
    return [each.row for each in unit or ()]


def ok(done: Job) -> JobResult:
    return replace(failed(done, "x"), status="ok", reason=None, detail=None)


def test_the_jobs_of_a_video_go_to_one_worker_while_there_are_others():
    board = JobBoard()
    board.put([*(job(row) for row in range(6)), *(job(row, "b.mp4") for row in range(10, 12))])
    assert rows(board.take("left")) == [0, 1, 2, 3]
    assert rows(board.take("right")) == [10, 11]
    assert rows(board.take("right")) == [4, 5]  # better than to wait
    assert board.take("left") is None
    assert not board.is_open


def test_a_job_that_names_its_device_waits_for_it():
    board = JobBoard()
    board.put([job(1, device="npu:1"), job(2, "b.mp4")])
    assert rows(board.take("npu:0")) == [2]
    assert board.take("npu:0") is None
    assert rows(board.take("npu:1")) == [1]


def test_several_passes_at_once_and_those_that_failed_alone():
    board = JobBoard(passes=2)
    board.put([job(0), job(10, "b.mp4"), job(11, "b.mp4"), job(20, "c.mp4")])
    first = board.take("cpu")
    assert rows(first) == [0, 10, 11]
    board.put_alone(first[0])
    board.put_alone(first[1])
    assert rows(board.take("cpu")) == [20]
    assert rows(board.take("cpu")) == [0]
    assert rows(board.take("cpu")) == [10]
    assert board.begun[name_of(first[0])] == 2


def test_a_board_that_is_refilled_stays_open():
    coming = iter([[], [job(1)], []])
    board = JobBoard(refill=lambda: next(coming))
    assert board.take("cpu") is None
    assert rows(board.take("cpu")) == [1]
    assert board.is_open


class Workers:
    """What workers say of the units that they take, as `says` has it for each job and try."""

    def __init__(self, board: JobBoard, says: dict[int, list[Any]]) -> None:
        self.board, self.says, self.units = board, says, []

    def __iter__(self) -> Iterator[Any]:
        while (unit := self.board.take("cpu")) is not None:
            self.units.append(rows(unit))
            for each in unit:
                said = self.says[each.row].pop(0)
                if isinstance(said, Failure):
                    yield unit, said
                    break
                yield unit, Progress(name_of(each), 1, 2)
                yield unit, said
            else:
                yield unit, None


DIED = Failure("its process died (signal 9: Killed)")


@pytest.mark.parametrize(("tries", "ends"), [(2, ["ok", "died", "ok"]), (1, ["died", "died", "ok"])])
def test_who_dies_is_tried_again_alone(tries, ends):
    board = JobBoard()
    jobs = [job(row) for row in range(3)]
    board.put(jobs)
    workers = Workers(
        board, {0: [DIED, ok(jobs[0])] if tries > 1 else [DIED] * 2, 1: [DIED] * 2, 2: [ok(jobs[2])]}
    )
    results = {each.row: each for each in results_of(workers, board, tries) if isinstance(each, JobResult)}
    assert [results[row].reason or "ok" for row in range(3)] == ends
    assert workers.units == [[0, 1, 2], [0], [1], [2], *([] if tries == 1 else [[1]])][: len(workers.units)]
    if tries == 2:
        assert results[0].attempts == 2
        assert results[1].detail == DIED.detail


def test_who_takes_too_long_with_others_is_tried_alone_and_then_has_failed():
    board = JobBoard()
    jobs = [job(row) for row in range(2)]
    board.put(jobs)
    late = Failure("it took longer than 2 s", "timeout")
    workers = Workers(board, {0: [late, ok(jobs[0])], 1: [late]})
    results = {each.row: each for each in results_of(workers, board) if isinstance(each, JobResult)}
    assert (results[0].status, results[1].reason) == ("ok", "timeout")
    assert workers.units == [[0, 1], [0], [1]]


def test_results_that_come_twice_count_once():
    board = JobBoard()
    jobs = [job(row) for row in range(2)]
    board.put(jobs)
    again = ok(jobs[0])

    def events() -> Iterator[Any]:
        unit = board.take("cpu")
        yield unit, ok(jobs[0])
        yield unit, again
        yield unit, ok(jobs[1])
        yield unit, None

    assert [each.row for each in results_of(events(), board)] == [0, 1]


def test_silence_and_bugs_are_told():
    board = JobBoard()
    board.put([job(0), job(1, "b.mp4")])

    def events() -> Iterator[Any]:
        yield board.take("cpu"), None
        yield board.take("cpu"), Failure("ZeroDivisionError: division by zero", "bug")

    found = list(results_of(events(), board))
    assert [each.reason for each in found] == ["bug", "bug"]
    assert "did not say" in found[0].detail
