"""What a batch shows while it works: a bar and a line for each job, or JSON for programs."""

from __future__ import annotations

import contextlib
import json
import logging
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict
from time import monotonic
from typing import Any

from wav2lip_npu.batch.results import OK, JobResult
from wav2lip_npu.batch.runner import Progress

log = logging.getLogger(__name__)

_PROGRESS_S = 1.0
_FORMAT = "{l_bar}{bar}| {n:.1f}/{total} jobs [{elapsed}<{remaining}, {rate_fmt}]"


class Display:
    """Counts the jobs of a run and tells how far they are."""

    def __init__(self, *, as_json: bool) -> None:
        self._total = self._done = self._done_before = 0
        self._as_json = as_json
        self._begun = self._told = monotonic()
        self._states: Counter[str] = Counter()
        self._parts: dict[str, float] = {}
        self._bar: Any = None

    @contextlib.contextmanager
    def shown(self, total: int, done: int) -> Iterator[None]:
        """The bar, and lines that do not break it, until the block ends."""
        from tqdm import tqdm
        from tqdm.contrib.logging import logging_redirect_tqdm

        self._total, self._done, self._done_before = total, done, done
        self._tell("start", jobs=self._total, done=self._done)
        hidden = True if self._as_json else None
        bar = tqdm(total=self._total, initial=self._done, unit="job", bar_format=_FORMAT, disable=hidden)
        with logging_redirect_tqdm([logging.getLogger()]), bar:
            self._bar = bar
            yield
        self._tell("end", **self._states, seconds=round(monotonic() - self._begun, 1))

    def more(self, jobs: int, done: int) -> None:
        """Jobs have come, some of which are done."""
        self._total += jobs
        self._done += done
        self._done_before += done
        self._bar.total = self._total
        self._bar.refresh()

    def progress(self, now: Progress) -> None:
        """A job has gone on."""
        self._parts[now.job] = now.frames / now.of
        self._show()

    def result(self, result: JobResult) -> None:
        """A job has ended."""
        self._parts.pop(result.job, None)
        self._done += 1
        self._states[result.status] += 1
        self._tell("job", **asdict(result))
        self._show(at_once=True)
        if not self._as_json:
            log.info("%d/%d %s", self._done, self._total, _line(result))

    def _show(self, at_once: bool = False) -> None:
        done = self._done + sum(self._parts.values())
        self._bar.update(done - self._bar.n)
        if self._as_json and (at_once or monotonic() - self._told > _PROGRESS_S):
            self._told = monotonic()
            rate = (done - self._done_before) / max(self._told - self._begun, 1e-9)
            left = (self._total - done) / rate if rate > 0 else None
            self._tell(
                "progress",
                jobs=self._total,
                done=round(done, 3),
                jobs_per_second=round(rate, 5),
                seconds_left=None if left is None else round(left, 1),
            )

    def _tell(self, event: str, **about: Any) -> None:
        if self._as_json:
            sys.stdout.write(json.dumps({"event": event, **about}) + "\n")
            sys.stdout.flush()


def _line(result: JobResult) -> str:
    if result.status != OK:
        return f"failed ({result.reason}): {result.job}: {result.detail}"
    if result.seconds is None:
        return f"ok: {result.job} was there"
    faceless = (result.frames or 0) - (result.dubbed_frames or 0)
    without = f", {faceless} without a face" if faceless else ""
    return f"ok: {result.job}, {result.frames} frames in {result.seconds:.1f} s{without}"
