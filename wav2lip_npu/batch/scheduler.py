"""Jobs given to workers, processes here or actors of Ray, and what comes of those whose worker fails."""

from __future__ import annotations

import contextlib
import ctypes
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import cv2

from wav2lip_npu import device
from wav2lip_npu.batch.face_cache import FaceCache
from wav2lip_npu.batch.jobs import Job
from wav2lip_npu.batch.results import JobResult, failed, name_of
from wav2lip_npu.batch.runner import Progress, Unit, units_of, work_on
from wav2lip_npu.parallel.work_queue import Failure

if TYPE_CHECKING:
    from wav2lip_npu.dubbing.inference import Models

Event = JobResult | Progress
_M_ARENA_MAX = -8  # of malloc.h


class JobBoard:
    """The jobs that are to be done, and how often each was begun; a `work_queue.WorkSource`.

    A worker gets `passes` of them at once. The jobs of one face video go to one worker, as long as there
    are others to do, so that its faces are found once. `refill` may add some when there are none left.
    """

    def __init__(self, passes: int = 1, refill: Callable[[], Iterable[Job]] | None = None) -> None:
        self.begun: Counter[str] = Counter()
        self.is_open = refill is not None
        self._passes, self._refill = passes, refill
        self._waiting: deque[Unit] = deque()
        self._faces: dict[str, set[str]] = {}

    def put(self, jobs: Iterable[Job]) -> None:
        """Lay jobs on it, those that can be done in one pass together."""
        self._waiting.extend(units_of(jobs))

    def put_alone(self, job: Job) -> None:
        """Lay a job on it that is to be done in a pass of its own, after all others."""
        self._waiting.append((job,))

    def take(self, worker: str) -> Unit | None:
        """See `work_queue.WorkSource`."""
        if not self._waiting and self._refill is not None:
            self.put(self._refill())
        self._faces[worker] = set()
        taken: list[Job] = []
        for _ in range(self._passes):
            unit = self._pick(worker)
            if unit is None or (taken and len(unit) == 1 and self.begun[name_of(unit[0])]):
                break  # one that is tried again is tried alone
            self._waiting.remove(unit)
            taken += unit
            self._faces[worker].add(unit[0].face)
        self.begun.update(map(name_of, taken))
        return tuple(taken) or None

    def _pick(self, place: str) -> Unit | None:
        elsewhere = {face for other, faces in self._faces.items() if other != place for face in faces}
        here = [unit for unit in self._waiting if unit[0].device in (None, place)]
        return next((unit for unit in here if unit[0].face not in elsewhere), here[0] if here else None)


@dataclass(frozen=True)
class Workshop:
    """What each worker does, given its device; it is sent to the workers."""

    first: Job
    """Its models are loaded before the first job, so that what is wrong with them stops the batch."""
    cache: FaceCache
    in_flight: int | None = None
    """As `run_jobs` has it; by default what suits the device."""

    def __call__(self, place: str) -> Callable[[Unit], Iterator[Event]]:
        """See `processes.Prepare`."""
        _share_memory()
        models = _Shelf(place)
        models(self.first)
        cv2.setNumThreads(1)
        passes = self.in_flight or passes_at_once([place])
        return lambda unit: work_on(units_of(unit), models, cache=self.cache, in_flight=passes)


def _share_memory() -> None:
    """Let all threads take memory from the same two stocks.

    glibc gives new threads stocks of their own, and each pass starts a dozen: what they gave back would lie
    about in so many places that a long batch takes a fifth more than a short one.
    """
    with contextlib.suppress(OSError, AttributeError):  # another library for C has no such thing
        ctypes.CDLL(None).mallopt(_M_ARENA_MAX, 2)


class _Shelf:
    """Models on one device, as jobs ask for them; those of the last job are kept."""

    def __init__(self, place: str) -> None:
        self._place = place
        self._held: tuple[tuple[str, str, str], Models] | None = None

    def __call__(self, job: Job) -> Models:
        from wav2lip_npu.dubbing.inference import load_models

        wanted = job.checkpoint_path, job.dub.faces.detector, job.precision
        if self._held is None or self._held[0] != wanted:
            weights, detector, precision = wanted
            self._held = None  # two sets of weights need not fit
            models = load_models(weights, detector=detector, device=self._place, precision=precision)
            self._held = wanted, models
        return self._held[1]


def results_of(
    events: Iterable[tuple[Unit, Event | Failure | None]], board: JobBoard, tries: int = 2
) -> Iterator[Event]:
    """What becomes of each job, once; a job whose worker died is put back, alone, until it had its tries.

    So are the jobs of a pass that took too long; one that does so alone has failed.
    """
    finished: set[str] = set()
    for unit, said in events:
        if isinstance(said, Progress):
            yield said
            continue
        if isinstance(said, JobResult):
            if said.job not in finished:
                finished.add(said.job)
                yield replace(said, attempts=board.begun[said.job])
            continue
        for job in unit:
            name = name_of(job)
            if name in finished:
                continue
            fault = said or Failure("its worker did not say what became of it", "bug")
            is_last = len(unit) == 1 and (fault.kind == "timeout" or board.begun[name] >= tries)
            if fault.kind == "bug" or is_last:
                finished.add(name)
                yield replace(failed(job, fault.detail, fault.kind), attempts=board.begun[name])
            else:
                board.put_alone(job)


def passes_at_once(places: Iterable[str]) -> int:
    """Passes that a worker should have under way: an accelerator waits for decoders and encoders."""
    return 1 if any(place == device.HOST for place in places) else 2
