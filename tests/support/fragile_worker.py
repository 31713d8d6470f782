"""A batch worker that dies or hangs, without torch so that its processes start quickly."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from wav2lip_npu.batch.results import JobResult, failed_result
from wav2lip_npu.batch.runner import JobGroup
from wav2lip_npu.storage.atomic import part_path


@dataclass(frozen=True)
class FragileWorker:
    """Replacement for `StartBatchWorker` that dies or hangs as the name of the audio file says."""

    first: Any = None
    cache: Any = None
    in_flight: int | None = None

    def __call__(self, name: str) -> Callable[[JobGroup], Iterator[JobResult]]:
        """Return the work."""
        return self._work

    def _work(self, jobs: JobGroup) -> Iterator[JobResult]:
        for job in jobs:
            tried = Path(f"{job.audio}.tried")
            if "once" in job.audio and not tried.exists():
                tried.touch()
                Path(job.outfile).parent.mkdir(exist_ok=True)
                part_path(job.outfile).touch()
                os.kill(os.getpid(), signal.SIGKILL)
            if "always" in job.audio:
                os.kill(os.getpid(), signal.SIGSEGV)
            if "hang" in job.audio:
                time.sleep(600)
            yield replace(failed_result(job, ""), status="ok", reason=None, detail=None)
