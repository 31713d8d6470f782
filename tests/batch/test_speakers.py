"""Jobs with several speakers: columns of a table, their files, and keys."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest

from support.faces import write_audio
from support.marks import slow
from support.two_people import PeopleDetector, write_film
from wav2lip_npu.batch.face_cache import FaceCache
from wav2lip_npu.batch.job_checks import check_jobs
from wav2lip_npu.batch.job_keys import job_key
from wav2lip_npu.batch.jobs import Job, read_jobs
from wav2lip_npu.batch.runner import group_jobs, run_jobs
from wav2lip_npu.dubbing.inference import load_models
from wav2lip_npu.errors import UsageError
from wav2lip_npu.media.video_reader import read_frames

DEFAULTS = Job(face="", audio="", outfile="")


@pytest.fixture
def folder(tmp_path) -> Path:
    write_film(tmp_path / "film.mp4", 5)
    for name in ("a", "b"):
        write_audio(tmp_path / f"{name}.wav", 0.2 if name == "a" else 0.3)
    return tmp_path


@dataclass
class CountingDetector(PeopleDetector):
    calls: int = 0

    def __call__(self, images):
        self.calls += len(images)
        return super().__call__(images)


@pytest.fixture
def people(tiny_checkpoint):
    return replace(load_models(tiny_checkpoint, device="cpu"), detector=CountingDetector())


def jobs_of(folder: Path, *rows: dict[str, object]) -> list[Job]:
    (folder / "jobs.json").write_text(json.dumps([{"face": "film.mp4", **row} for row in rows]))
    jobs, problems = read_jobs(folder / "jobs.json", DEFAULTS)
    assert not problems
    return jobs


def test_files_of_speakers_are_relative_to_the_table(folder):
    (folder / "jobs.csv").write_text(
        "face,audio,outfile,speakers,listeners\nfilm.mp4,,out.mp4,anna=a.wav@left; ben=b.wav@me.png,still\n"
    )
    ((job,), problems) = read_jobs(folder / "jobs.csv", DEFAULTS)
    assert not problems
    anna, ben = job.dialogue.speakers
    assert (anna.audio, anna.face) == (str(folder / "a.wav"), "left")
    assert (ben.audio, ben.face) == (str(folder / "b.wav"), str(folder / "me.png"))
    assert job.dialogue.listeners == "still"


def test_key_changes_with_what_each_speaker_says(folder):
    row = {"audio": "", "outfile": "out.mp4"}
    (folder / "turns.csv").write_text("who,start,end\nanna,0,0.1\n")
    speakers = [
        ["anna=a.wav@left", "ben=b.wav@right"],
        ["anna=b.wav@left", "ben=a.wav@right"],
        ["anna=a.wav@right", "ben=b.wav@left"],
    ]
    jobs = jobs_of(
        folder,
        *({**row, "speakers": some} for some in speakers),
        {**row, "speakers": speakers[0], "listeners": "still"},
        {**row, "speakers": ["anna=a.wav"], "turns": "turns.csv"},
    )
    keys = [job_key(job) for job in jobs]
    assert len(set(keys)) == len(jobs)
    write_audio(folder / "b.wav", 0.4)
    (folder / "turns.csv").write_text("who,start,end\nanna,0,0.2\n")
    after = [job_key(job) for job in jobs]
    assert all(before != now for before, now in zip(keys, after, strict=True))


@pytest.mark.parametrize("listeners", ["filmed", slow("still")])
def test_cached_faces_of_speakers_are_not_detected_again(folder, people, tmp_path, listeners):
    """Another dub with the same turns needs no detection, and is the same frame by frame."""
    write_film(folder / "film.mp4", 40)
    turns = "who,start,end,audio\nanna,0,0.6,a.wav\nben,0.6,1.1,b.wav\n"
    for name in ("a", "b"):
        write_audio(folder / f"{name}.wav", 1.0)
    (folder / "turns.csv").write_text(turns)
    speakers = ["anna@left", "ben@right"]
    row = {
        "audio": "",
        "speakers": speakers,
        "turns": "turns.csv",
        "listeners": listeners,
        "preset": "ultrafast",
    }
    outs = [folder / name for name in ("first.avi", "again.avi", "plain.avi", "other.avi")]
    rows = [{**row, "outfile": path.name} for path in outs]
    jobs = jobs_of(folder, *rows[:3], {**rows[3], "speakers": speakers[::-1]})
    cache, detector = FaceCache(tmp_path / "cache"), people.detector
    calls = []
    for job, used in zip(jobs, (cache, cache, None, cache), strict=True):
        before = detector.calls
        (result,) = run_jobs([job], people, cache=used)
        assert result.status == "ok", result.detail
        calls.append(detector.calls - before)
    assert calls[0] == calls[2] > 5
    assert calls[1] == 0
    assert calls[3] > 5
    images = [[frame.yuv.y for frame in read_frames(path)] for path in outs[:3]]
    for again in images[1:]:
        assert all(np.array_equal(one, other) for one, other in zip(images[0], again, strict=True))


def test_problems_of_speakers(folder):
    rows = [
        {"audio": "", "outfile": "1.mp4", "speakers": ["anna=a.wav"]},
        {"audio": "", "outfile": "2.mp4", "speakers": ["anna=missing.wav"]},
        {"audio": "", "outfile": "3.mp4", "turns": "missing.csv"},
        {"audio": "", "outfile": "4.mp4", "speakers": ["anna=a.wav"], "box": [0, 9, 0, 9]},
        {"audio": "", "outfile": "a.wav.mp4", "speakers": ["anna"]},
    ]
    jobs = jobs_of(folder, *rows)
    problems = {problem.row: problem.text for problem in check_jobs(jobs)}
    assert list(problems) == [2, 3, 4, 5]
    for row, named in ((2, "missing.wav"), (3, "missing.csv"), (4, "--box"), (5, "anna")):
        assert named in problems[row]
    with pytest.raises(UsageError, match="voice"):
        replace(jobs[0], voice="v.wav")
    assert [len(group) for group in group_jobs([jobs[0], replace(jobs[0], outfile="x.mp4")])] == [1, 1]
