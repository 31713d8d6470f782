"""The engine of the service: a process that runs the queued jobs, with one worker process per device.

Any of these processes can be killed at any moment: what it has not completed is still in the queue of the
next one, and an output that exists is recognised by the key in its metadata, and not made again.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import Connection
from time import monotonic, sleep, time
from typing import Any

from wav2lip_npu import device, signals
from wav2lip_npu.batch.options import BatchOptions, resolve_devices
from wav2lip_npu.errors import Wav2LipError
from wav2lip_npu.parallel.log_lines import log_to_stderr
from wav2lip_npu.parallel.processes import exit_with_parent, run_in_processes, spawn
from wav2lip_npu.parallel.work_queue import WorkQueue
from wav2lip_npu.serve.device_loop import DeviceLoop, EngineOptions
from wav2lip_npu.serve.queue import JobQueue
from wav2lip_npu.serve.records import Worker
from wav2lip_npu.serve.store import Store
from wav2lip_npu.storage.locks import lock_folder

log = logging.getLogger(__name__)

_EXPIRE_EVERY_S = 60.0
_POLL_S = 0.2
_STOP_S = 15.0
"""Seconds in which an engine must end when it is told to."""
_MAX_DELAY_S, _HEALTHY_S = 30.0, 60.0
"""Longest time before an engine is started again, and the time after which its death is the first again."""


class Engine:
    """Starts the engine process, and starts it again when it dies. This process loads no networks."""

    def __init__(self, options: EngineOptions) -> None:
        self._options = options
        self._stopped = threading.Event()
        self._process: Any = None
        self._thread = threading.Thread(target=self._keep_running, name="engine", daemon=True)
        self._thread.start()

    @property
    def is_alive(self) -> bool:
        """Whether the process runs. `Store.workers` has the state of its devices."""
        return self._process is not None and bool(self._process.is_alive())

    @property
    def pid(self) -> int | None:
        """Process ID; None before its first start."""
        return None if self._process is None else int(self._process.pid)

    def stop(self) -> None:
        """End the engine. Jobs in progress go back into the queue."""
        self._stopped.set()
        self._thread.join()

    def _keep_running(self) -> None:
        delay = 1.0
        while not self._stopped.is_set():
            started = monotonic()
            self._process, pipe = spawn("engine", _run_engine, self._options, daemon=False)
            with contextlib.closing(pipe):
                while self._process.is_alive() and not self._stopped.is_set():
                    self._process.join(_POLL_S)
            if self._stopped.is_set():
                self._process.join(_STOP_S)
                self._process.kill()
                self._process.join()
                return
            delay = 1.0 if monotonic() - started > _HEALTHY_S else min(_MAX_DELAY_S, 2 * delay)
            code = self._process.exitcode
            log.error("the engine ended with exit code %s, and is started again in %g s", code, delay)
            self._stopped.wait(delay)


@contextlib.contextmanager
def running_engine(options: EngineOptions) -> Iterator[Engine]:
    """Run an engine during the block."""
    engine = Engine(options)
    try:
        yield engine
    finally:
        engine.stop()


def _run_engine(pipe: Connection, options: EngineOptions) -> None:
    """Run the engine process until the other end of the pipe is closed."""
    signals.ignore()
    exit_with_parent()
    log_to_stderr()
    queue = JobQueue(Store(options.folder, options.keep))
    with _sole_engine(queue):
        queue.requeue_orphans()
        try:
            names = _device_names(options.devices)
        except Wav2LipError as error:
            text = " ".join(options.devices)
            queue.set_worker(Worker(name=text, state="failed", detail=str(error), changed_at=int(time())))
            raise SystemExit(str(error)) from None
        stopped = threading.Event()
        loops = [DeviceLoop(name, queue, options, stopped) for name in names]
        threads = [threading.Thread(target=loop.run, name=loop.name, daemon=True) for loop in loops]
        for thread in threads:
            thread.start()
        while not pipe.poll(_EXPIRE_EVERY_S):  # nothing is sent: it becomes readable when it is closed
            try:
                queue.expire(time())
            except (Wav2LipError, OSError) as error:
                log.warning("what is old was not removed: %s", error)
        stopped.set()
        for thread in threads:
            thread.join(_STOP_S)


@contextlib.contextmanager
def _sole_engine(queue: JobQueue) -> Iterator[None]:
    """Wait until the previous engine of the folder has ended, and keep others out during the block."""
    while True:
        with lock_folder(queue.store.folder / "videos") as is_locked:
            if is_locked:
                yield
                return
        sleep(_POLL_S)


def _device_names(devices: Sequence[str]) -> list[str]:
    """Return the devices to run on. Another process finds them, because that needs torch."""
    if list(devices) == [device.HOST]:
        return [device.HOST]
    for _, names in run_in_processes(["devices"], WorkQueue([tuple(devices)]), _start_resolving):
        if isinstance(names, list):
            return names
    raise SystemExit("the process that finds the devices died.")


def _start_resolving(name: str) -> Callable[[tuple[str, ...]], Iterator[list[str]]]:
    return lambda devices: iter([resolve_devices(BatchOptions(devices=devices))])
