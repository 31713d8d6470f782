"""Answers for a client that is waiting: faces at a time, one dubbed frame, the envelope of audio.

They come from a process of their own, which starts with the first request and ends after some idle minutes.
So the HTTP process loads no networks, and a damaged file cannot end it.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from multiprocessing.connection import wait
from typing import TYPE_CHECKING, Any

from wav2lip_npu.errors import DeviceError, MediaError, Wav2LipError
from wav2lip_npu.parallel.processes import WorkerProcess
from wav2lip_npu.serve.engine_options import EngineOptions

if TYPE_CHECKING:
    from wav2lip_npu.serve.looks import Looks

_IDLE_S = 300.0
"""Seconds after the last answer until the process ends."""
_POLL_S = 0.5


@dataclass(frozen=True)
class _Request:
    name: str
    """Method of `Looks`."""
    values: Mapping[str, Any]


class Interactive:
    """The process that answers. Any thread may call its methods, which wait for their answers.

    Args:
        options: Options of the service; the first of `devices` is used.
        timeout: Seconds after which an answer is given up.

    """

    def __init__(self, options: EngineOptions, timeout: float = 120.0) -> None:
        self._options, self._timeout = options, timeout
        self._lock = threading.Lock()
        self._closed = threading.Event()
        self._process: WorkerProcess | None = None
        self._idle: threading.Timer | None = None

    def faces(self, path: str, time: float) -> dict[str, Any]:
        """Return the faces at a time in seconds, in the form of `POST /v1/faces`. Raises `Wav2LipError`."""
        answer: dict[str, Any] = self._ask("faces", path=path, seconds=time)
        return answer

    def preview(
        self, face: str, audio: str, model: str, options: Mapping[str, Any], time: float
    ) -> tuple[bytes, float]:
        """Return the dubbed frame at a time in seconds as JPEG, and its exact time. Raises `Wav2LipError`."""
        values = {"face": face, "audio": audio, "model": model, "options": dict(options)}
        answer: tuple[bytes, float] = self._ask("preview", **values, seconds=time)
        return answer

    def envelope(self, path: str, points: int) -> dict[str, Any]:
        """Return the envelope of audio: `GET /v1/files/{id}/envelope`. Raises `Wav2LipError`."""
        answer: dict[str, Any] = self._ask("envelope", path=path, points=points)
        return answer

    def close(self) -> None:
        """End the process. Requests that wait for it fail."""
        self._closed.set()
        with self._lock:
            self._end()

    def _end_idle(self) -> None:
        with self._lock:
            self._end()

    def _ask(self, name: str, **values: Any) -> Any:
        with self._lock:
            if self._idle is not None:
                self._idle.cancel()
            try:
                answer = self._answer(_Request(name, values))
            except BaseException:
                self._end()
                raise
            self._idle = threading.Timer(_IDLE_S, self._end_idle)
            self._idle.daemon = True
            self._idle.start()
        if isinstance(answer, Wav2LipError):
            raise answer
        return answer

    def _answer(self, request: _Request) -> Any:
        """Send a request and wait for its answer: a result, or the error to raise."""
        if self._process is not None and wait([self._process.pipe], 0):
            self._process = None  # it died while it was idle
        if self._process is None:
            start = functools.partial(_start, self._options)
            self._process = WorkerProcess("interactive", start, lambda request: self._timeout)
        process, is_sent, result = self._process, False, None
        while True:
            if self._closed.is_set():
                raise DeviceError("no answer: the service is ending. Ask again later.")
            if process.is_free and not is_sent:
                process.send(request)
                is_sent = True
            if not wait([process.pipe], _POLL_S) and process.seconds_left > 0:
                continue
            kind, value = process.receive()
            if kind == "result":
                result = value
            elif kind == "done":
                return result
            elif kind == "stop":
                raise value
            elif kind != "ready":
                raise MediaError(f"no answer: {value}. Check the files in a player.")

    def _end(self) -> None:
        if self._idle is not None:
            self._idle.cancel()
        if self._process is not None:
            self._process.kill()
        self._process = self._idle = None


def _start(options: EngineOptions, name: str) -> Callable[[_Request], Iterator[Any]]:
    """Start the process (a `work_queue.StartWorker`), which loads networks when they are first needed."""
    from wav2lip_npu.serve.looks import Looks

    looks = Looks(options)
    return lambda request: iter([_result(looks, request)])


def _result(looks: Looks, request: _Request) -> Any:
    """Return the answer, or the error that the client gets, without the paths of the server."""
    try:
        return getattr(looks, request.name)(**request.values)
    except Wav2LipError as error:
        text = str(error)
        for name in ("face", "audio", "path"):
            if name in request.values:
                text = text.replace(
                    request.values[name], "the file" if name == "path" else f"the {name} file"
                )
        return type(error)(text)
