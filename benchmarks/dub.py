"""Measure speed and memory of a whole dub and of its parts alone, in one run on this machine.

    python benchmarks/dub.py --face talk.mp4 [--audio speech.wav] [--checkpoint_path wav2lip.pth]

Without --checkpoint_path the full-size network with seeded random weights is used; speed does not depend on
the weights. Each part runs in its own process, so that its memory peak is its own.

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
    parser.add_argument("--audio", help="default: the audio of --face")
    parser.add_argument("--checkpoint_path", help="default: random weights of the full-size network")
    parser.add_argument("--precision", default="fp32")
    parser.add_argument(
        "--longer", type=int, default=10, help="also dub audio this many times as long; 0: skip"
    )
    parser.add_argument("--runs", type=int, default=3, help="runs of each figure: the median is printed")
    parser.add_argument("--part", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.part:
        json.dump(PARTS[arguments.part](arguments), sys.stdout)
        return
    with tempfile.TemporaryDirectory() as folder:
        arguments.audio = arguments.audio or arguments.face
        if not arguments.checkpoint_path:
            arguments.checkpoint_path = os.path.join(folder, "random.pth")
            save_random(arguments.checkpoint_path)
        report(arguments, folder)


def report(arguments: argparse.Namespace, folder: str) -> None:
    """Measure and print. Parts and whole alternate, so that drift of the machine affects both."""
    cores = len(os.sched_getaffinity(0))
    print(f"{processor()}, {cores} cores, torch {version('torch')}, median of {arguments.runs} rounds")
    rounds = []
    for _ in range(arguments.runs):
        parts = {name: part(arguments, name) for name in PARTS}
        floor = sum(parts[name]["cpu"] for name in ("decode", "encode", "generate")) / cores
        dub = whole_dub(arguments, arguments.audio, folder)
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
        show(name, [figures[name] for figures in rounds])
    show("--help, s", [help_seconds()])
    print("frames:", dub["report"]["frames"], "seconds per stage:", dub["report"]["seconds_per_stage"])
    if arguments.longer:
        long = whole_dub(arguments, lengthened(arguments.audio, arguments.longer, folder), folder)
        print(
            f"{arguments.longer} x as long: {long['report']['frames']} frames at "
            f"{long['report']['frames_per_second']:.1f} frames/s, peak {long['peak'] / 1e9:.2f} GB "
            f"= {long['peak'] / dub['peak']:.2f} x"
        )


def part(arguments: argparse.Namespace, name: str) -> dict[str, float]:
    """Run one part in its own process and return its figures."""
    words = [sys.executable, __file__, "--part", name, "--face", arguments.face, "--audio", arguments.audio]
    words += ["--checkpoint_path", arguments.checkpoint_path, "--precision", arguments.precision]
    figures: dict[str, float] = json.loads(subprocess.run(words, check=True, capture_output=True).stdout)
    return figures


def whole_dub(arguments: argparse.Namespace, audio: str, folder: str) -> dict[str, Any]:
    """Run the command as a user does; return wall seconds, peak memory and report."""
    record = os.path.join(folder, "report.json")
    words = ["dub", "--face", arguments.face, "--audio", audio]
    words += ["--checkpoint_path", arguments.checkpoint_path, "--outfile", os.path.join(folder, "out.mp4")]
    words += ["--report", record, "--precision", arguments.precision]
    return {**command(words), "report": json.loads(Path(record).read_text())}


def command(words: list[str]) -> dict[str, float]:
    """Run a command as a user does; return wall and CPU seconds and peak memory in bytes."""
    start = time.perf_counter()
    child = subprocess.Popen([sys.executable, "-m", "wav2lip_npu", *words], cwd=ROOT, stderr=subprocess.PIPE)
    assert child.stderr is not None
    messages = child.stderr.read().decode()
    _, status, usage = os.wait4(child.pid, 0)
    child.returncode = 0
    if status:
        raise SystemExit(messages)
    return {
        "seconds": time.perf_counter() - start,
        "cpu": usage.ru_utime + usage.ru_stime,
        "peak": usage.ru_maxrss * 1024,
    }


def show(name: str, values: Iterable[float]) -> None:
    """Print median and range."""
    ordered = sorted(values)
    print(f"{name:<38}{ordered[len(ordered) // 2]:8.2f}   ({ordered[0]:.2f} to {ordered[-1]:.2f})")


def count_frames(arguments: argparse.Namespace) -> tuple[int, Any]:
    """Return the number of frames of the dub, and the face video."""
    from wav2lip_npu.media import audio_reader, container

    info = container.probe(arguments.face)
    return round(audio_reader.measure_audio(arguments.audio).duration * info.fps), info


def timed(work: Callable[[], int]) -> dict[str, float]:
    """Return CPU and wall seconds of `work`, which returns its number of frames."""
    wall, cpu = time.perf_counter(), time.process_time()
    frames = work()
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    return {"cpu": cpu, "wall": wall, "fps": frames / wall}


def decode(arguments: argparse.Namespace) -> dict[str, float]:
    """Decode the frames of the dub."""
    from wav2lip_npu.media import video_reader

    count, info = count_frames(arguments)
    return timed(lambda: sum(1 for _ in itertools.islice(video_reader.read_frames(info, loop="loop"), count)))


def encode(arguments: argparse.Namespace) -> dict[str, float]:
    """Encode the already decoded frames of the dub with the default options."""
    from wav2lip_npu.media import video_reader
    from wav2lip_npu.media.video_writer import write_video

    count, info = count_frames(arguments)
    frames = video_reader.read_frames(info, loop="loop")
    images = [frame.yuv for frame in itertools.islice(frames, count)]
    with tempfile.TemporaryDirectory() as folder:
        out = os.path.join(folder, "out.mp4")
        return timed(lambda: write_video(images, out, fps=Fraction(info.fps), audio=arguments.audio))


def generate(arguments: argparse.Namespace) -> dict[str, float]:
    """Run the generator as a dub does."""
    from wav2lip_npu.dubbing.blend import load_mask
    from wav2lip_npu.dubbing.inference import GeneratorRunner, load_models

    count, _ = count_frames(arguments)
    models = load_models(arguments.checkpoint_path, precision=arguments.precision)
    runner = GeneratorRunner(models, None, load_mask("soft", 96))
    generating(runner, min(count, 4 * runner.batch))()
    return timed(generating(runner, count))


def generating(runner: Any, count: int) -> Callable[[], int]:
    """Return a function that generates mouths for `count` noise inputs as a dub does."""
    import numpy as np

    from wav2lip_npu.parallel.thread_counts import one_core_each
    from wav2lip_npu.parallel.threads import map_in_threads

    random = np.random.default_rng(0)
    faces = list(random.integers(0, 255, (count, 96, 96, 3), np.uint8))
    mels = list(random.uniform(-4, 4, (count, 80, 16)).astype(np.float32))
    batches = [slice(first, first + runner.batch) for first in range(0, count, runner.batch)]

    def run() -> int:
        with one_core_each(runner.device) as prepare:
            mouths = map_in_threads(
                lambda part: runner(faces[part], mels[part]), batches, runner.lanes, prepare
            )
            return sum(len(part) for part in mouths)

    return run


def eager(arguments: argparse.Namespace) -> dict[str, float]:
    """Run the unmodified network in PyTorch, with the best of four batch sizes."""
    import torch

    from wav2lip_npu.models import checkpoint

    network = checkpoint.load(arguments.checkpoint_path, "generator").network()
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
    """Save a full-size generator with seeded random weights."""
    import torch

    from wav2lip_npu.models import checkpoint
    from wav2lip_npu.models.networks import Wav2Lip

    torch.manual_seed(0)
    checkpoint.save(path, Wav2Lip())


def lengthened(audio: str, times: int, folder: str) -> str:
    """Write a WAV file that repeats the audio, and return its path."""
    import numpy as np
    import soundfile

    from wav2lip_npu.media import audio_reader

    path = os.path.join(folder, "long.wav")
    soundfile.write(path, np.tile(audio_reader.read_audio(audio), times), 16_000)
    return path


def help_seconds() -> float:
    """Return the seconds of `wav2lip-npu dub --help`, the best of three."""
    times = []
    for _ in range(3):
        start = time.perf_counter()
        subprocess.run(
            [sys.executable, "-m", "wav2lip_npu", "dub", "--help"], cwd=ROOT, check=True, capture_output=True
        )
        times.append(time.perf_counter() - start)
    return min(times)


def processor() -> str:
    """Return the name of the processor."""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return "unknown processor"


if __name__ == "__main__":
    main()
