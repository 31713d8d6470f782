"""What a batch saves, what memory it takes, and whether it survives being killed, in one run.

    python benchmarks/batch.py --face talk_1080p.mp4 --audio speech.wav [--part speed|memory|faults]

speed:   12 sounds of 10 s on one face video: `batch` against 12 calls of `dub`, both with their start-up
memory:  most memory of all processes together with 5 and with 200 short jobs
faults:  100 jobs, 7 of them bad in 7 ways; the parent killed at ten random moments and workers at five;
         against an undisturbed run: the same 93 outputs in their decoded frames, 7 reasons, none done twice
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

SOUNDS, SECONDS = 12, 10
BAD = 7


def main() -> None:
    """Run the parts and print their figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--face", required=True, type=Path, help="for speed: a 1080p video")
    parser.add_argument("--audio", required=True, type=Path, help="speech; pieces of it are the sounds")
    parser.add_argument("--checkpoint_path", default="starter", help="or random: the full-size network")
    parser.add_argument("--part", choices=PARTS, help="default: all")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    given.face, given.audio = given.face.resolve(), given.audio.resolve()
    cores = len(os.sched_getaffinity(0))
    print(
        f"{processor()}, {cores} cores, torch {version('torch')}, weights {given.checkpoint_path}", flush=True
    )
    for name in [given.part] if given.part else PARTS:
        with tempfile.TemporaryDirectory() as folder:
            if given.checkpoint_path == "random":
                save_random(os.path.join(folder, "random.pth"))
            PARTS[name](given, Path(folder))


def speed(given: argparse.Namespace, here: Path) -> None:
    """One film in twelve languages."""
    sounds = pieces(given.audio, here, SOUNDS, SECONDS)
    rows = [(given.face, each, here / "out" / f"{each.stem}.mp4") for each in sounds]
    table = write_table(here / "jobs.csv", rows)
    weights = ["--checkpoint_path", checkpoint(given, here)]
    start = time.perf_counter()
    for face, audio, out in rows:
        alone = out.with_name(f"alone {out.name}")
        run("dub", "--face", face, "--audio", audio, "--outfile", alone, *weights)
    separate = time.perf_counter() - start
    start = time.perf_counter()
    run("batch", table, "--cache", here / "cache", *weights)
    together = time.perf_counter() - start
    for _, _, out in rows:
        assert frames(out) == frames(out.with_name(f"alone {out.name}")), out
    ratio = f"{together:.1f} s = {together / separate:.1%}"
    print(f"{SOUNDS} calls of dub: {separate:.1f} s; batch: {ratio}; the same frames", flush=True)


def memory(given: argparse.Namespace, here: Path) -> None:
    """The parent and its workers, at their peak."""
    face = short_video(given.face, here)
    peaks = {}
    for count in (5, 200):
        folder = here / str(count)
        folder.mkdir()
        sounds = pieces(given.audio, folder, count, 1)
        rows = [(face, each, folder / "out" / f"{each.stem}.mp4") for each in sounds]
        child = start_batch(write_table(folder / "jobs.csv", rows), here)
        peak = Peak(child.pid)
        assert child.wait() == 0
        peaks[count] = peak.stop()
    few, many = peaks.values()
    print(f"memory with 5 jobs {few / 1e6:.0f} MB, with 200 {many / 1e6:.0f} MB = {many / few:.3f} x")


def faults(given: argparse.Namespace, here: Path) -> None:
    """Everything at once."""
    draw = random.Random(given.seed)
    face = short_video(given.face, here)
    sounds = pieces(given.audio, here, 20, 1)
    good = 100 - BAD
    rows: list[tuple[Any, ...]] = [
        (face, sounds[number % 20], here / "{}" / f"{number}.mp4", number % 2 * 10, "")
        for number in range(good)
    ]
    for number, bad in enumerate(bad_rows(given.face, face, sounds[0], here)):
        rows.insert(draw.randrange(len(rows)), (bad[0], bad[1], here / "{}" / f"bad{number}.mp4", 10, bad[2]))
    tables = {}
    for name in ("calm", "stormy"):
        (here / name).mkdir()
        own = [(a, b, str(out).format(name), pad, rest) for a, b, out, pad, rest in rows]
        tables[name] = write_table(here / name / "jobs.csv", own)
    start = time.perf_counter()
    calm = start_batch(tables["calm"], here)
    assert calm.wait() == 1
    length = time.perf_counter() - start
    made = Made(here / "stormy")
    parents, workers = storm(tables["stormy"], here, length, draw)
    made.stop()
    twice = {name: times for name, times in made.times.items() if times > 1}
    outputs = {each.name for each in (here / "stormy").glob("*.mp4")}
    wanted = {each.name for each in (here / "calm").glob("*.mp4")}
    same = [name for name in wanted if frames(here / "calm" / name) == frames(here / "stormy" / name)]
    report = [json.loads(line) for line in (here / "stormy" / "report.jsonl").read_text().splitlines()]
    reasons = {each["detail"] for each in report if each["status"] == "failed"}
    print(f"undisturbed {length:.0f} s; then {parents} parents and {workers} workers were killed")
    print(
        f"{len(outputs)} outputs, {len(same)} with the frames of the undisturbed run, "
        f"{len(reasons)} reasons, {len(twice)} made twice"
    )
    for each in sorted(report, key=lambda each: each["row"]):
        if each["status"] == "failed":
            print(f"  row {each['row']} ({each['reason']}): {each['detail'].replace(str(here), '')[:150]}")
    left = list(here.rglob("*.part"))
    assert len(outputs) == len(same) == good and len(reasons) == BAD and not twice and not left, left


def storm(table: Path, here: Path, length: float, draw: random.Random) -> tuple[int, int]:
    """Run the batch until it ends by itself, killing ten parents and five workers on the way."""
    parents = workers = 0
    while True:
        child = start_batch(table, here)
        if parents == 10 and workers == 5:
            assert child.wait() == 1
            return parents, workers
        time.sleep(draw.uniform(0.02, 0.25) * length)
        while workers < 5 and draw.random() < 0.5 and child.poll() is None:
            for each in children(child.pid):
                os.kill(each, signal.SIGKILL)
                workers += 1
            time.sleep(draw.uniform(0, 0.05) * length)
        if parents < 10 and child.poll() is None:
            child.kill()
            parents += 1
            child.wait()


class Made:
    """Counts how often each output of a folder was put in its place."""

    def __init__(self, folder: Path) -> None:
        self.times: Counter[str] = Counter()
        self._seen: dict[str, tuple[int, int]] = {}
        self._folder = folder
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look)
        self._thread.start()

    def stop(self) -> None:
        """Look no longer."""
        self._over.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._over.wait(0.02):
            for entry in os.scandir(self._folder):
                if entry.name.endswith(".mp4"):
                    status = entry.stat()
                    now = status.st_ino, status.st_mtime_ns
                    if self._seen.get(entry.name) != now:
                        self._seen[entry.name] = now
                        self.times[entry.name] += 1


class Peak:
    """The most that a process and its children hold of memory that is their own."""

    def __init__(self, process: int) -> None:
        self._process, self._most = process, 0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look)
        self._thread.start()

    def stop(self) -> int:
        """Bytes."""
        self._over.set()
        self._thread.join()
        return self._most

    def _look(self) -> None:
        while not self._over.wait(0.05):
            held = sum(map(proportional, [self._process, *children(self._process)]))
            self._most = max(self._most, held)


def proportional(process: int) -> int:
    """Bytes that a process holds, those that it shares in parts."""
    try:
        lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return sum(int(line.split()[1]) << 10 for line in lines if line.startswith("Pss:"))


def children(process: int) -> list[int]:
    """Workers of a batch, by the name that spawned processes have."""
    try:
        found = Path(f"/proc/{process}/task/{process}/children").read_text().split()
        return [int(each) for each in found if b"spawn_main" in Path(f"/proc/{each}/cmdline").read_bytes()]
    except OSError:
        return []


def bad_rows(film: Path, face: Path, speech: Path, here: Path) -> list[tuple[Any, Any, str]]:
    """Face, sound and options of jobs that fail, each in its own way."""
    rate = soundfile.info(speech).samplerate
    soundfile.write(here / "nan.wav", np.full(rate, np.nan), rate, subtype="FLOAT")
    soundfile.write(here / "empty.wav", np.zeros(0), rate)
    (here / "text.mp4").write_text("this is no film")
    cut = here / "cut.mp4"
    whole = short_video(film, here, seconds=3).read_bytes()
    cut.write_bytes(whole[: len(whole) // 2])
    return [
        (here / "none.mp4", speech, ""),
        (here / "text.mp4", speech, ""),
        (face, here / "empty.wav", ""),
        (face, here / "nan.wav", ""),
        (cut, speech, ""),
        (face, speech, "0 9000 0 9000"),
        (face, here, ""),
    ]


def pieces(speech: Path, here: Path, count: int, seconds: int) -> list[Path]:
    """WAV files of this length, each from another place of the speech."""
    wav = audio_reader.read_audio(speech)
    wav = np.tile(wav, -(-(seconds * 16_000 + 16_000) // len(wav)))
    paths = [here / f"{number}.wav" for number in range(count)]
    for number, path in enumerate(paths):
        start = number * (len(wav) - seconds * 16_000) // count
        soundfile.write(path, wav[start : start + seconds * 16_000], 16_000)
    return paths


def short_video(face: Path, here: Path, seconds: int = 1) -> Path:
    """The beginning of a video, small."""
    from itertools import islice

    from wav2lip_npu.media.video_writer import EncodeOptions, write_video

    info = container.probe(face)
    shrink = Geometry(resize_factor=max(1, min(info.width, info.height) // 270))
    shown = islice(video_reader.read_frames(info, geometry=shrink), seconds * 25)
    out = here / f"{seconds} s.mp4"
    write_video((frame.yuv for frame in shown), out, fps=info.fps, options=EncodeOptions(preset="ultrafast"))
    return out


def write_table(path: Path, rows: list[Any]) -> Path:
    """A table of jobs: face, audio, outfile, and with more columns the bottom pad and a box."""
    with path.open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["face", "audio", "outfile", "pads", "box"][: max(3, len(rows[0]))])
        for face, audio, out, *rest in rows:
            table.writerow([face, audio, out, *([f"0 {rest[0]} 0 0", rest[1]] if rest else [])])
    return path


def start_batch(table: Path, here: Path) -> subprocess.Popen[bytes]:
    """The command on its way, with a cache of its own."""
    words = [sys.executable, "-m", "wav2lip_npu", "batch", table, "--cache", here / "cache", "--skip_bad"]
    words += ["--preset", "ultrafast"]
    return subprocess.Popen(words, cwd=ROOT, stderr=subprocess.DEVNULL)


def run(*words: Any) -> None:
    """A command to its end."""
    subprocess.run(
        [sys.executable, "-m", "wav2lip_npu", *map(str, words)], cwd=ROOT, check=True, capture_output=True
    )


def checkpoint(given: argparse.Namespace, here: Path) -> str:
    """What was asked for, or the file of random weights."""
    return str(here / "random.pth") if given.checkpoint_path == "random" else given.checkpoint_path


def frames(path: Path) -> str:
    """What a video shows."""
    shown = hashlib.sha256()
    for frame in video_reader.read_frames(path):
        for plane in (frame.yuv.y, frame.yuv.u, frame.yuv.v):
            shown.update(np.ascontiguousarray(plane))
    return shown.hexdigest()


PARTS = {"speed": speed, "memory": memory, "faults": faults}

if __name__ == "__main__":
    main()
