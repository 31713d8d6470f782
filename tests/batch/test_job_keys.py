"""Job keys: outputs of earlier releases are recognised, and keys change with all inputs of an output."""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from support.faces import write_audio
from wav2lip_npu.batch.job_keys import file_record, job_key, key_comment, read_key, remember_hash
from wav2lip_npu.batch.jobs import Job
from wav2lip_npu.dubbing.inference import Models, load_models
from wav2lip_npu.dubbing.options import DubOptions
from wav2lip_npu.dubbing.outputs import Output
from wav2lip_npu.dubbing.pipeline import dub_many
from wav2lip_npu.dubbing.selection import FaceLimits
from wav2lip_npu.errors import MediaError
from wav2lip_npu.faces.find_faces import FaceOptions


@pytest.fixture
def job(tmp_path: Path) -> Job:
    names = {"face": "f.mp4", "audio": "a.wav", "checkpoint_path": "w.pth"}
    for name, content in zip(names.values(), "abc", strict=True):
        (tmp_path / name).write_text(content)
    return Job(outfile="o.mp4", **{field: str(tmp_path / name) for field, name in names.items()})


@pytest.fixture(scope="module")
def loaded(tiny_checkpoint: Path) -> Models:
    return load_models(tiny_checkpoint, detector="hog", device="cpu")


def test_key_is_unchanged_since_version_0_5(job):
    assert job_key(job) == "7b51df706fe02d7280866d257facadf2"  # computed with 0.5.0
    assert key_comment(job_key(job)) == "job 7b51df706fe02d7280866d257facadf2"


def test_key_changes_with_what_the_output_depends_on(job):
    same = [
        replace(job, outfile="other.mp4", report="r.json", device="cpu", row=3),
        replace(job, dub=DubOptions(start=0.0, skip=())),
        replace(job, dub=DubOptions(wav2lip_batch_size=3, faces=FaceOptions(face_det_batch_size=2))),
    ]
    others = [
        replace(job, outfile="o.mkv"),
        replace(job, audio=job.face),
        replace(job, voice=job.face),
        replace(job, voice=job.audio),
        replace(job, precision="fp16"),
        replace(job, dub=DubOptions(blend="hard")),
        replace(job, dub=DubOptions(fps=25)),  # resamples a video
        replace(job, dub=DubOptions(fps=29.97)),
        replace(job, dub=DubOptions(start=1)),
        replace(job, dub=DubOptions(duration=1)),
        replace(job, dub=DubOptions(skip="1-2")),
        replace(job, dub=DubOptions(rest="off")),
        replace(job, dub=DubOptions(rest_threshold=20)),
        replace(job, dub=DubOptions(extend="silence")),
        replace(job, dub=DubOptions(limits=FaceLimits(max_yaw=180))),
    ]
    assert {job_key(other) for other in same} == {job_key(job)}
    assert len({job_key(other) for other in [job, *others]}) == len(others) + 1


def test_modified_files_are_hashed_again(job):
    before = job_key(job)
    Path(job.audio).write_text("another content")
    assert job_key(job) != before


def test_hashes_of_a_report_are_reused(job):
    record = file_record(job.audio)
    os.utime(job.audio, ns=(1, 1))
    remember_hash({**record, "mtime_ns": 1, "sha256": "0" * 64})
    assert file_record(job.audio)["sha256"] == "0" * 64
    for damaged in (None, {}, {"path": 3}, [], {**record, "sha256": 5}, {**record, "path": []}):
        remember_hash(damaged)


@pytest.mark.parametrize(
    ("name", "suffix"),
    [
        (f"evil, job {'0' * 32}.pth", ".mp4"),
        (f"x (sha256 {'0' * 12}), job {'0' * 32}", ".mkv"),
        (f"x (sha256 {'0' * 12}), job {'0' * 32}\n", ".mp4"),
        (f"x (sha256 {'0' * 12}), job {'0' * 32}\n", ".avi"),
    ],
)
def test_key_cannot_be_forged_by_the_name_of_a_checkpoint(
    tmp_path, tiny_checkpoint, loaded, face_video, name, suffix
):
    """A15: a plain dub is not mistaken for the output of a batch, and the key of a batch is read back."""
    weights = tmp_path / name
    shutil.copy(tiny_checkpoint, weights)
    models = replace(loaded, weights=weights)
    audio = write_audio(tmp_path / "a.wav", 0.1)
    options = DubOptions(box=(20, 220, 40, 240), preset="ultrafast")
    for comment, key in (("", None), (key_comment("1" * 32), "1" * 32)):
        out = tmp_path / f"o{suffix}"
        (report,) = dub_many(face_video, [Output(audio, out, comment)], models=models, options=options)
        assert not isinstance(report, Exception), report
        assert read_key(out) == key


def test_files_without_a_key(job, face_video):
    assert read_key(face_video) is None
    assert read_key(job.face) is None
    with pytest.raises(MediaError, match=r"none\.wav"):
        job_key(replace(job, audio="none.wav"))
