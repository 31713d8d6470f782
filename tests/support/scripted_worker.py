"""A worker of the service that does what the content of an audio file says, without torch, to start quickly."""

from __future__ import annotations

import errno
import functools
import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

from wav2lip_npu.batch.jobs import Job
from wav2lip_npu.batch.progress import JobCancelled, JobEvent, JobProgress
from wav2lip_npu.batch.results import JobResult, failed_result
from wav2lip_npu.batch.runner import JobGroup
from wav2lip_npu.errors import DeviceError, MediaError
from wav2lip_npu.serve import device_loop, engine, engine_process
from wav2lip_npu.serve.engine_options import EngineOptions
from wav2lip_npu.serve.jobs import video_id_of
from wav2lip_npu.serve.queue import JobQueue
from wav2lip_npu.serve.store import REPORT, Store

FRAMES = 50


@dataclass(frozen=True)
class ScriptedWorker:
    """Replacement for `StartServeWorker`.

    The first words of an audio file say what happens to its job: `ok`; `slow` and `long`, in 0.2 and 1.5 s; `die` and `once`,
    always or the first time; `hang`; `leave`, when it is cancelled; `unreadable`; `full`, a full disk; `bug`; `device`, which
    ends the worker.
    """

    folder: str
    in_flight: int | None = None

    def __call__(self, name: str) -> Callable[[JobGroup], Iterator[JobEvent]]:
        """Return the work."""
        if (Path(self.folder) / "no device").exists():
            raise DeviceError(f"device '{name}' is not available, none found.")
        return functools.partial(self._work, name)

    def _work(self, name: str, jobs: JobGroup) -> Iterator[JobEvent]:
        for job in jobs:
            yield from self._one(name, job, Path(job.audio).read_text().split()[0])

    def _one(self, name: str, job: Job, what: str) -> Iterator[JobEvent]:
        out = Path(job.outfile)
        tried = Path(self.folder) / f"{video_id_of(job.outfile)}.tried"
        if what == "die" or (what == "once" and not tried.exists()):
            tried.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        if what == "hang":
            time.sleep(600)
        if what == "leave":
            while JobQueue(Store(self.folder)).running([video_id_of(job.outfile)]):
                time.sleep(0.05)
            yield JobCancelled(job.outfile)
        elif what == "unreadable":
            yield failed_result(job, MediaError(f"cannot decode {job.face}, cannot write {job.outfile}."))
        elif what == "full":
            yield failed_result(job, MediaError(f"cannot write {job.outfile}: {os.strerror(errno.ENOSPC)}."))
        elif what == "bug":
            raise ZeroDivisionError("division by zero")
        elif what == "device":
            yield failed_result(job, "RuntimeError: the device is lost")
            raise DeviceError("the device is lost")
        else:
            if not out.exists():
                yield JobProgress(str(out), 10, FRAMES)
                time.sleep({"slow": 0.2, "long": 1.5}.get(what, 0))
                yield JobProgress(str(out), FRAMES, FRAMES)
                out.parent.mkdir(exist_ok=True)
                report = {"frames": FRAMES, "width": 8, "height": 6, "fps": "25", "face": job.face}
                out.with_name(REPORT).write_text(json.dumps({**report, "outfile": job.outfile}))
                out.touch()
                with open(Path(self.folder) / "made", "a") as made:
                    made.write(f"{video_id_of(job.outfile)} {name}\n")
            yield JobResult(
                job=str(out), row=0, status="ok", face=job.face, audio=job.audio, finished="", settings={}
            )


def run_scripted_engine(pipe: Connection, options: EngineOptions) -> None:
    """Replacement for `engine._run`: an engine with a `ScriptedWorker`."""
    device_loop.StartServeWorker = ScriptedWorker  # type: ignore[assignment,misc]
    engine_process.run_engine(pipe, options)


def serve_until_killed(folder: str, scripted: bool) -> None:
    """Stand in for the HTTP process: run an engine, and write its process ID into the folder."""
    if scripted:
        engine._run, engine._FIRST_DELAY_S = run_scripted_engine, 0.1
    with engine.running_engine(EngineOptions(folder=folder, devices=("cpu",))) as running:
        while True:
            (Path(folder) / "engine.pid").write_text(str(running.pid or ""))
            time.sleep(0.05)
