"""Signals at random moments of whole commands: SIGNALS=75 pytest -m slow tests/integration/test_signal_storm.py

`SIGNALS` is the number of signals for each of the four kinds of command, 75 by default, so 300 together; `-k
dub` runs one kind, and `SIGNALS_SEED` gives other moments. A trial passes if the command ends within 5 s
with the exit code of the signal and leaves only complete files, or if it had already written everything.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from support.batch_jobs import read_report, write_table
from support.faces import SHARED
from support.talk import write_talk
from support.trainings import GENERATOR, SYNCNET, command, read, write_set
from wav2lip_npu.data.clip_writer import read_description
from wav2lip_npu.media import video_reader

ROOT = Path(__file__).resolve().parents[2]
COUNT = int(os.environ.get("SIGNALS", "75"))
SEED = int(os.environ.get("SIGNALS_SEED", "0"))
LIMIT_S = 5
NUMBERS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_STARTUP_S = 1.0
"""Seconds in which Python starts. During that time a signal has its default action."""


@dataclass
class Trial:
    """One run of a command that received a signal."""

    number: int
    delay: float
    to_group: bool
    code: int
    seconds: float
    """Seconds from the signal to the end."""
    text: str


def run(words: list[Any], folder: Path, draw: random.Random, longest: float) -> Trial:
    """Run a command in a folder, and send a signal at a random moment of up to `longest` seconds."""
    number, delay, to_group = draw.choice(NUMBERS), draw.uniform(0, longest), draw.random() < 0.3
    with open(folder / "output.txt", "w+") as output:
        child = start(words, folder, output)
        try:
            child.wait(delay)
        except subprocess.TimeoutExpired:
            if to_group:
                os.killpg(child.pid, number)
            else:
                child.send_signal(number)
        sent = time.monotonic()
        try:
            child.wait(60)
        except subprocess.TimeoutExpired:
            os.killpg(child.pid, signal.SIGKILL)
            child.wait()
        seconds = time.monotonic() - sent
        output.seek(0)
        return Trial(number, delay, to_group, child.returncode, seconds, output.read())


def start(words: list[Any], folder: Path, output: Any) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, "-m", "wav2lip_npu", *map(str, words)],
        cwd=folder,
        stdout=output,
        stderr=output,
        env={**environment, "XDG_CACHE_HOME": str(folder / "cache")},
        start_new_session=True,
        preexec_fn=lambda: [signal.signal(number, signal.SIG_DFL) for number in NUMBERS],
    )


def time_of(words: list[Any], folder: Path) -> float:
    """Return the duration in seconds of an uninterrupted run."""
    begin = time.monotonic()
    with open(folder / "output.txt", "w") as output:
        assert start(words, folder, output).wait(300) == 0, (folder / "output.txt").read_text()
    return time.monotonic() - begin


def faults(trial: Trial, folder: Path, is_finished: Callable[[], bool], problems: list[str]) -> list[str]:
    """Return the problems of a trial, including `problems` of the files of the command."""
    found = list(problems)
    is_early = trial.delay < _STARTUP_S and trial.code == -trial.number
    if trial.code == 0:
        if not is_finished():
            found.append("exit code 0 without all files")
    elif trial.code != 128 + trial.number and not is_early:
        found.append(f"exit code {trial.code}")
    if trial.code and trial.seconds > LIMIT_S:
        found.append(f"{trial.seconds:.1f} s")
    if "Traceback" in trial.text and not is_early:
        found.append("a traceback")
    partial = [path.name for path in folder.rglob("*") if ".part" in path.name]
    found += [f"{name} is left" for name in partial]
    return found


class Storm:
    """Counts the trials of a kind of command."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.draw = random.Random(f"{SEED} {kind}")
        self.codes: Counter[int] = Counter()
        self.slowest = 0.0
        self.wrong: list[str] = []

    def add(self, trial: Trial, found: list[str]) -> None:
        self.codes[trial.code] += 1
        if trial.code:
            self.slowest = max(self.slowest, trial.seconds)
        if found:
            to = "group" if trial.to_group else "process"
            self.wrong.append(
                f"signal {trial.number} to the {to} after {trial.delay:.2f} s: {found}\n{trial.text}"
            )

    def end(self) -> None:
        right = COUNT - len(self.wrong)
        codes = ", ".join(f"{count} x {code}" for code, count in sorted(self.codes.items()))
        print(f"\n{self.kind}: {right} of {COUNT} right; exit codes {codes}; slowest {self.slowest:.2f} s")
        assert not self.wrong, "\n".join(self.wrong)


def frames_of(path: Path) -> int:
    return sum(1 for _ in video_reader.read_frames(path))


@pytest.fixture
def talk(tmp_path: Path) -> Path:
    """A real clip with audio if there is one, else a moving photo."""
    clips = sorted((SHARED / "clips").glob("vox_*.mp4"))
    if clips:
        return clips[0]
    return write_talk(tmp_path / "talk.mp4", 4)


def renewed(folder: Path) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    return folder


@pytest.mark.slow
@pytest.mark.alone
@pytest.mark.timeout(7200)
def test_dubs(tmp_path, talk):
    """A2, A7: dubs with the bundled weights."""
    words = ["dub", "--face", talk, "--audio", talk, "--outfile", "out.mp4", "--device", "cpu"]
    storm, folder = Storm("dub"), renewed(tmp_path / "dub")
    longest = time_of(words, folder)
    frames = frames_of(folder / "out.mp4")
    for _ in range(COUNT):
        trial = run(words, renewed(folder), storm.draw, longest)
        out = folder / "out.mp4"
        problems = ["an output is left"] if trial.code and out.exists() else []
        storm.add(trial, faults(trial, folder, lambda out=out: frames_of(out) == frames, problems))
    storm.end()


@pytest.mark.slow
@pytest.mark.alone
@pytest.mark.timeout(7200)
def test_batches(tmp_path, talk, monkeypatch):
    """A2, A7: batches that are resumed until they are done."""
    storm, folder = Storm("batch"), renewed(tmp_path / "batch")
    monkeypatch.chdir(tmp_path)
    shutil.copy(talk, "a.mp4")
    shutil.copy(talk, "b.mp4")
    os.utime("b.mp4", (1, 1))
    rows = [(f"../{face}.mp4", "../a.mp4", f"out/{face}{n}.mp4") for face in "ab" for n in range(3)]
    write_table(str(folder / "jobs.csv"), rows)
    words = ["batch", "jobs.csv", "--devices", "cpu", "--preset", "ultrafast"]
    longest = time_of(words, folder)
    whole = {path.name: frames_of(path) for path in (folder / "out").iterdir()}
    assert len(whole) == 6
    for _ in range(COUNT):
        trial = run(words, folder, storm.draw, longest)
        out = folder / "out"
        problems = [
            f"{path.name} is not whole"
            for path in (out.iterdir() if out.exists() else ())
            if frames_of(path) != whole.get(path.name)
        ]
        problems += [f"{path.name} is left" for path in (folder / "cache").rglob("*.part")]

        def is_finished() -> bool:
            report = read_report(str(folder / "report.jsonl"))
            return sorted(os.listdir(folder / "out")) == sorted(whole) == sorted(report)

        storm.add(trial, faults(trial, folder, is_finished, problems))
        if trial.code == 0:
            renewed(folder)
            write_table(str(folder / "jobs.csv"), rows)
    storm.end()


@pytest.mark.slow
@pytest.mark.alone
@pytest.mark.timeout(7200)
def test_preprocess_runs(tmp_path):
    """A2, A7: runs of `preprocess` with one to three workers that are resumed until they are done."""
    storm, folder = Storm("preprocess"), renewed(tmp_path / "preprocess")
    first = write_talk(tmp_path / "videos" / "a" / "0.mp4", 3)
    for number in range(1, 8):
        shutil.copy(first, first.with_name(f"{number}.mp4"))
    words: list[Any] = ["preprocess", "--data_root", tmp_path / "videos", "--preprocessed_root", "out"]
    longest = time_of([*words, "--workers", 2], folder)
    whole = tree(folder / "out")
    for _ in range(COUNT):
        trial = run([*words, "--workers", storm.draw.choice((1, 2, 3))], folder, storm.draw, longest)
        problems = [
            f"{clip} is not whole"
            for clip in (folder / "out" / "a").glob("*")
            if read_description(clip) is None or len(list(clip.iterdir())) != 75 + 3
        ]
        storm.add(trial, faults(trial, folder, lambda: tree(folder / "out") == whole, problems))
        if trial.code == 0:
            renewed(folder)
    storm.end()


def tree(folder: Path) -> dict[str, bytes]:
    return {
        os.path.relpath(path, folder): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name != "report.jsonl"
    }


@pytest.mark.slow
@pytest.mark.alone
@pytest.mark.timeout(7200)
def test_trainings(tmp_path):
    """A2, A7: trainings of SyncNet and generator that are resumed and never finish."""
    storm = Storm("train")
    (tmp_path / "set").mkdir()
    root = write_set(tmp_path / "set")
    outs = {"syncnet": tmp_path / "syncnet", "generator": tmp_path / "generator"}
    for out in outs.values():
        out.mkdir()
    flags = {"log_interval": 1, "eval_interval": 3, "checkpoint_interval": 7, "keep": 2}
    for _ in range(COUNT):
        kind = storm.draw.choice(list(outs))
        words = command(root, Path("out"), SYNCNET if kind == "syncnet" else GENERATOR, **flags)
        trial = run(words, outs[kind], storm.draw, 10)
        checkpoints = sorted((outs[kind] / "out").glob("checkpoint_step*.pth"))
        problems = ["no exit code of a signal"] if trial.code == 0 else []
        if (
            checkpoints
            and f"checkpoint_step{read(checkpoints[-1])['global_step']:09d}" != checkpoints[-1].stem
        ):
            problems.append("the newest checkpoint is of another step")
        if "step 1:" in trial.text and not checkpoints:
            problems.append("no checkpoint was saved")
        storm.add(trial, faults(trial, outs[kind], lambda: False, problems))
    storm.end()
