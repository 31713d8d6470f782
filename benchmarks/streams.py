"""Measure live streams of the HTTP service, and its status calls while they run.

    python benchmarks/streams.py --face talk.mp4 --audio speech.wav [--streams 2] [--seconds 30]

Audio is sent in chunks of 20 ms in real time, and images are received, both by WebSocket. The status of a
stream is asked for 20 times a second. The clients run in this process, on the same cores as the service.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
import tempfile
import time
from pathlib import Path

from websockets.asyncio.client import connect

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

from dub import processor  # noqa: E402
from serve import RATE, Client, Service, milliseconds, running  # noqa: E402

CHUNKS = 50
"""Chunks of audio per second."""


def main() -> None:
    """Run the streams and print their figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--face", required=True, type=Path, help="video with a face")
    parser.add_argument("--audio", required=True, type=Path, help="WAV file, 16 bits, 16 kHz, mono")
    parser.add_argument("--streams", type=int, nargs="*", default=[2])
    parser.add_argument("--seconds", type=float, default=30)
    arguments = parser.parse_args()
    print(f"{processor()}, {len(os.sched_getaffinity(0))} cores, load {os.getloadavg()[0]:.1f}", flush=True)
    pcm = arguments.audio.read_bytes()[44:]
    most = "--max_streams", str(max(arguments.streams))
    with tempfile.TemporaryDirectory() as folder, running(Path(folder), *most) as service:
        face = service.upload(arguments.face.read_bytes(), arguments.face.name)
        for count in arguments.streams:
            measure(service, face, pcm, count, arguments.seconds)


def measure(service: Service, face: str, pcm: bytes, count: int, seconds: float) -> None:
    """Run some streams at the same time, and print their figures."""
    body = json.dumps({"face_id": face}).encode()
    names = [str(service.request("POST", "/v1/streams", body)["id"]) for _ in range(count)]
    polls, images = asyncio.run(speak(service, names, pcm, seconds))
    print(f"{count} streams, {seconds:g} s: {len(polls)} status calls, {milliseconds(polls)}")
    for name, received in zip(names, images, strict=True):
        stream = service.request("DELETE", f"/v1/streams/{name}")
        figures = ", ".join(f"{key} {stream[key]}" for key in ("frames", "late", "silent", "delay_ms"))
        print(f"  {received / seconds:.1f} images per second, {figures}", flush=True)
    print("  memory of the HTTP process {:.0f} MB, of all {:.0f} MB".format(*service.memory()), flush=True)


async def speak(
    service: Service, names: list[str], pcm: bytes, seconds: float
) -> tuple[list[float], list[int]]:
    """Send audio to streams; return the times of status calls, and the number of images of each stream."""
    address = f"ws://127.0.0.1:{service.port}/v1/streams"
    until = time.monotonic() + seconds
    polls: list[float] = []
    counts = dict.fromkeys(names, 0)
    size = RATE // CHUNKS * 2

    async def send(name: str) -> None:
        async with connect(f"{address}/{name}/audio") as audio:
            start = time.monotonic()
            for number in range(int(CHUNKS * seconds)):
                at = number * size % (len(pcm) // size * size)
                await audio.send(pcm[at : at + size])
                await asyncio.sleep(max(0.0, start + (number + 1) / CHUNKS - time.monotonic()))

    async def receive(name: str) -> None:
        async with connect(f"{address}/{name}/frames") as frames:
            while time.monotonic() < until:
                counts[name] += isinstance(await frames.recv(), bytes)

    async def poll() -> None:
        client = Client(service.port, "", 0)
        while time.monotonic() < until:
            start = time.perf_counter()
            await client.call("GET", f"/v1/streams/{names[0]}")
            polls.append(time.perf_counter() - start)
            await asyncio.sleep(0.05)

    await asyncio.gather(poll(), *map(send, names), *map(receive, names))
    return polls, list(counts.values())


if __name__ == "__main__":
    main()
