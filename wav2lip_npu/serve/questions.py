"""Questions of waiting clients: a bounded number at once, and none for a client that has left."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import threading
from collections.abc import Callable
from typing import Any, TypeVar

from anyio import CancelScope, CapacityLimiter, to_thread
from fastapi import Request

from wav2lip_npu.serve.interactive import PROCESSES, Interactive
from wav2lip_npu.serve.problems import Problem

Answer = TypeVar("Answer")
_MAX_WAITING = 100


class Questions:
    """Asks an `Interactive`. Questions that wait for their turn need no thread.

    Previews, which may take minutes, leave one process to the other questions, which take seconds.
    """

    def __init__(self, interactive: Interactive) -> None:
        self.interactive = interactive
        self._all = CapacityLimiter(PROCESSES)
        self._previews = CapacityLimiter(PROCESSES - 1)

    async def ask(self, request: Request, question: Callable[..., Answer], *values: Any) -> Answer:
        """Return the answer to a question, a method of `interactive` with its values.

        Raises `Wav2LipError`, and `Problem` if too many questions wait or the client has left.
        """
        previews = self._previews if question == self.interactive.preview else contextlib.nullcontext()
        if self._all.statistics().tasks_waiting + self._previews.statistics().tasks_waiting > _MAX_WAITING:
            raise Problem(
                429, "too many questions are waiting. Try again later.", headers={"Retry-After": "10"}
            )
        left = threading.Event()
        asked = functools.partial(question, *values, wanted=lambda: not left.is_set())
        with CancelScope() as scope:
            watching = asyncio.create_task(_watch(request, left, scope))
            try:
                async with previews:
                    return await to_thread.run_sync(asked, limiter=self._all)
            finally:
                watching.cancel()
        raise Problem(400, "the client closed the connection before the answer.")


async def _watch(request: Request, left: threading.Event, scope: CancelScope) -> None:
    """Note that a client closes its connection, and end its wait."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
    left.set()
    scope.cancel()
