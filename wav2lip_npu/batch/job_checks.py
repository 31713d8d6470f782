"""Check all jobs before the first frame: inputs open, outputs are writable, nothing is overwritten."""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Callable, Iterable, Iterator, Sequence

from wav2lip_npu import signals
from wav2lip_npu.batch.face_cache import OFF
from wav2lip_npu.batch.jobs import Job, Problem
from wav2lip_npu.batch.options import BatchOptions
from wav2lip_npu.errors import CheckpointError, UsageError, Wav2LipError
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
    problems = []
    for job, (outfile, report) in zip(jobs, job_output_problems(jobs, outputs, inputs), strict=True):
        signals.check()
        texts = (
            face(job.face),
            audio(job.audio, job.dub.audio_track) if job.audio else None,
            *_speaker_problems(job, audio),
            job.voice and audio(job.voice, None),
            video(job.outfile) or outfile,
            report,
            weights(job.checkpoint_path),
            _device_problem(job.device, devices),
        )
        problems += [Problem(job.row, str(text), job) for text in texts if text]
    return problems


def _speaker_problems(job: Job, audio: Callable[..., str | None]) -> list[str | None]:
    """Return the problem of the speakers of a job, or of each of their files."""
    try:
        dialogue = job.dialogue
    except Wav2LipError as error:
        return [str(error)]
    own = [] if dialogue is None else dialogue.audio_files
    return [audio(path, None) for path in own if path != job.audio]


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


def job_output_problems(
    jobs: Sequence[Job], outputs: Iterable[OutputPath] = (), inputs: Iterable[InputPath] = ()
) -> Iterator[tuple[Wav2LipError | None, Wav2LipError | None]]:
    """Yield the problems of the output and of the report of each job, see `check_jobs`."""
    others = list(outputs)
    checked = [*others, *job_outputs(jobs)]
    problems = iter(output_problems(checked, [*inputs, *job_inputs(jobs)])[len(others) :])
    for job in jobs:
        yield next(problems), None if job.report is None else next(problems)


def batch_outputs(report: str | os.PathLike[str], options: BatchOptions) -> list[OutputPath]:
    """Return the outputs of the batch other than those of its jobs."""
    outputs = [OutputPath("--report", report)]
    if options.cache not in (None, OFF) and not options.cluster:
        outputs.append(OutputPath("--cache", options.cache, is_folder=True))
    return outputs


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
        if job.audio:
            yield InputPath(f"audio of {row}", job.audio)
        for name in ("turns", "rttm"):
            if (path := getattr(job, name)) is not None:
                yield InputPath(f"{name} of {row}", path)
        with contextlib.suppress(UsageError):  # `check_jobs` reports it
            dialogue = job.dialogue
            for file in () if dialogue is None else dialogue.files:
                yield InputPath(f"speakers of {row}", file.path)
        if job.voice is not None:
            yield InputPath(f"voice of {row}", job.voice)
        for name, path in job.dub.network_files.items():
            yield InputPath(f"{name} of {row}", path)
        yield from weights_inputs(f"checkpoint_path of {row}", job.checkpoint_path)
