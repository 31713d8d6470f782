"""The engine process: a thread per device, each with a worker process, and the removal of what is old."""

from __future__ import annotations

import contextlib
import logging
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import Connection
from time import monotonic, sleep, time

from wav2lip_npu import signals
from wav2lip_npu.batch.options import BatchOptions, resolve_devices
from wav2lip_npu.devices import device
from wav2lip_npu.errors import OutputError, Wav2LipError
from wav2lip_npu.parallel.log_lines import log_to_stderr
from wav2lip_npu.parallel.processes import exit_with_parent, run_in_processes
from wav2lip_npu.parallel.work_queue import WorkQueue
from wav2lip_npu.serve.device_loop import DeviceLoop
from wav2lip_npu.serve.engine_options import EngineOptions
from wav2lip_npu.serve.queue import JobQueue
from wav2lip_npu.serve.records import Worker
from wav2lip_npu.serve.store import Store
from wav2lip_npu.storage.locks import lock_folder

log = logging.getLogger(__name__)

_NICE = 5
"""Lower priority of the engine and its workers, so that the HTTP process answers while they use all cores."""
_EXPIRE_EVERY_S = 60.0
_STOP_S = 1.0
"""Seconds in which the workers must end."""
_POLL_S = 0.2


def run_engine(pipe: Connection, options: EngineOptions) -> None:
    """Run the engine process until the other end of the pipe is closed."""
    signals.ignore()
    exit_with_parent()
    log_to_stderr()
    os.nice(_NICE)
    queue = JobQueue(Store(options.folder, options.keep))
    with _sole_engine(queue):
        try:
            queue.requeue_orphans()
        except OutputError as error:
            raise SystemExit(str(error)) from None  # the next engine tries again
        try:
            names = _device_names(options.devices)
        except Wav2LipError as error:
            text = " ".join(options.devices)
            queue.set_worker(Worker(name=text, state="failed", detail=str(error), changed_at=int(time())))
            raise SystemExit(str(error)) from None
        stopped, idle = threading.Event(), set[str]()
        loops = [DeviceLoop(name, queue, options, stopped, idle) for name in names]
        threads = [threading.Thread(target=loop.run, name=loop.name, daemon=True) for loop in loops]
        for thread in threads:
            thread.start()
        expired = 0.0
        while not pipe.poll(_POLL_S):  # nothing is sent: it becomes readable when it is closed
            if not all(thread.is_alive() for thread in threads):
                raise SystemExit("a thread of the engine died.")  # the next engine takes its jobs
            if monotonic() - expired > _EXPIRE_EVERY_S:
                _expire(queue)
                expired = monotonic()
        stopped.set()
        for thread in threads:
            thread.join(_STOP_S)


def _expire(queue: JobQueue) -> None:
    try:
        queue.expire(time())
    except (Wav2LipError, OSError) as error:
        log.warning("what is old was not removed: %s", error)


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
