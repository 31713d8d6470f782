"""Two simulated machines: connected network namespaces, or two addresses if namespaces are not allowed."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from support.devices import DEVICE, SIMULATION

ROOT = Path(__file__).resolve().parents[2]
_MARK = "TEST_NODE"
_CABLE = "cable0"
_WAIT_S = 10
# An unreachable name server would delay every connection by many seconds.
_SETUP = """
mount --make-rprivate / && mount --bind {folder}/hosts /etc/hosts && mount --bind {folder}/resolv.conf /etc/resolv.conf
ip link set lo up && echo ready
read end
"""


@dataclass(frozen=True)
class Node:
    """A simulated machine."""

    rank: int
    address: str
    interface: str
    enter: tuple[str, ...] = ()
    """Prefix of commands that run on it."""
    more: tuple[str, ...] = ()
    """Further options of torchrun."""
    mark: str = field(default_factory=lambda: uuid.uuid4().hex)

    def start(self, master: Node, port: int, program: list[str]) -> subprocess.Popen[str]:
        """Start torchrun with one process on each of two nodes."""
        torchrun = [
            "--nnodes", "2", "--node_rank", str(self.rank), "--nproc_per_node", "1",
            "--master_addr", master.address, "--master_port", str(port), *self.more,
        ]  # fmt: skip
        return self.run([sys.executable, "-m", "torch.distributed.run", *torchrun, *program])

    def start_rank(self, master: Node, port: int, program: list[str]) -> subprocess.Popen[str]:
        """Start the process that torchrun would start, without the time that torchrun itself takes."""
        return self.run(
            [sys.executable, *program],
            RANK=str(self.rank),
            LOCAL_RANK="0",
            WORLD_SIZE="2",
            MASTER_ADDR=master.address,
            MASTER_PORT=str(port),
        )

    def run(self, words: list[str], **more_variables: str) -> subprocess.Popen[str]:
        """Start a command on this node, with more variables in its environment."""
        simulation = [SIMULATION] if DEVICE.type == "npu" else []
        variables = {
            "OMP_NUM_THREADS": "1",
            "GLOO_SOCKET_IFNAME": self.interface,  # the simulated hccl is carried by gloo too
            "PYTHONPATH": os.pathsep.join(map(str, (ROOT, ROOT / "tests", *simulation))),
            _MARK: self.mark,
        }
        return subprocess.Popen(
            [*self.enter, *words],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={**os.environ, **variables, **more_variables},
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )

    def fail(self) -> None:
        """Kill all its processes, like a power failure."""
        deadline = time.monotonic() + _WAIT_S
        while pids := [pid for pid in map(int, filter(str.isdigit, os.listdir("/proc"))) if self._has(pid)]:
            assert time.monotonic() < deadline, f"{pids} survive SIGKILL"
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.01)

    def _has(self, pid: int) -> bool:
        try:
            return f"{_MARK}={self.mark}".encode() in Path(f"/proc/{pid}/environ").read_bytes()
        except OSError:
            return False


@contextlib.contextmanager
def two_nodes(folder: Path, *, apart: bool = True) -> Iterator[tuple[Node, Node]]:
    """Yield two nodes, and kill their processes at the end.

    Without `apart`, or where namespaces are not allowed, they are two addresses of this machine.
    """
    with contextlib.ExitStack() as stack:
        nodes = None
        if apart:
            try:
                nodes = _namespaces(folder, stack)
            except (OSError, subprocess.SubprocessError, AssertionError):
                stack.close()
        nodes = nodes or _addresses()
        try:
            yield nodes
        finally:
            for node in nodes:
                node.fail()


def free_port() -> int:
    """Return a port that no process listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def _addresses() -> tuple[Node, Node]:
    one, other = (f"127.0.0.{number}" for number in (1, 2))
    return Node(0, one, "lo", more=("--local_addr", one)), Node(1, other, "lo", more=("--local_addr", other))


def _namespaces(folder: Path, stack: contextlib.ExitStack) -> tuple[Node, Node]:
    """Set up two namespaces. Raises `AssertionError` or `OSError` if this is not allowed."""
    addresses = [f"10.213.7.{number}" for number in (1, 2)]
    folder.mkdir()
    (folder / "resolv.conf").touch()
    names = "".join(f"{address} node{number}\n" for number, address in enumerate(addresses))
    (folder / "hosts").write_text(f"127.0.0.1 localhost\n{names}")
    holders = [stack.enter_context(_held(_SETUP.format(folder=folder))) for _ in addresses]
    ends = [("name", _CABLE, "netns", str(holder.pid)) for holder in holders]
    _ip("link", "add", *ends[0], "type", "veth", "peer", *ends[1])
    nodes = []
    for number, (holder, address) in enumerate(zip(holders, addresses, strict=True)):
        enter = ("nsenter", "--target", str(holder.pid), "--net", "--mount", f"--wd={ROOT}", "--")
        subprocess.run([*enter, "ip", "address", "add", f"{address}/24", "dev", _CABLE], check=True)
        subprocess.run([*enter, "ip", "link", "set", _CABLE, "up"], check=True)
        nodes.append(Node(number, address, _CABLE, enter))
    return nodes[0], nodes[1]


@contextlib.contextmanager
def _held(script: str) -> Iterator[subprocess.Popen[str]]:
    """Start a process that keeps its own namespaces alive."""
    options: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    words = ["unshare", "--net", "--mount", "sh", "-e", "-c", script]
    with subprocess.Popen(words, stderr=subprocess.DEVNULL, **options) as holder:
        assert holder.stdin and holder.stdout
        assert holder.stdout.readline() == "ready\n"
        yield holder
        holder.stdin.close()


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, stderr=subprocess.DEVNULL)
