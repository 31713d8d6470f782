"""The `batch` command: flags of `run_batch`, and its progress as a bar or as JSON lines."""

from __future__ import annotations

import json
import logging
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from time import monotonic
from typing import Annotated, Any

import tyro

from wav2lip_npu import __version__, signals
from wav2lip_npu.batch.jobs import Pairing
from wav2lip_npu.batch.options import BatchOptions
from wav2lip_npu.batch.progress import BatchEvent, JobCount, JobProgress
from wav2lip_npu.batch.results import FAILED, OK, JobResult
from wav2lip_npu.batch.run import run_batch
from wav2lip_npu.dubbing.selection import count_text
from wav2lip_npu.options import group

log = logging.getLogger(__name__)

_PROGRESS_S = 1.0
_BAR_FORMAT = "{l_bar}{bar}| {n:.1f}/{total} jobs [{elapsed}<{remaining}, {rate_fmt}]"


@dataclass(frozen=True, kw_only=True)
class BatchCommand:
    """Dub many videos. Run the same command again to resume.

    wav2lip-npu batch jobs.csv

    wav2lip-npu batch --faces "talks/*.mp4" --audios speech.wav --pair product --outdir dubbed
    """

    jobs: tyro.conf.Positional[str | None] = None
    """Job table, .csv or .jsonl, with columns face, audio and outfile; further columns set options of dub."""
    faces: tuple[str, ...] = ()
    """Face videos or images, instead of a table: files, folders or glob patterns."""
    audios: tuple[str, ...] = ()
    """Audio for --faces: files, folders or glob patterns."""
    pair: Pairing = "zip"
    """zip: pair the first face with the first audio, and so on. product: every face with every audio."""
    outdir: str | None = None
    """Output folder for --faces and --audios: talk.mp4 and speech.wav give talk__speech.mp4."""
    batch: Annotated[BatchOptions, group("batch")] = field(default_factory=BatchOptions)
    json: bool = False
    """Write progress as JSON lines to standard output."""

    def run(self) -> int:
        """Run the jobs. Return 1 if any failed, else 0."""
        log.info("wav2lip-npu %s", __version__)
        try:
            with _display(as_json=self.json) as display:
                results = run_batch(
                    self.jobs,
                    faces=self.faces,
                    audios=self.audios,
                    pair=self.pair,
                    outdir=self.outdir,
                    progress=display.show,
                    options=self.batch,
                )
        except signals.StoppedError as stop:
            stop.note = "the finished videos are kept. Run the same command again to resume"
            raise
        return int(any(result.status == FAILED for result in results))


@contextmanager
def _display(*, as_json: bool) -> Iterator[_Display]:
    """Show the progress of a batch until the block ends."""
    with ExitStack() as stack:
        display = _Display(stack, as_json=as_json)
        yield display
        display.end()


class _Display:
    """Progress of a batch as a bar and a line per job, or as JSON lines; starts with the first event."""

    def __init__(self, stack: ExitStack, *, as_json: bool) -> None:
        self._stack, self._as_json = stack, as_json
        self._total = self._done = 0
        self._counts = JobCount(0, 0)
        self._started = self._last = monotonic()
        self._states: Counter[str] = Counter()
        self._fractions: dict[str, float] = {}
        """Finished fraction of each running job."""
        self._bar: Any = None

    def show(self, event: BatchEvent) -> None:
        """Show an event of `run_batch`."""
        if isinstance(event, JobCount):
            self._count(event)
        elif isinstance(event, JobProgress):
            self._fractions[event.job] = event.frames / event.total
            self._update()
        else:
            self._result(event)

    def end(self) -> None:
        """Write the last JSON line."""
        if self._bar is not None:
            self._write("end", **self._states, seconds=round(monotonic() - self._started, 1))

    def _count(self, event: JobCount) -> None:
        new_failed = event.failed - self._counts.failed
        self._done += event.done - self._counts.done + new_failed
        self._states.update({FAILED: new_failed} if new_failed else {})
        self._total, self._counts = event.jobs, event
        if self._bar is None:
            self._started = self._last = monotonic()
            self._write("start", jobs=event.jobs, done=event.done, failed=event.failed)
            self._bar = self._stack.enter_context(self._new_bar())
        else:
            self._bar.total = event.jobs
            self._bar.refresh()

    def _new_bar(self) -> Any:
        from tqdm import tqdm
        from tqdm.contrib.logging import logging_redirect_tqdm

        self._stack.enter_context(logging_redirect_tqdm([logging.getLogger()]))
        hidden = True if self._as_json else None
        return tqdm(total=self._total, initial=self._done, unit="job", bar_format=_BAR_FORMAT, disable=hidden)

    def _result(self, result: JobResult) -> None:
        self._fractions.pop(result.job, None)
        self._done += 1
        self._states[result.status] += 1
        self._write("job", **asdict(result))
        self._update(now=True)
        if not self._as_json:
            log.info("%d/%d %s", self._done, self._total, _summary(result))

    def _update(self, now: bool = False) -> None:
        done = self._done + sum(self._fractions.values())
        self._bar.update(done - self._bar.n)
        if self._as_json and (now or monotonic() - self._last > _PROGRESS_S):
            self._last = monotonic()
            rate = (done - self._counts.done - self._counts.failed) / max(self._last - self._started, 1e-9)
            left = (self._total - done) / rate if rate > 0 else None
            self._write(
                "progress",
                jobs=self._total,
                done=round(done, 3),
                jobs_per_second=round(rate, 5),
                seconds_left=None if left is None else round(left, 1),
            )

    def _write(self, event: str, **values: Any) -> None:
        if self._as_json:
            sys.stdout.write(json.dumps({"event": event, **values}) + "\n")
            sys.stdout.flush()


def _summary(result: JobResult) -> str:
    if result.status != OK:
        return f"failed ({result.reason}): {result.job}: {result.detail}"
    if result.seconds is None:
        return f"ok: {result.job} existed"
    counts = count_text(result.unchanged_spans or ())
    suffix = f" ({counts})" if counts else ""
    state = "suspect" if result.suspect else "ok"
    confidence = (result.check or {}).get("confidence")
    judged = "" if confidence is None else f", confidence {confidence:.3f}"
    return f"{state}: {result.job}, {result.frames} frames in {result.seconds:.1f} s{suffix}{judged}"
