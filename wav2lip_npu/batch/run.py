"""Run a batch: check all jobs, run the unfinished ones on all devices, write the report."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from wav2lip_npu import signals, watchdog
from wav2lip_npu.batch.face_cache import FaceCache
from wav2lip_npu.batch.job_checks import batch_outputs, check_jobs, job_inputs, job_outputs
from wav2lip_npu.batch.job_table import TABLE_FILES
from wav2lip_npu.batch.jobs import Job, Pairing, Paths, Problem, as_paths, numbered, pair_jobs, read_jobs
from wav2lip_npu.batch.options import BatchOptions, report_path, resolve_devices
from wav2lip_npu.batch.progress import BatchEvent, JobCount, JobEvent
from wav2lip_npu.batch.results import FAILED, JobResult, name_of, open_report
from wav2lip_npu.batch.resume import BatchReport, remove_partial_outputs
from wav2lip_npu.batch.runner import JobGroup
from wav2lip_npu.batch.scheduler import Scheduler, collect_results, needed_devices
from wav2lip_npu.batch.watch_folder import WatchFolder
from wav2lip_npu.batch.worker import StartBatchWorker, default_in_flight
from wav2lip_npu.errors import DataError, UsageError
from wav2lip_npu.faces.detectors import detector_inputs
from wav2lip_npu.models.bundled import ABOUT, STARTER
from wav2lip_npu.options import expect, path_text, with_values
from wav2lip_npu.parallel.processes import run_in_processes
from wav2lip_npu.parallel.work_queue import Failure
from wav2lip_npu.storage.locks import lock_folder
from wav2lip_npu.storage.outputs import InputPath, check_outputs

log = logging.getLogger(__name__)

ProgressCallback = Callable[[BatchEvent], None]


@signals.deferred()
def run_batch(
    jobs: str | os.PathLike[str] | Job | Iterable[Job] | None = None,
    *,
    faces: Paths = (),
    audios: Paths = (),
    pair: Pairing = "zip",
    outdir: str | os.PathLike[str] | None = None,
    progress: ProgressCallback | None = None,
    options: BatchOptions | None = None,
    **values: Any,
) -> list[JobResult]:
    """Dub many videos, in one worker process per device; run it again to resume.

    All jobs are checked before the first frame. Jobs whose outputs are up to date are skipped; jobs that are
    new, changed or failed are run. A worker that dies is replaced and its job is retried once. Workers are
    spawned, so a script must call this under `if __name__ == "__main__":`.

    Args:
        jobs: A table (.csv, .jsonl, .ndjson or .json, see docs/batch.md), a `Job` or several.
        faces: Face videos or images, instead of `jobs`: one or several files, folders or glob patterns.
        audios: Audio for `faces`, in the same form.
        pair: `zip` pairs the first face with the first audio, and so on; `product` pairs every face with
            every audio.
        outdir: Folder of the outputs of `faces` and `audios`.
        progress: Called in this thread with every `JobCount`, `JobProgress` and `JobResult`.
        options: Devices, report, timeout and so on; its `dub`, `checkpoint_path` and `precision` apply to
            tables and pairs, not to `Job`s.
        **values: Options by name, at any nesting, such as `crf=18`.

    Returns:
        The result of each job, by row, including those of earlier runs. A failed job is a result with
        `status="failed"` and a `reason`, not an exception.

    Raises:
        UsageError: Options conflict, a table cannot be read, or, without `skip_bad`, jobs fail the checks;
            their problems are logged as errors.
        OutputError: The report cannot be written, or is also an input.
        DataError: The report was not created by wav2lip-npu, or another batch uses it.
        DeviceError: A device is missing, or its worker cannot start.
        CheckpointError: The weights cannot be loaded.
        KeyboardInterrupt: Finished outputs are kept, unfinished ones are removed.

    Example:
        >>> from wav2lip_npu import run_batch
        >>> languages = ["es.wav", "de.wav"]
        >>> results = run_batch(
        ...     faces=["talk.mp4"], audios=languages, pair="product", outdir="dubbed"
        ... )
        >>> [(result.job, result.status) for result in results]

    """
    options = with_values(expect(options, BatchOptions), values)
    faces, audios = as_paths("--faces", faces), as_paths("--audios", audios)
    outdir = None if outdir is None else path_text(outdir, "--outdir")
    has_pairs = bool(faces or audios)
    if (jobs is not None) + has_pairs + bool(options.watch) != 1:
        raise UsageError("pass a table of jobs, or --faces and --audios, or --watch.")
    if has_pairs and not (faces and audios and outdir):
        raise UsageError("--faces, --audios and --outdir belong together. Pass all three.")
    if outdir and not has_pairs:
        raise UsageError("--outdir is for --faces and --audios; a table names each output.")
    if isinstance(jobs, (str, os.PathLike)):
        jobs = path_text(jobs, "the job table")
    elif jobs is not None:
        jobs = numbered(jobs)
    report = Path(report_path(jobs, outdir, options))
    table = [InputPath("the table", jobs)] if isinstance(jobs, (str, os.PathLike)) else []
    inputs = [*table, *detector_inputs()]
    check_outputs(batch_outputs(report, options), inputs)
    devices = resolve_devices(options)
    with _locked(report.parent):
        run = _Run(
            options, devices, BatchReport(open_report(report)), inputs, progress or (lambda event: None)
        )
        with contextlib.closing(run), watchdog.cleanup(run.remove_partial_files):
            if isinstance(jobs, list):
                remaining = run.accept("the jobs", jobs, [])
            elif jobs is not None:
                remaining = run.accept(os.fspath(jobs), *read_jobs(jobs, run.defaults))
            elif outdir:
                remaining = run.accept("the pairs", pair_jobs(faces, audios, pair, outdir, run.defaults), [])
            else:
                remaining = []
            return run.work(remaining)


class _Run:
    """One run of a batch."""

    def __init__(
        self,
        options: BatchOptions,
        devices: Sequence[str],
        report: BatchReport,
        inputs: Sequence[InputPath],
        progress: ProgressCallback,
    ) -> None:
        self._outputs = batch_outputs(report.path, options)
        self._inputs = [*inputs]
        if options.watch:
            self._inputs.append(InputPath("--watch", options.watch, TABLE_FILES))
        self._options, self._devices, self._report, self._progress = options, devices, report, progress
        self._watched = WatchFolder(Path(options.watch), report.path) if options.watch else None
        self._cache = FaceCache.at(options.cache)
        self._started: list[Job] = []
        self._unfinished: dict[str, Job] = {}
        self._counts = JobCount(0, 0)
        self.defaults = Job(
            face="",
            audio="",
            outfile="",
            voice=options.voice,
            dub=options.dub,
            checkpoint_path=options.checkpoint_path,
            precision=options.precision,
            compile=options.compile,
            face_size=options.face_size,
            audio_refine=options.audio_refine,
        )

    def accept(self, source: str, jobs: Sequence[Job], problems: Sequence[Problem]) -> list[Job]:
        """Return the jobs to run; problems are logged and added to the report.

        Raises:
            UsageError: There are problems, and neither `skip_bad` nor `watch` is set.

        """
        count_before = self._report.count
        clustered = bool(self._options.cluster)
        known = list(dict.fromkeys([*jobs, *(problem.job for problem in problems if problem.job)]))
        problems = [*problems, *self._check(known)]
        for job in known:
            if job.device and clustered:
                text = f"device {job.device}: the cluster chooses the device. Leave the column empty."
                problems.append(Problem(job.row, text, job))
        bad_rows = {problem.row for problem in problems}
        remaining, more = self._report.unfinished([job for job in jobs if job.row not in bad_rows])
        problems = sorted([*problems, *more], key=lambda problem: problem.row)
        for problem in problems:
            log.error("%s, row %d: %s", source, problem.row, problem.text)
        if problems and not (self._options.skip_bad or self._watched):
            count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
            advice = "Fix it" if len(problems) == 1 else "Fix them"
            raise UsageError(f"{count} in {source}; nothing was started. {advice}, or pass --skip_bad.")
        done = self._report.count - count_before - len(remaining)
        self._report.reject(problems, source)
        rejected = len({problem.row for problem in problems})
        self._counts = replace(
            self._counts,
            jobs=self._report.count,
            done=self._counts.done + done,
            failed=self._counts.failed + rejected,
        )
        self._started += remaining
        self._unfinished.update((name_of(job), job) for job in remaining)
        return remaining

    def _check(self, jobs: Sequence[Job]) -> list[Problem]:
        """Return the problems of jobs, see `check_jobs`, also with the other files of the batch."""
        running = list(self._unfinished.values())
        return check_jobs(
            jobs,
            None if self._options.cluster else self._devices,
            outputs=[*self._outputs, *job_outputs(running, " of a running table")],
            inputs=[*self._inputs, *job_inputs(running, " of a running table")],
        )

    def work(self, remaining: Sequence[Job]) -> list[JobResult]:
        """Run the jobs and those of the watched folder, and return the results of all jobs."""
        if self._options.checkpoint_path == STARTER:
            log.info("weights: %s, %s", STARTER, ABOUT)
        log.info(
            "devices %s, %d jobs, %d to do%s",
            " ".join(self._devices) or "of the cluster",
            self._counts.jobs,
            len(remaining),
            f", {self._counts.failed} failed the checks" if self._counts.failed else "",
        )
        self._progress(self._counts)
        if remaining or self._watched:
            self._work(remaining)
        results = self._report.results()
        failed = sum(result.status == FAILED for result in results)
        suspect = sum(result.suspect for result in results)
        counts = f"{failed} failed" + (f", {suspect} suspect" if suspect else "")
        done = len(results) - failed
        log.info("%d of %d jobs are done, %s: %s", done, len(results), counts, self._report.path)
        return results

    def close(self) -> None:
        """Sort the report, and remove partial files of workers that were stopped."""
        self.remove_partial_files()
        self._report.close()

    def remove_partial_files(self) -> None:
        """Remove partial files and locks of workers that have ended. Finished outputs may have locks too."""
        remove_partial_outputs(self._started)
        self._cache.remove_partial_files()

    def _work(self, remaining: Sequence[Job]) -> None:
        in_flight = self._options.in_flight or default_in_flight(self._devices)
        scheduler = Scheduler(in_flight, self._new_jobs if self._watched else None)
        scheduler.add(remaining)
        with contextlib.closing(self._answers(scheduler, remaining)) as answers:
            for event in collect_results(answers, scheduler):
                if isinstance(event, JobResult):
                    self._report.add(event)
                    job = self._unfinished.pop(event.job, None)
                    if job and event.attempts > 1:
                        remove_partial_outputs([job])  # of the worker that died
                self._progress(event)

    def _answers(
        self, scheduler: Scheduler, remaining: Sequence[Job]
    ) -> Generator[tuple[JobGroup, JobEvent | Failure | None], None, None]:
        """Yield the answers of the workers, see `run_in_processes`."""
        options = self._options
        first = remaining[0] if remaining else self.defaults
        start_worker = StartBatchWorker(first, self._cache, options.in_flight)

        def timeout(jobs: JobGroup) -> float | None:
            return options.timeout and options.timeout * len(jobs)

        if options.cluster:
            from wav2lip_npu.parallel.ray_pool import run_on_ray

            yield from run_on_ray(
                scheduler,
                start_worker,
                address=options.cluster,
                devices=list(self._devices) or None,
                timeout=timeout,
            )
        else:
            devices = self._devices if self._watched else needed_devices(self._devices, remaining)
            yield from run_in_processes(devices, scheduler, start_worker, timeout)

    def _new_jobs(self) -> list[Job]:
        """Return the jobs of new tables in the watched folder."""
        assert self._watched is not None
        remaining: list[Job] = []
        for table in self._watched.new_tables():
            try:
                jobs, problems = read_jobs(table, self.defaults)
            except UsageError as error:
                jobs, problems = [], [Problem(0, str(error))]
            remaining += self.accept(os.fspath(table), jobs, problems)
            self._progress(self._counts)
        return remaining


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Keep other batches out of the folder of the report. Raises `DataError`."""
    with lock_folder(folder) as is_locked:
        if not is_locked:
            raise DataError(
                f"another batch uses {folder}. Wait for it, or pass --report with a file in another folder."
            )
        yield
