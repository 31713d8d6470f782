"""Check all jobs before the first frame: inputs open, outputs are writable, nothing is overwritten."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterator, Sequence

from wav2lip_npu.batch.jobs import Job, Problem
from wav2lip_npu.errors import CheckpointError, MediaError, Wav2LipError
from wav2lip_npu.media.audio_reader import measure_audio, read_blocks
from wav2lip_npu.media.container import probe
from wav2lip_npu.media.video_writer import check_target, check_writable
from wav2lip_npu.models.bundled import weights_path
from wav2lip_npu.storage.atomic import real_name


def check_jobs(jobs: Sequence[Job], devices: Sequence[str] | None = None) -> list[Problem]:
    """Return the problems of jobs by row, at most one per job and file; create the folders of outputs.

    Each face and audio file is opened once. Outputs and reports must be writable, and differ from each
    other and from every input of any job. `devices` are those of the batch; `None` if not known yet.
    """
    jobs = sorted(jobs, key=lambda job: job.row)
    face, audio, weights = map(_checked_once, (probe, _check_audio, _check_weights))
    outfile, report = map(_checked_once, (check_target, check_report))
    problems = []
    for job, collision in zip(jobs, _collisions(jobs), strict=True):
        texts = (
            face(job.face),
            audio(job.audio),
            collision.get("outfile") or outfile(job.outfile),
            collision.get("report") or (job.report and report(job.report)),
            weights(job.checkpoint_path),
            _device_problem(job.device, devices),
        )
        problems += [Problem(job.row, text, job) for text in texts if text]
    return problems


def _device_problem(device: str | None, devices: Sequence[str] | None) -> str | None:
    if devices is None or device in (None, *devices):
        return None
    advice = "Add it to --devices or leave the column empty."
    return f"device {device!r} is not among --devices {' '.join(devices)}. {advice}"


def _checked_once(check: Callable[[str], object]) -> Callable[[str], str | None]:
    """Return a function that calls `check` once per file and returns the message of its error."""

    @functools.cache
    def problem(path: str) -> str | None:
        try:
            check(path)
        except Wav2LipError as error:
            return str(error)
        return None

    return problem


def _check_audio(path: str) -> None:
    if next(read_blocks(path), None) is None:
        measure_audio(path)  # raises the error of an empty track


def check_report(path: str) -> None:
    """Check that the report of a job can be written, and create its folder. Raises `MediaError`."""
    if os.path.isdir(path):
        raise MediaError(f"cannot write {path}: it is a folder. Pass a file name as report.")
    check_writable(path)


def _check_weights(path: str) -> None:
    try:
        weights_path(path, "generator").open("rb").close()
    except OSError as error:
        raise CheckpointError(f"cannot read weights {path}: {error.strerror}. Check its path.") from None


def _collisions(jobs: Sequence[Job]) -> Iterator[dict[str, str]]:
    """Yield for each job, by column, the problem of an output that is also an input or an earlier output."""
    inputs = {
        _file_id(getattr(job, column)): f"{column} of row {job.row}"
        for job in reversed(jobs)  # the message names the first row
        for column in ("face", "audio", "checkpoint_path")
    }
    outputs: dict[str, str] = {}
    for job in jobs:
        problems = {}
        for column, path in (("outfile", job.outfile), ("report", job.report)):
            if path is None:
                continue
            name = real_name(path)
            if owner := inputs.get(_file_id(path)):
                problems[column] = (
                    f"the {column} {path} is also an input ({owner}) and would be lost. Rename it."
                )
            elif owner := outputs.get(name):
                problems[column] = f"the {column} {path} is also the {owner}. Rename one of them."
            else:
                outputs[name] = f"{column} of row {job.row}"
        yield problems


def _file_id(path: str) -> object:
    """Return a value that is equal for all names of a file, which need not exist."""
    try:
        status = os.stat(path)
    except OSError:
        return real_name(path)
    return status.st_dev, status.st_ino
