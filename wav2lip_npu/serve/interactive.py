"""Answers for a client that is waiting: faces at a time, one dubbed frame, the envelope of audio.

They come from processes of their own, which start with the first question and end after some idle minutes.
So the HTTP process loads no networks, and a damaged file cannot end it.
"""

from __future__ import annotations

import contextlib
import functools
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from multiprocessing.connection import wait
from time import monotonic
from typing import TYPE_CHECKING, Any

from wav2lip_npu.dubbing.dialogue import Dialogue
from wav2lip_npu.errors import DeviceError, MediaError, Wav2LipError
from wav2lip_npu.parallel.processes import WorkerProcess
from wav2lip_npu.serve.engine_options import EngineOptions

if TYPE_CHECKING:
    from wav2lip_npu.serve.looks import Looks

PROCESSES = 2
"""Questions that are answered at once, each by a process."""
SECONDS = {"faces": 60.0, "preview": 120.0, "envelope": 120.0}
"""Time of each kind of answer, after which it is given up."""
_IDLE_S = 300.0
"""Seconds after the last answer until a process ends."""
_ABANDON_S = 5.0
"""Age at which a question of a client that has left is given up: its process takes as long to start again."""
_PATIENCE_S = 3.0
"""Time that a question waits for a process that runs before it starts another, which takes as long."""
_POLL_S = 0.5


@dataclass(frozen=True)
class _Question:
    name: str
    """Method of `Looks`."""
    values: Mapping[str, Any]


def always() -> bool:
    """Return that an answer is wanted."""
    return True


class Interactive:
    """The processes that answer. Any thread may call its methods, which wait for their answers.

    They raise `Wav2LipError`, and `DeviceError` if an answer takes too long, or if `wanted` returns False.

    Args:
        options: Options of the service; the first of `devices` is used.
        seconds: Time of each kind of answer, see `SECONDS`.

    """

    def __init__(self, options: EngineOptions, seconds: Mapping[str, float] = SECONDS) -> None:
        closed = threading.Event()
        self._closed = closed
        names = [f"interactive-{number}" for number in range(PROCESSES)]
        self._processes = [_Process(name, options, seconds, closed) for name in names]
        self._taken: set[_Process] = set()
        """Processes with a question."""
        self._given_back = threading.Condition()

    def faces(self, path: str, time: float, *, wanted: Callable[[], bool] = always) -> dict[str, Any]:
        """Return the faces at a time in seconds, in the form of `POST /v1/faces`."""
        answer: dict[str, Any] = self._ask(wanted, "faces", path=path, seconds=time)
        return answer

    def preview(
        self,
        face: str,
        audio: str | Dialogue,
        model: str,
        options: Mapping[str, Any],
        time: float,
        *,
        wanted: Callable[[], bool] = always,
    ) -> tuple[bytes, float]:
        """Return the dubbed frame at a time in seconds as JPEG, and its exact time."""
        values = {"face": face, "audio": audio, "model": model, "options": dict(options)}
        answer: tuple[bytes, float] = self._ask(wanted, "preview", **values, seconds=time)
        return answer

    def envelope(self, path: str, points: int, *, wanted: Callable[[], bool] = always) -> dict[str, Any]:
        """Return the envelope of audio: `GET /v1/files/{id}/envelope`."""
        answer: dict[str, Any] = self._ask(wanted, "envelope", path=path, points=points)
        return answer

    def start(self) -> None:
        """Start a process unless there is one, for questions that are to come. Does not wait for it."""
        if not self._taken:
            with self._a_process() as process:
                process.start()

    def close(self) -> None:
        """End the processes. Questions that wait for them fail."""
        self._closed.set()
        for process in self._processes:
            process.end()

    def _ask(self, wanted: Callable[[], bool], name: str, **values: Any) -> Any:
        with self._a_process() as process:
            answer = process.answer(_Question(name, values), wanted)
        if isinstance(answer, Wav2LipError):
            raise answer
        return answer

    @contextlib.contextmanager
    def _a_process(self) -> Iterator[_Process]:
        """Yield a process without a question. Another one starts only if those that run stay busy."""
        begin = monotonic()
        with self._given_back:
            while True:
                free = [process for process in self._processes if process not in self._taken]
                running = [process for process in free if process.is_running]
                if running or len(free) == len(self._processes):
                    break
                if free and monotonic() - begin > _PATIENCE_S:
                    break
                self._given_back.wait(_POLL_S)
            process = (running or free)[0]
            self._taken.add(process)
        try:
            yield process
        finally:
            with self._given_back:
                self._taken.remove(process)
                self._given_back.notify_all()


class _Process:
    """One process that answers, started when it is needed."""

    def __init__(
        self, name: str, options: EngineOptions, seconds: Mapping[str, float], closed: threading.Event
    ) -> None:
        self._name, self._options, self._seconds, self._closed = name, options, seconds, closed
        self._lock = threading.Lock()
        self._worker: WorkerProcess | None = None
        self._idle: threading.Timer | None = None

    @property
    def is_running(self) -> bool:
        """Whether the process has been started."""
        return self._worker is not None

    def start(self) -> None:
        """Start the process, or keep it for further minutes."""
        with self._lock:
            self._start()
            self._end_later()

    def answer(self, question: _Question, wanted: Callable[[], bool]) -> Any:
        """Send a question and wait for its answer: a result, or the error to raise."""
        with self._lock:
            try:
                answer = self._answer(self._start(), question, wanted)
            except BaseException:
                self._end()
                raise
            self._end_later()
            return answer

    def end(self) -> None:
        """End the process; it starts again with the next question."""
        with self._lock:
            self._end()

    def _start(self) -> WorkerProcess:
        if self._idle is not None:
            self._idle.cancel()
        worker = self._worker
        if worker is not None and worker.is_free and wait([worker.pipe], 0):
            worker = None  # it died while it was idle
        if worker is None:
            start = functools.partial(_start, self._options)
            worker = WorkerProcess(self._name, start, lambda question: self._seconds[question.name])
        self._worker = worker
        return worker

    def _answer(self, worker: WorkerProcess, question: _Question, wanted: Callable[[], bool]) -> Any:
        begin, is_sent, result = monotonic(), False, None
        while True:
            if self._closed.is_set():
                raise DeviceError("no answer: the service is ending. Ask again later.")
            if not wanted() and monotonic() - begin > _ABANDON_S:
                raise DeviceError("no answer: the client has left.")
            if worker.is_free and not is_sent:
                worker.send(question)
                is_sent = True
            if not wait([worker.pipe], _POLL_S) and worker.seconds_left > 0:
                continue
            kind, value = worker.receive()
            if kind == "result":
                result = value
            elif kind == "done":
                return result
            elif kind == "stop":
                raise value
            elif kind == "timeout":
                raise DeviceError(f"no answer: {value}. Try again, or with a shorter or smaller file.")
            elif kind != "ready":
                raise MediaError(f"no answer: {value}. Check the files in a player.")

    def _end_later(self) -> None:
        self._idle = threading.Timer(_IDLE_S, self.end)
        self._idle.daemon = True
        self._idle.start()

    def _end(self) -> None:
        if self._idle is not None:
            self._idle.cancel()
        if self._worker is not None:
            self._worker.kill()
        self._worker = self._idle = None


def _start(options: EngineOptions, name: str) -> Callable[[_Question], Iterator[Any]]:
    """Start the process (a `work_queue.StartWorker`) with what every client asks for: the faces."""
    from wav2lip_npu.serve.looks import Looks

    looks = Looks(options, name)
    looks.prepare()
    return lambda question: iter([_result(looks, question)])


def _result(looks: Looks, question: _Question) -> Any:
    """Return the answer, or the error that the client gets, without the paths of the server."""
    try:
        return getattr(looks, question.name)(**question.values)
    except Wav2LipError as error:
        text = str(error)
        for path, name in _names(question.values).items():
            text = text.replace(path, name)
        return type(error)(text)


def _names(values: Mapping[str, Any]) -> dict[str, str]:
    """Return what stands for the paths of a question in messages."""
    names = {values["path"]: "the file"} if "path" in values else {}
    if "face" in values:
        audio = values["audio"]
        names[values["face"]] = "the face file"
        files = [audio] if isinstance(audio, str) else audio.audio_files
        names |= dict.fromkeys(files, "the audio file")
        if not isinstance(audio, str):
            photos = (rule.photo for rule in audio.faces.values())
            names |= {photo: "the photo" for photo in photos if photo is not None}
    return names
