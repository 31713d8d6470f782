"""Measure speed and memory of a whole dub and of its stages alone, in one run on this machine.

    python benchmarks/dub.py --face talk.mp4 [--audio speech.wav] [--checkpoint_path wav2lip.pth]
                             [--device cuda] [--original FOLDER] [--json out.json]

Without --face a clip of --size is drawn. Without --checkpoint_path the full-size network with seeded random
weights is used; speed does not depend on the weights. Each stage runs in its own process.

--original is a folder with the original's repository. Its inference.py runs beside each dub, with the box of
the face given. Without ffmpeg on the PATH its last step is missing.

floor = the larger of: seconds of the slowest stage alone, with the cores that it may use;
        CPU seconds of all stages / cores
"""

from __future__ import annotations

import argparse
import compileall
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

from dub_parts import ON_ACCELERATORS, PARTS, STAGES, write_clip  # noqa: E402 a neighbour of this file

RUN_ORIGINAL = """
import runpy, sys
import librosa
mel = librosa.filters.mel  # its arguments have become keywords since the original was written
librosa.filters.mel = lambda sr, n_fft, **more: mel(sr=sr, n_fft=n_fft, **more)
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def main() -> None:
    """Run the parts one after the other and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--face", help="default: a drawn clip")
    parser.add_argument("--size", default="1080x1920", help="of the drawn clip, WIDTHxHEIGHT")
    parser.add_argument("--seconds", type=float, default=10, help="of the drawn clip")
    parser.add_argument("--audio", help="default: the audio of --face")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--encoder", default="x264")
    parser.add_argument("--original", type=Path, help="folder of the original's repository")
    parser.add_argument("--json", type=Path, help="file for the figures")
    parser.add_argument("--checkpoint_path", help="default: random weights of the full-size network")
    parser.add_argument("--precision", default="auto", help="of the command; auto: bf16 where it is fast")
    parser.add_argument(
        "--longer", type=int, default=10, help="also dub audio this many times as long; 0: skip"
    )
    parser.add_argument("--runs", type=int, default=3, help="runs of each figure: the median is printed")
    parser.add_argument("--part", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.part:
        json.dump({**PARTS, **ON_ACCELERATORS}[arguments.part](arguments), sys.stdout)
        return
    with tempfile.TemporaryDirectory() as folder:
        if not arguments.face:
            arguments.face = os.path.join(folder, "drawn.mp4")
            write_clip(arguments.face, arguments.size, arguments.seconds)
        arguments.audio = arguments.audio or arguments.face
        if not arguments.checkpoint_path:
            arguments.checkpoint_path = os.path.join(folder, "random.pth")
            save_random(arguments.checkpoint_path)
        report(arguments, folder)


def report(arguments: argparse.Namespace, folder: str) -> None:
    """Measure and print. Parts and whole alternate, so that drift of the machine affects both."""
    compileall.compile_dir(ROOT / "wav2lip_npu", quiet=1)  # as pip does
    cores = len(os.sched_getaffinity(0))
    machine = (
        f"{processor()}, {cores} cores, {arguments.device}, torch {version('torch')}, "
        f"precision {arguments.precision}"
    )
    print(f"{machine}, median of {arguments.runs} rounds")
    rounds = []
    for _ in range(arguments.runs):
        parts = {name: part(arguments, name) for name in PARTS}
        slowest = max(STAGES, key=lambda name: parts[name]["wall"])
        shared = sum(parts[name]["cpu"] for name in STAGES) / cores
        floor = max(parts[slowest]["wall"], shared)
        dub = whole_dub(arguments, arguments.audio, folder)
        loaded, whole = dub["report"]["seconds"], dub["seconds"]
        figures = {f"{name} alone, s": parts[name]["wall"] for name in STAGES}
        figures |= {f"{name} alone, CPU s": parts[name]["cpu"] for name in STAGES}
        figures |= {
            "generator alone, frames/s": parts["generate"]["fps"],
            "generator / plain eager": parts["generate"]["fps"] / parts["eager"]["fps"],
            "encoder, PSNR dB": parts["encode"]["psnr"],
            "encoder, MB": parts["encode"]["mb"],
            "slowest stage alone, s": parts[slowest]["wall"],
            "CPU s of all stages / cores": shared,
            "floor, s": floor,
            "dub, models loaded, s": loaded,
            "dub, models loaded / floor": loaded / floor,
            "dub, frames/s": dub["report"]["frames_per_second"],
            "whole command, s": whole,
            "whole command / floor": whole / floor,
            "whole command, CPU s / cores": dub["cpu"] / cores,
            "peak memory, GB": dub["peak"] / 1e9,
        }
        if arguments.device != "cpu":
            by_hardware = part(arguments, "decode_auto")
            figures |= {f"--hwaccel auto: decode, {name}": figure for name, figure in by_hardware.items()}
        original = None if arguments.original is None else run_original(arguments, folder)
        if original is not None:
            figures |= {
                "original, s": original["seconds"],
                "original, CPU s / cores": original["cpu"] / cores,
                "original, peak memory, GB": original["peak"] / 1e9,
            }
        rounds.append(figures)
    for name in rounds[0]:
        show(name, [figures[name] for figures in rounds])
    show("--help, s", [help_seconds()])
    print(f"slowest stage alone: {slowest}; of the dub: {dub['report']['bound_by']}")
    for name, stage in dub["report"]["stages"].items():
        print(f"  {name:<10}" + ", ".join(f"{kind} {seconds:.1f} s" for kind, seconds in stage.items()))
    if arguments.longer:
        long = whole_dub(arguments, lengthened(arguments.audio, arguments.longer, folder), folder)
        print(
            f"{arguments.longer} x as long: {long['report']['frames']} frames at "
            f"{long['report']['frames_per_second']:.1f} frames/s, peak {long['peak'] / 1e9:.2f} GB "
            f"= {long['peak'] / dub['peak']:.2f} x"
        )
    if arguments.json is not None:
        found = {"machine": machine, "rounds": rounds, "report": dub["report"]}
        arguments.json.write_text(json.dumps(found, indent=1) + "\n")


def part(arguments: argparse.Namespace, name: str) -> dict[str, float]:
    """Run one part in its own process and return its figures."""
    words = [sys.executable, __file__, "--part", name, "--face", arguments.face, "--audio", arguments.audio]
    words += ["--checkpoint_path", arguments.checkpoint_path, "--precision", arguments.precision]
    words += ["--device", arguments.device, "--encoder", arguments.encoder]
    figures: dict[str, float] = json.loads(subprocess.run(words, check=True, capture_output=True).stdout)
    return figures


def whole_dub(arguments: argparse.Namespace, audio: str, folder: str) -> dict[str, Any]:
    """Run the command as a user does; return wall seconds, peak memory and report."""
    record = os.path.join(folder, "report.json")
    words = ["dub", "--face", arguments.face, "--audio", audio]
    words += ["--checkpoint_path", arguments.checkpoint_path, "--outfile", os.path.join(folder, "out.mp4")]
    words += ["--report", record, "--precision", arguments.precision]
    words += ["--device", arguments.device, "--encoder", arguments.encoder]
    return {**our_command(words), "report": json.loads(Path(record).read_text())}


def run_original(arguments: argparse.Namespace, folder: str) -> dict[str, float] | None:
    """Run the original's inference.py, with the box of the face; return None if it fails.

    It reads only full-size networks in PyTorch files.
    """
    from wav2lip_npu.faces.detectors import load_detector
    from wav2lip_npu.media.video_reader import read_frames

    image = next(read_frames(arguments.face)).image
    x1, y1, x2, y2 = (str(round(float(edge))) for edge in load_detector("auto", "cpu")([image])[0][0].box)
    work = Path(folder, "original")
    (work / "temp").mkdir(parents=True, exist_ok=True)
    words = ["--checkpoint_path", arguments.checkpoint_path, "--face", os.path.abspath(arguments.face)]
    words += ["--audio", lengthened(arguments.audio, 1, folder), "--outfile", str(work / "out.mp4")]
    words += ["--box", y1, y2, x1, x2]
    source = arguments.original.resolve()
    env = {**os.environ, "PYTHONPATH": str(source)}
    try:
        return command([sys.executable, "-c", RUN_ORIGINAL, str(source / "inference.py"), *words], work, env)
    except SystemExit as error:
        print(f"the original did not run: {str(error).strip().splitlines()[-1]}", file=sys.stderr)
        return None


def our_command(words: list[str]) -> dict[str, float]:
    """Run a command of the package as a user does."""
    return command([sys.executable, "-m", "wav2lip_npu", *words], ROOT)


def command(words: list[str], cwd: Path, env: dict[str, str] | None = None) -> dict[str, float]:
    """Run a program; return wall and CPU seconds and peak memory in bytes."""
    start = time.perf_counter()
    child = subprocess.Popen(words, cwd=cwd, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
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
