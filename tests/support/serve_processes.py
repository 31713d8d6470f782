"""The processes of the service, to be killed."""

from __future__ import annotations

import multiprocessing
import os
import signal
from pathlib import Path

from support.scripted_worker import serve_until_killed


class Server:
    """A stand-in for the HTTP process, with its engine and worker, of which one after the other is killed."""

    def __init__(self, folder: Path, *, scripted: bool) -> None:
        self._folder, self._scripted = folder, scripted
        self._start()

    def _start(self) -> None:
        context = multiprocessing.get_context("spawn")
        self._process = context.Process(target=serve_until_killed, args=(str(self._folder), self._scripted))
        self._process.start()

    def kill(self, what: str) -> bool:
        """Kill `http`, `engine` or `worker`; return False if there is none at this moment."""
        try:
            os.kill(self.pid(what), signal.SIGKILL)
        except (OSError, ValueError, StopIteration):
            return False
        if what == "http":
            self._process.join()
            self._start()
        return True

    def pid(self, what: str) -> int:
        """Return the process ID of `http`, `engine` or `worker`. Raises if there is none."""
        if what == "http":
            return self._process.pid or 0
        engine = int((self._folder / "engine.pid").read_text())
        if what == "engine":
            return engine
        children = (path.read_text().split() for path in Path(f"/proc/{engine}/task").glob("*/children"))
        commands = {pid: Path(f"/proc/{pid}/cmdline").read_bytes() for some in children for pid in some}
        return next(int(pid) for pid, command in commands.items() if b"spawn_main" in command)

    def close(self) -> None:
        """End all processes."""
        self._process.kill()
        self._process.join()
