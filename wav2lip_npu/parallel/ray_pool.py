"""Process items in the actors of a Ray cluster, through `ray.util.ActorPool`."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from typing import Any

from wav2lip_npu import signals
from wav2lip_npu.errors import DeviceError, UsageError
from wav2lip_npu.parallel.processes import MAX_STARTS, timeout_detail
from wav2lip_npu.parallel.ray_actor import Reply, actor_class
from wav2lip_npu.parallel.ray_cluster import SAME_VERSIONS, Slot, connected, worker_slots
from wav2lip_npu.parallel.work_queue import Failure, Item, Result, StartWorker, WorkSource

log = logging.getLogger(__name__)

_POLL_S = 0.5
_WARN_AFTER_S = 60.0
"""Time after which missing workers are reported; others may be using their devices."""
_KILL_S = 6.0
"""Time for Ray to send SIGTERM, and SIGKILL a few seconds later."""
_NOTHING = object()


def run_on_ray(
    source: WorkSource[Item],
    start_worker: StartWorker[Item, Result],
    *,
    address: str,
    devices: Sequence[str] | None,
    timeout: Callable[[Item], float | None] = lambda item: None,
) -> Generator[tuple[Item, Result | Failure | None], None, None]:
    """Process the items of a source in one actor per device, like `processes.run_in_processes`.

    The results of an item arrive together when it has ended. An actor that dies is replaced; the consumer may
    put its item back.

    Args:
        source: Source of the items. Workers are named `npu:0`, `npu:1`, ... over the cluster.
        start_worker: Called in each actor with its device. An actor sees only its own card, so this is
            always `npu:0`, `cuda:0` or `cpu`.
        address: `auto`, `host:port`, or `ray://host:port` from outside the cluster. `auto` is the cluster
            of this machine, or else a local Ray that ends with this generator. An existing connection of
            this process is reused and kept.
        devices: Device type of each worker. `None`: all NPUs, else all GPUs, else one CPU worker per node.
        timeout: Maximum seconds per item.

    Raises:
        UsageError: Ray is not installed.
        DeviceError: The cluster or a device does not exist, or a worker cannot start.
        Wav2LipError: Raised by `start_worker` or the work.

    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
    except ModuleNotFoundError:
        raise UsageError("--cluster needs Ray. Install it: pip install 'wav2lip-npu[ray]'.") from None
    with connected(ray, address):
        actor: Any = ray.remote(actor_class())
        workers: list[_Worker] = []
        try:
            workers += [_Worker(ray, actor, slot, start_worker) for slot in worker_slots(ray, devices)]
            yield from _run(ray, source, workers, timeout)
        finally:
            _kill(ray, workers)


def _run(
    ray: Any, source: WorkSource[Item], workers: list[_Worker], timeout: Callable[[Item], float | None]
) -> Iterator[tuple[Item, Any]]:
    pool = ray.util.ActorPool([])
    warn_at = time.monotonic() + _WARN_AFTER_S
    while True:
        signals.check()
        for worker in _started(ray, workers):
            with contextlib.suppress(ValueError):  # older pools keep a worker whose actor died
                pool.push(worker)
        while (worker := pool.pop_idle()) is not None:
            pool.push(worker)
            if (item := source.take(worker.name)) is None:
                break
            seconds = timeout(item)
            pool.submit(lambda worker, item, seconds=seconds: worker.process(item, seconds), item)
        if not pool.has_next():
            if pool.has_free() and not source.is_open:
                return
            time.sleep(_POLL_S)
        else:
            yield from _next_answers(ray, pool, workers)
        for worker in workers:
            if time.monotonic() > worker.deadline:
                worker.is_late = True
                ray.kill(worker.actor)
        if (missing := sum(not worker.is_ready for worker in workers)) and time.monotonic() > warn_at:
            log.warning("%d of %d workers have not been started by Ray yet", missing, len(workers))
            warn_at = float("inf")


def _next_answers(ray: Any, pool: Any, workers: list[_Worker]) -> Iterator[tuple[Any, Any]]:
    """Yield the results and the end of the next finished item; nothing if there is none within `_POLL_S`."""
    try:
        reply = _unpacked(ray, pool.get_next_unordered(timeout=_POLL_S))
    except TimeoutError:
        return
    except ray.exceptions.RayActorError as error:
        worker = next((worker for worker in workers if worker.actor_id == error.actor_id), None)
        if worker is None:
            raise DeviceError(f"a worker on Ray was lost ({_first_line(error)}).") from error
        item, failure = worker.item, Failure("its process on Ray died")
        if worker.is_late:
            failure = Failure(timeout_detail(worker.seconds), "timeout")
        worker.start()
        yield item, failure
        return
    worker = next(worker for worker in workers if worker.actor_id == reply.actor)
    item = worker.item
    worker.end_item()
    for kind, value in reply.answers:
        if kind == "stop":
            raise value
        yield item, value if kind == "result" else None if kind == "done" else Failure(value, kind)


def _started(ray: Any, workers: list[_Worker]) -> list[_Worker]:
    """Return the workers that have become ready; restart those that died before."""
    starting = {worker.call: worker for worker in workers if not worker.is_ready}
    finished, _ = ray.wait(list(starting), num_returns=len(starting), timeout=0) if starting else ([], [])
    ready = []
    for call in finished:
        worker = starting[call]
        try:
            reply = _unpacked(ray, ray.get(call))
        except ray.exceptions.RayError as error:
            if isinstance(error, ray.exceptions.RayTaskError) or worker.starts >= MAX_STARTS:
                cause = _first_line(getattr(error, "cause", error))
                raise DeviceError(f"a worker could not start on Ray ({cause}). {SAME_VERSIONS}") from error
            worker.start()
            continue
        kind, value = reply.answers[0]
        if kind == "stop":
            raise value
        worker.actor_id, worker.starts = reply.actor, 0
        ready.append(worker)
    return ready


def _unpacked(ray: Any, packed: bytes) -> Reply:
    """Return the reply of an actor and log its records."""
    reply: Reply = ray.cloudpickle.loads(packed)
    for name, level, text in reply.log_records:
        logging.getLogger(name).log(level, "%s", text)
    return reply


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def _kill(ray: Any, workers: Sequence[_Worker]) -> None:
    """Kill the actors and wait until their processes have ended, because others may use their files next."""
    with contextlib.suppress(Exception):  # without a cluster there are no actors
        if ray.is_initialized():
            for worker in workers:
                ray.kill(worker.actor)
            calls = [worker.call for worker in workers]
            ray.wait(calls, num_returns=len(calls), timeout=_KILL_S)


class _Worker:
    """An actor and its current item."""

    def __init__(self, ray: Any, actor: Any, slot: Slot, start_worker: Any) -> None:
        self.name = slot.name
        self.starts = 0
        self.item: Any
        self.seconds: float | None
        self._ray = ray
        settings = (sys.path, os.getcwd(), os.environ.get("OMP_NUM_THREADS"))
        self._new: Callable[[], Any] = lambda: actor.options(**slot.demands).remote(*settings)
        self._packed = ray.cloudpickle.dumps((start_worker, slot.device))
        self.start()

    def start(self) -> None:
        """Start a new actor."""
        self.starts += 1
        self.actor_id: str | None = None
        self.actor = self._new()
        self.call = self.actor.load.remote(self._packed)
        self.end_item()

    @property
    def is_ready(self) -> bool:
        return self.actor_id is not None

    def process(self, item: Any, seconds: float | None) -> Any:
        """Send an item, with a timeout in seconds; return Ray's reference to the reply."""
        self.item, self.seconds = item, seconds
        self.deadline = float("inf") if seconds is None else time.monotonic() + seconds
        self.call = self.actor.process.remote(self._ray.cloudpickle.dumps(item))
        return self.call

    def end_item(self) -> None:
        self.item, self.seconds = _NOTHING, None
        self.deadline = float("inf")
        self.is_late = False
