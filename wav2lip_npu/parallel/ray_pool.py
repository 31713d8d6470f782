"""Do the work of `processes.py` in the actors of a Ray cluster.

An actor tells one message a call, and the next call asks for the next. What Ray does when an actor dies,
start it again and repeat the call, is then all that a second try takes: a call that finds an actor without
its item begins with it. Ray's streaming generators would lose messages: after a restart they pass over as
many as had been delivered, and work that skips what is finished has fewer to tell the second time.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from itertools import count
from typing import Any

from wav2lip_npu.errors import DeviceError, UsageError
from wav2lip_npu.parallel.processes import Board, Failure, Item, Prepare, Result
from wav2lip_npu.parallel.ray_actor import Answer, actor_class
from wav2lip_npu.parallel.ray_cluster import SAME, Place, connected, places_of

log = logging.getLogger(__name__)

_POLL_S = 0.5
_PATIENCE_S = 60.0
"""Until the user hears that workers have not started: others may hold what they need."""
_LINGER_S = 10.0
"""A worker keeps its device so long after the last item: that of another may fail and be put back."""
_END_S = 6.0
"""What Ray takes for a process that does not listen."""
_NOTHING = object()


def work_on_ray(
    board: Board[Item],
    prepare: Prepare[Item, Result],
    *,
    address: str,
    devices: Sequence[str] | None,
    timeout: Callable[[Item], float | None],
) -> Generator[tuple[Item, Result | Failure | None], None, None]:
    """Do what is on the board, in one actor for each device; gives what `processes.run_in_processes` gives.

    `address` is `auto`, `host:port`, or `ray://host:port` from a machine outside the cluster. `auto` is the
    cluster of this machine; when it belongs to none, a local Ray that ends with this generator. One that is
    connected already is used and left. `devices` says the kind of device of each worker; `None` takes all
    NPUs, else all GPUs, else the cores of each node. Places on the board are numbered over the cluster,
    `npu:0`, `npu:1`. An actor sees its device as the only one: `prepare` is always given the `npu:0`.

    When an actor dies Ray starts it again and its item is tried once more, so messages may come twice: work
    should pass over what is finished, but tell of it. `timeout` (seconds) is for both tries together. Raises
    what `prepare` or the work raises as `Wav2LipError`, `DeviceError` when there is no such cluster or
    device or a worker cannot start, and `UsageError` without Ray. Closing this generator, or an exception,
    ends the actors.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
    except ModuleNotFoundError:
        raise UsageError("--cluster needs Ray. Install it: pip install 'wav2lip-npu[ray]'.") from None
    with connected(ray, address):
        crew: list[_Worker] = []
        try:
            actor: Any = ray.remote(actor_class())
            crew += [_Worker(ray, actor, place, prepare) for place in places_of(ray, devices)]
            yield from _supervise(ray, board, crew, timeout)
        finally:
            _end(ray, crew)


def _supervise(
    ray: Any, board: Board[Item], crew: list[_Worker], timeout: Callable[[Item], float | None]
) -> Iterator[tuple[Item, Any]]:
    def deal(workers: Iterable[_Worker]) -> None:
        for worker in workers:
            if not worker.is_busy and (item := board.take(worker.place.name)) is not None:
                worker.give(item, timeout(item))

    warn_at = time.monotonic() + _PATIENCE_S
    while True:
        free = [worker for worker in crew if worker.is_free]
        deal(free)
        if free and not board.is_open and not any(worker.is_busy for worker in crew):
            deal(crew)  # what is left is for places where nobody has started
            if not any(worker.is_busy for worker in crew):
                return
        for worker in free:
            if worker.is_free and not board.is_open and time.monotonic() > worker.free_since + _LINGER_S:
                worker.leave()  # Ray may need its device to replace a worker whose machine is lost
        said = _that_speak(ray, crew)
        late = [worker for worker in crew if worker not in said and time.monotonic() > worker.ends_at]
        for worker in said:
            yield from worker.hear()
        for worker in late:
            yield worker.give_up(f"it took longer than {worker.seconds:g} s", "timeout")
        missing = sum(worker.is_starting for worker in crew)
        if missing and time.monotonic() > warn_at:
            log.warning("%d of %d workers wait for Ray to start them.", missing, len(crew))
            warn_at = float("inf")


def _that_speak(ray: Any, crew: list[_Worker]) -> list[_Worker]:
    """Workers that have something to say; waits a little for one."""
    asked = {worker.reply: worker for worker in crew if worker.reply is not None}
    if not asked:
        time.sleep(_POLL_S)
        return []
    ray.wait(list(asked), timeout=_POLL_S)
    said, _ = ray.wait(list(asked), num_returns=len(asked), timeout=0)
    return [asked[reply] for reply in said]


def _end(ray: Any, crew: Sequence[_Worker]) -> None:
    """End the actors, and wait until their processes are gone: others may go on with their files."""
    with contextlib.suppress(Exception):  # a cluster that is gone has no actors either
        if ray.is_initialized():  # else it would look for a cluster
            for worker in crew:
                ray.kill(worker.actor)
            asked = [worker.reply for worker in crew if worker.reply is not None]
            if asked:
                ray.wait(asked, num_returns=len(asked), timeout=_END_S)


class _Worker:
    """An actor and the item that it has."""

    def __init__(self, ray: Any, actor: Any, place: Place, prepare: Any) -> None:
        self.place = place
        self._ray = ray
        self._numbers = count()
        # A repeated call may meet an actor that is still restarting and be lost: only restarts are counted.
        options = {"max_restarts": 1, "max_task_retries": -1} | place.demands
        here = (sys.path, os.getcwd(), os.environ.get("OMP_NUM_THREADS"))
        luggage = ray.cloudpickle.dumps((prepare, place.device))
        self._new: Callable[[], Any] = lambda: actor.options(**options).remote(*here, luggage)
        self._drop()
        self._start()

    def _start(self) -> None:
        self.has_started = self._is_worn = False
        self.actor = self._new()
        self._check()

    def _check(self) -> None:
        self.reply: Any = self.actor.ready.remote()

    def _drop(self) -> None:
        self.item: Any = _NOTHING
        self._has_begun = False
        self.seconds: float | None = None
        self.ends_at = float("inf")

    def _rest(self) -> None:
        self._drop()
        self.reply = None
        self.free_since = time.monotonic()

    @property
    def is_starting(self) -> bool:
        return not self.has_started and self.reply is not None

    @property
    def is_busy(self) -> bool:
        return self.item is not _NOTHING

    @property
    def is_free(self) -> bool:
        return self.has_started and not self.is_busy

    def give(self, item: Any, seconds: float | None) -> None:
        """Begin with an item, as soon as the actor is known to have started and to be alive."""
        self.item, self.seconds = item, seconds
        if self.has_started:
            self._check()
        elif not self.is_starting:
            self._start()

    def _ask(self) -> None:
        call = (next(self._numbers), self._item_number, self.item)
        self.reply = self.actor.tell.remote(self._ray.cloudpickle.dumps(call))

    def hear(self) -> Iterator[tuple[Any, Any]]:
        """What the answer means for its item, if it has one; asks for the next message."""
        errors = self._ray.exceptions
        try:
            answer: Answer = self._ray.cloudpickle.loads(self._ray.get(self.reply))
        except errors.RayError as error:
            kind, detail = "died", "its process died, and again when Ray tried once more"
            if isinstance(error, errors.RayTaskError):
                kind, detail = "bug", f"{type(error.cause).__name__}: {error.cause}"
            if self._has_begun:
                yield self.give_up(detail, kind)
            elif self.has_started:
                self._replace()
            else:
                raise DeviceError(f"a worker could not start on Ray ({detail}). {SAME}") from error
            return
        for name, level, text in answer.warnings:
            logging.getLogger(name).log(level, "%s", text)
        if answer.kind == "stop":
            raise answer.value
        if answer.kind == "ready":
            self._hear_ready(answer)
            return
        if answer.is_second and not self._is_worn:
            log.warning("a process on Ray died, what it did is tried once more.")
            self._is_worn = True
        item = self.item
        if answer.kind == "message":
            self._ask()
            yield item, answer.value
            return
        self._rest()
        yield item, Failure(answer.value, "bug") if answer.kind == "bug" else None

    def _hear_ready(self, answer: Answer) -> None:
        if self.has_started and answer.is_second:
            self._replace()  # or its item would have one try only
            return
        self.has_started, self._is_worn = True, answer.is_second
        if not self.is_busy:
            self._rest()
            return
        self.ends_at = float("inf") if self.seconds is None else time.monotonic() + self.seconds
        self._item_number = next(self._numbers)
        self._has_begun = True
        self._ask()

    def give_up(self, detail: str, kind: str) -> tuple[Any, Failure]:
        """How its item ended; another actor takes its place."""
        item = self.item
        self._replace()
        self._drop()
        return item, Failure(detail, kind)

    def _replace(self) -> None:
        _end(self._ray, [self])
        self._start()

    def leave(self) -> None:
        """Give the device back, until there is an item again."""
        _end(self._ray, [self])
        self.has_started = False
