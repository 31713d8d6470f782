"""Memory of the service over many jobs."""

from __future__ import annotations

from pathlib import Path

import pytest

from support.batch_jobs import wait_for
from support.serve_jobs import queue_job
from support.serve_processes import Server
from wav2lip_npu.serve import state
from wav2lip_npu.serve.store import Store


def _memory(pid: int) -> int:
    """Return the private memory of a process in bytes."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    values = dict(line.split()[:2] for line in lines[1:])
    return 1024 * (int(values["Private_Dirty:"]) + int(values["Private_Clean:"]))


@pytest.mark.slow
def test_memory_is_flat_over_a_thousand_jobs(tmp_path: Path) -> None:
    store = Store(tmp_path / "data")
    for number in range(1000):
        queue_job(store, f"ok {number}", face=f"face {number % 50}")
    server = Server(store.folder, scripted=True)
    try:
        memory = []
        for count in (200, 1000):
            wait_for(lambda count=count: state.counts(store)["completed"] >= count)
            memory.append({what: _memory(server.pid(what)) for what in ("http", "engine", "worker")})
    finally:
        server.close()
    print(memory)
    assert state.counts(store)["completed"] == 1000
    for what, early in memory[0].items():
        assert memory[1][what] < early + (4 << 20), what
