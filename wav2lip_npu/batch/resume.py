"""A batch that goes on where an earlier run of it ended: what is done, what is left, what became of it."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import replace

from wav2lip_npu.batch import results
from wav2lip_npu.batch.job_keys import Contents, key_of
from wav2lip_npu.batch.jobs import Job, Problem
from wav2lip_npu.batch.results import JobResult, name_of
from wav2lip_npu.errors import MediaError
from wav2lip_npu.storage.atomic import remove_stale_parts
from wav2lip_npu.storage.json_lines import JsonLines


class Ledger:
    """The report of a batch, kept up to date, and what it says of the jobs.

    Raises `DataError` when the report cannot be read or written.
    """

    def __init__(self, report: JsonLines[JobResult]) -> None:
        remove_stale_parts(report.path)
        self.path = report.path
        self._report = report
        self._records = report.read()
        self._contents = Contents()
        self._rows: dict[str, int] = {}
        """Of the jobs of this run, by name."""
        for record in self._records.values():
            for about in record.inputs.values():
                self._contents.learn(about)

    def sort(self, jobs: Sequence[Job]) -> tuple[list[Job], list[Problem]]:
        """Jobs that are still to be done: their videos are missing or of other files, weights or settings.

        Also problems: files that are in the place of an output and were not made by a batch.
        """
        todo, problems = [], []
        for job in jobs:
            name = name_of(job)
            key = key_of(job.outfile)
            if key is None and os.path.lexists(job.outfile):
                text = f"{job.outfile} is there and no batch has made it. Move it away or rename the output."
                problems.append(Problem(job.row, text, job))
                continue
            self._rows[name] = job.row
            if key is not None and self._is_done(job, key):
                record = self._records.get(name)
                if record is None or record.status != results.OK or record.key != key:
                    self.note(results.found(job, key, self._contents))
                elif record.row != job.row:
                    self._records[name] = replace(record, row=job.row)
            else:
                todo.append(job)
        for job in todo:
            remove_stale_parts(job.outfile)
        return todo, problems

    def _is_done(self, job: Job, key: str) -> bool:
        try:
            return key == self._contents.key(job)
        except MediaError:  # the job fails of it in its turn
            return False

    def refuse(self, problems: Sequence[Problem], table: str) -> None:
        """Write down rows that cannot be run, each once; a job of the same name keeps its record."""
        for row, each in {problem.row: problem for problem in reversed(problems)}.items():
            job = each.job
            if job is None or name_of(job) in self._rows:
                job = Job(face="", audio="", outfile=f"{table}:{row}", row=row)
            self._rows[name_of(job)] = row
            self.note(results.failed(job, each.text, "input"))

    def note(self, result: JobResult) -> None:
        """Write down what became of a job."""
        self._records[result.job] = result
        self._report.append(result)

    @property
    def count(self) -> int:
        """Jobs of this run, those that were done before included."""
        return len(self._rows)

    @property
    def failed(self) -> int:
        """How many of them failed."""
        records = (self._records[name] for name in self._rows if name in self._records)
        return sum(record.status == results.FAILED for record in records)

    def close(self) -> None:
        """Write the report in the order of the tables; jobs that are in none of them come last."""
        own = sorted(
            (self._records[name] for name in self._rows if name in self._records),
            key=lambda record: record.row,
        )
        others = [record for name, record in self._records.items() if name not in self._rows]
        if own or others:
            self._report.rewrite([*own, *others])


def clean_up(jobs: Iterable[Job]) -> None:
    """Remove what workers that are gone left unfinished."""
    for job in jobs:
        remove_stale_parts(job.outfile)
