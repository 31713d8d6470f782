"""Many jobs on one device: each ends as if it were alone, and nothing is done twice."""

from __future__ import annotations

import itertools
import json
import shutil
import threading
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import soundfile

import wav2lip_npu
from support.devices import DEVICE
from support.faces import SquareDetector, face_pictures, write_sound
from wav2lip_npu.batch import runner
from wav2lip_npu.batch.face_cache import FaceCache
from wav2lip_npu.batch.job_keys import key_of
from wav2lip_npu.batch.jobs import Job
from wav2lip_npu.batch.runner import run_jobs, units_of
from wav2lip_npu.dubbing import inference, outputs
from wav2lip_npu.dubbing.options import DubOptions
from wav2lip_npu.dubbing.pipeline import dub
from wav2lip_npu.errors import MediaError
from wav2lip_npu.faces.find_faces import FaceOptions
from wav2lip_npu.media import video_reader
from wav2lip_npu.media.geometry import Geometry
from wav2lip_npu.media.video_writer import EncodeOptions, write_video
from wav2lip_npu.models import bundled

FAST = DubOptions(encode=EncodeOptions(preset="ultrafast"))


@pytest.fixture(scope="module")
def models(tiny_checkpoint) -> inference.Models:
    loaded = inference.load_models(tiny_checkpoint, detector="hog", device=str(DEVICE))
    return replace(loaded, detector=SquareDetector())


@pytest.fixture
def jobs(tmp_path, face_video) -> list[Job]:
    """Two face videos, two sounds each."""
    other = tmp_path / "other.mp4"
    write_video(face_pictures(30), other, fps=Fraction(24), options=EncodeOptions(crf=30, preset="ultrafast"))
    sounds = [write_sound(tmp_path / f"{seconds}.wav", seconds) for seconds in (0.8, 1.1)]
    pairs = itertools.product((face_video, other), sounds)
    return [
        Job(face=str(face), audio=str(sound), outfile=str(tmp_path / "out" / f"{row}.mp4"), dub=FAST, row=row)
        for row, (face, sound) in enumerate(pairs, start=2)
    ]


def by_row(results) -> dict[int, wav2lip_npu.JobResult]:
    return {result.row: result for result in results}


def pictures(path: str | Path) -> list[bytes]:
    return [frame.yuv.y.tobytes() + frame.yuv.u.tobytes() for frame in video_reader.read_frames(path)]


@pytest.mark.any_device
def test_each_job_is_done_as_dub_does_it(models, jobs, tmp_path):
    results = by_row(run_jobs(jobs, models))
    assert [results[job.row].status for job in jobs] == ["ok"] * 4
    for job in jobs:
        dub(job.face, job.audio, tmp_path / "alone.mp4", models=models, options=FAST)
        assert pictures(job.outfile) == pictures(tmp_path / "alone.mp4")
        result = results[job.row]
        assert result.frames == len(pictures(job.outfile)) == result.dubbed_frames
        assert (result.takes, result.faceless_spans) == (2, [])
        assert key_of(job.outfile) == result.key
        assert result.output_bytes == Path(job.outfile).stat().st_size


def test_it_is_imported_from_the_package():
    assert wav2lip_npu.run_jobs is run_jobs
    assert wav2lip_npu.Job is Job
    with pytest.raises(AttributeError, match="no attribute 'none'"):
        wav2lip_npu.none  # noqa: B018


def test_what_is_finished_is_not_touched(models, jobs, monkeypatch):
    first = by_row(run_jobs(jobs, models))
    before = {job.outfile: Path(job.outfile).stat() for job in jobs}
    monkeypatch.setattr(runner, "dub_many", lambda *_: pytest.fail("a job is done again"))
    again = by_row(run_jobs(jobs, models))
    assert {name: Path(name).stat() for name in before} == before
    for row, result in again.items():
        assert (result.status, result.seconds) == ("ok", None)
        assert result.output_sha256 == first[row].output_sha256


def test_only_what_changed_is_done_again(models, jobs, monkeypatch, tmp_path):
    list(run_jobs(jobs, models))
    before = {job.row: Path(job.outfile).stat().st_mtime_ns for job in jobs}
    write_sound(Path(jobs[1].audio), 1.2)  # of rows 3 and 5
    jobs[0] = replace(jobs[0], dub=replace(FAST, blend="hard"))
    jobs[2] = replace(jobs[2], dub=replace(FAST, wav2lip_batch_size=3))  # changes no picture
    results = by_row(run_jobs(jobs, models))
    assert {row for row, result in results.items() if result.seconds is not None} == {2, 3, 5}
    after = {job.row: Path(job.outfile).stat().st_mtime_ns for job in jobs}
    assert {row for row in before if before[row] != after[row]} == {2, 3, 5}
    moved = tmp_path / "moved.mp4"
    shutil.copy(jobs[3].face, moved)  # the content counts, not the name or the time
    assert [each.seconds for each in run_jobs([replace(jobs[3], face=str(moved))], models)] == [None]


def test_other_weights_are_another_job(models, jobs):
    list(run_jobs(jobs[:1], models))
    others = replace(
        inference.load_models(bundled.STARTER, detector="hog", device=str(DEVICE)), detector=SquareDetector()
    )
    (result,) = run_jobs(jobs[:1], others)
    assert result.seconds is not None
    assert result.inputs["weights"]["path"] == str(others.weights)


def test_a_job_fails_alone_and_with_its_reason(models, jobs, faceless_video, tmp_path, monkeypatch):
    nan = tmp_path / "nan.wav"
    soundfile.write(nan, np.full(16_000, np.nan), 16_000, subtype="FLOAT")
    empty = tmp_path / "empty.wav"
    soundfile.write(empty, np.zeros(0), 16_000)
    strict = replace(FAST, faces=FaceOptions(no_face="error"))
    where = str(tmp_path / "bad" / "{}.mp4")
    bad = {
        "media": replace(jobs[0], audio=str(tmp_path / "none.wav")),
        "nan": replace(jobs[0], audio=str(nan)),
        "no_sound": replace(jobs[0], audio=str(empty)),
        "no_face": replace(jobs[0], face=str(faceless_video), dub=strict),
        "outside": replace(jobs[0], dub=replace(FAST, faces=FaceOptions(box=(0, 900, 0, 900)))),
        "options": replace(jobs[0], dub=replace(FAST, geometry=Geometry(crop=(900, 901, 0, 9)))),
        "text": replace(jobs[0], face=__file__),
    }
    bad = {
        name: replace(job, outfile=where.format(name), row=100 + place)
        for place, (name, job) in enumerate(bad.items())
    }
    results = by_row(run_jobs([*bad.values(), *jobs], models))
    assert [results[job.row].status for job in jobs] == ["ok"] * 4
    reasons = {name: results[job.row].reason for name, job in bad.items()}
    assert reasons == {
        "media": "media", "nan": "media", "no_sound": "no_sound", "no_face": "no_face", "outside": "no_face",
        "options": "options", "text": "media",
    }  # fmt: skip
    assert "none.wav" in results[100].detail
    assert not list(tmp_path.glob("bad/*"))


def test_a_bug_costs_one_job_too(models, jobs, monkeypatch, caplog):
    real = outputs.write_video
    monkeypatch.setattr(
        outputs, "write_video", lambda *a, **k: 1 / 0 if "3.mp4" in str(a[1]) else real(*a, **k)
    )
    results = by_row(run_jobs(jobs, models))
    assert results.pop(3).reason == "bug"
    assert {each.status for each in results.values()} == {"ok"}
    assert "ZeroDivisionError" in caplog.text


def test_weights_that_cannot_be_loaded_fail_those_that_want_them(models, jobs, tmp_path):
    broken = tmp_path / "broken.pth"
    broken.write_bytes(b"nothing")
    jobs[0] = replace(jobs[0], checkpoint_path=str(broken))

    def load(job: Job) -> inference.Models:
        if job.checkpoint_path != bundled.STARTER:
            return inference.load_models(job.checkpoint_path)
        return models

    results = by_row(run_jobs(jobs, load))
    assert results.pop(2).reason == "weights"
    assert {each.status for each in results.values()} == {"ok"}


def test_the_second_language_costs_no_search(models, jobs, tmp_path):
    cache = FaceCache(tmp_path / "cache")
    models.detector.calls = 0
    assert [each.status for each in run_jobs(jobs[1:2], models, cache=cache)] == ["ok"]
    assert models.detector.calls > 0
    elsewhere = tmp_path / "same content.mp4"
    shutil.copy(jobs[0].face, elsewhere)
    models.detector.calls = 0
    assert [each.status for each in run_jobs([replace(jobs[0], face=str(elsewhere))], models, cache=cache)]
    assert models.detector.calls == 0
    wanted = pictures(jobs[0].outfile)
    Path(jobs[0].outfile).unlink()
    list(run_jobs(jobs[:1], models))
    assert pictures(jobs[0].outfile) == wanted
    other = replace(jobs[0], dub=replace(FAST, faces=FaceOptions(pads=(0, 0, 0, 0))))
    models.detector.calls = 0
    list(run_jobs([other], models, cache=cache))
    assert models.detector.calls > 0


@pytest.mark.any_device
def test_several_videos_in_flight_give_the_same(models, jobs):
    list(run_jobs(jobs, models))
    wanted = {job.row: pictures(job.outfile) for job in jobs}
    for job in jobs:
        Path(job.outfile).unlink()
    assert len(list(run_jobs(jobs, models, in_flight=3))) == 4
    assert {job.row: pictures(job.outfile) for job in jobs} == wanted


def test_who_stops_listening_stops_the_work(models, jobs, tmp_path):
    long = write_sound(tmp_path / "long.wav", 900)
    endless = replace(jobs[0], audio=str(long), outfile=str(tmp_path / "endless.mp4"))
    results = runner.work_on(units_of([endless, *jobs[2:]]), models, cache=FaceCache(None))
    assert isinstance(next(results), runner.Progress)
    results.close()
    assert not list(tmp_path.glob("*.part"))
    assert not (tmp_path / "endless.mp4").exists()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith(("pass", "hand"))]


def test_jobs_of_a_video_and_like_options_go_together(jobs):
    many = [replace(jobs[0], row=row, outfile=f"{row}.mp4") for row in range(10)]
    odd = replace(jobs[0], dub=replace(FAST, static=True), row=99)
    sizes = [[job.row for job in unit] for unit in units_of([many[0], odd, *many[1:], jobs[2]])]
    assert sizes == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9], [99], [jobs[2].row]]


def test_fewer_of_a_large_video_go_together(models, jobs, monkeypatch):
    monkeypatch.setattr(runner, "_PASS_PIXELS", 2 * 320 * 240)
    four = [replace(jobs[0], outfile=f"{jobs[0].outfile}{row}.mp4", row=row) for row in range(4)]
    assert [each.takes for each in run_jobs(four, models)] == [2] * 4


def test_the_report_of_a_single_job(models, jobs, tmp_path):
    told = tmp_path / "one.json"
    list(run_jobs([replace(jobs[0], report=str(told))], models))
    assert json.loads(told.read_text())["frames"] == 20


def test_an_output_that_vanishes_is_no_success(models, jobs, monkeypatch):
    """Its sum is part of the result."""

    def vanished(*_: object) -> None:
        raise MediaError("it is gone")

    monkeypatch.setattr(runner.results, "done", vanished)
    (result,) = run_jobs(jobs[:1], models)
    assert (result.status, result.reason, result.detail) == ("failed", "media", "it is gone")
