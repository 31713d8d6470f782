"""What runs in an actor of a Ray cluster: the work of one worker, told message by message.

What goes between it and `cluster.py` is bytes. Ray would open anything else on its way, in processes that
know nothing of this package, and would give arrays that cannot be written to.
"""

from __future__ import annotations

import logging
from typing import Any, NamedTuple

from wav2lip_npu.errors import Wav2LipError

log = logging.getLogger(__name__)


class Answer(NamedTuple):
    """What an actor says: `ready`, `message`, `done`, `bug` or `stop`, and about what."""

    is_second: bool
    """Whether Ray started the actor again."""
    kind: str
    value: Any
    warnings: list[tuple[str, int, str]]
    """Name of the logger, level and text."""


def actor_class() -> type:
    """What Ray runs. Defined in here it is sent whole, and can make this package findable before use."""

    class Wav2LipWorker:
        def __init__(self, path: list[str], folder: str, threads: str | None, luggage: bytes) -> None:
            import contextlib
            import os
            import sys

            sys.path.extend(each for each in path if each not in sys.path)
            with contextlib.suppress(OSError):
                os.chdir(folder)
            # Ray sets it by the cores that it gave. Results are to be those of a process of the driver.
            os.environ.pop("OMP_NUM_THREADS", None)
            if threads is not None:
                os.environ["OMP_NUM_THREADS"] = threads
            import ray

            from wav2lip_npu.parallel.ray_actor import Teller

            is_second = ray.get_runtime_context().was_current_actor_reconstructed
            self._teller = Teller(luggage, is_second=bool(is_second))

        def ready(self) -> bytes:
            return self._teller.ready()

        def tell(self, call: bytes) -> bytes:
            return self._teller.tell(call)

    return Wav2LipWorker


class Teller(logging.Handler):
    """Goes on with an item by one message a call; warnings go with the next answer.

    `luggage` is what makes the work, and for which device. Errors of that other than `Wav2LipError` are
    raised by `ready`; those of the work are answered as `bug`.
    """

    def __init__(self, luggage: bytes, *, is_second: bool = False) -> None:
        super().__init__(logging.WARNING)
        logging.getLogger().addHandler(self)
        self._luggage = luggage
        self._is_second = is_second
        self._work: Any = None
        self._item_number = self._call_number = -1
        self._warnings: list[tuple[str, int, str]] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keep a warning for the next answer."""
        self._warnings.append((record.name, record.levelno, self.format(record)))

    def ready(self) -> bytes:
        """Load what the work needs."""
        try:
            self._load()
        except Wav2LipError as error:
            return self._packed("stop", error)
        return self._packed("ready", None)

    def tell(self, call: bytes) -> bytes:
        """The next message of an item; `call` is its number, that of the item, and the item."""
        from ray import cloudpickle

        number, item_number, item = cloudpickle.loads(call)
        if number != self._call_number:  # else Ray repeats it, as an answer was lost on the way
            self._answer = self._packed(*self._next(item_number, item))
            self._call_number = number
        return self._answer

    def _next(self, number: int, item: Any) -> tuple[str, Any]:
        try:
            if number != self._item_number:
                self._load()  # Ray may have started this actor again
                self._messages = iter(self._work(item))
                self._item_number = number
            for message in self._messages:
                return "message", message
        except Wav2LipError as error:
            return "stop", error
        except Exception as error:
            log.warning("an unexpected error", exc_info=error)
            return "bug", f"{type(error).__name__}: {error}"
        return "done", None

    def _load(self) -> None:
        from ray import cloudpickle

        if self._work is None:
            prepare, device = cloudpickle.loads(self._luggage)
            self._work = prepare(device)

    def _packed(self, kind: str, value: Any) -> bytes:
        from ray import cloudpickle

        pickle: Any = cloudpickle
        warnings, self._warnings = self._warnings, []
        packed: bytes = pickle.dumps(Answer(self._is_second, kind, value, warnings))
        return packed
