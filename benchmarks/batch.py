"""Measure speed, memory and fault tolerance of a batch.

    python benchmarks/batch.py --face talk_1080p.mp4 --audio speech.wav [--part speed|memory|faults]

speed:   12 audio files of 10 s on one face video: `batch` against 12 calls of `dub`, start-up included
memory:  peak memory of all processes together, with 5 and with 200 short jobs
faults:  100 jobs, 7 of them invalid in 7 ways; the parent is killed at ten random moments, workers at five;
         compared with an undisturbed run: 93 outputs with equal decoded frames, 7 reasons, none created twice
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

from dub import processor, save_random  # noqa: E402

from wav2lip_npu.media import audio_reader, container, video_reader  # noqa: E402
from wav2lip_npu.media.geometry import Geometry  # noqa: E402

AUDIOS, SECONDS = 12, 10
INVALID = 7


def main() -> None:
    """Run the parts and print their figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--face", required=True, type=Path, help="for speed: a 1080p video")
    parser.add_argument("--audio", required=True, type=Path, help="speech, of which pieces are used")
    parser.add_argument("--checkpoint_path", default="starter", help="or random: the full-size network")
    parser.add_argument("--part", choices=PARTS, help="default: all")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    arguments.face, arguments.audio = arguments.face.resolve(), arguments.audio.resolve()
    cores = len(os.sched_getaffinity(0))
    print(
        f"{processor()}, {cores} cores, torch {version('torch')}, weights {arguments.checkpoint_path}",
        flush=True,
    )
    for name in [arguments.part] if arguments.part else PARTS:
        with tempfile.TemporaryDirectory() as folder:
            if arguments.checkpoint_path == "random":
                save_random(os.path.join(folder, "random.pth"))
            PARTS[name](arguments, Path(folder))


def speed(arguments: argparse.Namespace, folder: Path) -> None:
    """Dub one video with twelve audio files."""
    audios = pieces(arguments.audio, folder, AUDIOS, SECONDS)
    rows = [(arguments.face, audio, folder / "out" / f"{audio.stem}.mp4") for audio in audios]
    table = write_table(folder / "jobs.csv", rows)
    weights = ["--checkpoint_path", checkpoint(arguments, folder)]
    start = time.perf_counter()
    for face, audio, out in rows:
        alone = out.with_name(f"alone {out.name}")
        run("dub", "--face", face, "--audio", audio, "--outfile", alone, *weights)
    separate = time.perf_counter() - start
    start = time.perf_counter()
    run("batch", table, "--cache", folder / "cache", *weights)
    together = time.perf_counter() - start
    for _, _, out in rows:
        assert frames(out) == frames(out.with_name(f"alone {out.name}")), out
    ratio = f"{together:.1f} s = {together / separate:.1%}"
    print(f"{AUDIOS} calls of dub: {separate:.1f} s; batch: {ratio}; the same frames", flush=True)


def memory(arguments: argparse.Namespace, folder: Path) -> None:
    """Measure the peak memory of parent and workers."""
    face = short_video(arguments.face, folder)
    peaks = {}
    for count in (5, 200):
        run_folder = folder / str(count)
        run_folder.mkdir()
        audios = pieces(arguments.audio, run_folder, count, 1)
        rows = [(face, audio, run_folder / "out" / f"{audio.stem}.mp4") for audio in audios]
        child = start_batch(write_table(run_folder / "jobs.csv", rows), folder)
        peak = Peak(child.pid)
        assert child.wait() == 0
        peaks[count] = peak.stop()
    few, many = peaks.values()
    print(f"memory with 5 jobs {few / 1e6:.0f} MB, with 200 {many / 1e6:.0f} MB = {many / few:.3f} x")


def faults(arguments: argparse.Namespace, folder: Path) -> None:
    """Kill parent and workers at random and compare with an undisturbed run."""
    draw = random.Random(arguments.seed)
    face = short_video(arguments.face, folder)
    audios = pieces(arguments.audio, folder, 20, 1)
    good = 100 - INVALID
    rows: list[tuple[Any, ...]] = [
        (face, audios[number % 20], folder / "{}" / f"{number}.mp4", number % 2 * 10, "")
        for number in range(good)
    ]
    for number, bad in enumerate(invalid_rows(arguments.face, face, audios[0], folder)):
        rows.insert(
            draw.randrange(len(rows)), (bad[0], bad[1], folder / "{}" / f"bad{number}.mp4", 10, bad[2])
        )
    tables = {}
    for name in ("calm", "stormy"):
        (folder / name).mkdir()
        own = [(a, b, str(out).format(name), pad, rest) for a, b, out, pad, rest in rows]
        tables[name] = write_table(folder / name / "jobs.csv", own)
    start = time.perf_counter()
    calm = start_batch(tables["calm"], folder)
    assert calm.wait() == 1
    length = time.perf_counter() - start
    counter = OutputCounter(folder / "stormy")
    parents, workers = storm(tables["stormy"], folder, length, draw)
    counter.stop()
    twice = {name: times for name, times in counter.times.items() if times > 1}
    outputs = {path.name for path in (folder / "stormy").glob("*.mp4")}
    wanted = {path.name for path in (folder / "calm").glob("*.mp4")}
    same = [name for name in wanted if frames(folder / "calm" / name) == frames(folder / "stormy" / name)]
    report = [json.loads(line) for line in (folder / "stormy" / "report.jsonl").read_text().splitlines()]
    reasons = {result["detail"] for result in report if result["status"] == "failed"}
    print(f"undisturbed {length:.0f} s; then {parents} parents and {workers} workers were killed")
    print(
        f"{len(outputs)} outputs, {len(same)} with the frames of the undisturbed run, "
        f"{len(reasons)} reasons, {len(twice)} created twice"
    )
    for result in sorted(report, key=lambda result: result["row"]):
        if result["status"] == "failed":
            detail = result["detail"].replace(str(folder), "")
            print(f"  row {result['row']} ({result['reason']}): {detail[:150]}")
    left = list(folder.rglob("*.part"))
    assert len(outputs) == len(same) == good and len(reasons) == INVALID and not twice and not left, left


def storm(table: Path, folder: Path, length: float, draw: random.Random) -> tuple[int, int]:
    """Run the batch to its end, killing the parent ten times and workers five times."""
    parents = workers = 0
    while True:
        child = start_batch(table, folder)
        if parents == 10 and workers == 5:
            assert child.wait() == 1
            return parents, workers
        time.sleep(draw.uniform(0.02, 0.25) * length)
        while workers < 5 and draw.random() < 0.5 and child.poll() is None:
            for worker in workers_of(child.pid):
                os.kill(worker, signal.SIGKILL)
                workers += 1
            time.sleep(draw.uniform(0, 0.05) * length)
        if parents < 10 and child.poll() is None:
            child.kill()
            parents += 1
            child.wait()


class OutputCounter:
    """Counts how often each output of a folder was created."""

    def __init__(self, folder: Path) -> None:
        self.times: Counter[str] = Counter()
        self._seen: dict[str, tuple[int, int]] = {}
        self._folder = folder
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()

    def stop(self) -> None:
        """Stop watching."""
        self._over.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._over.wait(0.02):
            for entry in os.scandir(self._folder):
                if entry.name.endswith(".mp4"):
                    status = entry.stat()
                    now = status.st_ino, status.st_mtime_ns
                    if self._seen.get(entry.name) != now:
                        self._seen[entry.name] = now
                        self.times[entry.name] += 1


class Peak:
    """Peak memory of a process and its children, shared pages counted proportionally."""

    def __init__(self, process: int) -> None:
        self._process, self._peak = process, 0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()

    def stop(self) -> int:
        """Stop measuring and return the peak in bytes."""
        self._over.set()
        self._thread.join()
        return self._peak

    def _watch(self) -> None:
        while not self._over.wait(0.05):
            size = sum(map(proportional, [self._process, *workers_of(self._process)]))
            self._peak = max(self._peak, size)


def proportional(process: int) -> int:
    """Return the proportional set size of a process in bytes."""
    try:
        lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return sum(int(line.split()[1]) << 10 for line in lines if line.startswith("Pss:"))


def workers_of(process: int) -> list[int]:
    """Return the workers of a batch, recognised by the command line of spawned processes."""
    try:
        children = Path(f"/proc/{process}/task/{process}/children").read_text().split()
        return [
            int(child) for child in children if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes()
        ]
    except OSError:
        return []


def invalid_rows(video: Path, face: Path, speech: Path, folder: Path) -> list[tuple[Any, Any, str]]:
    """Return face, audio and box of jobs that fail, each in a different way."""
    rate = soundfile.info(speech).samplerate
    soundfile.write(folder / "nan.wav", np.full(rate, np.nan), rate, subtype="FLOAT")
    soundfile.write(folder / "empty.wav", np.zeros(0), rate)
    (folder / "text.mp4").write_text("not a video")
    cut = folder / "cut.mp4"
    content = short_video(video, folder, seconds=3).read_bytes()
    cut.write_bytes(content[: len(content) // 2])
    return [
        (folder / "none.mp4", speech, ""),
        (folder / "text.mp4", speech, ""),
        (face, folder / "empty.wav", ""),
        (face, folder / "nan.wav", ""),
        (cut, speech, ""),
        (face, speech, "0 9000 0 9000"),
        (face, folder, ""),
    ]


def pieces(speech: Path, folder: Path, count: int, seconds: int) -> list[Path]:
    """Write WAV files of `seconds`, each from a different part of the speech."""
    wav = audio_reader.read_audio(speech)
    wav = np.tile(wav, -(-(seconds * 16_000 + 16_000) // len(wav)))
    paths = [folder / f"{number}.wav" for number in range(count)]
    for number, path in enumerate(paths):
        start = number * (len(wav) - seconds * 16_000) // count
        soundfile.write(path, wav[start : start + seconds * 16_000], 16_000)
    return paths


def short_video(face: Path, folder: Path, seconds: int = 1) -> Path:
    """Write the beginning of a video, scaled down."""
    from itertools import islice

    from wav2lip_npu.media.video_writer import EncodeOptions, write_video

    info = container.probe(face)
    shrink = Geometry(resize_factor=max(1, min(info.width, info.height) // 270))
    digest = islice(video_reader.read_frames(info, geometry=shrink), seconds * 25)
    out = folder / f"{seconds} s.mp4"
    write_video((frame.yuv for frame in digest), out, fps=info.fps, options=EncodeOptions(preset="ultrafast"))
    return out


def write_table(path: Path, rows: list[Any]) -> Path:
    """Write a job table: face, audio, outfile, and with more columns the bottom pad and a box."""
    with path.open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["face", "audio", "outfile", "pads", "box"][: max(3, len(rows[0]))])
        for face, audio, out, *rest in rows:
            table.writerow([face, audio, out, *([f"0 {rest[0]} 0 0", rest[1]] if rest else [])])
    return path


def start_batch(table: Path, folder: Path) -> subprocess.Popen[bytes]:
    """Start the command with its own cache."""
    words = [sys.executable, "-m", "wav2lip_npu", "batch", table, "--cache", folder / "cache", "--skip_bad"]
    words += ["--preset", "ultrafast"]
    return subprocess.Popen(words, cwd=ROOT, stderr=subprocess.DEVNULL)


def run(*words: Any) -> None:
    """Run a command to its end."""
    subprocess.run(
        [sys.executable, "-m", "wav2lip_npu", *map(str, words)], cwd=ROOT, check=True, capture_output=True
    )


def checkpoint(arguments: argparse.Namespace, folder: Path) -> str:
    """Return the requested weights, or the file of random weights."""
    return str(folder / "random.pth") if arguments.checkpoint_path == "random" else arguments.checkpoint_path


def frames(path: Path) -> str:
    """Return a hash of the decoded frames of a video."""
    digest = hashlib.sha256()
    for frame in video_reader.read_frames(path):
        for plane in (frame.yuv.y, frame.yuv.u, frame.yuv.v):
            digest.update(np.ascontiguousarray(plane))
    return digest.hexdigest()


PARTS = {"speed": speed, "memory": memory, "faults": faults}

if __name__ == "__main__":
    main()
