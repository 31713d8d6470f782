"""Measure the HTTP service under load.

    python benchmarks/serve.py --face talk.mp4 [--part load|memory] [--clients 200] [--seconds 60]

load:   clients that at the same moment upload audio of their own, create a job, follow its events, and poll
        its status once a second, while the service dubs; the times of these calls
memory: memory of the HTTP process and of all processes together while many short jobs run

The clients run in this process, on the same cores as the service, which makes the times longer.
"""

from __future__ import annotations

import argparse
import asyncio
import io
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import numpy as np
import soundfile

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

from dub import processor  # noqa: E402

RATE = 16_000
BOUNDARY = "benchmark"
FORM, JSON = f"multipart/form-data; boundary={BOUNDARY}", "application/json"


def main() -> None:
    """Run the parts and print their figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--face", required=True, type=Path, help="video with a face")
    parser.add_argument("--part", choices=PARTS, help="default: all")
    parser.add_argument("--clients", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--jobs", type=int, default=1000)
    arguments = parser.parse_args()
    cores = len(os.sched_getaffinity(0))
    versions = ", ".join(f"{name} {version(name)}" for name in ("fastapi", "uvicorn"))
    print(f"{processor()}, {cores} cores, {versions}", flush=True)
    for name in [arguments.part] if arguments.part else PARTS:
        with tempfile.TemporaryDirectory() as folder, running(Path(folder)) as service:
            PARTS[name](arguments, service)


class Service:
    """A running service, and requests to it that wait for their answers."""

    def __init__(self, process: subprocess.Popen[str], port: int) -> None:
        self.process, self.port = process, port

    def request(self, method: str, path: str, body: bytes | None = None, kind: str = JSON) -> Any:
        """Return the JSON of an answer."""
        request = Request(f"http://127.0.0.1:{self.port}{path}", body, {"Content-Type": kind}, method=method)
        with urlopen(request, timeout=600) as answer:
            return json.load(answer)

    def upload(self, content: bytes, name: str) -> str:
        """Upload a file and return its ID."""
        return str(self.request("POST", "/v1/files", form(content, name), FORM)["id"])

    def create(self, face: str, audio: str) -> str:
        """Create a job and return its ID."""
        return str(self.request("POST", "/v1/videos", job(face, audio))["id"])

    def memory(self) -> tuple[float, float]:
        """Return the memory of the HTTP process and of all processes, in MB; shared pages count once each."""
        sizes = {pid: proportional_mb(pid) for pid in family(self.process.pid)}
        return sizes[self.process.pid], sum(sizes.values())


@contextmanager
def running(folder: Path, *options: str) -> Iterator[Service]:
    """Start a service, wait until it is ready, and end it after the block."""
    words = ["serve", "--port", "0", "--data", str(folder / "data"), "--max_queue", "100000", *options]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(
        [sys.executable, "-m", "wav2lip_npu", *words], stderr=subprocess.PIPE, text=True, env=environment
    )
    try:
        assert process.stderr is not None
        found = next(filter(None, (re.search(r"127\.0\.0\.1:(\d+)/", line) for line in process.stderr)))
        service = Service(process, int(found[1]))
        while True:
            try:
                service.request("GET", "/readyz")
                break
            except OSError:
                time.sleep(0.2)
        yield service
    finally:
        process.terminate()
        process.communicate()


def load(arguments: argparse.Namespace, service: Service) -> None:
    """Let many clients work at the same time."""
    face = service.upload(arguments.face.read_bytes(), arguments.face.name)
    quiet = [timed(lambda: service.request("GET", "/healthz")) for _ in range(50)]
    print(f"quiet: /healthz {milliseconds(quiet)}", flush=True)
    clients = [Client(service.port, face, number) for number in range(arguments.clients)]
    asyncio.run(run_clients(clients, arguments.seconds))
    polls = [seconds for client in clients for seconds in client.polls]
    done, events = sum(client.is_done for client in clients), sum(client.events for client in clients)
    print(
        f"{len(clients)} clients, {arguments.seconds:g} s: {len(polls)} status calls, {milliseconds(polls)}"
    )
    print(f"  uploads {milliseconds([client.upload_s for client in clients])}")
    print(f"  jobs created {milliseconds([client.create_s for client in clients])}")
    print(f"  {events} events, {done} jobs done, {sum(client.errors for client in clients)} errors")
    print("  memory of the HTTP process {:.0f} MB, of all {:.0f} MB".format(*service.memory()), flush=True)


class Client:
    """A client that uploads, creates a job, follows its events and polls its status, on plain sockets."""

    def __init__(self, port: int, face: str, number: int) -> None:
        self.port, self.face, self.number = port, face, number
        self.polls: list[float] = []
        self.upload_s = self.create_s = 0.0
        self.events = self.errors = 0
        self.is_done = False

    async def run(self, until: float) -> None:
        """Work until a time of the event loop's clock."""
        start = time.perf_counter()
        stored = await self.call("POST", "/v1/files", form(speech(self.number, 0.4), "a.wav"), FORM)
        self.upload_s = time.perf_counter() - start
        start = time.perf_counter()
        created = await self.call("POST", "/v1/videos", job(self.face, stored["id"]), JSON)
        self.create_s = time.perf_counter() - start
        following = asyncio.create_task(self.follow(created["id"]))
        await asyncio.sleep(self.number % 100 / 100)  # clients do not poll in step
        while time.monotonic() < until:
            start = time.perf_counter()
            await self.call("GET", f"/v1/videos/{created['id']}")
            self.polls.append(time.perf_counter() - start)
            await asyncio.sleep(1)
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)

    async def call(self, method: str, path: str, body: bytes = b"", kind: str = "") -> dict[str, Any]:
        """Return the JSON of an answer."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        head = f"{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
        head += f"Content-Type: {kind}\r\nContent-Length: {len(body)}\r\n\r\n"
        writer.write(head.encode() + body)
        answer = await reader.read()
        writer.close()
        self.errors += not answer.startswith(b"HTTP/1.1 200")
        content: dict[str, Any] = json.loads(answer.partition(b"\r\n\r\n")[2])
        return content

    async def follow(self, video: str) -> None:
        """Count the events of a job."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        writer.write(f"GET /v1/videos/{video}/events HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        while line := await reader.readline():
            self.events += line.startswith(b"event:")
            if line == b"event: done\n":
                self.is_done = True
                break
        writer.close()


async def run_clients(clients: list[Client], seconds: float) -> None:
    """Run all clients at the same time."""
    until = time.monotonic() + seconds
    await asyncio.gather(*(client.run(until) for client in clients))


def memory(arguments: argparse.Namespace, service: Service) -> None:
    """Run many short jobs, and print the memory now and then."""
    face = service.upload(arguments.face.read_bytes(), arguments.face.name)
    audios = [service.upload(speech(number, 0.2), f"{number}.wav") for number in range(20)]
    done, started = 0, time.perf_counter()
    for step in (arguments.jobs // 10, *(arguments.jobs * share // 4 for share in range(1, 5))):
        videos = [service.create(face, audios[number % len(audios)]) for number in range(done, step)]
        done = step
        for video in videos:
            while service.request("GET", f"/v1/videos/{video}")["status"] in ("queued", "in_progress"):
                time.sleep(0.1)
        http, together = service.memory()
        seconds = time.perf_counter() - started
        print(f"{done} jobs, {seconds:.0f} s: HTTP process {http:.0f} MB, all {together:.0f} MB", flush=True)


PARTS = {"load": load, "memory": memory}


def speech(seed: int, seconds: float) -> bytes:
    """Return a WAV file with noise of its own."""
    file = io.BytesIO()
    noise = np.random.default_rng(seed).normal(0, 0.1, int(seconds * RATE))
    soundfile.write(file, noise, RATE, format="WAV")
    return file.getvalue()


def form(content: bytes, name: str) -> bytes:
    """Return a form with a file."""
    head = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="file"; filename="{name}"\r\n\r\n'
    return head.encode() + content + f"\r\n--{BOUNDARY}--\r\n".encode()


def job(face: str, audio: str) -> bytes:
    """Return the body of a request for a job."""
    return json.dumps({"face_id": face, "audio_id": audio, "options": {"preset": "ultrafast"}}).encode()


def timed(function: Any) -> float:
    """Return the seconds of a call."""
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def milliseconds(values: list[float]) -> str:
    """Return median, 99th percentile and maximum."""
    ordered = sorted(1000 * value for value in values)
    high = ordered[min(len(ordered) - 1, int(0.99 * len(ordered)))]
    return f"median {statistics.median(ordered):.0f}, p99 {high:.0f}, most {ordered[-1]:.0f} ms"


def family(pid: int) -> list[int]:
    """Return a process and its descendants."""
    parents = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            except OSError:
                continue
    found = [pid]
    for process in found:
        found += [child for child, parent in parents.items() if parent == process]
    return found


def proportional_mb(pid: int) -> float:
    """Return the memory of a process, with its part of shared pages."""
    try:
        text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    except OSError:
        return 0.0
    return sum(int(line.split()[1]) for line in text.splitlines() if line.startswith("Pss:")) / 1024


if __name__ == "__main__":
    main()
