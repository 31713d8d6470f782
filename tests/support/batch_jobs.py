"""Folders with jobs, and workers for tests of batches."""

from __future__ import annotations

import csv
import functools
import json
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import cv2
import pytest

from support.faces import write_audio
from wav2lip_npu.batch import run
from wav2lip_npu.dubbing import inference
from wav2lip_npu.media import video_reader
from wav2lip_npu.parallel.processes import answers
from wav2lip_npu.parallel.work_queue import Failure


def write_table(name: str, rows: list[tuple[Any, ...]], *columns: str) -> None:
    """Write a CSV of jobs with the required columns and those in `columns`."""
    with open(name, "w", newline="") as file:
        csv.writer(file).writerows([("face", "audio", "outfile", *columns), *rows])


def read_report(path: str = "report.jsonl") -> dict[str, dict[str, Any]]:
    """Return the results by the name of the output."""
    results = map(json.loads, Path(path).read_text().splitlines())
    return {Path(result["job"]).name: result for result in results}


def stamps(folder: str = "out") -> dict[str, tuple[int, int]]:
    """Return inode and modification time of each file in a folder, apart from temporary files in use."""
    paths = (path for path in Path(folder).iterdir() if path.suffix != ".part")
    states = {path.name: path.stat() for path in paths}
    return {name: (status.st_ino, status.st_mtime_ns) for name, status in states.items()}


def luma_of(path: str | Path) -> list[bytes]:
    """Return the luma of each frame of a video."""
    return [frame.yuv.y.tobytes() for frame in video_reader.read_frames(path)]


def wait_for(condition: Callable[[], Any]) -> None:
    """Wait until a condition holds, which may take long on a loaded machine."""
    deadline = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def fill_folder(face_video: Path) -> None:
    """Write a face video, three audio files and a table of three jobs into the working directory."""
    shutil.copy(face_video, "talk.mp4")
    for number in range(3):
        write_audio(Path(f"{number}.wav"), 0.4 + 0.2 * number)
    write_table("jobs.csv", [("talk.mp4", f"{n}.wav", f"out/{n}.mp4") for n in range(3)])


@pytest.fixture
def job_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, face_video: Path) -> Path:
    """The working directory: a folder with three jobs and a separate face cache."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "caches"))
    fill_folder(face_video)
    return tmp_path


_load_models = functools.cache(inference.load_models)


@pytest.fixture
def workers_here(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Run the single worker of batches in this process, with models that are loaded once."""
    threads = cv2.getNumThreads()
    monkeypatch.setattr(run, "run_in_processes", _run_here)
    monkeypatch.setattr(inference, "load_models", _load_models)
    yield
    cv2.setNumThreads(threads)


def _run_here(workers: Sequence[str], source: Any, start_worker: Any, timeout: Any = None) -> Iterator[Any]:
    """Replace `run_in_processes`."""
    (name,) = workers
    work = start_worker(name)
    while (item := source.take(name)) is not None:
        for kind, value in answers(work, item):
            if kind == "stop":
                raise value
            yield item, value if kind == "result" else None if kind == "done" else Failure(value, kind)
