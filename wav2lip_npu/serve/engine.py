"""The engine of the service: a process that runs the queued jobs, with one worker process per device.

Any of these processes can be killed at any moment: what it has not completed is still in the queue of the
next one, and an output that exists is recognised by the key in its metadata, and not made again.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Iterator
from multiprocessing.connection import Connection
from time import monotonic
from typing import Any

from wav2lip_npu.errors import Wav2LipError
from wav2lip_npu.parallel.processes import spawn
from wav2lip_npu.serve.engine_options import EngineOptions
from wav2lip_npu.serve.queue import JobQueue
from wav2lip_npu.serve.store import Store

log = logging.getLogger(__name__)

_POLL_S = 0.2
_STOP_S = 1.5
"""Seconds in which an engine ends by itself. One that does not, because it still imports its modules, is
killed, as it can be at any moment: the command must end within 3 s of a signal."""
_FIRST_DELAY_S, _MAX_DELAY_S, _HEALTHY_S = 1.0, 30.0, 60.0
"""Seconds before an engine is started again, doubled with each death until one has run for a minute."""


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
        delay = _FIRST_DELAY_S
        self._forget_workers()
        while not self._stopped.is_set():
            started = monotonic()
            self._process, pipe = spawn("engine", _run, self._options, daemon=False)
            with contextlib.closing(pipe):
                while self._process.is_alive() and not self._stopped.is_set():
                    self._process.join(_POLL_S)
            if self._stopped.is_set():
                self._process.join(_STOP_S)
                self._process.kill()
                self._process.join()
                return
            delay = _FIRST_DELAY_S if monotonic() - started > _HEALTHY_S else delay
            code = self._process.exitcode
            self._forget_workers()
            log.error("the engine ended with exit code %s, and is started again in %g s", code, delay)
            self._stopped.wait(delay)
            delay = min(_MAX_DELAY_S, 2 * delay)

    def _forget_workers(self) -> None:
        """Remove the workers of an engine that has ended from the store: none of them is ready."""
        try:
            JobQueue(Store(self._options.folder)).forget_workers()
        except Wav2LipError as error:
            log.warning("the workers of the last engine are still listed: %s", error)


@contextlib.contextmanager
def running_engine(options: EngineOptions) -> Iterator[Engine]:
    """Run an engine during the block."""
    engine = Engine(options)
    try:
        yield engine
    finally:
        engine.stop()


def _run(pipe: Connection, options: EngineOptions) -> None:
    """Run the engine process, which imports more than this one."""
    from wav2lip_npu.serve.engine_process import run_engine

    run_engine(pipe, options)
