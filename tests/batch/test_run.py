"""`run_batch`: checked first, resumable, and no job affects another.

The worker runs in this process, except where a test says otherwise.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

import wav2lip_npu
from support.batch_jobs import (
    job_folder,  # noqa: F401 fixture
    luma_of,
    read_report,
    stamps,
    workers_here,  # noqa: F401 fixture
    write_table,
)
from support.faces import write_audio
from support.fragile_worker import FragileWorker
from wav2lip_npu.batch import run
from wav2lip_npu.batch.jobs import Job
from wav2lip_npu.batch.options import BatchOptions
from wav2lip_npu.batch.progress import JobCount
from wav2lip_npu.batch.results import JobResult
from wav2lip_npu.batch.run import run_batch
from wav2lip_npu.dubbing.options import DubOptions
from wav2lip_npu.errors import CheckpointError, DataError, DeviceError, UsageError, Wav2LipError
from wav2lip_npu.faces.find_faces import FaceOptions
from wav2lip_npu.storage.locks import lock_folder

pytestmark = pytest.mark.usefixtures("job_folder")


@pytest.fixture
def batch(tiny_checkpoint: Path, workers_here: None) -> Callable[..., dict[str, JobResult]]:  # noqa: F811
    """Run a short batch and return the results by output name."""

    def start(jobs: Any = "jobs.csv", **values: Any) -> dict[str, JobResult]:
        values = {
            "preset": "ultrafast",
            "devices": ("cpu",),
            "checkpoint_path": str(tiny_checkpoint),
        } | values
        return {Path(result.job).name: result for result in run_batch(jobs, **values)}

    return start


def statuses() -> dict[str, str]:
    return {name: record["status"] for name, record in read_report().items()}


def test_finished_jobs_are_skipped(batch, tmp_path, caplog):
    caplog.set_level("INFO")
    results = batch()
    assert {name: (result.status, result.frames) for name, result in results.items()} == {
        "0.mp4": ("ok", 10),
        "1.mp4": ("ok", 15),
        "2.mp4": ("ok", 20),
    }
    assert "3 of 3 jobs are done, 0 failed: report.jsonl" in caplog.text
    before, report = stamps(), Path("report.jsonl").read_bytes()
    hashes = {name: result.output_sha256 for name, result in results.items()}
    assert {name: result.output_sha256 for name, result in batch().items()} == hashes
    assert stamps() == before
    assert Path("report.jsonl").read_bytes() == report
    Path("report.jsonl").unlink()
    assert [result.seconds for result in batch().values()] == [None] * 3
    assert stamps() == before
    assert not list(tmp_path.rglob("*.part"))


def test_only_missing_and_changed_jobs_run_again(batch, caplog):
    caplog.set_level("INFO")
    batch()
    before = stamps()
    Path("out/0.mp4").unlink()
    write_audio(Path("1.wav"), 0.9)
    batch()
    assert "3 jobs, 2 to do" in caplog.text
    after = stamps()
    assert [name for name in before if before[name] == after[name]] == ["2.mp4"]
    batch(blend="hard")
    assert "3 jobs, 3 to do" in caplog.text


def test_all_jobs_are_checked_before_the_first_frame(batch, caplog):
    Path("text.mp4").write_text("not a video")
    write_table(
        "bad.csv",
        [
            ("talk.mp4", "0.wav", "out/0.mp4", ""),
            ("none.mp4", "0.wav", "out/1.mp4", ""),
            ("text.mp4", "none.wav", "out/2.mp4", ""),
            ("talk.mp4", "0.wav", "out/0.mp4", ""),
            ("talk.mp4", "0.wav", "talk.mp4", ""),
            ("talk.mp4", "0.wav", "out/5.mp4", "much"),
            ("talk.mp4", "0.wav", "out/6.xyz", ""),
        ],
        "crf",
    )
    with pytest.raises(UsageError, match=r"^7 problems in bad\.csv.*--skip_bad"):
        batch("bad.csv")
    lines = [record.getMessage() for record in caplog.records]
    expected = {3: "none.mp4", 4: "text.mp4", 5: "row 2", 6: "talk.mp4", 7: "'much'", 8: "out/6.xyz"}
    for row, part in expected.items():
        assert any(line.startswith(f"bad.csv, row {row}: ") and part in line for line in lines)
    assert any("none.wav" in line for line in lines)
    assert not Path("report.jsonl").exists()
    results = batch("bad.csv", skip_bad=True)
    assert results.pop("0.mp4").status == "ok"
    assert {result.reason for result in results.values()} == {"input"}
    assert sorted(result.row for result in results.values()) == list(range(3, 9))


def test_foreign_files_are_not_replaced(batch, caplog):
    Path("out").mkdir()
    shutil.copy("talk.mp4", "out/1.mp4")
    with pytest.raises(UsageError):
        batch()
    assert "jobs.csv, row 3: out/1.mp4" in caplog.text
    batch(skip_bad=True)
    assert Path("out/1.mp4").read_bytes() == Path("talk.mp4").read_bytes()
    assert statuses() == {"0.mp4": "ok", "1.mp4": "failed", "2.mp4": "ok"}


def test_failed_jobs_run_again(batch):
    soundfile.write("1.wav", np.full(16_000, np.nan), 16_000, subtype="FLOAT")
    assert batch()["1.mp4"].reason == "media"
    before = stamps()
    assert statuses() == {"0.mp4": "ok", "1.mp4": "failed", "2.mp4": "ok"}
    write_audio(Path("1.wav"), 0.6)
    batch()
    assert statuses() == dict.fromkeys(("0.mp4", "1.mp4", "2.mp4"), "ok")
    assert all(stamps()[name] == stamp for name, stamp in before.items())


def test_options_of_single_rows(batch):
    rows = [
        {"face": "talk.mp4", "audio": "0.wav", "outfile": "a.mkv", "crf": 30, "report": "a.json"},
        {"face": "talk.mp4", "audio": "0.wav", "outfile": "b.mp4", "pads": [0, 0, 0, 0], "device": "cpu"},
    ]
    Path("jobs.jsonl").write_text("\n".join(map(json.dumps, rows)))
    results = batch("jobs.jsonl", crf=25, report="reports/all.jsonl", cache="off")
    assert [results[name].settings["crf"] for name in ("a.mkv", "b.mp4")] == [30, 25]
    assert list(results["b.mp4"].settings["pads"]) == [0, 0, 0, 0]
    assert json.loads(Path("a.json").read_text())["frames"] == 10
    assert len(read_report("reports/all.jsonl")) == 2
    assert not Path("caches").exists()


@pytest.mark.parametrize(("pair", "count"), [("product", 6), ("zip", 2)])
def test_pairs_instead_of_a_table(batch, pair, count):
    shutil.copy("talk.mp4", "film [1] of 2.mp4")
    audios = ["*.wav"] if pair == "product" else ["0.wav", "1.wav"]
    results = batch(None, faces=["*.mp4"], audios=audios, pair=pair, outdir="dubbed it")
    assert {result.status for result in results.values()} == {"ok"}
    outputs = {path.name for path in Path("dubbed it").glob("*.mp4")}
    assert len(outputs) == len(read_report("dubbed it/report.jsonl")) == count
    assert "film [1] of 2__0.mp4" in outputs


def test_jobs_from_python(batch):
    jobs = [Job(face="talk.mp4", audio=f"{n}.wav", outfile=f"out/{n}.mp4") for n in range(2)]
    events = []
    results = batch(jobs, report=None, progress=events.append, skip_bad=True)
    assert [result.row for result in results.values()] == [1, 2]
    assert [name for name in ("0.mp4", "1.mp4") if Path("out", name).exists()] == ["0.mp4", "1.mp4"]
    assert events[0] == JobCount(2, 0)
    assert sum(isinstance(event, JobResult) for event in events) == 2
    assert Path("out/report.jsonl").exists()
    assert wav2lip_npu.run_jobs is not None


def test_unusual_file_names(batch):
    name = "a;b 'c' \"d\"\n$(touch x), ü"
    shutil.copy("talk.mp4", f"{name}.mp4")
    write_table("jobs.csv", [(f"{name}.mp4", "0.wav", f"out/{name}.mp4")])
    assert list(batch()) == [f"{name}.mp4"]
    assert len(luma_of(f"out/{name}.mp4")) == 10


@pytest.mark.parametrize(
    ("values", "error", "part"),
    [
        ({"jobs": None}, UsageError, "--faces"),
        ({"watch": "."}, UsageError, "--watch"),
        ({"jobs": None, "faces": ["talk.mp4"]}, UsageError, "--outdir"),
        ({"outdir": "x"}, UsageError, "--outdir"),
        ({"timeout": 0}, UsageError, "--timeout 0"),
        ({"in_flight": 0}, UsageError, "--in_flight 0"),
        ({"jobs": "jobs.txt"}, UsageError, "jobs.txt"),
        ({"jobs": "none.csv"}, UsageError, "none.csv"),
        ({"crf": 99}, UsageError, "--crf 99"),
        ({"crff": 18}, UsageError, "crf"),
        ({"watch": "none here"}, UsageError, "none here"),
        ({"devices": ("cpu,cpu",)}, UsageError, "--devices cpu,cpu"),
        ({"devices": ("npu:7",)}, DeviceError, "npu"),
        ({"checkpoint_path": "broken.pth"}, CheckpointError, "broken.pth"),
        (
            {"pair": "all", "jobs": None, "faces": ["talk.mp4"], "audios": ["0.wav"], "outdir": "x"},
            UsageError,
            "all",
        ),
    ],
)
def test_wrong_options(batch, values, error, part):
    Path("broken.pth").write_bytes(b"<html>sign in</html>")
    with pytest.raises(error) as caught:
        batch(**values)
    assert part in str(caught.value)


def test_options_object():
    with pytest.raises(Wav2LipError, match="--timeout"):
        BatchOptions(timeout=-1)


def test_only_one_run_at_a_time(batch, tmp_path):
    with lock_folder(tmp_path), pytest.raises(DataError, match="--report"):
        batch()


def test_report_of_another_program_is_not_replaced(batch):
    Path("report.jsonl").write_text('{"other": 1}\n')
    with pytest.raises(DataError, match=r"report\.jsonl"):
        batch()
    assert Path("report.jsonl").read_text() == '{"other": 1}\n'


def test_dead_or_hanging_worker_fails_only_its_job(monkeypatch):
    """Use real processes that do not dub."""
    monkeypatch.setattr(run, "StartBatchWorker", FragileWorker)
    for name in ("once", "always", "hang"):
        shutil.copy("0.wav", f"{name}.wav")
    names = ["0", "once", "1", "always", "hang", "2"]
    rows = [("talk.mp4", f"{name}.wav", f"out/{name}.mp4", "hold" * (name == "hang")) for name in names]
    write_table("jobs.csv", rows, "extend")
    results = {Path(result.job).stem: result for result in run_batch("jobs.csv", timeout=3, devices=("cpu",))}
    assert {name: result.reason or "ok" for name, result in results.items()} == {
        "0": "ok", "once": "ok", "1": "ok", "always": "died", "hang": "timeout", "2": "ok",
    }  # fmt: skip
    assert results["always"].attempts == results["once"].attempts == 2
    assert "signal 11" in results["always"].detail
    assert results["hang"].detail == "it took longer than 3 s"
    assert not list(Path("out").glob("*.part"))


def test_single_and_path_arguments(batch, tmp_path):
    in_box = DubOptions(faces=FaceOptions(box=(0, 60, 0, 60)))  # saves the detection of faces
    job = Job(face=Path("talk.mp4"), audio=Path("0.wav"), outfile=Path("out/0.mp4"), dub=in_box)
    results = batch(job, devices="cpu", report=Path("out/r.jsonl"), cache=tmp_path / "faces")
    assert {name: result.status for name, result in results.items()} == {"0.mp4": "ok"}
    pairs = {"faces": Path("talk.mp4"), "audios": [Path("1.wav")], "outdir": Path("pairs"), "dub": in_box}
    assert {result.status for result in batch(None, devices=["cpu"], **pairs).values()} == {"ok"}
    assert batch(None, **pairs | {"faces": "talk.mp4", "audios": "1.wav"}).keys() == {"talk__1.mp4"}


def test_arguments_of_other_types_are_refused(batch):
    with pytest.raises(UsageError, match=r"'jobs\.csv' is not a Job"):
        batch(["jobs.csv"])
    with pytest.raises(UsageError, match="--faces 5 is not a path"):
        batch(None, faces=5, audios="1.wav", outdir="out")


def test_number_of_problems_is_singular_or_plural(batch):
    row = ("talk.mp4", "none.wav", "out/0.mp4")
    write_table("bad.csv", [row])
    with pytest.raises(UsageError, match=r"^1 problem in bad\.csv"):
        batch("bad.csv")
    write_table("bad.csv", [row, ("none.mp4", "0.wav", "out/1.mp4")])
    with pytest.raises(UsageError, match=r"^2 problems in bad\.csv"):
        batch("bad.csv")
