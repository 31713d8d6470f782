"""The Ray actor that runs one worker.

Arguments and results are pickled to bytes here. Ray would unpickle them before the actor has set `sys.path`,
and in proxy processes that cannot import this package.
"""

from __future__ import annotations

import logging
from typing import Any, NamedTuple

from wav2lip_npu.errors import Wav2LipError
from wav2lip_npu.parallel.processes import answers


class Reply(NamedTuple):
    """Result of one call of an actor."""

    actor: str
    """Ray's id of the actor."""
    answers: list[tuple[str, Any]]
    """`ready` or `stop` after loading, else the items of `processes.answers`."""
    log_records: list[tuple[str, int, str]]
    """Logger, level and text of the warnings since the previous call."""


def actor_class() -> type:
    """Return the actor class. Ray sends nested classes by value, so it can set `sys.path` before imports."""

    class Wav2LipWorker:
        def __init__(self, path: list[str], folder: str, threads: str | None) -> None:
            import contextlib
            import os
            import sys

            sys.path.extend(entry for entry in path if entry not in sys.path)
            with contextlib.suppress(OSError):
                os.chdir(folder)
            # Ray sets this to the number of cores of the actor. Use the value of the driver, for equal
            # results.
            os.environ.pop("OMP_NUM_THREADS", None)
            if threads is not None:
                os.environ["OMP_NUM_THREADS"] = threads

        def load(self, worker: bytes) -> bytes:
            from wav2lip_npu.parallel.ray_actor import ActorWorker

            self._worker = ActorWorker()
            return self._worker.load(worker)

        def process(self, item: bytes) -> bytes:
            return self._worker.process(item)

    return Wav2LipWorker


class ActorWorker(logging.Handler):
    """The worker inside an actor; it collects warnings for the driver."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        logging.getLogger().addHandler(self)
        self._log_records: list[tuple[str, int, str]] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Store a warning for the next reply."""
        self._log_records.append((record.name, record.levelno, self.format(record)))

    def load(self, worker: bytes) -> bytes:
        """Unpickle `start_worker` and its device and call it. Raise errors other than `Wav2LipError`."""
        from ray import cloudpickle

        start_worker, device = cloudpickle.loads(worker)
        try:
            self._work = start_worker(device)
        except Wav2LipError as error:
            return self._reply([("stop", error)])
        return self._reply([("ready", None)])

    def process(self, item: bytes) -> bytes:
        """Process one pickled item."""
        from ray import cloudpickle

        return self._reply(list(answers(self._work, cloudpickle.loads(item))))

    def _reply(self, answered: list[tuple[str, Any]]) -> bytes:
        import ray

        pickle: Any = ray.cloudpickle
        records, self._log_records = self._log_records, []
        actor = ray.get_runtime_context().get_actor_id() or ""
        reply: bytes = pickle.dumps(Reply(actor, answered, records))
        return reply
