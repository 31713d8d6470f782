"""Many dubs: read from a table or paired, and looked at before the first frame: all that is wrong at once."""

from __future__ import annotations

import functools
import glob
import itertools
import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from wav2lip_npu.batch.job_table import EMPTY, Row, columns, read_rows, replaced
from wav2lip_npu.device import PRECISIONS
from wav2lip_npu.dubbing.options import DubOptions
from wav2lip_npu.errors import CheckpointError, MediaError, UsageError, Wav2LipError
from wav2lip_npu.media import container
from wav2lip_npu.media.audio_reader import load_audio, read_blocks
from wav2lip_npu.media.video_writer import check_target, check_writable
from wav2lip_npu.models.bundled import STARTER, weights_path

PAIRS = ("zip", "product")
_FILES = ("face", "audio", "outfile")
_PATHS = (*_FILES, "checkpoint_path", "report")


@dataclass(frozen=True, kw_only=True)
class Job:
    """One face video, one sound, one output."""

    face: str
    audio: str
    outfile: str
    dub: DubOptions = field(default_factory=DubOptions)
    checkpoint_path: str = STARTER
    precision: str = "fp32"
    device: str | None = None
    """The device it must run on; None: whichever is free."""
    report: str | None = None
    """JSON of this job alone, as that of `dub --report`."""
    row: int = 0
    """Of its table, as a spreadsheet counts; the line of JSON Lines; else its place from 1."""

    def check(self) -> None:
        """Raise `Wav2LipError` when an option is unknown or out of range."""
        if self.precision not in PRECISIONS:
            raise UsageError(f"unknown precision {self.precision!r}. Pass one of {', '.join(PRECISIONS)}.")


@dataclass(frozen=True)
class Problem:
    """Why a row cannot be run."""

    row: int
    text: str
    """One line: what, where, way out."""
    job: Job | None = None
    """None when the row does not say which files it is about."""


def read_jobs(path: str | os.PathLike[str], defaults: Job) -> tuple[list[Job], list[Problem]]:
    """The jobs of a table, and why others are none. Names of files are relative to the folder of the table.

    `defaults` says what its files do not: its options hold for the rows that leave them open. A row of which
    only options are wrong has its job, without those, in the problem: so its files can be checked with those
    of the others. Raises `UsageError` when the table cannot be read or is empty, or a default is wrong.
    """
    defaults.check()
    jobs: list[Job] = []
    problems: list[Problem] = []
    known = [name for name in columns(defaults) if name != "row"]
    for row in read_rows(path, known, _FILES):
        job, faults = _job_of(row, os.path.dirname(path), defaults)
        problems += [Problem(row.number, text, job) for text in faults]
        if job is not None and not faults:
            jobs.append(job)
    if not jobs and not problems:
        raise UsageError(f"there is no job in {path}. Write a row for each video, in a CSV under a header.")
    return jobs, problems


def pair_jobs(
    faces: Sequence[str], audios: Sequence[str], pair: str, outdir: str, defaults: Job
) -> list[Job]:
    """A job for the first face and the first sound and so on (`zip`), or for each with each (`product`).

    A word is a file, a folder (the files in it) or a pattern, `**` for folders at any depth: its files come
    in natural order, each file once. Raises `UsageError` when a word stands for nothing, the numbers of a
    `zip` differ, or a default is wrong.
    """
    defaults.check()
    if pair not in PAIRS:
        raise UsageError(f"unknown --pair {pair!r}. Pass {' or '.join(PAIRS)}.")
    videos, sounds = _expand("--faces", faces), _expand("--audios", audios)
    if pair == "zip" and len(videos) != len(sounds):
        raise UsageError(
            f"{len(videos)} --faces and {len(sounds)} --audios cannot be paired one to one. "
            "Pass as many of both, or --pair product for each with each."
        )
    pairs = zip(videos, sounds, strict=True) if pair == "zip" else itertools.product(videos, sounds)
    jobs = []
    for row, (face, audio) in enumerate(pairs, start=1):
        outfile = os.path.join(outdir, f"{Path(face).stem}__{Path(audio).stem}.mp4")
        jobs.append(replace(defaults, face=face, audio=audio, outfile=outfile, row=row))
    return jobs


def check_jobs(jobs: Sequence[Job], devices: Sequence[str] | None = None) -> list[Problem]:
    """Why jobs cannot be run, by row: at most one problem a job and file; folders of outputs are made.

    Faces and sounds are opened, each file once; outputs and reports can be written, differ from each other
    and from everything that any of the jobs reads; weights are there; a device is one of `devices`.
    """
    jobs = sorted(jobs, key=lambda job: job.row)
    face, audio, weights = map(_asked_once, (container.probe, _check_sound, _check_weights))
    outfile, report = map(_asked_once, (check_target, _check_report))

    def elsewhere(device: str | None) -> str | None:
        if devices is None or device in (None, *devices):
            return None
        way_out = "Add it there or leave the column empty."
        return f"device {device!r} is not among --devices {' '.join(devices)}. {way_out}"

    problems = []
    for job, lost in zip(jobs, _collisions(jobs), strict=True):
        faults = (
            face(job.face),
            audio(job.audio),
            lost.get("outfile") or outfile(job.outfile),
            lost.get("report") or (job.report and report(job.report)),
            weights(job.checkpoint_path),
            elsewhere(job.device),
        )
        problems += [Problem(job.row, text, job) for text in faults if text]
    return problems


def _job_of(row: Row, folder: str, defaults: Job) -> tuple[Job | None, list[str]]:
    """The job of a row, None when one of its files cannot be told, and what is wrong with the row."""
    if row.values is None:
        return None, row.faults
    faults, values = list(row.faults), dict(row.values)
    for name in _PATHS:
        value = values.get(name)
        if name in _FILES and value in EMPTY:
            faults.append(f"{name} is missing. A row needs {', '.join(_FILES)}.")
        elif isinstance(value, str) and value and (name, value) != ("checkpoint_path", STARTER):
            values[name] = os.path.join(folder, value)
    job, wrong = replaced(replace(defaults, face="", audio="", outfile="", row=row.number), values)
    faults += wrong
    try:
        job.check()
    except Wav2LipError as error:
        faults.append(str(error))
    return (job if job.face and job.audio and job.outfile else None), faults


def _expand(flag: str, words: Iterable[str]) -> list[str]:
    """The files that words stand for: the words in their order, what each stands for in natural order."""
    files: dict[str, str] = {}
    for word in words:
        pattern = os.path.join(glob.escape(word), "*") if os.path.isdir(word) else word
        matches = filter(os.path.isfile, glob.glob(pattern, recursive=True))
        found = [word] if os.path.isfile(word) else sorted(matches, key=_natural)
        if not found:
            raise UsageError(f"{flag} {word}: there is no such file. Pass files, folders or patterns.")
        for file in found:
            files.setdefault(_place(file), file)
    return list(files.values())


def _natural(path: str) -> tuple[list[str | int], str]:
    """a2 before a10."""
    parts = re.split(r"(\d+)", path, flags=re.ASCII)
    return [int(part) if at % 2 else part for at, part in enumerate(parts)], path


def _asked_once(check: Callable[[str], object]) -> Callable[[str], str | None]:
    """What `check` raises of a file, found out when the file is first asked about."""

    @functools.cache
    def fault(path: str) -> str | None:
        try:
            check(path)
        except Wav2LipError as error:
            return str(error)
        return None

    return fault


def _check_sound(path: str) -> None:
    if next(read_blocks(path), None) is None:
        load_audio(path)  # says that the track is empty


def _check_report(path: str) -> None:
    if os.path.isdir(path):
        raise MediaError(f"cannot write {path}: it is a folder. Pass a file name as report.")
    check_writable(path)


def _check_weights(path: str) -> None:
    try:
        weights_path(path, "generator").open("rb").close()
    except OSError as error:
        raise CheckpointError(f"cannot read weights {path}: {error.strerror}. Check its path.") from None


def _collisions(jobs: Sequence[Job]) -> Iterator[dict[str, str]]:
    """For each job, by column, what it would write over: a file that is read, or written by one before."""
    read = {
        _identity(getattr(job, column)): f"{column} of row {job.row}"
        for job in reversed(jobs)  # so that the first row is told
        for column in ("face", "audio", "checkpoint_path")
    }
    written: dict[str, str] = {}
    for job in jobs:
        faults = {}
        for column, path in (("outfile", job.outfile), ("report", job.report)):
            if path is None:
                continue
            place = _place(path)
            if owner := read.get(_identity(path)):
                faults[column] = (
                    f"the {column} {path} is also an input ({owner}) and would be lost. Rename it."
                )
            elif owner := written.get(place):
                faults[column] = f"the {column} {path} is also the {owner}. Rename one of them."
            else:
                written[place] = f"{column} of row {job.row}"
        yield faults


def _identity(path: str) -> object:
    """Equal for all names of a file, be it there or not."""
    try:
        status = os.stat(path)
    except OSError:
        return _place(path)
    return status.st_dev, status.st_ino


def _place(path: str) -> str:
    """The name itself in the real folder: writing replaces a link, not what it leads to."""
    where = Path(path)
    return os.path.join(os.path.realpath(where.parent), where.name)
