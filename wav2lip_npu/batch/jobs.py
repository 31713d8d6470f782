"""Jobs of one face video, audio file and output, read from a table or paired from lists of files."""

from __future__ import annotations

import glob
import itertools
import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal, TypeAlias, get_args

from wav2lip_npu.batch.job_table import EMPTY, Row, column_names, read_rows, with_cells
from wav2lip_npu.devices.compilation import CompileOption
from wav2lip_npu.devices.number_formats import PrecisionOption
from wav2lip_npu.dubbing.dialogue import Dialogue, Listeners, Speaker
from wav2lip_npu.dubbing.dialogue_files import dialogue_of
from wav2lip_npu.dubbing.options import DubOptions
from wav2lip_npu.dubbing.spans import canonical_spans
from wav2lip_npu.errors import UsageError
from wav2lip_npu.models.bundled import STARTER
from wav2lip_npu.models.plan_choice import AudioRefineOption
from wav2lip_npu.options import check_types, nested_by_name, path_text
from wav2lip_npu.storage.atomic import real_name

Pairing = Literal["zip", "product"]
Paths: TypeAlias = str | os.PathLike[str] | Sequence[str | os.PathLike[str]]
"""One path or several."""
_FILES = ("face", "audio", "outfile")
PATHS = (*_FILES, "voice", "turns", "rttm", "checkpoint_path", "report", "occlusion_mask", "enhance", "asd")
"""Options of a job that name files."""


@nested_by_name
@dataclass(frozen=True, kw_only=True)
class Job:
    """One dub of a batch.

    Files may be passed as `str` or as any other path, such as `pathlib.Path`; they are stored as `str`.

    Example:
        >>> job = Job(face="talk.mp4", audio="speech.wav", outfile="dubbed.mp4")

    Raises:
        UsageError: An option is unknown or out of range.

    """

    face: str
    """Video or image with the face."""
    audio: str
    """Audio file, or video with audio."""
    outfile: str
    """Video to write: .mp4, .mov, .mkv or .avi."""
    voice: str | None = None
    """Audio that drives the mouth instead of `audio`. `None`: `audio`."""
    speakers: tuple[str, ...] = ()
    """Several people who speak, each as `NAME=AUDIO@FACE`, see `dub_speakers`; `audio` may then be empty."""
    turns: str | None = None
    """Table of who speaks when."""
    rttm: str | None = None
    """RTTM file of who speaks when in `audio`."""
    listeners: Listeners = "filmed"
    """Mouths of speakers who do not speak: `filmed`, or `still`."""
    dub: DubOptions = field(default_factory=DubOptions)
    checkpoint_path: str = STARTER
    """Weights of a Wav2Lip generator, or `starter` for the bundled network."""
    precision: PrecisionOption = "auto"
    """Number format of the generator, see `load_models`."""
    compile: CompileOption = "off"
    """Whether the generator is compiled, see `load_models`."""
    face_size: int | None = None
    """Size of the faces in pixels, for weights that fit several: 192 or 384. None: as published."""
    audio_refine: AudioRefineOption = "auto"
    """Whether a generator uses its layers audio_refine; auto: measured in the weights, see docs/hd.md."""
    device: str | None = None
    """Device to run on; `None` is any device of the batch."""
    report: str | None = None
    """JSON file for the report of this job, in the format of `dub --report`."""
    row: int = 0
    """Position in its table: spreadsheet row of a CSV, line of JSON Lines, else from 1."""

    def __post_init__(self) -> None:
        """Check the values and convert paths to `str`."""
        check_types(self)
        if self.voice is not None:
            path_text(self.voice, "--voice")
            if self.has_speakers:
                raise UsageError("voice is for one speaker. Write speakers with their audio instead.")

    @property
    def has_speakers(self) -> bool:
        """Whether several people may speak."""
        return bool(self.speakers or self.turns or self.rttm)

    @property
    def dialogue(self) -> Dialogue | None:
        """Who speaks when; None for a single speaker. Reads the turns. Raises `UsageError`."""
        if not self.has_speakers:
            return None
        return dialogue_of(self.speakers, self.audio or None, self.turns, self.rttm, self.listeners, self.dub)


@dataclass(frozen=True)
class Problem:
    """Reason why a row cannot be run."""

    row: int
    text: str
    """One line: what is wrong, where, and how to fix it."""
    job: Job | None = None
    """`None` if the row does not name its files."""


def read_jobs(path: str | os.PathLike[str], defaults: Job) -> tuple[list[Job], list[Problem]]:
    """Return the jobs of a table and the problems of its other rows.

    File names are relative to the folder of the table. The problem of a row with invalid options has a job
    without those options, so that its files can be checked too.

    Args:
        path: Table in .csv, .jsonl, .ndjson or .json.
        defaults: Options of the rows that leave them empty; its files are ignored.

    Raises:
        UsageError: The table cannot be read or is empty.

    """
    jobs: list[Job] = []
    problems: list[Problem] = []
    known = [name for name in column_names(defaults) if name != "row"]
    for row in read_rows(path, known, _FILES):
        job, texts = _job_of(row, os.path.dirname(path), defaults)
        problems += [Problem(row.number, text, job) for text in texts]
        if job is not None and not texts:
            jobs.append(job)
    if not jobs and not problems:
        raise UsageError(f"no jobs in {path}. Write one row per video; a CSV needs a header.")
    return jobs, problems


def as_jobs(jobs: Job | Iterable[Job]) -> list[Job]:
    """Return one or several jobs as a list.

    Raises:
        UsageError: One of them is not a job.

    """
    if not isinstance(jobs, Iterable):
        jobs = [jobs]
    jobs = list(jobs)
    for job in jobs:
        if not isinstance(job, Job):
            raise UsageError(f"{job!r:.80} is not a Job. Pass Job(face=..., audio=..., outfile=...).")
    return jobs


def numbered(jobs: Job | Iterable[Job]) -> list[Job]:
    """Return the jobs with unique rows: their own if those are unique, else their positions from 1."""
    jobs = as_jobs(jobs)
    if len({job.row for job in jobs}) == len(jobs):
        return jobs
    return [replace(job, row=row) for row, job in enumerate(jobs, start=1)]


def as_paths(flag: str, paths: Paths) -> list[str]:
    """Return one or several paths as a list. Raises `UsageError` if one of them is not a path."""
    if isinstance(paths, str) or not isinstance(paths, Iterable):
        paths = [paths]
    return [path_text(path, flag) for path in paths]


def pair_jobs(
    faces: Sequence[str], audios: Sequence[str], pair: Pairing, outdir: str, defaults: Job
) -> list[Job]:
    """Return a job for each pair of face and audio file.

    Args:
        faces: Files, folders (their files) or glob patterns, `**` for folders at any depth. The files of
            each entry are in natural order, without duplicates.
        audios: The same for audio.
        pair: `zip` pairs the first face with the first audio, and so on; `product` pairs every face with
            every audio.
        outdir: Folder of the outputs, such as `talk__speech.mp4` for talk.mp4 and speech.wav.
        defaults: Options of all jobs.

    Raises:
        UsageError: An entry matches no file, or the numbers of a `zip` differ.

    """
    if pair not in get_args(Pairing):
        raise UsageError(f"unknown --pair {pair!r}. Pass zip or product.")
    videos, tracks = _expand("--faces", faces), _expand("--audios", audios)
    if pair == "zip" and len(videos) != len(tracks):
        raise UsageError(
            f"{len(videos)} --faces and {len(tracks)} --audios cannot be paired one to one. "
            "Pass equal numbers, or --pair product for every combination."
        )
    pairs = zip(videos, tracks, strict=True) if pair == "zip" else itertools.product(videos, tracks)
    jobs = []
    for row, (face, audio) in enumerate(pairs, start=1):
        outfile = os.path.join(outdir, f"{Path(face).stem}__{Path(audio).stem}.mp4")
        jobs.append(replace(defaults, face=face, audio=audio, outfile=outfile, row=row))
    return jobs


def _job_of(row: Row, folder: str, defaults: Job) -> tuple[Job | None, list[str]]:
    """Return the job of a row (`None` if a file is missing) and the problems of the row."""
    if row.values is None:
        return None, row.problems
    problems, values = list(row.problems), dict(row.values)
    has_speakers = any(values.get(name) not in EMPTY for name in ("speakers", "turns"))
    for name in PATHS:
        value = values.get(name)
        if name in _FILES and value in EMPTY and not (name == "audio" and has_speakers):
            problems.append(f"{name} is missing. A row needs {', '.join(_FILES)}.")
        elif isinstance(value, str) and value and (name, value) != ("checkpoint_path", STARTER):
            values[name] = os.path.join(folder, value)
    if isinstance(values.get("skip"), list):
        try:
            values["skip"] = canonical_spans(values["skip"])
        except UsageError as error:
            problems.append(str(error))
            del values["skip"]
    job, more = with_cells(replace(defaults, face="", audio="", outfile="", row=row.number), values)
    problems += more
    try:
        job = replace(job, speakers=tuple(Speaker.parse(text).within(folder).text for text in job.speakers))
    except UsageError as error:
        problems.append(str(error))
    has_files = job.face and (job.audio or has_speakers) and job.outfile
    return (job if has_files else None), problems


def _expand(flag: str, entries: Iterable[str]) -> list[str]:
    """Return the files of the entries, in their order."""
    files: dict[str, str] = {}
    for entry in entries:
        pattern = os.path.join(glob.escape(entry), "*") if os.path.isdir(entry) else entry
        matches = filter(os.path.isfile, glob.glob(pattern, recursive=True))
        expanded = [entry] if os.path.isfile(entry) else sorted(matches, key=_natural_order)
        if not expanded:
            raise UsageError(f"{flag} {entry}: no such file. Pass files, folders or patterns.")
        for file in expanded:
            files.setdefault(real_name(file), file)
    return list(files.values())


def _natural_order(path: str) -> tuple[list[str | int], str]:
    """Return a sort key that puts a2 before a10."""
    parts = re.split(r"(\d+)", path, flags=re.ASCII)
    return [int(part) if index % 2 else part for index, part in enumerate(parts)], path
