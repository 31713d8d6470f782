"""The worker process of a batch."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import cv2

from wav2lip_npu.batch.face_cache import FaceCache
from wav2lip_npu.batch.jobs import Job
from wav2lip_npu.batch.progress import JobEvent
from wav2lip_npu.batch.runner import JobGroup, group_jobs, run_groups
from wav2lip_npu.devices import device
from wav2lip_npu.models.bundled import weights_state
from wav2lip_npu.parallel.thread_counts import limit_malloc_arenas

if TYPE_CHECKING:
    from wav2lip_npu.devices.compilation import CompileOption
    from wav2lip_npu.dubbing.inference import Models
    from wav2lip_npu.models.plan_choice import AudioRefineOption
    from wav2lip_npu.storage.hashing import FileState


def never(job: Job) -> bool:
    """Return False: no job is cancelled."""
    return False


@dataclass(frozen=True)
class StartBatchWorker:
    """Starts a worker on a device (a `work_queue.StartWorker`); it is pickled and sent to the workers."""

    first: Job
    """Job whose models are loaded first, so that an error in them ends the batch immediately."""
    cache: FaceCache
    in_flight: int | None = None
    """Concurrent passes; `None` is the default of the device."""
    is_cancelled: Callable[[Job], bool] = never
    """See `run_groups`."""

    def __call__(self, name: str) -> Callable[[JobGroup], Iterator[JobEvent]]:
        """Return the function that runs a group of jobs on the device `name`."""
        limit_malloc_arenas()
        models = ModelHolder(name)
        models(self.first)
        cv2.setNumThreads(1)
        in_flight = self.in_flight or default_in_flight([name])
        return lambda jobs: run_groups(
            group_jobs(jobs),
            models,
            cache=self.cache,
            in_flight=in_flight,
            is_cancelled=self.is_cancelled,
        )


def default_in_flight(devices: Iterable[str]) -> int:
    """Return the number of passes per worker: 2 on accelerators, which wait for decoders and encoders."""
    return 1 if any(name == device.HOST for name in devices) else 2


class _ModelChoice(NamedTuple):
    """Arguments of `load_models`."""

    checkpoint_path: str
    detector: str
    precision: str
    compile: CompileOption
    face_size: int | None
    audio_refine: AudioRefineOption


class ModelHolder:
    """Loads the models of jobs on one device, and keeps those of the last job; the passes share it.

    Weights that were replaced are loaded again.
    """

    def __init__(self, device_name: str) -> None:
        self._device = device_name
        self._loaded: tuple[tuple[_ModelChoice, FileState | None], Models] | None = None
        self._lock = threading.Lock()

    def __call__(self, job: Job) -> Models:
        """Return the models of a job. Raises the errors of `load_models`."""
        from wav2lip_npu.dubbing.inference import load_models

        wanted = _ModelChoice(
            job.checkpoint_path,
            job.dub.faces.detector,
            job.precision,
            job.compile,
            job.face_size,
            job.audio_refine,
        )
        with self._lock:
            key = wanted, weights_state(job.checkpoint_path)
            if self._loaded is None or self._loaded[0] != key:
                # Frees the memory for the next weights, unless another pass is still using these.
                self._loaded = None
                models = load_models(device=self._device, **wanted._asdict())
                self._loaded = key, models
            return self._loaded[1]
