"""Check all jobs before the first frame: inputs open, outputs are writable, nothing is overwritten."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator, Sequence

from wav2lip_npu import signals
from wav2lip_npu.batch.jobs import Job, Problem
from wav2lip_npu.errors import CheckpointError, Wav2LipError
from wav2lip_npu.media.audio_reader import measure_audio, read_blocks
from wav2lip_npu.media.container import probe
from wav2lip_npu.media.video_writer import check_format, video_output
from wav2lip_npu.models.bundled import weights_inputs, weights_path
from wav2lip_npu.storage.outputs import InputPath, OutputPath, output_problems
from wav2lip_npu.storage.regular_files import open_regular


def check_jobs(
    jobs: Sequence[Job],
    devices: Sequence[str] | None = None,
    *,
    outputs: Iterable[OutputPath] = (),
    inputs: Iterable[InputPath] = (),
) -> list[Problem]:
    """Return the problems of jobs by row, at most one per job and file.

    Each face and audio file is opened once. Outputs and reports must be writable, and differ from each
    other and from every input of any job.

    Args:
        jobs: The jobs.
        devices: Devices of the batch; `None` if not known yet.
        outputs: Other files that the batch writes.
        inputs: Other files that the batch reads.

    """
    jobs = sorted(jobs, key=lambda job: job.row)
    face, weights, video = map(_checked_once, (probe, _check_weights, check_format))
    audio = _checked_once(_check_audio)
    others, own = list(outputs), list(job_outputs(jobs))
    errors = output_problems([*others, *own], [*inputs, *job_inputs(jobs)])[len(others) :]
    written = zip(own, errors, strict=True)
    problems = []
    for job in jobs:
        signals.check()
        outfile, report = next(written)[1], job.report and next(written)[1]
        texts = (
            face(job.face),
            audio(job.audio, job.dub.audio_track),
            job.voice and audio(job.voice, None),
            video(job.outfile) or outfile,
            report,
            weights(job.checkpoint_path),
            _device_problem(job.device, devices),
        )
        problems += [Problem(job.row, str(text), job) for text in texts if text]
    return problems


def _device_problem(device: str | None, devices: Sequence[str] | None) -> str | None:
    if devices is None or device in (None, *devices):
        return None
    advice = "Add it to --devices or leave the column empty."
    return f"device {device!r} is not among --devices {' '.join(devices)}. {advice}"


def _checked_once(check: Callable[..., object]) -> Callable[..., str | None]:
    """Return a function that calls `check` once per file and returns the message of its error."""

    @functools.cache
    def problem(*file: object) -> str | None:
        try:
            check(*file)
        except Wav2LipError as error:
            return str(error)
        return None

    return problem


def _check_audio(path: str, track: int | None) -> None:
    if next(read_blocks(path, track), None) is None:
        measure_audio(path, track)  # raises the error of an empty track


def _check_weights(path: str) -> None:
    try:
        open_regular(weights_path(path, "generator")).close()
    except OSError as error:
        raise CheckpointError(f"cannot read weights {path}: {error.strerror}. Check its path.") from None


def job_outputs(jobs: Iterable[Job], table: str = "") -> Iterator[OutputPath]:
    """Yield the output and the report of each job, for `check_outputs`; `table` is appended to the row."""
    for job in jobs:
        yield video_output(job.outfile, "outfile", f"outfile of row {job.row}{table}")
        if job.report is not None:
            yield OutputPath("report", job.report, label=f"report of row {job.row}{table}")


def job_inputs(jobs: Iterable[Job], table: str = "") -> Iterator[InputPath]:
    """Yield the files that each job reads, for `check_outputs`; `table` is appended to the row."""
    for job in jobs:
        row = f"row {job.row}{table}"
        yield InputPath(f"face of {row}", job.face)
        yield InputPath(f"audio of {row}", job.audio)
        if job.voice is not None:
            yield InputPath(f"voice of {row}", job.voice)
        yield from weights_inputs(f"checkpoint_path of {row}", job.checkpoint_path)
