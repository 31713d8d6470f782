"""The same work in the actors of a real Ray, of two workers, on this machine."""

from __future__ import annotations

import contextlib
import importlib.util
import itertools
import logging
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest

from wav2lip_npu.errors import DataError, DeviceError, UsageError
from wav2lip_npu.parallel import ray_pool
from wav2lip_npu.parallel.processes import Failure, Pile
from wav2lip_npu.parallel.ray_actor import Teller
from wav2lip_npu.parallel.ray_cluster import places_of
from wav2lip_npu.parallel.ray_pool import work_on_ray

ROOT = Path(__file__).resolve().parents[2]
needs_ray = pytest.mark.skipif(
    importlib.util.find_spec("ray") is None, reason="Ray is not installed: pip install 'wav2lip-npu[ray]'"
)


def prepare(folder: str, device: str) -> Callable[[str], Iterator[str]]:
    """A worker that does what the name of an item says; runs in an actor."""
    if (Path(folder) / "no start").exists():
        raise DataError("the weights are damaged")
    here = Path(folder) / f"{os.getpid()}.pid"

    def work(item: str) -> Iterator[str]:
        yield "begun"
        before = Path(folder) / item
        if item.startswith("die") or (item.startswith("once") and not before.exists()):
            before.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        if item.startswith("bug"):
            raise ZeroDivisionError("division by zero")
        if item.startswith("stop"):
            raise DataError("the disk is full")
        if item.startswith("warn"):
            logging.getLogger("wav2lip_npu.somewhere").warning("a warning of %s", item)
        if item.startswith(("sleep", "nap")):
            here.touch()
            time.sleep(60 if item.startswith("sleep") else 1 if item.startswith("naps") else 0.2)
        if item.startswith("where"):
            yield f"{device} {os.getcwd()} {os.environ.get('OMP_NUM_THREADS')}"
        if item.startswith("torch"):
            import torch

            yield str(torch.get_num_threads())
        yield "ended"

    return work


@pytest.fixture(scope="session")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A Ray of two cores that another program started; it ends when its standard input is closed."""
    code = (
        "import logging, ray, sys\n"
        "ray.init('local', num_cpus=2, include_dashboard=False, object_store_memory=100 << 20,\n"
        "         logging_level=logging.CRITICAL, log_to_driver=False)\n"
        "print(ray.get_runtime_context().gcs_address, flush=True)\n"
        "sys.stdin.read()\n"
    )
    words = [sys.executable, "-c", code]
    os.environ["RAY_AUTH_MODE"] = "token"  # Ray reads it once, and a local one asks for its user's token
    elsewhere = tmp_path_factory.mktemp("ray")
    with subprocess.Popen(words, stdin=-1, stdout=-1, stderr=-3, cwd=elsewhere, text=True) as owner:
        assert owner.stdin and owner.stdout
        yield owner.stdout.readline().strip()
        owner.stdin.close()


def results(
    board: Pile[str],
    folder: Path,
    address: str,
    *,
    devices: Sequence[str] | None = ("cpu", "cpu"),
    timeout: float | None = None,
) -> Generator[tuple[str, str | Failure | None], None, None]:
    work = partial(prepare, str(folder))
    return work_on_ray(board, work, address=address, devices=devices, timeout=lambda item: timeout)


Heard = Iterable[tuple[str, "str | Failure | None"]]


def words(heard: Heard, item: str) -> list[str]:
    """What was said of an item."""
    return [word for other, word in heard if other == item and isinstance(word, str)]


def ends(heard: Heard) -> list[tuple[str, Failure | None]]:
    """How items ended, in order of their names."""
    ended = [(item, end) for item, end in heard if not isinstance(end, str)]
    return sorted(ended, key=lambda pair: pair[0])


def gone(folder: Path) -> bool:
    """Whether all processes that worked there have ended."""
    return not any(os.path.exists(f"/proc/{path.stem}") for path in folder.glob("*.pid"))


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def command_lines() -> Iterator[str]:
    """Of all processes."""
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            yield path.read_text()


def run_and_stop(folder: Path, address: str, number: int) -> int:
    """Exit code of a program whose two workers are at work when it, or its terminal, gets a signal."""
    code = (
        "import signal, sys; from pathlib import Path; import tests.parallel.test_ray_pool as t\n"
        "signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "list(t.results(t.Pile(['sleep1', 'sleep2']), Path(sys.argv[1]), sys.argv[2]))\n"
    )
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"}
    arguments = [sys.executable, "-c", code, str(folder), address]
    with subprocess.Popen(arguments, stderr=-3, env=environment, start_new_session=True) as child:
        wait_for(lambda: len(list(folder.glob("*.pid"))) == 2)
        if number == signal.SIGINT:
            os.killpg(child.pid, number)
        else:
            child.send_signal(number)
        return child.wait(20)


@needs_ray
def test_no_item_is_lost_and_a_deadly_one_costs_no_other(tmp_path, address, caplog, capfd):
    good = [f"good{i}" for i in range(6)]
    terminate = signal.getsignal(signal.SIGTERM)
    heard = list(results(Pile(["die", "once", *good, "bug", "warn"]), tmp_path, address))
    assert ends(heard) == [
        ("bug", Failure("ZeroDivisionError: division by zero", "bug")),
        ("die", Failure("its process died, and again when Ray tried once more", "died")),
        *((item, None) for item in good),
        ("once", None),
        ("warn", None),
    ]
    for item in good:
        assert words(heard, item) == ["begun", "ended"]
    assert words(heard, "die") == ["begun", "begun"]
    assert words(heard, "once") == ["begun", "begun", "ended"]
    assert "a warning of warn" in caplog.text
    assert "in work" in caplog.text  # where the bug is
    assert capfd.readouterr() == ("", "")
    assert signal.getsignal(signal.SIGTERM) is terminate


@needs_ray
@pytest.mark.slow
def test_actors_are_as_this_process_is(tmp_path, address, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    heard = list(results(Pile(["where"]), tmp_path, address, devices=["cpu"]))
    assert words(heard, "where") == ["begun", f"cpu {tmp_path} 7", "ended"]
    monkeypatch.delenv("OMP_NUM_THREADS")
    code = "import torch; print(torch.get_num_threads())"
    here = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip()
    heard = list(results(Pile(["where", "torch"]), tmp_path, address, devices=None))
    assert words(heard, "where") == ["begun", f"cpu {tmp_path} None", "ended"]
    assert words(heard, "torch") == ["begun", here, "ended"]


@needs_ray
def test_an_item_that_takes_too_long_is_ended_and_its_worker_replaced(tmp_path, address):
    late, heard = Failure("it took longer than 1.5 s", "timeout"), []
    for item, result in results(Pile(["sleep", "good"]), tmp_path, address, timeout=1.5, devices=["cpu"]):
        heard.append((item, result))
        assert result != late or gone(tmp_path)
    assert ends(heard) == [("good", None), ("sleep", late)]


@needs_ray
def test_what_stops_one_stops_all(tmp_path, address):
    with pytest.raises(DataError, match="the disk is full"):
        list(results(Pile(["sleep", "stop"]), tmp_path, address))
    assert gone(tmp_path)
    (tmp_path / "no start").touch()
    with pytest.raises(DataError, match="the weights are damaged"):
        list(results(Pile(["good"]), tmp_path, address))


@needs_ray
def test_closing_ends_the_actors_and_leaves_ray(tmp_path, address):
    heard = results(Pile(["good", "sleep1", "sleep2"]), tmp_path, address)
    begun = [item for item, word in itertools.islice(heard, 5) if word == "begun"]
    assert begun[-2:] == ["sleep1", "sleep2"]
    wait_for(lambda: len(list(tmp_path.glob("*.pid"))) == 2)
    heard.close()
    assert gone(tmp_path)
    assert ends(list(results(Pile(["good"]), tmp_path, address))) == [("good", None)]


class Later(Pile[str]):
    """A board that is open until somebody says so."""

    is_open = True


@needs_ray
@pytest.mark.slow
def test_an_open_board_is_asked_again(tmp_path, address):
    board, heard = Later([]), []
    threading.Timer(1, board.put, [["die"]]).start()
    for item, result in results(board, tmp_path, address, devices=["cpu"]):
        heard.append((item, result))
        if isinstance(result, Failure):
            board.put(["good"])
        board.is_open = result is not None
    assert [item for item, _ in ends(heard)] == ["die", "good"]


class Pinned(Pile[str]):
    """A board of items for the place that they end with."""

    def take(self, place: str) -> str | None:
        fitting = [item for item in self._items if item.endswith(place)]
        for item in fitting[:1]:
            self._items.remove(item)
        return fitting[0] if fitting else None


@needs_ray
@pytest.mark.slow
def test_a_worker_that_left_comes_back_for_an_item_of_its_place(tmp_path, address, monkeypatch):
    monkeypatch.setattr(ray_pool, "_LINGER_S", 0.0)
    board, heard = Pinned(["naps cpu:1", "good cpu:0"]), []
    for item, result in results(board, tmp_path, address, devices=["cpu", "cpu"]):
        heard.append((item, result))
        if (item, result) == ("naps cpu:1", None):
            board.put(["late cpu:0"])
    assert ends(heard) == [("good cpu:0", None), ("late cpu:0", None), ("naps cpu:1", None)]


@needs_ray
def test_an_actor_that_is_killed_at_any_moment_costs_nothing(tmp_path, address):
    board, heard = Pile([f"nap{i}" for i in range(12)]), []
    for item, result in results(board, tmp_path, address):
        heard.append((item, result))
        if result == "begun" and len(heard) in (3, 9):
            wait_for(lambda: any(tmp_path.glob("*.pid")))
            newest = max(tmp_path.glob("*.pid"), key=os.path.getmtime)
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(newest.stem), signal.SIGKILL)
    assert {item for item, end in ends(heard) if end is None} == {f"nap{i}" for i in range(12)}


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
@needs_ray
def test_the_actors_end_with_this_program(tmp_path, address, number):
    assert run_and_stop(tmp_path, address, number) in (-number, 1)
    wait_for(lambda: gone(tmp_path))


@needs_ray
def test_a_local_ray_is_started_and_ended_where_there_is_none(tmp_path, monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    with tempfile.TemporaryDirectory(dir="/tmp", ignore_cleanup_errors=True) as folder:  # short, for sockets
        monkeypatch.setenv("RAY_TMPDIR", folder)  # no cluster is noted there
        assert run_and_stop(tmp_path, "auto", signal.SIGINT) in (1, -signal.SIGINT)
        session = Path(folder, "ray", "session_latest").resolve().name
        assert session.startswith("session_2")
        wait_for(lambda: gone(tmp_path) and not any(session in line for line in command_lines()))


@needs_ray
def test_a_ray_that_is_connected_already_is_used_and_left(tmp_path, address):
    import ray

    ray.init(address, logging_level=logging.CRITICAL, log_to_driver=False)
    try:
        assert ends(list(results(Pile(["good"]), tmp_path, "nowhere"))) == [("good", None)]
        assert ray.is_initialized()
    finally:
        ray.shutdown()


@needs_ray
def test_a_repeated_call_is_answered_as_before(tmp_path):
    """Ray repeats one whose answer was lost."""
    from ray import cloudpickle

    teller = Teller(cloudpickle.dumps((partial(prepare, str(tmp_path)), "cpu")))
    logging.getLogger().removeHandler(teller)
    calls = [cloudpickle.dumps((number, 0, "good")) for number in (1, 1, 2, 3)]
    answers = [cloudpickle.loads(teller.tell(call)) for call in calls]
    assert [answer.value for answer in answers] == ["begun", "begun", "ended", None]


@needs_ray
@pytest.mark.parametrize(
    ("has", "devices", "expected"),
    [
        ({"NPU": 2.0, "GPU": 1.0}, None, [("npu:0", "npu:0", {"NPU": 1}), ("npu:1", "npu:0", {"NPU": 1})]),
        ({"GPU": 1.0}, None, [("cuda:0", "cuda:0", 1)]),
        ({"NPU": 8.0}, ["npu:5", "auto"], [("npu:0", "npu:0", {"NPU": 1}), ("npu:1", "npu:0", {"NPU": 1})]),
        ({}, None, [("cpu:0", "cpu", 8), ("cpu:1", "cpu", 3)]),
        ({}, ["cpu"] * 3, [("cpu:0", "cpu", 4), ("cpu:1", "cpu", 3), ("cpu:2", "cpu", 4)]),
        ({}, ["cpu"] * 16, [(f"cpu:{n}", "cpu", 0.375 if n % 2 else 1) for n in range(16)]),
    ],
)
def test_what_ray_is_asked_for(has, devices, expected):
    nodes = [
        {"Alive": True, "NodeID": "a" * 56, "Resources": {"CPU": 8.0}},
        {"Alive": True, "NodeID": "b" * 56, "Resources": {"CPU": 3.0}},
        {"Alive": False, "NodeID": "c" * 56, "Resources": {"CPU": 64.0}},
        {"Alive": True, "NodeID": "d" * 56, "Resources": {}},
    ]
    ray = SimpleNamespace(cluster_resources=lambda: {"CPU": 11.0} | has, nodes=lambda: nodes)
    asked = [
        (name, device, demands.get("resources") or demands.get("num_gpus") or demands["num_cpus"])
        for name, device, demands in places_of(ray, devices)
    ]
    assert asked == expected


@needs_ray
def test_a_cluster_that_does_not_answer_is_an_error_at_once(tmp_path):
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        port = silent.getsockname()[1]
    for address in (f"127.0.0.1:{port}", f"ray://127.0.0.1:{port}", "nonsense"):
        with pytest.raises(DeviceError, match=f"no Ray cluster answers at '{address}'. Pass"):
            next(results(Pile(["good"]), tmp_path, address))


@pytest.mark.parametrize(
    ("word", "message"), [("npu:1", "has no npu. Pass what it has: cpu"), ("tpu", "unknown device 'tpu'")]
)
@needs_ray
def test_a_device_that_the_cluster_lacks_is_an_error(tmp_path, address, word, message):
    with pytest.raises(DeviceError, match=message):
        next(results(Pile(["good"]), tmp_path, address, devices=[word]))


def test_ray_that_is_not_installed_is_an_error(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UsageError, match="pip install 'wav2lip-npu\\[ray\\]'"):
        next(results(Pile(["good"]), tmp_path, "auto"))
