"""Checks of all jobs before the first frame: every problem is reported, and nothing is overwritten."""

from __future__ import annotations

import csv
import os
import shutil
from dataclasses import replace

import cv2
import numpy as np
import pytest
import soundfile

from wav2lip_npu.batch.job_checks import check_jobs
from wav2lip_npu.batch.jobs import Job, read_jobs
from wav2lip_npu.media import audio_reader, container, video_reader


@pytest.fixture
def job(face_video, speech, tmp_path):
    """A valid job."""
    return Job(face=str(face_video), audio=str(speech), outfile=str(tmp_path / "o.mp4"), row=2)


def texts(*jobs: Job, devices: list[str] | None = None) -> list[str]:
    problems = check_jobs(jobs, devices)
    assert all(problem.job in jobs and problem.row == problem.job.row for problem in problems if problem.job)
    return [problem.text for problem in problems]


def test_valid_jobs_have_no_problems_and_leave_no_files(job, tmp_path, tiny_checkpoint):
    image_file = tmp_path / "p.png"
    cv2.imwrite(str(image_file), next(video_reader.read_frames(job.face)).image)
    other = replace(
        job,
        face=str(image_file),
        outfile=str(tmp_path / "new" / "o.MKV"),
        report=str(tmp_path / "reports" / "r.json"),
        checkpoint_path=str(tiny_checkpoint),
        device="cpu",
        row=3,
    )
    assert check_jobs([job, other], ["cpu"]) == []
    assert check_jobs([]) == []
    assert os.listdir(tmp_path) == ["p.png"]


def test_each_file_is_opened_once(job, tmp_path, monkeypatch):
    opened: list[str] = []

    def counted(name: str, function):
        def call(path, *rest):
            opened.append(f"{name} {path}")
            return function(path, *rest)

        return call

    monkeypatch.setattr("wav2lip_npu.batch.job_checks.probe", counted("face", container.probe))
    monkeypatch.setattr(
        "wav2lip_npu.batch.job_checks.read_blocks", counted("audio", audio_reader.read_blocks)
    )
    jobs = [replace(job, outfile=str(tmp_path / f"o{row}.mp4"), row=row) for row in range(500)]
    missing = [replace(job, face="none.mp4", row=500 + job.row, outfile=job.outfile + ".mov") for job in jobs]
    problems = check_jobs([*jobs, *missing])
    assert sorted(opened) == sorted([f"audio {job.audio}", f"face {job.face}", "face none.mp4"])
    assert [problem.row for problem in problems] == list(range(500, 1000))
    assert os.listdir(tmp_path) == []


def test_all_problems_of_all_jobs_by_row(job, tmp_path, face_video, speech):
    silent, folder = tmp_path / "silent.wav", tmp_path / "folder.mp4"
    folder.mkdir()
    reports = tmp_path / "reports"
    reports.mkdir()
    soundfile.write(silent, np.zeros(0), 16_000)
    wrong = replace(
        job,
        face=str(speech),
        audio=str(face_video),
        outfile="o.xyz",
        checkpoint_path="none.pth",
        device="npu:1",
        row=3,
    )
    cut = tmp_path / "cut.wav"
    cut.write_bytes(speech.read_bytes()[:2000])
    jobs = [
        replace(job, audio=str(cut), outfile=str(folder), report="/proc/none/r.json", row=9),
        wrong,
        replace(job, face=str(tmp_path), audio=str(silent), report=str(reports), row=4),
        replace(job, outfile=str(tmp_path / "good.mp4"), row=5),
    ]
    problems = check_jobs(jobs, ["cpu", "cuda:0"])
    expected = [
        (3, str(speech), "no video"),
        (3, str(face_video), "no audio"),
        (3, "o.xyz", "video format"),
        (3, "none.pth", "No such file"),
        (3, "device 'npu:1'", "--devices cpu cuda:0"),
        (4, str(tmp_path), "directory"),
        (4, str(silent), "empty"),
        (4, str(reports), "report"),
        (9, str(cut), "truncated"),
        (9, str(folder), "outfile"),
        (9, "/proc/none/r.json", "cannot write"),
    ]
    assert [problem.row for problem in problems] == [row for row, *_ in expected]
    for problem, (_, *parts) in zip(problems, expected, strict=True):
        assert all(part in problem.text for part in parts)
    assert [problem.job for problem in problems[:5]] == [wrong] * 5


def test_devices_are_checked_only_if_known(job):
    anywhere = replace(job, device="npu:7")
    assert texts(anywhere) == []
    assert texts(job, devices=["cpu"]) == []


def test_outputs_are_unique(job, tmp_path):
    (tmp_path / "real").mkdir()
    os.symlink(tmp_path / "real", tmp_path / "link")
    names = ["real/o.mp4", "link/o.mp4", "real/./o.mp4", "real/../link//o.mp4", "real/O.mp4"]
    jobs = [replace(job, outfile=f"{tmp_path}/{name}", row=row) for row, name in enumerate(names, 2)]
    problems = check_jobs(jobs[::-1])
    assert [problem.row for problem in problems] == [3, 4, 5]
    assert problems[0].text == (
        f"outfile {tmp_path}/link/o.mp4 is also the outfile of row 2. Choose another name."
    )


@pytest.mark.parametrize("exists", [True, False])
def test_links_to_one_file_are_one_output(job, tmp_path, exists):
    if exists:
        (tmp_path / "old.mp4").write_bytes(b"old")
    os.symlink(tmp_path / "old.mp4", tmp_path / "link.mp4")
    names = ("old.mp4", "link.mp4")
    (text,) = texts(*(replace(job, outfile=str(tmp_path / name), row=row) for row, name in enumerate(names)))
    assert "link.mp4" in text and "outfile of row 0" in text


def test_reports_are_unique_and_differ_from_outputs(job, tmp_path):
    out, report = str(tmp_path / "o.mp4"), str(tmp_path / "r.json")
    one = replace(job, report=report, row=1)
    assert texts(one, replace(job, outfile=out + ".mov", report=report, row=2)) == [
        f"report {report} is also the report of row 1. Choose another name."
    ]
    assert texts(one, replace(job, outfile=out + ".mov", report=out, row=2)) == [
        f"report {out} is also the outfile of row 1. Choose another name."
    ]
    assert texts(replace(job, report=out, row=1)) == [
        f"report {out} is also the outfile of row 1. Choose another name."
    ]


@pytest.mark.parametrize("how", ["name", "link", "hard link", "folder"])
@pytest.mark.parametrize("column", ["face", "audio"])
def test_outputs_that_are_inputs(job, tmp_path, how, column):
    used = tmp_path / "used.mp4"
    shutil.copy(getattr(job, column), used)
    before = used.read_bytes()
    name = tmp_path / "other.mp4"
    if how == "name":
        name = tmp_path / "." / "used.mp4"
    elif how == "link":
        os.symlink(used, name)
    elif how == "hard link":
        os.link(used, name)
    else:
        os.symlink(tmp_path, tmp_path / "folder")
        name = tmp_path / "folder" / "used.mp4"
    user = replace(job, outfile=str(tmp_path / "fine.mp4"), row=7, **{column: str(used)})
    again = replace(user, outfile=str(tmp_path / "again.mp4"), row=8)
    for written in ("outfile", "report"):
        (text,) = texts(replace(job, row=3, **{written: str(name)}), user, again)
        owner = f"{column} of row 7"
        assert text == f"{written} {name} is also an input ({owner}) and would be lost. Choose another name."
    assert used.read_bytes() == before


def test_outputs_that_are_checkpoints_or_inputs_to_be_written(job, tmp_path, tiny_checkpoint):
    weights = tmp_path / "w.mp4"
    shutil.copy(tiny_checkpoint, weights)
    (text,) = texts(replace(job, outfile=str(weights)), replace(job, checkpoint_path=str(weights), row=3))
    assert "is also an input (checkpoint_path of row 3)" in text
    later = str(tmp_path / "later.mp4")
    lost, unread = texts(replace(job, outfile=later), replace(job, face=later, row=3))
    assert "is also an input (face of row 3)" in lost
    assert unread.startswith(f"cannot read {later}: No such file")


def test_output_names_that_cannot_be_written(job, tmp_path):
    (tmp_path / "file").touch()
    names = ["fine.mp4", "x" * 300 + ".mp4", "file/o.mp4", "fine.mkv"]
    problems = check_jobs(
        [replace(job, outfile=f"{tmp_path}/{name}", row=row) for row, name in enumerate(names, 2)]
    )
    assert [problem.row for problem in problems] == [3, 4]
    assert "File name too long" in problems[0].text
    assert "file/o.mp4" in problems[1].text


def test_unusual_names_from_table_to_check(tmp_path, face_video, speech):
    names = ["a b", "it's", 'say "hi"', "a;b", "a\nb", "你好", "\udcff", "-dash", "100%03d", "c:d", "[x]"]
    rows = []
    for name in names:
        shutil.copy(face_video, tmp_path / f"{name}.mp4")
        shutil.copy(speech, tmp_path / f"{name}.wav")
        rows.append([f"{name}.mp4", f"{name}.wav", f"{name}/{name} out.mp4"])
    with (tmp_path / "jobs.csv").open("w", newline="", errors="surrogateescape") as file:
        csv.writer(file).writerows([("face", "audio", "outfile"), *rows])
    jobs, problems = read_jobs(tmp_path / "jobs.csv", Job(face="", audio="", outfile=""))
    assert problems == []
    assert check_jobs(jobs) == []
    assert not any(path.is_dir() for path in tmp_path.iterdir())
