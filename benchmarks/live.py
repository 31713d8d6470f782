"""Measure live streams: delay behind the audio, frames per second, load, drift, memory.

    python benchmarks/live.py --face talk.mp4 --audio speech.wav --sessions 1 2 4 8 --seconds 20
    python benchmarks/live.py --face talk.mp4 --audio speech.wav --sessions 1 --seconds 300
    python benchmarks/live.py --simulate 3600

Audio is pushed in chunks of 20 ms in real time; readers take frames as they come. The delay of a frame is the
time from the push of the first sample of its audio to the frame. `--simulate` runs the audio of that many
seconds as fast as possible, and compares the time of the frames with the samples. `--size 512` scales the
face video to that height first.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import tempfile
import threading
import time
from fractions import Fraction
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from wav2lip_npu import StreamOptions, load_models
from wav2lip_npu.live.audio_feed import AudioFeed
from wav2lip_npu.media.audio_reader import read_audio
from wav2lip_npu.media.video_reader import read_frames
from wav2lip_npu.media.video_writer import EncodeOptions, write_video
from wav2lip_npu.media.yuv_image import YuvImage

RATE, CHUNK = 16_000, 320


def main() -> None:
    """Run the measurements that the flags select, and print one JSON line each."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--face")
    parser.add_argument("--audio")
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--sessions", type=int, nargs="*", default=[1])
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--checkpoint_path", default="starter")
    parser.add_argument("--simulate", type=float)
    flags = parser.parse_args()
    if flags.simulate is not None:
        print(json.dumps(simulate(flags.simulate)))
        return
    models = load_models(flags.checkpoint_path, device=flags.device)
    pcm = (np.clip(read_audio(flags.audio, RATE), -1, 1) * 32767).astype(np.int16)
    with tempfile.TemporaryDirectory() as folder:
        face = scaled(flags.face, flags.size, Path(folder))
        probe = models.stream(face)
        capacity = models.live.loop.capacity(probe._session.avatar, probe.options)
        print(json.dumps({"capacity": capacity, "size": probe.size, "load_average": os.getloadavg()[0]}))
        for count in flags.sessions:
            probe.clear()
            print(json.dumps(measure(models, face, pcm, count, flags.seconds)), flush=True)
        probe.close()


def scaled(face: str, height: int, folder: Path) -> Path:
    """Return the first 12 s of a video as a file of this height."""
    frames = []
    for frame in read_frames(face, fps=Fraction(25)):
        image = frame.image
        width = round(image.shape[1] * height / image.shape[0] / 2) * 2
        frames.append(YuvImage.from_image(cv2.resize(image, (width, height)), frame.yuv.colour))
        if len(frames) == 300:
            break
    write_video(frames, folder / "face.mp4", fps=Fraction(25), options=EncodeOptions(crf=16))
    return folder / "face.mp4"


def measure(models: Any, face: Path, pcm: np.ndarray, count: int, seconds: float) -> dict[str, Any]:
    """Run some streams at the same time; return their figures."""
    options = StreamOptions(max_sessions=100, sample_rate=RATE)
    streams = [models.stream(face, options=options) for _ in range(count)]
    arrivals: list[list[tuple[int, float]]] = [[] for _ in streams]
    pushed: list[list[float]] = [[] for _ in streams]

    def read(number: int) -> None:
        for frame in streams[number]:
            _ = frame.image
            arrivals[number].append((frame.number, time.perf_counter()))

    def push(number: int) -> None:
        voice = np.roll(pcm, number * 3 * RATE)
        start = time.perf_counter()
        for chunk in range(int(seconds * RATE / CHUNK)):
            due = start + (chunk + 1) * CHUNK / RATE  # a chunk is complete when its last sample was spoken
            time.sleep(max(0.0, due - time.perf_counter()))
            first = chunk * CHUNK % (len(voice) - CHUNK)
            pushed[number].append(time.perf_counter())
            streams[number].push_audio(voice[first : first + CHUNK], RATE)
        streams[number].finish()

    memory = resident()
    cpu, start = time.process_time(), time.perf_counter()
    threads = [threading.Thread(target=work, args=(n,)) for n in range(count) for work in (read, push)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    wall, cpu = time.perf_counter() - start, time.process_time() - cpu
    delays = [
        (when - pushed[n][number * 2]) * 1000
        for n in range(count)
        for number, when in arrivals[n]
        if number * 2 < len(pushed[n])
    ]
    firsts = [(some[0][1] - pushed[n][0]) * 1000 for n, some in enumerate(arrivals)]
    ends = [(some[-1][1] - pushed[n][-1]) * 1000 for n, some in enumerate(arrivals)]
    frames = [len(some) for some in arrivals]
    stats = [stream.stats for stream in streams]
    for stream in streams:
        stream.close()
    return {
        "sessions": count,
        "seconds": round(wall, 1),
        "fps": round(min(frames) / seconds, 2),
        "first_frame_ms": round(max(firsts)),
        "delay_ms": {str(q): round(float(np.percentile(delays, q))) for q in (50, 95, 99)},
        "end_behind_audio_ms": round(max(ends)),
        "late": sum(one.late for one in stats),
        "silent": sum(one.silent for one in stats),
        "frames": sum(frames),
        "cpu_cores": round(cpu / wall, 2),
        "cpu_ms_per_frame": round(cpu / sum(frames) * 1000, 1),
        "memory_growth_mb": round((resident() - memory) / 2**20, 1),
        "load_average": round(os.getloadavg()[0], 1),
    }


def simulate(seconds: float) -> dict[str, Any]:
    """Run audio through the clock of a stream without images; return the largest drift."""
    feed = AudioFeed(Fraction(30_000, 1001), -1, threshold=16)
    rng = np.random.default_rng(0)
    voice = (rng.normal(0, 3000, 44_100) * np.repeat([1, 0, 1, 0.3], 11_025)).astype(np.int16)
    samples = frames = 0
    drift = 0.0
    before = resident()
    for second in range(int(seconds)):
        for frame in feed.push(voice, 44_100):
            drift = max(drift, abs(float(frame.number / feed.fps) - samples / 44_100))
            samples += len(frame.audio)
            frames += 1
        if second == 60:
            before = resident()
    return {
        "simulated_seconds": seconds,
        "fps": "30000/1001",
        "rate": 44_100,
        "frames": frames,
        "drift_ms": round(drift * 1000, 4),
        "memory_growth_mb": round((resident() - before) / 2**20, 1),
        "peak_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
    }


def resident() -> int:
    """Return the resident memory of the process in bytes."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


if __name__ == "__main__":
    main()
