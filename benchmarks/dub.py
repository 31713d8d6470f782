"""Speed and memory of a whole dub against what its parts need alone, in one run on this machine.

    python benchmarks/dub.py --face talk.mp4 [--audio speech.wav] [--checkpoint_path wav2lip.pth]

Without --checkpoint_path the full-size network with seeded random weights is used: speed does not depend
on what the weights are. Each part runs in a process of its own, so that peaks of memory are its own.

floor = CPU seconds of (the generator alone on as many faces as there are frames
        + decoding alone + encoding alone with the same settings) / cores
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from fractions import Fraction
from importlib.metadata import version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))


def main() -> None:
    """Run the parts one after the other and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--face", required=True)
    parser.add_argument("--audio", help="default: the sound of --face")
    parser.add_argument("--checkpoint_path", help="default: random weights of the full-size network")
    parser.add_argument("--precision", default="fp32")
    parser.add_argument(
        "--longer", type=int, default=10, help="also dub a sound this many times as long; 0: skip"
    )
    parser.add_argument("--runs", type=int, default=3, help="runs of each figure: the median is printed")
    parser.add_argument("--part", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.part:
        json.dump(PARTS[given.part](given), sys.stdout)
        return
    with tempfile.TemporaryDirectory() as folder:
        given.audio = given.audio or given.face
        if not given.checkpoint_path:
            given.checkpoint_path = os.path.join(folder, "random.pth")
            save_random(given.checkpoint_path)
        report(given, folder)


def report(given: argparse.Namespace, folder: str) -> None:
    """Measure and print. The parts and the whole take turns, so that a drifting machine touches both."""
    cores = len(os.sched_getaffinity(0))
    print(f"{processor()}, {cores} cores, torch {version('torch')}, median of {given.runs} rounds")
    rounds = []
    for _ in range(given.runs):
        parts = {name: part(given, name) for name in PARTS}
        floor = sum(parts[name]["cpu"] for name in ("decode", "encode", "generate")) / cores
        dub = whole_dub(given, given.audio, folder)
        loaded, whole, cpu = dub["report"]["seconds"], dub["seconds"], dub["cpu"] / cores
        rounds.append(
            {
                "decode alone, CPU s": parts["decode"]["cpu"],
                "encode alone, CPU s": parts["encode"]["cpu"],
                "generator alone, CPU s": parts["generate"]["cpu"],
                "generator alone, frames/s": parts["generate"]["fps"],
                "plain eager, frames/s": parts["eager"]["fps"],
                "generator / eager": parts["generate"]["fps"] / parts["eager"]["fps"],
                "floor, s": floor,
                "dub, models loaded, s": loaded,
                "dub, models loaded / floor": loaded / floor,
                "whole command, s": whole,
                "whole command / floor": whole / floor,
                "whole command, CPU s / cores": cpu,
                "peak memory, GB": dub["peak"] / 1e9,
            }
        )
    for name in rounds[0]:
        show(name, [each[name] for each in rounds])
    show("--help, s", [help_seconds()])
    print("frames:", dub["report"]["frames"], "seconds per stage:", dub["report"]["seconds_per_stage"])
    if given.longer:
        long = whole_dub(given, lengthened(given.audio, given.longer, folder), folder)
        print(
            f"{given.longer} x as long: {long['report']['frames']} frames at "
            f"{long['report']['frames_per_second']:.1f} frames/s, peak {long['peak'] / 1e9:.2f} GB "
            f"= {long['peak'] / dub['peak']:.2f} x"
        )


def part(given: argparse.Namespace, name: str) -> dict[str, float]:
    """One part in a process of its own."""
    words = [sys.executable, __file__, "--part", name, "--face", given.face, "--audio", given.audio]
    words += ["--checkpoint_path", given.checkpoint_path, "--precision", given.precision]
    figures: dict[str, float] = json.loads(subprocess.run(words, check=True, capture_output=True).stdout)
    return figures


def whole_dub(given: argparse.Namespace, audio: str, folder: str) -> dict[str, Any]:
    """Wall seconds, peak memory and report of the command as a user runs it."""
    record = os.path.join(folder, "report.json")
    words = ["dub", "--face", given.face, "--audio", audio]
    words += ["--checkpoint_path", given.checkpoint_path, "--outfile", os.path.join(folder, "out.mp4")]
    words += ["--report", record, "--precision", given.precision]
    return {**command(words), "report": json.loads(Path(record).read_text())}


def command(words: list[str]) -> dict[str, float]:
    """A command of the package as a user runs it: wall and CPU seconds, and the bytes it held at most."""
    start = time.perf_counter()
    child = subprocess.Popen([sys.executable, "-m", "wav2lip_npu", *words], cwd=ROOT, stderr=subprocess.PIPE)
    assert child.stderr is not None
    said = child.stderr.read().decode()
    _, status, usage = os.wait4(child.pid, 0)
    child.returncode = 0
    if status:
        raise SystemExit(said)
    return {
        "seconds": time.perf_counter() - start,
        "cpu": usage.ru_utime + usage.ru_stime,
        "peak": usage.ru_maxrss * 1024,
    }


def show(name: str, values: Iterable[float]) -> None:
    """Median and range."""
    ordered = sorted(values)
    print(f"{name:<38}{ordered[len(ordered) // 2]:8.2f}   ({ordered[0]:.2f} to {ordered[-1]:.2f})")


def count_frames(given: argparse.Namespace) -> tuple[int, Any]:
    """Frames of the dub, and what the face video is."""
    from wav2lip_npu.media import audio_reader, container

    info = container.probe(given.face)
    return round(audio_reader.load_audio(given.audio).duration * info.fps), info


def timed(work: Callable[[], int]) -> dict[str, float]:
    """CPU and wall seconds of `work`, which returns how many frames it did."""
    wall, cpu = time.perf_counter(), time.process_time()
    frames = work()
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    return {"cpu": cpu, "wall": wall, "fps": frames / wall}


def decode(given: argparse.Namespace) -> dict[str, float]:
    """Decode the frames of the dub, nothing else."""
    from wav2lip_npu.media import video_reader

    count, info = count_frames(given)
    return timed(lambda: sum(1 for _ in itertools.islice(video_reader.read_frames(info, loop="loop"), count)))


def encode(given: argparse.Namespace) -> dict[str, float]:
    """Encode the frames of the dub, decoded beforehand, with the default settings."""
    from wav2lip_npu.media import video_reader
    from wav2lip_npu.media.video_writer import write_video

    count, info = count_frames(given)
    frames = video_reader.read_frames(info, loop="loop")
    pictures = [frame.yuv for frame in itertools.islice(frames, count)]
    with tempfile.TemporaryDirectory() as folder:
        out = os.path.join(folder, "out.mp4")
        return timed(lambda: write_video(pictures, out, fps=Fraction(info.fps), audio=given.audio))


def generate(given: argparse.Namespace) -> dict[str, float]:
    """The generator as dubbing runs it."""
    from wav2lip_npu.dubbing.blend import load_mask
    from wav2lip_npu.dubbing.inference import GeneratorRunner, load_models

    count, _ = count_frames(given)
    models = load_models(given.checkpoint_path, precision=given.precision)
    speaker = GeneratorRunner(models, None, load_mask("soft", 96))
    speaking(speaker, min(count, 4 * speaker.batch))()
    return timed(speaking(speaker, count))


def speaking(speaker: Any, count: int) -> Callable[[], int]:
    """Makes mouths for so many faces and windows of noise, as dubbing does."""
    import numpy as np

    from wav2lip_npu import device
    from wav2lip_npu.parallel.threads import map_in_threads

    random = np.random.default_rng(0)
    faces = list(random.integers(0, 255, (count, 96, 96, 3), np.uint8))
    mels = list(random.uniform(-4, 4, (count, 80, 16)).astype(np.float32))
    batches = [slice(first, first + speaker.batch) for first in range(0, count, speaker.batch)]

    def run() -> int:
        with device.shared_cores(speaker.device) as prepare:
            mouths = map_in_threads(
                lambda part: speaker(faces[part], mels[part]), batches, speaker.lanes, prepare
            )
            return sum(len(part) for part in mouths)

    return run


def eager(given: argparse.Namespace) -> dict[str, float]:
    """The same network as PyTorch runs it when nothing is done to it, in its best batch size."""
    import torch

    from wav2lip_npu.models import checkpoint

    network = checkpoint.load(given.checkpoint_path, "generator").network()
    best: dict[str, float] = {"fps": 0, "cpu": 0}
    for batch in (4, 8, 16, 32):
        mels, faces = torch.rand(batch, 1, 80, 16), torch.rand(batch, 6, 96, 96)

        def run(mels: Any = mels, faces: Any = faces) -> int:
            with torch.inference_mode():
                return sum(len(network(mels, faces)) for _ in range(96 // len(faces)))

        run()
        best = max(best, timed(run), key=lambda figures: figures["fps"])
    return best


PARTS = {"decode": decode, "encode": encode, "generate": generate, "eager": eager}


def save_random(path: str) -> None:
    """A checkpoint of the full-size generator with seeded weights."""
    import torch

    from wav2lip_npu.models import checkpoint
    from wav2lip_npu.models.networks import Wav2Lip

    torch.manual_seed(0)
    checkpoint.save(path, Wav2Lip())


def lengthened(audio: str, times: int, folder: str) -> str:
    """A WAV file that repeats a sound."""
    import numpy as np
    import soundfile

    from wav2lip_npu.media import audio_reader

    path = os.path.join(folder, "long.wav")
    soundfile.write(path, np.tile(audio_reader.read_audio(audio), times), 16_000)
    return path


def help_seconds() -> float:
    """Seconds that `wav2lip-npu dub --help` takes, the best of three."""
    times = []
    for _ in range(3):
        start = time.perf_counter()
        subprocess.run(
            [sys.executable, "-m", "wav2lip_npu", "dub", "--help"], cwd=ROOT, check=True, capture_output=True
        )
        times.append(time.perf_counter() - start)
    return min(times)


def processor() -> str:
    """Name of the processor."""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return "unknown processor"


if __name__ == "__main__":
    main()
