"""Runs `run_on_ray` on a Ray of two cores and prints what happened, one JSON object per scenario.

A script, so that the process in which Ray runs is not that of pytest, which Ray may end. The last line is the
address of the Ray; it ends when the standard input is closed.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import signal
import sys
import time
from collections.abc import Callable, Generator, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from wav2lip_npu.errors import DataError, Wav2LipError
from wav2lip_npu.parallel.ray_pool import run_on_ray
from wav2lip_npu.parallel.work_queue import Failure, WorkQueue

Result = tuple[str, "str | Failure | None"]


def start_worker(folder: str, device: str) -> Callable[[str], Iterator[str]]:
    """Start a worker that behaves as the name of an item says; runs in an actor."""
    if (Path(folder) / "no start").exists():
        raise DataError("the weights are damaged")

    def work(item: str) -> Iterator[str]:
        yield "started"
        tried = Path(folder) / f"{item}.tried"
        if item.startswith("die") or (item.startswith("once") and not tried.exists()):
            tried.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        if item.startswith("bug"):
            raise ZeroDivisionError("division by zero")
        if item.startswith("stop"):
            raise DataError("the disk is full")
        if item.startswith("warn"):
            logging.getLogger("wav2lip_npu.somewhere").warning("a warning of %s", item)
        if item.startswith(("sleep", "nap")):
            (Path(folder) / f"{os.getpid()}.pid").touch()
            time.sleep(60 if item.startswith("sleep") else 0.2)
        if item.startswith("where"):
            yield f"{device} {os.getcwd()} {os.environ.get('OMP_NUM_THREADS')}"
        yield "ended"

    return work


def run(
    source: WorkQueue[str], folder: Path, address: str, devices: int = 2, timeout: float | None = None
) -> Generator[Result, None, None]:
    """Run the items of a source with CPU workers."""
    return run_on_ray(
        source,
        partial(start_worker, str(folder)),
        address=address,
        devices=["cpu"] * devices,
        timeout=lambda item: timeout if item.startswith("sleep") else None,
    )


def is_gone(folder: Path) -> bool:
    """Return whether all workers that slept in a folder end; Ray reports a death slightly earlier."""
    deadline = time.monotonic() + 30
    while any(os.path.exists(f"/proc/{path.stem}") for path in folder.glob("*.pid")):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def mixed(folder: Path, address: str) -> Any:
    """Run good items and items that kill their worker or raise; items that kill it are retried once."""
    source = WorkQueue(["die", "once", "good0", "good1", "good2", "good3", "bug", "warn", "where"])
    retried, ends, texts = set(), [], []
    for item, result in run(source, folder, address):
        if isinstance(result, str):
            texts.append((item, result))
        elif result is not None and result.kind == "died" and item not in retried:
            retried.add(item)
            source.put([item])
        else:
            ends.append((item, result and (result.kind, result.detail)))
    return {"ends": sorted(ends), "texts": texts, "retried": sorted(retried)}


def timeout(folder: Path, address: str) -> Any:
    """Let the first of two items time out."""
    ends = []
    for item, result in run(WorkQueue(["sleep", "good"]), folder, address, devices=1, timeout=1.0):
        if not isinstance(result, str):
            ends.append((item, result and (result.kind, result.detail), is_gone(folder)))
    return ends


def stop(folder: Path, address: str) -> Any:
    """Raise a `Wav2LipError` in the work and one at the start."""
    errors = []
    for items in (["sleep", "stop"], ["good"]):
        try:
            list(run(WorkQueue(items), folder, address))
        except Wav2LipError as error:
            errors.append((type(error).__name__, str(error), is_gone(folder)))
        (folder / "no start").touch()
    return errors


def close(folder: Path, address: str) -> Any:
    """End the consumer while an item is in progress; Ray continues to run."""
    results = run(WorkQueue(["sleep", "nap"]), folder, address)
    first = next(results)[0]
    results.close()
    return first, len(list(folder.glob("*.pid"))), is_gone(folder)


def killed(folder: Path, address: str) -> Any:
    """Kill actors from outside while they work; their items are put back."""
    source, ends = WorkQueue([f"nap{number}" for number in range(12)]), []
    for item, result in run(source, folder, address):
        if isinstance(result, Failure):
            source.put([item])
        elif result is None:
            ends.append(item)
            if len(ends) in (2, 5):
                newest = max(folder.glob("*.pid"), key=os.path.getmtime)
                with contextlib.suppress(ProcessLookupError):
                    os.kill(int(newest.stem), signal.SIGKILL)
    return sorted(ends)


def main() -> None:
    """Run the scenarios on the command line."""
    import ray

    root, names = Path(sys.argv[1]), sys.argv[2:]
    ray._private.worker._worker_logs_enabled = False  # its messages would be among the lines printed here
    ray.init(
        "local",
        num_cpus=2,
        include_dashboard=False,
        object_store_memory=100 << 20,
        logging_level=logging.CRITICAL,
        log_to_driver=False,
    )
    logging.basicConfig(format="%(message)s", stream=sys.stderr)
    for name in names:
        folder = root / name
        folder.mkdir()
        print(json.dumps({"scenario": name, "outcome": globals()[name](folder, "nowhere")}), flush=True)
    assert ray.is_initialized()
    print(ray.get_runtime_context().gcs_address, flush=True)
    sys.stdin.read()


def run_until_signal() -> None:
    """Run two endless items: `python -c 'import support.ray_scenarios ...' FOLDER ADDRESS`."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    signal.signal(signal.SIGINT, signal.default_int_handler)
    list(run(WorkQueue(["sleep1", "sleep2"]), Path(sys.argv[1]), sys.argv[2]))


if __name__ == "__main__":
    main()
