"""Resume a batch: determine which jobs remain, and keep the results of all."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import replace

from wav2lip_npu import signals
from wav2lip_npu.batch import results
from wav2lip_npu.batch.job_keys import job_key, read_key, remember_hash
from wav2lip_npu.batch.jobs import Job, Problem
from wav2lip_npu.batch.results import JobResult, name_of
from wav2lip_npu.errors import MediaError
from wav2lip_npu.storage.atomic import remove_stale_parts
from wav2lip_npu.storage.json_lines import JsonLines
from wav2lip_npu.storage.locks import remove_stale_lock


class BatchReport:
    """The results of a run and of earlier runs, written to the report file as they arrive.

    Raises:
        DataError: The report cannot be read or written.

    """

    def __init__(self, report: JsonLines[JobResult]) -> None:
        remove_stale_parts(report.path)
        self.path = report.path
        self._report = report
        self._results = report.read()
        self._rows: dict[str, int] = {}
        """Rows of the jobs of this run, by name."""
        for result in self._results.values():
            for record in result.inputs.values():
                remember_hash(record)

    def unfinished(self, jobs: Sequence[Job]) -> tuple[list[Job], list[Problem]]:
        """Return the jobs without an output, or whose files, weights or settings have changed since.

        Also return problems: outputs that exist and were not written by a batch.
        """
        remaining, ours, problems = [], [], []
        for job in jobs:
            signals.check()
            name = name_of(job)
            key = read_key(job.outfile)
            if key is None and os.path.lexists(job.outfile):
                advice = "Move it or rename the output."
                text = f"{job.outfile} exists and was not written by batch. {advice}"
                problems.append(Problem(job.row, text, job))
                continue
            self._rows[name] = job.row
            ours.append(job)
            if key is None or not self._is_current(job, key):
                remaining.append(job)
                continue
            result = self._results.get(name)
            if result is None or result.status != results.OK or result.key != key:
                self.add(results.existing_result(job, key))
            elif result.row != job.row:
                self._results[name] = replace(result, row=job.row)
        remove_partial_outputs(ours)
        return remaining, problems

    def _is_current(self, job: Job, key: str) -> bool:
        try:
            return key == job_key(job)
        except MediaError:  # the job itself reports it
            return False

    def reject(self, problems: Sequence[Problem], table: str) -> None:
        """Add a failed result for each row that cannot be run."""
        for row, problem in {problem.row: problem for problem in reversed(problems)}.items():
            job = problem.job
            if job is None or name_of(job) in self._rows:  # do not replace the result of another row
                job = Job(face="", audio="", outfile=f"{table}:{row}", row=row)
            self._rows[name_of(job)] = row
            self.add(results.failed_result(job, problem.text, "input"))

    def add(self, result: JobResult) -> None:
        """Append a result."""
        self._results[result.job] = result
        self._report.append(result)

    @property
    def count(self) -> int:
        """Number of jobs of this run, including those done by earlier runs."""
        return len(self._rows)

    def results(self) -> list[JobResult]:
        """Return the results of the finished jobs of this run, by row."""
        own = (self._results[name] for name in self._rows if name in self._results)
        return sorted(own, key=lambda result: result.row)

    def close(self) -> None:
        """Rewrite the report, sorted by row; results of jobs that are not in this run come last."""
        own = self.results()
        others = [result for name, result in self._results.items() if name not in self._rows]
        if own or others:
            self._report.rewrite([*own, *others])


def remove_partial_outputs(jobs: Iterable[Job]) -> None:
    """Remove partial files and locks of workers that have ended."""
    jobs = list(jobs)
    remove_stale_parts(*(path for job in jobs for path in (job.outfile, job.report) if path is not None))
    for job in jobs:
        remove_stale_lock(job.outfile)
