"""Counters of the HTTP process and of the queue, in Prometheus' text format."""

from __future__ import annotations

import resource
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from time import monotonic, time
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from wav2lip_npu import __version__
from wav2lip_npu.serve import state
from wav2lip_npu.serve.store import Store

_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0)
"""Upper bounds of the durations that are counted, in seconds."""

_METHODS = {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"}


class Metrics:
    """Numbers of the HTTP process. All of them change in the event loop."""

    def __init__(self) -> None:
        self.requests: Counter[tuple[str, str, int]] = Counter()
        """Requests by method, route and status."""
        self.durations: Counter[float] = Counter()
        """Requests by the smallest bound above their duration."""
        self.seconds = 0.0
        self.upload_bytes = 0
        self.started = time()

    def count(self, method: str, route: str, status: int, seconds: float) -> None:
        """Count a request. Streams of events are not among the durations."""
        method = method if method in _METHODS else "other"  # a client may send any word
        self.requests[method, route, status] += 1
        if not route.endswith(("/events", "/content")):
            self.durations[next((bound for bound in _BUCKETS if seconds <= bound), float("inf"))] += 1
            self.seconds += seconds

    def text(self, store: Store, streams: int, live: LiveCounts) -> str:
        """Return all metrics. Reads the store."""
        return "".join((*self._lines(store, streams), *_live_lines(live)))

    def _lines(self, store: Store, streams: int) -> Iterator[str]:
        yield from _metric("info", "gauge", "Version.", {f'version="{__version__}"': 1})
        yield from _metric("start_time_seconds", "gauge", "Start, since 1970.", {"": self.started})
        requests = {
            f'method="{method}",route="{route}",status="{status}"': count
            for (method, route, status), count in sorted(self.requests.items())
        }
        yield from _metric("http_requests_total", "counter", "Requests.", requests)
        name, total, buckets = "http_request_duration_seconds", 0, {}
        for bound in (*_BUCKETS, float("inf")):
            total += self.durations[bound]
            buckets[f'le="{"+Inf" if bound == float("inf") else f"{bound:g}"}"'] = total
        yield from _metric(name, "histogram", "Duration of requests.", buckets, "_bucket")
        yield f"wav2lip_{name}_sum {self.seconds:.6f}\nwav2lip_{name}_count {total}\n"
        yield from _metric("upload_bytes_total", "counter", "Bytes of uploads.", {"": self.upload_bytes})
        yield from _metric("event_streams", "gauge", "Open streams of events.", {"": streams})
        counts = {f'status="{status}"': count for status, count in state.counts(store).items()}
        yield from _metric("jobs", "gauge", "Stored jobs.", counts)
        yield from _metric(
            "queue_age_seconds", "gauge", "Longest wait.", {"": state.oldest_queued(store) or 0}
        )
        for total_name, value in sorted(state.totals(store).items()):
            yield from _metric(f"{total_name}_total", "counter", f"{total_name} of all jobs.", {"": value})
        workers = {f'worker="{worker.name}",state="{worker.state}"': 1 for worker in state.workers(store)}
        yield from _metric("workers", "gauge", "Worker processes.", workers)
        free = shutil.disk_usage(store.folder).free
        yield from _metric("disk_free_bytes", "gauge", "Free space of --data.", {"": free})
        yield from _metric("resident_memory_bytes", "gauge", "Memory of this process.", {"": _memory()})


@dataclass(frozen=True)
class LiveCounts:
    """Counts of live streams."""

    open: int
    process: bool
    """Whether the live process runs."""
    ended: Mapping[str, int]
    """Streams that have ended, by status."""
    frames: int
    late: int


def _live_lines(live: LiveCounts) -> Iterator[str]:
    yield from _metric("live_streams", "gauge", "Open live streams.", {"": live.open})
    yield from _metric("live_process", "gauge", "Whether the live process runs.", {"": int(live.process)})
    ended = {f'status="{status}"': count for status, count in sorted(live.ended.items())}
    yield from _metric("live_streams_ended_total", "counter", "Live streams that have ended.", ended)
    yield from _metric("live_frames_total", "counter", "Frames of live streams.", {"": live.frames})
    yield from _metric("live_late_total", "counter", "Live frames that repeat an image.", {"": live.late})


class Measured:
    """ASGI middleware that counts requests."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app, self._metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle a request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        begin, status = monotonic(), 500

        async def note(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, note)
        finally:
            route = getattr(scope.get("route"), "path", "other")
            self._metrics.count(scope["method"], route, status, monotonic() - begin)


def _metric(name: str, kind: str, text: str, values: dict[str, Any], suffix: str = "") -> Iterator[str]:
    yield f"# HELP wav2lip_{name} {text}\n# TYPE wav2lip_{name} {kind}\n"
    for labels, value in values.items():
        number = f"{value:.3f}".rstrip("0").rstrip(".") if isinstance(value, float) else str(value)
        yield f"wav2lip_{name}{suffix}{f'{{{labels}}}' if labels else ''} {number}\n"


def _memory() -> int:
    """Return the resident memory of this process, in bytes."""
    try:
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * resource.getpagesize()
    except (OSError, IndexError, ValueError):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
