"""Events of a running batch, for progress displays."""

from __future__ import annotations

from dataclasses import dataclass

from wav2lip_npu.batch.results import JobResult


@dataclass(frozen=True)
class JobCount:
    """Number of jobs: the first event of a batch, repeated when a watched folder has new tables."""

    jobs: int
    done: int
    """Jobs that earlier runs finished."""
    failed: int = 0
    """Jobs that failed the checks of this run, see `BatchOptions.skip_bad`."""


@dataclass(frozen=True)
class JobProgress:
    """Progress of a running job."""

    job: str
    """Same as `JobResult.job`."""
    frames: int
    """Frames written."""
    total: int
    """Frames of the output."""


@dataclass(frozen=True)
class JobBusy:
    """A job that was not started because another batch is writing its output."""

    job: str
    """Same as `JobResult.job`."""


@dataclass(frozen=True)
class JobCancelled:
    """A job that ended without a result because it was cancelled, see `run_groups`."""

    job: str
    """Same as `JobResult.job`."""


JobEvent = JobResult | JobProgress | JobBusy | JobCancelled
"""Events of the jobs of a worker."""
BatchEvent = JobCount | JobProgress | JobResult
