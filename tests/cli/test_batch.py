"""The `batch` command in separate processes: exit codes, signals, JSON, a watched folder, Ray."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from support.batch_jobs import (
    job_folder,  # noqa: F401 fixture
    luma_of,
    read_report,
    stamps,
    wait_for,
    workers_here,  # noqa: F401 fixture
    write_table,
)
from support.faces import write_audio
from wav2lip_npu.batch.results import JobResult
from wav2lip_npu.cli import main

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def flags(tiny_checkpoint: Path) -> list[str]:
    """Flags for a quick batch."""
    return ["--preset", "ultrafast", "--devices", "cpu", "--checkpoint_path", str(tiny_checkpoint)]


def start(*words: object, **environment: str) -> subprocess.Popen[str]:
    """Start `batch` in a separate process."""
    return subprocess.Popen(
        [sys.executable, "-m", "wav2lip_npu", "batch", *map(str, words)],
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment}, stderr=subprocess.PIPE, text=True,
        # A shell makes background processes ignore Ctrl-C.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip


def children(of: int) -> list[int]:
    return [int(number) for number in Path(f"/proc/{of}/task/{of}/children").read_text().split()]


def is_alive(number: int) -> bool:
    try:
        return b"Z" not in Path(f"/proc/{number}/stat").read_bytes().rpartition(b")")[2].split()[0]
    except OSError:
        return False


@pytest.mark.usefixtures("workers_here", "job_folder")
def test_exit_codes_and_last_lines(flags, capsys, caplog):
    assert main.main(["batch", "jobs.csv", *flags]) == 0
    assert "3/3 ok: " in caplog.text
    Path("1.wav").write_bytes(b"")
    assert main.main(["batch", "jobs.csv", *flags, "--skip_bad"]) == 1
    assert main.main(["batch", "jobs.csv", *flags]) == 2
    assert "nothing was started" in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.usefixtures("workers_here", "job_folder")
def test_jobs_that_fail_the_checks_are_not_counted_as_done(flags, capsys, caplog):
    """D: `batch --skip_bad` reports the same counts at the start, in the middle and at the end of each run."""
    caplog.set_level("INFO")
    Path("1.wav").unlink()
    for to_do, done in ((2, 0), (0, 2)):
        caplog.clear()
        assert main.main(["batch", "jobs.csv", "--skip_bad", "--json", *flags]) == 1
        events = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
        assert events[0] == {"event": "start", "jobs": 3, "done": done, "failed": 1}
        assert events[-1]["event"] == "end"
        assert (events[-1].get("ok", 0), events[-1]["failed"]) == (to_do, 1)
        assert f"3 jobs, {to_do} to do, 1 failed the checks" in caplog.text
        assert "2 of 3 jobs are done, 1 failed" in caplog.text


@pytest.mark.usefixtures("workers_here", "job_folder")
def test_json_lines(flags, capsys):
    assert main.main(["batch", "jobs.csv", "--json", *flags]) == 0
    events = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert events[0] == {"event": "start", "jobs": 3, "done": 0, "failed": 0}
    jobs = [event for event in events if event["event"] == "job"]
    assert sorted(event["row"] for event in jobs) == [2, 3, 4]
    assert [event for event in events if event["event"] == "progress"][-1]["done"] == 3
    end = events[-1]
    assert (end["event"], end["ok"]) == ("end", 3)


@pytest.mark.usefixtures("workers_here")
@pytest.mark.parametrize(
    ("number", "code"), [pytest.param(signal.SIGINT, 130, marks=pytest.mark.slow), (signal.SIGKILL, -9)]
)
def test_interrupted_batch_is_resumed(job_folder, flags, number, code):  # noqa: F811
    write_audio(Path("long.wav"), 40)
    write_table("jobs.csv", [("talk.mp4", f"{n}.wav", f"out/{n}.mp4") for n in ("0", "1", "long", "2")])
    child = start("jobs.csv", *flags)
    wait_for(lambda: {"0.mp4", "1.mp4"} <= {path.name for path in Path("out").glob("*")})
    workers = children(child.pid)
    child.send_signal(number)
    _, errors = child.communicate(timeout=120)
    assert child.returncode == code
    wait_for(lambda: not any(map(is_alive, workers)))
    if number == signal.SIGINT:
        assert "finished videos are kept" in errors.splitlines()[-1]
        assert not list(Path("out").glob("*.part"))
    before = stamps()
    assert "long.mp4" not in before
    write_audio(Path("long.wav"), 0.5)
    assert main.main(["batch", "jobs.csv", *flags]) == 0
    after = stamps()
    assert {name: after[name] for name in before} == before
    assert sorted(os.listdir("out")) == ["0.mp4", "1.mp4", "2.mp4", "long.mp4"]
    assert len(read_report()) == 4


@pytest.mark.slow
@pytest.mark.usefixtures("job_folder")
def test_concurrent_batches_write_each_video_once(flags):
    """A14: reports in different folders; both batches end with all jobs done."""
    write_table("jobs.csv", [("talk.mp4", f"{n % 3}.wav", f"out/{n}.mp4") for n in range(6)])
    batches = [start("jobs.csv", *flags, "--cache", "off", "--report", f"{n}/report.jsonl") for n in range(2)]
    errors = [batch.communicate(timeout=240)[1] for batch in batches]
    assert [batch.returncode for batch in batches] == [0, 0], errors
    results = [*read_report("0/report.jsonl").values(), *read_report("1/report.jsonl").values()]
    assert len(results) == 12
    assert sum(result["seconds"] is not None for result in results) == 6
    assert sorted(stamps()) == [f"{n}.mp4" for n in range(6)]


@pytest.mark.usefixtures("job_folder")
def test_watched_folder(flags):
    Path("inbox").mkdir()
    shutil.move("jobs.csv", "inbox/first.csv")
    Path("inbox/first.csv").write_text(Path("inbox/first.csv").read_text().replace("talk", "../talk"))
    for number in range(3):
        shutil.copy(f"{number}.wav", "inbox")
    child = start("--watch", "inbox", *flags)
    try:
        out = Path("inbox/out")
        wait_for(lambda: len(list(out.glob("*.mp4"))) == 3)
        before = stamps("inbox/out")
        Path("inbox/wrong.csv").write_text("face,sound\n")
        job = {"face": "../talk.mp4", "audio": "1.wav", "outfile": "out/later.mp4", "blend": "hard"}
        Path("coming").write_text(json.dumps(job))
        os.rename("coming", "inbox/second.json")
        wait_for(lambda: "wrong.csv" in Path("inbox/report.jsonl").read_text())
        wait_for(lambda: "later.mp4" in Path("inbox/report.jsonl").read_text())
        assert {name: stamps("inbox/out")[name] for name in before} == before
    finally:
        child.send_signal(signal.SIGTERM)
        _, errors = child.communicate(timeout=120)
    assert child.returncode == 143, errors
    assert "audio" in errors
    assert {name: result["status"] for name, result in read_report("inbox/report.jsonl").items()} == {
        "0.mp4": "ok", "1.mp4": "ok", "2.mp4": "ok", "later.mp4": "ok", "wrong.csv:0": "failed",
    }  # fmt: skip


@pytest.mark.slow
@pytest.mark.usefixtures("workers_here", "job_folder")
@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="Ray is not installed")
def test_ray_gives_the_same_results(flags, caplog):
    """Use one actor of a local Ray; local and Ray runs skip the finished outputs of each other."""
    assert main.main(["batch", "jobs.csv", *flags]) == 0
    expected, results = {name: luma_of(f"out/{name}") for name in stamps()}, read_report()
    shutil.move("out", "local")
    with tempfile.TemporaryDirectory(dir="/tmp", ignore_cleanup_errors=True) as folder:  # short, for sockets
        child = start("jobs.csv", "--cluster", "auto", *flags, RAY_TMPDIR=folder, RAY_ADDRESS="auto")
        _, errors = child.communicate(timeout=240)
    assert child.returncode == 0, errors
    assert {name: luma_of(f"out/{name}") for name in stamps()} == expected
    fields = ("status", "frames", "dubbed_frames", "settings", "key", "output_sha256", "row")
    for name, result in read_report().items():
        assert {field: result[field] for field in fields} == {field: results[name][field] for field in fields}
    before = stamps()
    assert main.main(["batch", "jobs.csv", *flags]) == 0
    assert stamps() == before
    write_table("pinned.csv", [("talk.mp4", "0.wav", "out/9.mp4", "cpu")], "device")
    assert main.main(["batch", "pinned.csv", "--cluster", "auto"]) == 2
    assert "row 2: device cpu" in caplog.text


def test_report_is_documented():
    text = (ROOT / "docs" / "batch.md").read_text()
    for field in dataclasses.fields(JobResult):
        assert f"`{field.name}`" in text, field.name


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_a_hundred_jobs_and_random_kills(shared_data, tmp_path):
    """Kill ten parents and five workers, like benchmarks/batch.py."""
    words = ["--face", shared_data / "clips" / "man_512.mp4"]
    words += ["--audio", shared_data / "audio" / "english_11s.flac", "--part", "faults"]
    words += ["--seed", random.randrange(1000)]
    script = ROOT / "benchmarks" / "batch.py"
    subprocess.run([sys.executable, script, *map(str, words)], check=True, cwd=ROOT)
