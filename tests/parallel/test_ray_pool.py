"""The same items in actors of a local Ray with two workers.

Ray runs in a process of its own: see `support/ray_scenarios.py`.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest

from wav2lip_npu.errors import DeviceError, UsageError
from wav2lip_npu.parallel.ray_cluster import worker_slots
from wav2lip_npu.parallel.ray_pool import run_on_ray
from wav2lip_npu.parallel.work_queue import WorkQueue

ROOT = Path(__file__).resolve().parents[2]
SCENARIOS = ("mixed", "timeout", "stop", "close", "killed")
ENVIRONMENT = {
    **os.environ,
    "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}",
    "RAY_AUTH_MODE": "token",  # a local Ray then asks for the token of its user
    "OMP_NUM_THREADS": "7",
}
needs_ray = pytest.mark.skipif(
    importlib.util.find_spec("ray") is None, reason="Ray is not installed: pip install 'wav2lip-npu[ray]'"
)

pytestmark = pytest.mark.slow  # tests/cli/test_batch.py runs a batch on Ray in the fast suite


class RayRun(NamedTuple):
    """Reports of the process with Ray."""

    address: str
    outcomes: dict[str, Any]
    errors: Path
    folder: Path


@pytest.fixture(scope="module")
def ray_run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RayRun]:
    """A Ray with two cores that has run all scenarios; it accepts other drivers until the module ends."""
    folder = tmp_path_factory.mktemp("ray")
    errors = folder / "stderr"
    words = [sys.executable, "-m", "support.ray_scenarios", str(folder), *SCENARIOS]
    with (
        errors.open("w") as stderr,
        subprocess.Popen(
            words, stdin=-1, stdout=-1, stderr=stderr, cwd=folder, text=True, env=ENVIRONMENT
        ) as owner,
    ):
        assert owner.stdin and owner.stdout
        outcomes = {}
        for _ in SCENARIOS:
            line = owner.stdout.readline()
            assert line, errors.read_text()
            outcome = json.loads(line)
            outcomes[outcome["scenario"]] = outcome["outcome"]
        yield RayRun(owner.stdout.readline().strip(), outcomes, errors, folder)
        owner.stdin.close()


def is_gone(folder: Path) -> bool:
    return not any(os.path.exists(f"/proc/{path.stem}") for path in folder.glob("*.pid"))


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def command_lines() -> Iterator[str]:
    """Return the command lines of all processes."""
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            yield path.read_text()


def exit_code_after(number: int, folder: Path, address: str, **environment: str) -> int:
    """Return the exit code of a driver that receives a signal while its two workers work."""
    words = [sys.executable, "-c", "from support.ray_scenarios import run_until_signal as r; r()"]
    with subprocess.Popen(
        [*words, str(folder), address],
        stderr=-3,
        env={**ENVIRONMENT, **environment},
        start_new_session=True,
    ) as driver:
        wait_for(lambda: len(list(folder.glob("*.pid"))) == 2 or driver.poll() is not None)
        if number == signal.SIGINT:
            os.killpg(driver.pid, number)  # like a terminal
        else:
            driver.send_signal(number)
        return driver.wait(60)


@needs_ray
def test_items_that_kill_their_worker_do_not_affect_others(ray_run):
    outcome = ray_run.outcomes["mixed"]
    ends = dict(outcome["ends"])
    assert ends.pop("bug") == ["bug", "ZeroDivisionError: division by zero"]
    assert ends.pop("die")[0] == "died"
    assert ends == dict.fromkeys(("good0", "good1", "good2", "good3", "once", "warn", "where"))
    assert outcome["retried"] == ["die", "once"]
    assert [text for item, text in outcome["texts"] if item == "good0"] == ["started", "ended"]


@needs_ray
def test_log_records_of_actors_reach_the_driver(ray_run):
    errors = ray_run.errors.read_text()
    assert "a warning of warn" in errors
    assert "in work" in errors  # the traceback of the bug


@needs_ray
def test_actors_have_the_folder_and_threads_of_the_driver(ray_run):
    (where,) = (text for _, text in ray_run.outcomes["mixed"]["texts"] if text.startswith("cpu"))
    assert where == f"cpu {ray_run.folder} 7"


@needs_ray
def test_item_that_times_out_is_stopped_and_its_worker_replaced(ray_run):
    assert ray_run.outcomes["timeout"] == [
        ["sleep", ["timeout", "it took longer than 1 s"], True],
        ["good", None, True],
    ]


@needs_ray
def test_wav2lip_errors_end_all_workers(ray_run):
    assert ray_run.outcomes["stop"] == [
        ["DataError", "the disk is full", True],
        ["DataError", "the weights are damaged", True],
    ]


@needs_ray
def test_closing_the_results_ends_the_actors(ray_run):
    assert ray_run.outcomes["close"] == ["nap", 2, True]


@needs_ray
def test_actors_killed_from_outside_lose_no_item(ray_run):
    assert ray_run.outcomes["killed"] == sorted(f"nap{number}" for number in range(12))


@needs_ray
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_actors_end_with_the_driver(tmp_path, ray_run, number):
    assert exit_code_after(number, tmp_path, ray_run.address) in (-number, 1)
    wait_for(lambda: is_gone(tmp_path))


@needs_ray
def test_local_ray_is_started_and_ended(tmp_path):
    with tempfile.TemporaryDirectory(dir="/tmp", ignore_cleanup_errors=True) as folder:  # short, for sockets
        code = exit_code_after(signal.SIGINT, tmp_path, "auto", RAY_TMPDIR=folder, RAY_ADDRESS="auto")
        assert code in (1, -signal.SIGINT)
        session = Path(folder, "ray", "session_latest").resolve().name
        assert session.startswith("session_2")
        wait_for(lambda: is_gone(tmp_path) and not any(session in line for line in command_lines()))


@needs_ray
@pytest.mark.parametrize(
    ("resources", "devices", "expected"),
    [
        ({"NPU": 2.0, "GPU": 1.0}, None, [("npu:0", "npu:0", {"NPU": 1}), ("npu:1", "npu:0", {"NPU": 1})]),
        ({"GPU": 1.0}, None, [("cuda:0", "cuda:0", 1)]),
        ({"NPU": 8.0}, ["npu:5", "auto"], [("npu:0", "npu:0", {"NPU": 1}), ("npu:1", "npu:0", {"NPU": 1})]),
        ({}, None, [("cpu:0", "cpu", 8), ("cpu:1", "cpu", 3)]),
        ({}, ["cpu"] * 3, [("cpu:0", "cpu", 4), ("cpu:1", "cpu", 3), ("cpu:2", "cpu", 4)]),
        ({}, ["cpu"] * 16, [(f"cpu:{n}", "cpu", 0.375 if n % 2 else 1) for n in range(16)]),
    ],
)
def test_resources_of_workers(resources, devices, expected):
    slots = worker_slots(cluster(resources), devices)
    demands = [
        slot.demands.get("resources") or slot.demands.get("num_gpus") or slot.demands["num_cpus"]
        for slot in slots
    ]
    assert [(*slot[:2], demand) for slot, demand in zip(slots, demands, strict=True)] == expected


def cluster(resources: dict[str, float]) -> SimpleNamespace:
    """Return a fake `ray` module, connected to two nodes with CPUs."""
    nodes = [
        {"Alive": True, "NodeID": "a" * 56, "Resources": {"CPU": 8.0}},
        {"Alive": True, "NodeID": "b" * 56, "Resources": {"CPU": 3.0}},
        {"Alive": False, "NodeID": "c" * 56, "Resources": {"CPU": 64.0}},
        {"Alive": True, "NodeID": "d" * 56, "Resources": {}},
    ]
    return SimpleNamespace(cluster_resources=lambda: {"CPU": 11.0} | resources, nodes=lambda: nodes)


@pytest.mark.parametrize(("device", "parts"), [("npu:1", ("no npu", "cpu")), ("tpu", ("'tpu'", "auto"))])
def test_device_that_the_cluster_lacks(device, parts):
    with pytest.raises(DeviceError) as caught:
        worker_slots(cluster({}), [device])
    assert all(part in str(caught.value) for part in parts)


@needs_ray
def test_cluster_that_does_not_answer():
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        port = silent.getsockname()[1]
    for address in (f"127.0.0.1:{port}", f"ray://127.0.0.1:{port}", "nonsense"):
        with pytest.raises(DeviceError, match=f"'{address}'.*--cluster"):
            next(run_on_ray(WorkQueue(["good"]), print, address=address, devices=["cpu"]))


def test_ray_is_not_installed(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UsageError, match="--cluster.*pip install 'wav2lip-npu\\[ray\\]'"):
        next(run_on_ray(WorkQueue(["good"]), print, address="auto", devices=None))
