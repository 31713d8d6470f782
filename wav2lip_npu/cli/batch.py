"""The `batch` command: many jobs, checked before the first, done by one process a device, resumable."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import tyro

from wav2lip_npu import __version__, device
from wav2lip_npu.batch.face_cache import FaceCache
from wav2lip_npu.batch.jobs import Job, Problem, check_jobs, pair_jobs, read_jobs
from wav2lip_npu.batch.progress import Display
from wav2lip_npu.batch.results import REPORT_FILE, name_of, report_at
from wav2lip_npu.batch.resume import Ledger, clean_up
from wav2lip_npu.batch.runner import Progress, Unit
from wav2lip_npu.batch.scheduler import Event, JobBoard, Workshop, passes_at_once, results_of
from wav2lip_npu.batch.watch_folder import Inbox
from wav2lip_npu.dubbing.options import DubOptions
from wav2lip_npu.errors import DataError, UsageError
from wav2lip_npu.media.video_writer import check_writable
from wav2lip_npu.models.bundled import ABOUT, STARTER
from wav2lip_npu.parallel.processes import run_in_processes
from wav2lip_npu.parallel.work_queue import Failure
from wav2lip_npu.storage.locks import lock_folder

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class BatchCommand:
    """Dub many videos, unattended. Run the same again after whatever happened: it goes on.

    wav2lip-npu batch jobs.csv
    wav2lip-npu batch --faces "talks/*.mp4" --audios speech.wav --pair product --outdir dubbed
    """

    jobs: tyro.conf.Positional[str | None] = None
    """Table of jobs, .csv or .jsonl: columns face, audio, outfile, and any option of dub for single rows."""
    faces: tuple[str, ...] = ()
    """Instead of a table: face videos or images, as names, folders or patterns."""
    audios: tuple[str, ...] = ()
    """The sounds for them."""
    pair: str = "zip"
    """zip (first with first, second with second) or product (each with each)."""
    outdir: str | None = None
    """Folder for the videos of --faces and --audios: talk__speech.mp4 of talk.mp4 and speech.wav."""
    watch: str | None = None
    """Folder to watch for tables of jobs, until interrupted."""
    report: str | None = None
    """What became of each job. (default: report.jsonl beside the table, in --outdir or in --watch)"""
    skip_bad: bool = False
    """Run the other jobs when some do not pass the check; these are reported as failed."""
    timeout: float | None = None
    """Seconds after which a job is ended as failed."""
    devices: tuple[str, ...] = ("auto",)
    """A process on each of these: npu:0 npu:1 or npu:0,npu:1, cuda:0, cpu; all: on each card; or auto."""
    in_flight: int | None = None
    """Face videos that a device works on at once. (default: 2 on an accelerator, 1 on a CPU)"""
    cache: str | None = None
    """Folder where found faces are kept, or off. (default: in the user's cache folder)"""
    cluster: str | None = None
    """Do the jobs on a Ray cluster, auto or its address, instead of in processes here."""
    json: bool = False
    """Tell the progress as JSON lines on the standard output."""
    checkpoint_path: str = STARTER
    """Weights of a Wav2Lip generator: .pth, .pt or .safetensors. (default: those of the package)"""
    precision: str = "fp32"
    """Numbers inside the generator: fp32, bf16, fp16, or fp32_strict without an accelerator's shortcuts."""
    dub: DubOptions = field(default_factory=DubOptions)

    def run(self) -> int:
        """Do the jobs; 1 when one failed, else 0."""
        log.info("wav2lip-npu %s", __version__)
        self._check()
        report = Path(self._report_path())
        check_writable(report)
        places = self._places()
        with _alone(report.parent):
            ledger = Ledger(report_at(report))
            run = _Run(self, ledger, places)
            try:
                todo = run.begin()
                if self.checkpoint_path == STARTER:
                    log.info("weights: %s, %s", STARTER, ABOUT)
                log.info(
                    "devices %s, %d jobs, %d to do",
                    " ".join(places) or "of the cluster",
                    ledger.count,
                    len(todo),
                )
                run.work(todo)
            except KeyboardInterrupt as stop:
                raise type(stop)("the finished videos are kept. Run the same again to go on") from None
            finally:
                run.end()
        failed = ledger.failed
        log.info("%d of %d jobs are done, %d failed: %s", ledger.count - failed, ledger.count, failed, report)
        return int(failed > 0)

    def _check(self) -> None:
        given = [bool(self.jobs), bool(self.faces or self.audios), bool(self.watch)]
        if sum(given) != 1:
            raise UsageError(
                "pass a table of jobs, or --faces and --audios, or --watch, and one of these only."
            )
        if given[1] and not (self.faces and self.audios and self.outdir):
            raise UsageError("--faces, --audios and --outdir go together. Pass all three.")
        if self.outdir and not given[1]:
            raise UsageError("--outdir is for --faces and --audios; a table says where each video goes.")
        if self.watch and not os.path.isdir(self.watch):
            raise UsageError(f"--watch {self.watch} is no folder. Make it, or pass another.")
        if self.timeout is not None and not self.timeout > 0:
            raise UsageError(f"--timeout {self.timeout:g} is not above 0.")
        if self.in_flight is not None and self.in_flight < 1:
            raise UsageError(f"--in_flight {self.in_flight} is not at least 1.")

    def _report_path(self) -> str:
        folder = self.watch or self.outdir or os.path.dirname(self.jobs or "")
        return self.report or os.path.join(folder, REPORT_FILE)

    def _places(self) -> list[str]:
        """The devices to work on; none on a cluster that is to choose. Raises `DeviceError`."""
        words = [word for each in self.devices for word in each.split(",") if word]
        if self.cluster:
            return [] if words in (["auto"], ["all"]) else words
        if words == ["all"]:
            kind = device.resolve().type
            words = (
                [kind]
                if kind == device.HOST
                else [f"{kind}:{i}" for i in range(device.count_available(kind)[0])]
            )
        if words != [device.HOST]:
            words = [str(device.resolve(word)) for word in words]
        if len(set(words)) != len(words) or not words:
            raise UsageError(f"--devices {' '.join(self.devices)}: name each device once.")
        return words

    def defaults(self) -> Job:
        """What holds for rows that do not say otherwise."""
        return Job(
            face="",
            audio="",
            outfile="",
            dub=self.dub,
            checkpoint_path=self.checkpoint_path,
            precision=self.precision,
        )


class _Run:
    """One run of the command."""

    def __init__(self, command: BatchCommand, ledger: Ledger, places: Sequence[str]) -> None:
        self._command, self._ledger, self._places = command, ledger, places
        self._inbox = Inbox(Path(command.watch), ledger.path) if command.watch else None
        self._under_way: dict[str, Job] = {}
        self._display = Display(as_json=command.json)

    def begin(self) -> list[Job]:
        """What is to be done. Raises `UsageError` when jobs cannot be run, after it named them all."""
        command, defaults = self._command, self._command.defaults()
        defaults.check()
        if command.jobs:
            return self._accept(command.jobs, *read_jobs(command.jobs, defaults))
        if command.outdir:
            found = pair_jobs(command.faces, command.audios, command.pair, command.outdir, defaults)
            return self._accept("the pairs", found, [])
        return []

    def work(self, todo: Sequence[Job]) -> None:
        """Do the jobs, and in a folder that is watched all that come."""
        command = self._command
        total = self._ledger.count
        passes = command.in_flight or passes_at_once(self._places)
        board = JobBoard(passes, self._arrivals if self._inbox else None)
        board.put(todo)
        if not todo and not self._inbox:
            log.info("all %d jobs are done", total)
            return
        first = todo[0] if todo else command.defaults()
        workshop = Workshop(first, FaceCache.at(command.cache), command.in_flight)
        with (
            self._display.shown(total, total - len(todo)),
            contextlib.closing(self._events(board, workshop, len(todo))) as events,
        ):
            for event in results_of(events, board):
                self._take(event)

    def end(self) -> None:
        """Bring the report into order, and remove what workers that were ended left unfinished."""
        clean_up(self._under_way.values())
        self._ledger.close()

    def _events(
        self, board: JobBoard, workshop: Workshop, jobs: int
    ) -> Generator[tuple[Unit, Event | Failure | None], None, None]:
        def limit(unit: Unit) -> float | None:
            return self._command.timeout and self._command.timeout * len(unit)

        if self._command.cluster:
            from wav2lip_npu.parallel.ray_pool import run_on_ray

            yield from run_on_ray(
                board,
                workshop,
                address=self._command.cluster,
                devices=list(self._places) or None,
                timeout=limit,
            )
        else:
            needed = self._places if self._inbox else self._places[: max(1, jobs)]
            yield from run_in_processes(needed, board, workshop, limit)

    def _take(self, event: Event) -> None:
        if isinstance(event, Progress):
            self._display.progress(event)
            return
        self._ledger.note(event)
        self._under_way.pop(event.job, None)
        self._display.result(event)

    def _arrivals(self) -> list[Job]:
        """The jobs of tables that were dropped into the folder."""
        assert self._inbox is not None
        todo: list[Job] = []
        for table in self._inbox.take():
            try:
                found = read_jobs(table, self._command.defaults())
            except UsageError as error:
                found = [], [Problem(0, str(error))]
            before = self._ledger.count
            jobs = self._accept(os.fspath(table), *found)
            done = self._ledger.count - before - len(jobs)
            self._display.more(self._ledger.count - before, done)
            todo += jobs
        return todo

    def _accept(self, table: str, jobs: Sequence[Job], problems: Sequence[Problem]) -> list[Job]:
        """Those jobs of a table that are to be done; what is wrong with others is told and kept."""
        clustered = bool(self._command.cluster)
        known = list(dict.fromkeys([*jobs, *(each.job for each in problems if each.job)]))
        problems = [*problems, *check_jobs(known, None if clustered else self._places)]
        for job in known:
            if job.device and clustered:
                text = f"device {job.device}: the cluster chooses. Leave the column empty."
                problems.append(Problem(job.row, text, job))
            if name_of(job) in self._under_way:
                text = f"{job.outfile} is being made for another table. Rename the output."
                problems.append(Problem(job.row, text, job))
        bad = {each.row for each in problems}
        todo, more = self._ledger.sort([job for job in jobs if job.row not in bad])
        problems = sorted([*problems, *more], key=lambda problem: problem.row)
        for each in problems:
            log.error("%s, row %d: %s", table, each.row, each.text)
        if problems and not (self._command.skip_bad or self._inbox):
            raise UsageError(
                f"{len(problems)} problems in {table}, nothing was begun. Mend them, or pass --skip_bad."
            )
        self._ledger.refuse(problems, table)
        self._under_way.update((name_of(job), job) for job in todo)
        return todo


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """The folder of the report for this process alone. Raises `DataError`."""
    with lock_folder(folder) as alone:
        if not alone:
            raise DataError(f"another batch works in {folder}. Wait for it, or pass another --report.")
        yield
