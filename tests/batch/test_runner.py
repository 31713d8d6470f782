"""Many jobs on one device: outputs equal those of single dubs, and finished outputs are skipped."""

from __future__ import annotations

import itertools
import json
import shutil
import threading
from contextlib import ExitStack
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import soundfile

import wav2lip_npu
from support.devices import DEVICE
from support.faces import SquareDetector, face_frames, write_audio
from wav2lip_npu.batch import runner
from wav2lip_npu.batch.face_cache import FaceCache
from wav2lip_npu.batch.job_keys import read_key
from wav2lip_npu.batch.jobs import Job
from wav2lip_npu.batch.progress import JobProgress
from wav2lip_npu.batch.runner import group_jobs, run_jobs
from wav2lip_npu.dubbing import inference, outputs
from wav2lip_npu.dubbing.options import DubOptions
from wav2lip_npu.dubbing.pipeline import dub
from wav2lip_npu.errors import MediaError, UsageError
from wav2lip_npu.faces.find_faces import FaceOptions
from wav2lip_npu.media import video_reader
from wav2lip_npu.media.geometry import Geometry
from wav2lip_npu.media.video_writer import EncodeOptions, write_video
from wav2lip_npu.models import bundled
from wav2lip_npu.storage.locks import lock_output

FAST = DubOptions(encode=EncodeOptions(preset="ultrafast"))


@pytest.fixture(scope="module")
def models(tiny_checkpoint) -> inference.Models:
    loaded = inference.load_models(tiny_checkpoint, detector="hog", device=str(DEVICE))
    return replace(loaded, detector=SquareDetector())


@pytest.fixture
def jobs(tmp_path, face_video) -> list[Job]:
    """Jobs for two face videos with two audio files each."""
    other = tmp_path / "other.mp4"
    write_video(face_frames(30), other, fps=Fraction(24), options=EncodeOptions(crf=30, preset="ultrafast"))
    audios = [write_audio(tmp_path / f"{seconds}.wav", seconds) for seconds in (0.4, 0.6)]
    pairs = itertools.product((face_video, other), audios)
    return [
        Job(face=str(face), audio=str(audio), outfile=str(tmp_path / "out" / f"{row}.mp4"), dub=FAST, row=row)
        for row, (face, audio) in enumerate(pairs, start=2)
    ]


def by_row(results) -> dict[int, wav2lip_npu.JobResult]:
    return {result.row: result for result in results}


def frame_bytes(path: str | Path) -> list[bytes]:
    return [frame.yuv.y.tobytes() + frame.yuv.u.tobytes() for frame in video_reader.read_frames(path)]


def test_outputs_equal_those_of_dub(models, jobs, tmp_path):
    results = by_row(run_jobs(jobs, models))
    assert [results[job.row].status for job in jobs] == ["ok"] * 4
    for job in jobs:
        dub(job.face, job.audio, tmp_path / "alone.mp4", models=models, options=FAST)
        assert frame_bytes(job.outfile) == frame_bytes(tmp_path / "alone.mp4")
        result = results[job.row]
        assert result.frames == len(frame_bytes(job.outfile)) == result.dubbed_frames
        assert (result.takes, result.faceless_spans) == (2, [])
        assert read_key(job.outfile) == result.key
        assert result.output_bytes == Path(job.outfile).stat().st_size


def test_public_names():
    assert wav2lip_npu.run_jobs is run_jobs
    assert wav2lip_npu.Job is Job
    with pytest.raises(AttributeError, match="no attribute 'none'"):
        wav2lip_npu.none  # noqa: B018


def test_finished_outputs_are_skipped(models, jobs, monkeypatch):
    first = by_row(run_jobs(jobs, models))
    before = {job.outfile: Path(job.outfile).stat() for job in jobs}
    monkeypatch.setattr(runner, "dub_many", lambda *_: pytest.fail("a job is done again"))
    again = by_row(run_jobs(jobs, models))
    assert {name: Path(name).stat() for name in before} == before
    for row, result in again.items():
        assert (result.status, result.seconds) == ("ok", None)
        assert result.output_sha256 == first[row].output_sha256


def test_only_changed_jobs_run_again(models, jobs, monkeypatch, tmp_path):
    list(run_jobs(jobs, models))
    before = {job.row: Path(job.outfile).stat().st_mtime_ns for job in jobs}
    write_audio(Path(jobs[1].audio), 0.7)  # of rows 3 and 5
    jobs[0] = replace(jobs[0], dub=replace(FAST, blend="hard"))
    jobs[2] = replace(jobs[2], dub=replace(FAST, wav2lip_batch_size=3))  # does not change any frame
    results = by_row(run_jobs(jobs, models))
    assert {row for row, result in results.items() if result.seconds is not None} == {2, 3, 5}
    after = {job.row: Path(job.outfile).stat().st_mtime_ns for job in jobs}
    assert {row for row in before if before[row] != after[row]} == {2, 3, 5}
    moved = tmp_path / "moved.mp4"
    shutil.copy(jobs[3].face, moved)  # only the content matters, not name or time
    assert [result.seconds for result in run_jobs([replace(jobs[3], face=str(moved))], models)] == [None]


def test_weights_change_the_key(models, jobs):
    list(run_jobs(jobs[:1], models))
    others = replace(
        inference.load_models(bundled.STARTER, detector="hog", device=str(DEVICE)), detector=SquareDetector()
    )
    (result,) = run_jobs(jobs[:1], others)
    assert result.seconds is not None
    assert result.inputs["weights"]["path"] == str(others.weights)


def test_failed_jobs_have_reasons_and_do_not_affect_others(
    models, jobs, faceless_video, tmp_path, monkeypatch
):
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
        name: replace(job, outfile=where.format(name), row=100 + number)
        for number, (name, job) in enumerate(bad.items())
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


def test_bug_fails_one_job(models, jobs, monkeypatch, caplog):
    real = outputs.write_video
    monkeypatch.setattr(
        outputs, "write_video", lambda *a, **k: 1 / 0 if "3.mp4" in str(a[1]) else real(*a, **k)
    )
    results = by_row(run_jobs(jobs, models))
    assert results.pop(3).reason == "bug"
    assert {result.status for result in results.values()} == {"ok"}
    assert "ZeroDivisionError" in caplog.text


def test_broken_weights_fail_their_jobs(models, jobs, tmp_path):
    broken = tmp_path / "broken.pth"
    broken.write_bytes(b"nothing")
    jobs[0] = replace(jobs[0], checkpoint_path=str(broken))

    def load(job: Job) -> inference.Models:
        if job.checkpoint_path != bundled.STARTER:
            return inference.load_models(job.checkpoint_path)
        return models

    results = by_row(run_jobs(jobs, load))
    assert results.pop(2).reason == "weights"
    assert {result.status for result in results.values()} == {"ok"}


def test_cached_faces_are_not_detected_again(models, jobs, tmp_path):
    cache = FaceCache(tmp_path / "cache")
    models.detector.calls = 0
    assert [result.status for result in run_jobs(jobs[1:2], models, cache=cache)] == ["ok"]
    assert models.detector.calls > 0
    elsewhere = tmp_path / "same content.mp4"
    shutil.copy(jobs[0].face, elsewhere)
    models.detector.calls = 0
    assert [
        result.status for result in run_jobs([replace(jobs[0], face=str(elsewhere))], models, cache=cache)
    ]
    assert models.detector.calls == 0
    expected = frame_bytes(jobs[0].outfile)
    Path(jobs[0].outfile).unlink()
    list(run_jobs(jobs[:1], models))
    assert frame_bytes(jobs[0].outfile) == expected
    other = replace(jobs[0], dub=replace(FAST, faces=FaceOptions(pads=(0, 0, 0, 0))))
    models.detector.calls = 0
    list(run_jobs([other], models, cache=cache))
    assert models.detector.calls > 0


@pytest.mark.slow
@pytest.mark.any_device
def test_passes_in_flight_give_the_same_outputs(models, jobs):
    list(run_jobs(jobs, models))
    expected = {job.row: frame_bytes(job.outfile) for job in jobs}
    for job in jobs:
        Path(job.outfile).unlink()
    assert len(list(run_jobs(jobs, models, in_flight=3))) == 4
    assert {job.row: frame_bytes(job.outfile) for job in jobs} == expected


def test_closing_the_results_cancels_the_work(models, jobs, tmp_path):
    long = write_audio(tmp_path / "long.wav", 200)
    endless = replace(jobs[0], audio=str(long), outfile=str(tmp_path / "endless.mp4"))
    results = runner.run_groups(group_jobs([endless, *jobs[2:]]), models, cache=FaceCache(None))
    assert isinstance(next(results), JobProgress)
    results.close()
    assert not list(tmp_path.glob("*.part"))
    assert not (tmp_path / "endless.mp4").exists()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith(("pass", "fan-out"))]


def test_groups_share_video_and_options(jobs):
    many = [replace(jobs[0], row=row, outfile=f"{row}.mp4") for row in range(10)]
    odd = replace(jobs[0], dub=replace(FAST, static=True), row=99)
    sizes = [[job.row for job in unit] for unit in group_jobs([many[0], odd, *many[1:], jobs[2]])]
    assert sizes == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9], [99], [jobs[2].row]]


def test_large_videos_have_smaller_groups(models, jobs, monkeypatch):
    monkeypatch.setattr(runner, "_PASS_PIXELS", 2 * 320 * 240)
    four = [replace(jobs[0], outfile=f"{jobs[0].outfile}{row}.mp4", row=row) for row in range(4)]
    assert [result.takes for result in run_jobs(four, models)] == [2] * 4


def test_report_of_a_single_job(models, jobs, tmp_path):
    report = tmp_path / "one.json"
    list(run_jobs([replace(jobs[0], report=str(report))], models))
    assert json.loads(report.read_text())["frames"] == 10


def test_output_that_disappears_is_a_failure(models, jobs, monkeypatch):
    """The hash of the output is part of the result."""

    def vanished(*_: object) -> None:
        raise MediaError("it is gone")

    monkeypatch.setattr(runner.results, "finished_result", vanished)
    (result,) = run_jobs(jobs[:1], models)
    assert (result.status, result.reason, result.detail) == ("failed", "media", "it is gone")


def test_one_job_may_be_passed_alone_with_any_paths(models, jobs):
    job = replace(jobs[0], face=Path(jobs[0].face), audio=Path(jobs[0].audio), outfile=Path(jobs[0].outfile))
    assert job == jobs[0]
    (result,) = run_jobs(job, models)
    assert (result.status, result.face) == ("ok", jobs[0].face)


def test_only_jobs_are_accepted(models):
    with pytest.raises(UsageError, match=r"'a\.csv' is not a Job"):
        list(run_jobs(["a.csv"], models))
    with pytest.raises(UsageError, match="None is not a Job"):
        list(run_jobs(None, models))
    with pytest.raises(UsageError, match="--face 5 is invalid"):
        Job(face=5, audio="b.wav", outfile="c.mp4")


def test_second_job_with_the_same_output_fails(models, jobs, tmp_path):
    (tmp_path / "link").symlink_to(tmp_path)
    name = Path(jobs[0].outfile)
    again = str(tmp_path / "link" / "out" / name.name)
    results = list(run_jobs([jobs[0], jobs[0], replace(jobs[2], outfile=again)], models))
    assert [(result.status, result.reason) for result in results] == [
        ("failed", "options"),
        ("failed", "options"),
        ("ok", None),
    ]
    assert str(name) in results[0].detail
    assert again in results[1].detail


def test_unwritable_report_fails_before_the_pass(models, jobs, tmp_path, caplog):
    (tmp_path / "file").touch()
    path = str(tmp_path / "file" / "report.json")
    results = by_row(run_jobs([replace(jobs[0], report=path), jobs[1]], models))
    failed = results[jobs[0].row]
    assert (failed.status, failed.reason) == ("failed", "media")
    assert path in failed.detail
    assert not Path(jobs[0].outfile).exists()
    assert results[jobs[1].row].status == "ok"
    assert "Traceback" not in caplog.text


def test_concurrent_runs_write_each_video_once(models, jobs):
    """A14: jobs whose output another run is writing come last and are then up to date."""
    found: list[wav2lip_npu.JobResult] = []
    threads = [threading.Thread(target=lambda: found.extend(run_jobs(jobs, models))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(result.row for result in found) == sorted([job.row for job in jobs] * 2)
    assert all(result.status == "ok" for result in found), found
    assert sum(result.seconds is not None for result in found) == len(jobs)
    assert sorted(path.name for path in Path(jobs[0].outfile).parent.iterdir()) == sorted(
        Path(job.outfile).name for job in jobs
    )


def test_output_that_is_being_written_comes_last(models, jobs, monkeypatch):
    """A14: the other jobs do not wait for it."""
    monkeypatch.setattr(runner, "_LOCK_WAIT_S", 0.05)
    single = [replace(job, face=f"{job.face}") for job in jobs[::2]]
    with ExitStack() as other:
        assert other.enter_context(lock_output(single[0].outfile))
        results = run_jobs(single, models)
        assert next(results).row == single[1].row
        other.close()
        assert [result.row for result in results] == [single[0].row]
