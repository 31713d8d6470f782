"""The `evaluate` command: flags, table and exit code of `evaluation.run.evaluate`."""

from __future__ import annotations

import logging
import os
import sys
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated

import tyro

from wav2lip_npu import __version__
from wav2lip_npu.batch.job_table import TABLE_SUFFIXES
from wav2lip_npu.batch.results import REPORT_FILE
from wav2lip_npu.cli.progress_bar import progress_bar
from wav2lip_npu.errors import UsageError
from wav2lip_npu.evaluation.options import WEIGHTS, EvaluateOptions
from wav2lip_npu.faces.detectors import detector_inputs
from wav2lip_npu.preprocessing.find_videos import VIDEO_FILES
from wav2lip_npu.storage.outputs import InputPath, OutputPath, check_outputs

if TYPE_CHECKING:
    from wav2lip_npu.evaluation.inputs import Pair

log = logging.getLogger(__name__)

_WORST = 5
"""Videos listed on the terminal."""


@dataclass(frozen=True, kw_only=True)
class EvaluateCommand:
    """Measure generated videos: lip-sync, picture, motion and timing, beside their original recordings.

    wav2lip-npu evaluate dubbed.mp4 --truth talk.mp4

    wav2lip-npu evaluate dubbed --truth talks --syncnet syncnet_v2.model --report eval.json --page eval.html
    """

    generated: Annotated[tyro.conf.Positional[tuple[str, ...]], tyro.conf.arg(metavar="GENERATED")]
    """Videos, folders of videos, or job tables of batch."""
    truth: str | None = None
    """Original recordings: a video, or a folder with videos of the same names. None: the face videos of a
    table, else none."""
    silent: str | None = None
    """The same videos generated with silent audio, to measure leak: a video or a folder."""
    reports: str | None = None
    """Reports of the dubs: a file, or a folder with NAME.json or report.jsonl. None: those of a table."""
    filelist: str | None = None
    """List of Wav2Lip's evaluation, such as lrs2.txt; GENERATED is then the folder of its results."""
    data_root: str | None = None
    """Folder of the videos of --filelist."""
    options: Annotated[EvaluateOptions, tyro.conf.arg(name="")] = field(default_factory=EvaluateOptions)
    report: str | None = None
    """JSON file for all figures."""
    page: str | None = None
    """HTML page for all figures, curves and frames, worst videos first."""

    def __post_init__(self) -> None:
        """Check the values."""
        if not self.generated:
            raise UsageError("no videos to evaluate. Pass files, folders or a table.")
        if self.filelist is not None and len(self.generated) > 1:
            raise UsageError("--filelist needs one folder of generated videos. Pass one GENERATED.")

    def run(self) -> int:
        """Evaluate the videos and print the table. Return 1 if a video or a row failed, else 0."""
        log.info("wav2lip-npu %s", __version__)
        generated, bad_rows = self._inputs()
        self._check_outputs(generated)
        from wav2lip_npu.evaluation.page import write_page
        from wav2lip_npu.evaluation.run import evaluate

        with progress_bar("video") as show:
            report = evaluate(
                generated if self.filelist is None else self.generated[0],
                truth=self.truth,
                silent=self.silent,
                reports=self.reports,
                filelist=self.filelist,
                data_root=self.data_root,
                options=self.options,
                progress=show,
            )
        for name, value in report.judges.items():
            log.info("%s: %s", name, value)
        for name, reason in report.skipped.items():
            log.info("%s skipped: %s", name, reason)
        for name in report.missing:
            log.warning("missing: %s", name)
        if report.figures:
            sys.stdout.write(report.table())
        if len(report.videos) > 1:
            names = [os.path.basename(video.video) for video in report.videos[:_WORST]]
            log.info("%d videos, worst first: %s", len(report.videos), ", ".join(names))
        if self.report is not None:
            report.write(self.report)
            log.info("report: %s", self.report)
        if self.page is not None:
            write_page(report, self.page)
            log.info("page: %s", self.page)
        return 1 if report.failed or report.missing or bad_rows else 0

    def _inputs(self) -> tuple[list[str | Pair], int]:
        """Return the videos and folders, a pair for each row of a table, and the number of bad rows."""
        from wav2lip_npu.batch.jobs import Job, read_jobs
        from wav2lip_npu.evaluation.inputs import Pair

        inputs: list[str | Pair] = []
        bad_rows = 0
        for item in self.generated:
            if not item.lower().endswith(TABLE_SUFFIXES):
                inputs.append(item)
                continue
            jobs, problems = read_jobs(item, Job(face="", audio="", outfile=""))
            bad_rows += len(problems)
            for problem in problems:
                log.warning("%s, row %d: %s", item, problem.row, problem.text)
            beside = os.path.join(os.path.dirname(item), REPORT_FILE)
            reports = beside if os.path.exists(beside) else None
            for job in jobs:
                inputs.append(
                    Pair(
                        generated=job.outfile,
                        truth=job.face if self.truth is None else None,
                        report=(job.report or reports) if self.reports is None else None,
                    )
                )
        return inputs, bad_rows

    def _check_outputs(self, generated: list[str | Pair]) -> None:
        """Check all output files. Raises `OutputError`."""
        written = {"--report": self.report, "--page": self.page}
        outputs = [OutputPath(name, path) for name, path in written.items() if path is not None]
        named: list[tuple[str, str | None]] = [("GENERATED", path) for path in self.generated]
        for pair in generated:
            if not isinstance(pair, str):
                named += [("GENERATED", path) for path in (pair.generated, pair.truth, pair.report)]
        for name in ("truth", "silent", "reports", "filelist", "data_root"):
            named.append((f"--{name}", getattr(self, name)))
        inputs = [
            InputPath(name, path, VIDEO_FILES if os.path.isdir(path) else None)
            for name, path in named
            if path
        ]
        for name in (*WEIGHTS, "expert_checkpoint_path"):
            if (path := getattr(self.options, name)) is not None:
                inputs.append(InputPath(f"--{name}", path))
        check_outputs(outputs, [*inputs, *detector_inputs()])
