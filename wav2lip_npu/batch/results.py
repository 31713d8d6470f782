"""Job results: `report.jsonl`, one JSON object per line."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from wav2lip_npu.batch.job_keys import file_record, input_records, job_settings
from wav2lip_npu.batch.jobs import Job
from wav2lip_npu.dubbing.report import DubReport
from wav2lip_npu.dubbing.selection import Reason
from wav2lip_npu.errors import (
    CheckpointError,
    DeviceError,
    FaceError,
    MediaError,
    NoAudioError,
    OutputError,
    UsageError,
    Wav2LipError,
)
from wav2lip_npu.storage.json_lines import JsonLines
from wav2lip_npu.versions import versions

REPORT_FILE = "report.jsonl"
OK, FAILED = "ok", "failed"
_REASONS: Sequence[tuple[type[Exception], str]] = (
    (NoAudioError, "no_sound"),
    (FaceError, "no_face"),
    (CheckpointError, "weights"),
    (MediaError, "media"),
    (OutputError, "media"),
    (DeviceError, "device"),
    (UsageError, "options"),
    (Wav2LipError, "input"),
)


@dataclass(frozen=True, kw_only=True)
class JobResult:
    """Result of one job. A failed job has no `key`, `inputs`, output fields or figures."""

    job: str
    """Absolute path of the output, which identifies the job."""
    row: int
    """Row of the job in its table."""
    status: str
    """`ok` or `failed`."""
    reason: str | None = None
    """Reason of a failure: `input` (a check before the first frame), `media`, `no_sound`, `no_face`,
    `weights`, `options`, `device`, `timeout`, `died` (its worker process, twice) or `bug`."""
    detail: str | None = None
    """The error message."""
    face: str
    audio: str
    voice: str | None = None
    """Audio that drives the mouth, if it is not `audio`."""
    attempts: int = 1
    """Number of attempts in the run that wrote this result."""
    finished: str
    """End of the job, ISO 8601, UTC."""
    seconds: float | None = None
    """Duration of the pass over the face video, shared by the jobs of the pass. `None` if an earlier run
    wrote the output but no result."""
    takes: int | None = None
    """Number of jobs in that pass."""
    frames: int | None = None
    dubbed_frames: int | None = None
    """Frames with a new mouth."""
    faceless_spans: list[tuple[int, int]] | None = None
    """First and last frame of each span without a face, whose frames stay unchanged."""
    unchanged_spans: list[tuple[int, int, Reason]] | None = None
    """First and last frame of each span that stays as filmed, and the reason, see `DubReport`."""
    suspect: bool = False
    """Whether the confidence of the check is below `min_confidence`. The job is not failed."""
    check: dict[str, Any] | None = None
    """Result of the option `check`, see `DubReport`; None without it, and for outputs of earlier runs."""
    device: str | None = None
    detector: str | None = None
    settings: dict[str, Any]
    """The options that affect the output."""
    key: str | None = None
    """Hash of input files, weights and settings; the metadata of the output contains it."""
    inputs: dict[str, Any] = field(default_factory=dict)
    """`path`, `bytes`, `mtime_ns` and `sha256` of `face`, `audio`, `weights` and `voice`."""
    output_bytes: int | None = None
    output_sha256: str | None = None
    versions: dict[str, str] = field(default_factory=lambda: versions())


def open_report(path: str | os.PathLike[str]) -> JsonLines[JobResult]:
    """Return the report file of a batch."""
    return JsonLines(Path(path), JobResult, "job", "Pass another --report.")


def name_of(job: Job) -> str:
    """Return the absolute path of a job's output, which identifies it."""
    return os.path.abspath(job.outfile)


def failed_result(job: Job, error: Exception | str, reason: str | None = None) -> JobResult:
    """Return the result of a job that failed with an error."""
    detail = str(error) if isinstance(error, (str, Wav2LipError)) else f"{type(error).__name__}: {error}"
    return JobResult(
        **_common_fields(job),
        status=FAILED,
        reason=reason or reason_of(error),
        detail=" ".join(detail.split("\n")),
    )


def reason_of(error: Exception | str) -> str:
    """Return the `reason` of a job that failed with an error."""
    return next((word for kind, word in _REASONS if isinstance(error, kind)), "bug")


def finished_result(job: Job, key: str, report: DubReport) -> JobResult:
    """Return the result of a job whose output has just been written. Raises `MediaError`."""
    return JobResult(
        **_common_fields(job),
        status=OK,
        seconds=report.seconds,
        takes=report.takes,
        frames=report.frames,
        dubbed_frames=report.dubbed_frames,
        faceless_spans=report.faceless_spans,
        unchanged_spans=report.unchanged_spans,
        suspect=report.check is not None and report.check.suspect,
        check=None if report.check is None else asdict(report.check),
        device=report.device,
        detector=report.detector,
        **_output_fields(job, key),
    )


def existing_result(job: Job, key: str) -> JobResult:
    """Return the result of a job whose output is up to date but has no result yet. Raises `MediaError`."""
    return JobResult(**_common_fields(job), status=OK, **_output_fields(job, key))


def _common_fields(job: Job) -> dict[str, Any]:
    return {
        "job": name_of(job),
        "row": job.row,
        "face": job.face,
        "audio": job.audio,
        "voice": job.voice,
        "finished": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "settings": job_settings(job),
    }


def _output_fields(job: Job, key: str) -> dict[str, Any]:
    output = file_record(job.outfile)
    return {
        "key": key,
        "inputs": input_records(job),
        "output_bytes": output["bytes"],
        "output_sha256": output["sha256"],
    }
