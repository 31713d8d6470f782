"""`batch` as a user meets it: checked first, resumable, and stopped by nothing."""

from __future__ import annotations

import csv
import dataclasses
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from support.faces import write_sound
from wav2lip_npu.batch.results import JobResult
from wav2lip_npu.batch.runner import Unit
from wav2lip_npu.batch.scheduler import Event, Workshop
from wav2lip_npu.cli import batch, main
from wav2lip_npu.cli.batch import BatchCommand
from wav2lip_npu.media import video_reader

ROOT = Path(__file__).resolve().parents[2]
FAST = ["--preset", "ultrafast", "--devices", "cpu"]


@pytest.fixture
def here(tmp_path, monkeypatch, face_video) -> Path:
    """A folder with a face video, three sounds and a table of three jobs, which is the working directory."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "caches"))
    shutil.copy(face_video, "talk.mp4")
    for number in range(3):
        write_sound(Path(f"{number}.wav"), 0.4 + 0.2 * number)
    write_table("jobs.csv", [("talk.mp4", f"{n}.wav", f"out/{n}.mp4") for n in range(3)])
    return tmp_path


def write_table(name: str, rows: list[tuple[Any, ...]], *columns: str) -> None:
    with open(name, "w", newline="") as file:
        csv.writer(file).writerows([("face", "audio", "outfile", *columns), *rows])


@pytest.fixture
def run(capsys, caplog) -> Callable[..., tuple[int, str]]:
    """Run `batch` in this process: its exit code and what it says."""

    def command(*words: object) -> tuple[int, str]:
        caplog.clear()
        code = main.main(["batch", *map(str, words), *FAST])
        said = [record.getMessage() for record in caplog.records]
        return code, "\n".join([*said, capsys.readouterr().err])

    return command


def report(path: str = "report.jsonl") -> dict[str, dict[str, Any]]:
    """Records by the name of the output."""
    records = map(json.loads, Path(path).read_text().splitlines())
    return {Path(record["job"]).name: record for record in records}


def stamps(folder: str = "out") -> dict[str, tuple[int, int]]:
    found = {path.name: path.stat() for path in Path(folder).iterdir()}
    return {name: (status.st_ino, status.st_mtime_ns) for name, status in found.items()}


def shown(path: str | Path) -> list[bytes]:
    return [frame.yuv.y.tobytes() for frame in video_reader.read_frames(path)]


def test_a_table_is_dubbed_and_then_left_alone(here, run):
    code, said = run("jobs.csv")
    assert code == 0, said
    assert "3/3 ok: " in said
    assert "3 of 3 jobs are done, 0 failed: report.jsonl" in said
    assert {name: record["frames"] for name, record in report().items()} == {
        "0.mp4": 10, "1.mp4": 15, "2.mp4": 20,
    }  # fmt: skip
    before, told = stamps(), Path("report.jsonl").read_bytes()
    code, said = run("jobs.csv")
    assert (code, "all 3 jobs are done" in said) == (0, True)
    assert stamps() == before
    assert Path("report.jsonl").read_bytes() == told
    Path("report.jsonl").unlink()  # lost, the outputs tell themselves
    assert run("jobs.csv")[0] == 0
    assert stamps() == before
    assert [record["seconds"] for record in report().values()] == [None] * 3
    assert not list(here.rglob("*.part"))


def test_only_missing_and_changed_jobs_run_again(here, run):
    run("jobs.csv")
    before = stamps()
    Path("out/0.mp4").unlink()
    write_sound(Path("1.wav"), 0.9)
    code, said = run("jobs.csv")
    assert (code, "3 jobs, 2 to do" in said) == (0, True)
    after = stamps()
    assert [name for name in before if before[name] == after[name]] == ["2.mp4"]
    code, said = run("jobs.csv", "--blend", "hard")
    assert "3 jobs, 3 to do" in said


def test_everything_is_checked_before_the_first_frame(here, run):
    Path("text.mp4").write_text("no film")
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
    code, said = run("bad.csv")
    assert code == 2
    wanted = {3: "none.mp4", 4: "text.mp4 is not a media file", 5: "also the outfile of row 2",
              6: "also an input", 7: "'much' is not a whole number", 8: "unknown video format"}  # fmt: skip
    for row, part in wanted.items():
        assert any(line.startswith(f"bad.csv, row {row}: ") and part in line for line in said.splitlines())
    assert "none.wav" in said
    assert said.splitlines()[-1].startswith("wav2lip-npu: 7 problems in bad.csv, nothing was begun.")
    assert not list(here.glob("out/*.mp4"))
    assert not Path("report.jsonl").exists()
    code, said = run("bad.csv", "--skip_bad")
    assert code == 1
    found = report()
    assert found.pop("0.mp4")["status"] == "ok"
    assert {record["reason"] for record in found.values()} == {"input"}
    assert sorted(record["row"] for record in found.values()) == list(range(3, 9))


def test_a_file_that_no_batch_has_made_is_not_replaced(here, run):
    Path("out").mkdir()
    shutil.copy("talk.mp4", "out/1.mp4")
    code, said = run("jobs.csv")
    assert code == 2
    assert "jobs.csv, row 3: out/1.mp4 is there and no batch has made it" in said
    assert run("jobs.csv", "--skip_bad")[0] == 1
    assert Path("out/1.mp4").read_bytes() == Path("talk.mp4").read_bytes()
    assert {name: record["status"] for name, record in report().items()} == {
        "0.mp4": "ok", "1.mp4": "failed", "2.mp4": "ok",
    }  # fmt: skip


def test_a_failed_job_stops_no_other_and_is_tried_again_next_time(here, run):
    soundfile.write("1.wav", np.full(16_000, np.nan), 16_000, subtype="FLOAT")
    code, said = run("jobs.csv")
    assert code == 1
    assert "failed (media): " in said
    assert "2 of 3 jobs are done, 1 failed" in said
    before = stamps()
    assert report()["1.mp4"]["reason"] == "media"
    write_sound(Path("1.wav"), 0.6)
    assert "3 jobs, 1 to do" in run("jobs.csv")[1]
    assert {name: record["status"] for name, record in report().items()} == dict.fromkeys(
        ("0.mp4", "1.mp4", "2.mp4"), "ok"
    )
    assert all(stamps()[name] == stamp for name, stamp in before.items())


def test_options_of_single_rows(here, run):
    rows = [
        {"face": "talk.mp4", "audio": "0.wav", "outfile": "a.mkv", "crf": 30, "report": "a.json"},
        {"face": "talk.mp4", "audio": "0.wav", "outfile": "b.mp4", "pads": [0, 0, 0, 0], "device": "cpu"},
    ]
    Path("jobs.jsonl").write_text("\n".join(map(json.dumps, rows)))
    code, said = run("jobs.jsonl", "--crf", 25, "--report", "told/what.jsonl", "--cache", "off")
    assert code == 0, said
    found = report("told/what.jsonl")
    assert [found[name]["settings"]["crf"] for name in ("a.mkv", "b.mp4")] == [30, 25]
    assert found["b.mp4"]["settings"]["pads"] == [0, 0, 0, 0]
    assert json.loads(Path("a.json").read_text())["frames"] == 10
    assert not Path("caches").exists()


@pytest.mark.parametrize(("pair", "count"), [("product", 6), ("zip", 2)])
def test_patterns_instead_of_a_table(here, run, pair, count):
    shutil.copy("talk.mp4", "film [1] of 2.mp4")
    sounds = ["*.wav"] if pair == "product" else ["0.wav", "1.wav"]
    code, said = run("--faces", "*.mp4", "--audios", *sounds, "--pair", pair, "--outdir", "dubbed it")
    assert code == 0, said
    made = {path.name for path in Path("dubbed it").glob("*.mp4")}
    assert len(made) == count
    assert "film [1] of 2__0.mp4" in made
    assert len(report("dubbed it/report.jsonl")) == count


def test_wrong_options(here, run):
    for words, part in (
        ([], "one of these only"),
        (["jobs.csv", "--watch", "."], "one of these only"),
        (["--faces", "talk.mp4"], "go together"),
        (["jobs.csv", "--outdir", "x"], "--outdir is for"),
        (["jobs.csv", "--timeout", "0"], "--timeout 0"),
        (["jobs.csv", "--in_flight", "0"], "--in_flight 0"),
        (["jobs.txt"], "unknown kind of table"),
        (["none.csv"], "cannot read none.csv"),
        (["jobs.csv", "--crf", "99"], "--crf 99"),
        (["--watch", "none here"], "none here"),
    ):
        code, said = run(*words)
        assert (code, part in said.splitlines()[-1]) == (2, True), said
    code = main.main(["batch", "jobs.csv", "--devices", "cpu,cpu"])
    assert code == 2
    assert main.main(["batch", "jobs.csv", "--devices", "npu:7"]) == 2
    Path("broken.pth").write_bytes(b"<html>sign in</html>")
    code, said = run("jobs.csv", "--checkpoint_path", "broken.pth")
    assert (code, "broken.pth is an HTML or XML page" in said) == (2, True)


def test_progress_for_programs(here, run, capsys):
    assert main.main(["batch", "jobs.csv", "--json", *FAST]) == 0
    events = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert events[0] == {"event": "start", "jobs": 3, "done": 0}
    jobs = [event for event in events if event["event"] == "job"]
    assert sorted(event["row"] for event in jobs) == [2, 3, 4]
    assert [event for event in events if event["event"] == "progress"][-1]["done"] == 3
    end = events[-1]
    assert (end["event"], end["ok"]) == ("end", 3)


class Dying(Workshop):
    """A worker that dies of a job the first time or each time, or hangs, as the name of its sound says."""

    def __call__(self, place: str) -> Callable[[Unit], Iterator[Event]]:
        work = super().__call__(place)

        def each(unit: Unit) -> Iterator[Event]:
            for job in unit:
                tried = Path(f"{job.audio}.tried")
                if "once" in job.audio and not tried.exists():
                    tried.touch()
                    os.kill(os.getpid(), signal.SIGKILL)
                if "always" in job.audio:
                    os.kill(os.getpid(), signal.SIGSEGV)
                if "hang" in job.audio:
                    time.sleep(60)
            yield from work(unit)

        return each


def test_a_worker_that_dies_or_hangs_costs_its_job_at_most(here, run, monkeypatch):
    monkeypatch.setattr(batch, "Workshop", Dying)
    for name in ("once", "always", "hang"):
        shutil.copy("0.wav", f"{name}.wav")
    names = ["0", "once", "1", "always", "hang", "2"]
    rows = [("talk.mp4", f"{name}.wav", f"out/{name}.mp4", "hold" * (name == "hang")) for name in names]
    write_table("jobs.csv", rows, "extend")
    start = time.monotonic()
    code, said = run("jobs.csv", "--timeout", "5")
    assert code == 1, said
    assert time.monotonic() - start < 100
    found = report()
    ended = {name.removesuffix(".mp4"): record["reason"] or "ok" for name, record in found.items()}
    assert ended == {"0": "ok", "once": "ok", "1": "ok", "always": "died", "hang": "timeout", "2": "ok"}
    assert found["always.mp4"]["attempts"] == 2
    assert "signal 11" in found["always.mp4"]["detail"]
    assert found["hang.mp4"]["detail"] == "it took longer than 5 s"
    assert found["once.mp4"]["attempts"] == 2


def process(*words: object, **options: Any) -> subprocess.Popen[str]:
    """`batch` in a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "wav2lip_npu", "batch", *map(str, words), *FAST],
        env={**os.environ, "PYTHONPATH": str(ROOT)}, stderr=subprocess.PIPE, text=True,
        # A shell lets what it runs in the background ignore Ctrl-C.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL), **options,
    )  # fmt: skip


def children(of: int) -> list[int]:
    return [int(each) for each in Path(f"/proc/{of}/task/{of}/children").read_text().split()]


def lives(number: int) -> bool:
    try:
        return b"Z" not in Path(f"/proc/{number}/stat").read_bytes().rpartition(b")")[2].split()[0]
    except OSError:
        return False


def wait_for(condition: Callable[[], Any], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.parametrize(
    ("number", "code", "word"),
    [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "terminated"), (signal.SIGKILL, -9, "")],
)
def test_ended_from_outside_and_run_again(here, number, code, word):
    write_sound(Path("long.wav"), 25)
    write_table("jobs.csv", [("talk.mp4", f"{n}.wav", f"out/{n}.mp4") for n in ("0", "1", "long", "2")])
    child = process("jobs.csv")
    wait_for(lambda: {"0.mp4", "1.mp4"} <= {path.name for path in Path("out").glob("*")})
    workers = children(child.pid)
    child.send_signal(number)
    _, said = child.communicate(timeout=20)
    assert child.returncode == code
    wait_for(lambda: not any(map(lives, workers)), 5)
    if word:
        assert said.splitlines()[-1] == (
            f"wav2lip-npu: {word}, the finished videos are kept. Run the same again to go on."
        )
        assert not list(Path("out").glob("*.part"))
    before = stamps()
    write_sound(Path("long.wav"), 0.5)
    again = process("jobs.csv")
    _, said = again.communicate(timeout=120)
    assert again.returncode == 0, said
    after = stamps()
    finished = {name for name in before if not name.endswith(".part")}
    assert {name: before[name] for name in finished} == {name: after[name] for name in finished}
    assert sorted(after) == ["0.mp4", "1.mp4", "2.mp4", "long.mp4"]
    assert len(report()) == 4


def test_only_one_run_at_a_time(here, run):
    with batch._alone(here):
        code, said = run("jobs.csv")
    assert (code, "another batch works in" in said.splitlines()[-1]) == (2, True)


def test_a_report_of_another_program_is_not_replaced(here, run):
    Path("report.jsonl").write_text('{"mine": 1}\n')
    code, said = run("jobs.csv")
    assert (code, "not created by wav2lip-npu" in said) == (2, True)
    assert Path("report.jsonl").read_text() == '{"mine": 1}\n'


def test_a_watched_folder(here):
    Path("inbox").mkdir()
    shutil.move("jobs.csv", "inbox/first.csv")
    Path("inbox/first.csv").write_text(Path("inbox/first.csv").read_text().replace("talk", "../talk"))
    for number in range(3):
        shutil.copy(f"{number}.wav", "inbox")
    child = process("--watch", "inbox")
    try:
        out = Path("inbox/out")
        wait_for(lambda: len(list(out.glob("*.mp4"))) == 3)
        before = stamps("inbox/out")
        Path("inbox/wrong.csv").write_text("face,sound\n")
        job = {"face": "../talk.mp4", "audio": "1.wav", "outfile": "out/later.mp4", "blend": "hard"}
        Path("coming").write_text(json.dumps(job))
        os.rename("coming", "inbox/second.json")
        wait_for(lambda: (out / "later.mp4").exists())
        wait_for(lambda: "wrong.csv" in Path("inbox/report.jsonl").read_text())
        wait_for(lambda: "later.mp4" in Path("inbox/report.jsonl").read_text())
        assert {name: stamps("inbox/out")[name] for name in before} == before
    finally:
        child.send_signal(signal.SIGTERM)
        _, said = child.communicate(timeout=20)
    assert child.returncode == 143, said
    assert "has no column audio" in said
    found = report("inbox/report.jsonl")
    assert {name: record["status"] for name, record in found.items()} == {
        "0.mp4": "ok", "1.mp4": "ok", "2.mp4": "ok", "later.mp4": "ok", "wrong.csv:0": "failed",
    }  # fmt: skip


def test_a_ray_cluster_gives_the_same(here, run, capsys, caplog):
    """Two actors of a Ray on this machine; and what one of the two ways has finished the other leaves alone."""
    pytest.importorskip("ray", reason="Ray is not installed")
    assert run("jobs.csv")[0] == 0
    wanted = {name: shown(f"out/{name}") for name in stamps()}
    told = report()
    shutil.move("out", "local")
    words = ["jobs.csv", "--cluster", "auto", "--preset", "ultrafast", "--devices", "cpu,cpu"]
    assert main.main(["batch", *words]) == 0, caplog.text
    assert {name: shown(f"out/{name}") for name in stamps()} == wanted
    for name, record in report().items():
        same = ("status", "frames", "dubbed_frames", "settings", "key", "output_sha256", "row")
        assert {field: record[field] for field in same} == {field: told[name][field] for field in same}
    before = stamps()
    assert run("jobs.csv")[0] == 0
    assert stamps() == before
    write_table("pinned.csv", [("talk.mp4", "0.wav", "out/9.mp4", "cpu")], "device")
    assert main.main(["batch", "pinned.csv", "--cluster", "auto"]) == 2
    assert "the cluster chooses" in caplog.text


def test_names_are_only_names(here, run):
    name = "a;b 'c' \"d\"\n$(touch x), ü"
    shutil.copy("talk.mp4", f"{name}.mp4")
    write_table("jobs.csv", [(f"{name}.mp4", "0.wav", f"out/{name}.mp4")])
    code, said = run("jobs.csv")
    assert code == 0, said
    assert list(report()) == [f"{name}.mp4"]
    assert len(shown(f"out/{name}.mp4")) == 10


def test_the_report_is_documented():
    text = (ROOT / "docs" / "batch.md").read_text()
    for field in dataclasses.fields(JobResult):
        assert f"| `{field.name}` |" in text or f"`{field.name}`" in text, field.name
    for flag in dataclasses.fields(BatchCommand):
        assert f"`--{flag.name}" in text or flag.name in ("jobs", "dub"), flag.name


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_a_hundred_jobs_through_a_storm(shared_data, tmp_path):
    """As benchmarks/batch.py has it: ten parents and five workers are killed."""
    words = ["--face", shared_data / "clips" / "man_512.mp4"]
    words += ["--audio", shared_data / "audio" / "english_11s.flac", "--part", "faults"]
    words += ["--seed", random.randrange(1000)]
    script = ROOT / "benchmarks" / "batch.py"
    subprocess.run([sys.executable, script, *map(str, words)], check=True, cwd=ROOT)
