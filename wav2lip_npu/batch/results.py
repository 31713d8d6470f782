"""What became of each job of a batch: report.jsonl, one JSON object a line."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from wav2lip_npu.batch.job_keys import Contents, settings
from wav2lip_npu.batch.jobs import Job
from wav2lip_npu.dubbing.report import DubReport
from wav2lip_npu.errors import (
    CheckpointError,
    DeviceError,
    FaceError,
    MediaError,
    NoAudioError,
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
    (DeviceError, "device"),
    (UsageError, "options"),
    (Wav2LipError, "input"),
)


@dataclass(frozen=True, kw_only=True)
class JobResult:
    """One job. Of a failed one the fields that come after its reason are empty."""

    job: str
    """Its output, as an absolute path: what tells jobs apart."""
    row: int
    """Of the table that it was in."""
    status: str
    """`ok` or `failed`."""
    reason: str | None = None
    """Why it failed, in a word: `input` (it did not pass the check), `media`, `no_sound`, `no_face`,
    `weights`, `options`, `device`, `timeout`, `died` (its process, twice) or `bug`."""
    detail: str | None = None
    """The same in a sentence."""
    face: str
    audio: str
    attempts: int = 1
    """How often it was begun in the run that wrote this."""
    finished: str
    """When, ISO 8601, UTC."""
    seconds: float | None = None
    """From the beginning of its pass over the face video to its end; the jobs of a pass share them."""
    takes: int | None = None
    """Jobs in that pass."""
    frames: int | None = None
    dubbed_frames: int | None = None
    """Those that got a mouth."""
    faceless_spans: list[tuple[int, int]] | None = None
    """First and last frame of each run of frames that passed unchanged."""
    device: str | None = None
    detector: str | None = None
    settings: dict[str, Any]
    """The options of `dub` that its video depends on."""
    key: str | None = None
    """Of what its video was made, as the metadata of the video says too: files, weights, settings."""
    inputs: dict[str, Any] = field(default_factory=dict)
    """`path`, `bytes`, `mtime_ns` and `sha256` of `face`, `audio` and `weights`."""
    output_bytes: int | None = None
    output_sha256: str | None = None
    versions: dict[str, str] = field(default_factory=lambda: versions())


def report_at(path: str | os.PathLike[str]) -> JsonLines[JobResult]:
    """The report of a batch."""
    return JsonLines(Path(path), JobResult, "job", "Pass another --report.")


def name_of(job: Job) -> str:
    """What tells a job from others: its output."""
    return os.path.abspath(job.outfile)


def failed(job: Job, error: Exception | str, reason: str | None = None) -> JobResult:
    """The result of a job that was not done."""
    known = (word for kind, word in _REASONS if isinstance(error, kind))
    detail = str(error) if isinstance(error, (str, Wav2LipError)) else f"{type(error).__name__}: {error}"
    return JobResult(
        **_about(job), status=FAILED, reason=reason or next(known, "bug"), detail=" ".join(detail.split("\n"))
    )


def done(job: Job, key: str, contents: Contents, made: DubReport) -> JobResult:
    """The result of a job whose video was made now."""
    return JobResult(
        **_about(job),
        status=OK,
        seconds=made.seconds,
        takes=made.takes,
        frames=made.frames,
        dubbed_frames=made.dubbed_frames,
        faceless_spans=made.faceless_spans,
        device=made.device,
        detector=made.detector,
        **_output(job, key, contents),
    )


def found(job: Job, key: str, contents: Contents) -> JobResult:
    """The result of a job whose video is there, made by a run that ended before it could say so."""
    return JobResult(**_about(job), status=OK, **_output(job, key, contents))


def _about(job: Job) -> dict[str, Any]:
    return {
        "job": name_of(job),
        "row": job.row,
        "face": job.face,
        "audio": job.audio,
        "finished": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "settings": settings(job),
    }


def _output(job: Job, key: str, contents: Contents) -> dict[str, Any]:
    made = contents.about(job.outfile)
    return {
        "key": key,
        "inputs": contents.inputs(job),
        "output_bytes": made["bytes"],
        "output_sha256": made["sha256"],
    }
