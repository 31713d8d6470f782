"""The worker process of the service: that of a batch, which also reads cancellations from the store."""

from __future__ import annotations

import contextlib
import functools
import itertools
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from time import time

import cv2

from wav2lip_npu.batch.face_cache import FaceCache
from wav2lip_npu.batch.jobs import Job
from wav2lip_npu.batch.progress import JobEvent
from wav2lip_npu.batch.results import FAILED, JobResult
from wav2lip_npu.batch.runner import JobGroup
from wav2lip_npu.batch.worker import StartBatchWorker
from wav2lip_npu.devices import device
from wav2lip_npu.errors import DeviceError, Wav2LipError
from wav2lip_npu.media.video_reader import read_frames
from wav2lip_npu.serve.jobs import video_id_of
from wav2lip_npu.serve.queue import JobQueue
from wav2lip_npu.serve.records import Worker
from wav2lip_npu.serve.store import THUMBNAIL, Store
from wav2lip_npu.storage import hashing
from wav2lip_npu.storage.outputs import write_output

_THUMBNAIL_SIDE = 320
"""Longer side in pixels."""
_THUMBNAIL_FRAME = 12
"""Frame of the thumbnail, if the video is as long: the first is often black or blurred."""


@dataclass(frozen=True)
class StartServeWorker:
    """Starts a worker on a device (a `work_queue.StartWorker`)."""

    folder: str
    """Folder of the service."""
    in_flight: int | None = None
    """Concurrent passes; `None` is the default of the device."""

    def __call__(self, name: str) -> Callable[[JobGroup], Iterator[JobEvent]]:
        """Return the function that runs a group of jobs on the device `name`."""
        start = StartBatchWorker(
            first=Job(face="", audio="", outfile=""),
            cache=FaceCache(Path(self.folder) / "faces"),
            in_flight=self.in_flight,
            is_cancelled=functools.partial(is_cancelled, JobQueue(Store(self.folder))),
        )
        work = start(name)
        queue = JobQueue(Store(self.folder))
        queue.set_worker(Worker(name=name, state="ready", detail="", changed_at=int(time())))

        def run(jobs: JobGroup) -> Iterator[JobEvent]:
            _remember_hashes(jobs)
            bug = None
            for event in work(jobs):
                if isinstance(event, JobResult) and event.status == FAILED:
                    bug = event.detail if event.reason == "bug" else bug
                elif isinstance(event, JobResult):
                    write_thumbnail(event.job)
                yield event
            hashing.forget_below(self.folder)
            if bug is not None and name != device.HOST:
                # A fault of an accelerator often makes all later calls of its process fail.
                raise DeviceError(f"{name} is started again after an error: {bug}")

        return run


def is_cancelled(queue: JobQueue, job: Job) -> bool:
    """Return whether a job is no longer wanted."""
    return not queue.running([video_id_of(job.outfile)])


def write_thumbnail(video: str) -> None:
    """Write the picture that stands for a video next to it. A video without one is complete, too."""
    with contextlib.suppress(Wav2LipError):
        *_, image = (frame.yuv for frame in itertools.islice(read_frames(video), _THUMBNAIL_FRAME + 1))
        scale = min(1.0, _THUMBNAIL_SIDE / max(image.width, image.height))
        small = image.scaled(max(1, round(image.width * scale)), max(1, round(image.height * scale)))
        write_output(Path(video).with_name(THUMBNAIL), bytes(cv2.imencode(".jpg", small)[1]))


def _remember_hashes(jobs: JobGroup) -> None:
    """Take the hashes of the inputs from their names, instead of reading the files."""
    files = {path for job in jobs for path in (job.face, job.audio) if path}
    files |= {os.fspath(file.path) for job in jobs for file in (job.dialogue.files if job.dialogue else ())}
    for path in files:
        with contextlib.suppress(OSError):
            hashing.remember(hashing.state_of(path), os.path.basename(path))
