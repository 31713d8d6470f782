"""Compare dubs with PyTorch in fp32 and bf16 and with exported ONNX files in fp32 and int8, in one run.

    python benchmarks/engines.py --face talk.mp4 [--audio speech.wav] [--checkpoint_path wav2lip.pth]

Without --checkpoint_path the full-size network with seeded random weights is used. The commands alternate,
each in its own process, so that a drift of the machine affects all. `seconds` are those of the report,
without loading the models. int8 is calibrated on --face. With `-- --crf 0` outputs are lossless, so that
their difference is that of the engines.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))


def main() -> None:
    """Export, dub alternately, compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--face", required=True)
    parser.add_argument("--audio", help="default: the audio of --face")
    parser.add_argument("--checkpoint_path", help="default: random weights of the full-size network")
    parser.add_argument("--batch", type=int, default=0, help="batch size of the exported file; 0: any")
    parser.add_argument("--runs", type=int, default=5, help="rounds: the median is printed")
    parser.add_argument("flags", nargs="*", help="more flags for dub, after --")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        measure(arguments, folder)


def measure(arguments: argparse.Namespace, folder: str) -> None:
    """Run both engines alternately and compare their videos."""
    from dub import our_command as command
    from dub import processor, save_random, show

    weights = arguments.checkpoint_path
    if not weights:
        weights = os.path.join(folder, "random.pth")
        save_random(weights)
    export = ["export", "--checkpoint_path", weights, "--batch", str(arguments.batch), "--outdir", folder]
    command(export)
    (exported,) = map(str, Path(folder).glob("*.onnx"))
    audio = arguments.audio or arguments.face
    command([*export, "--int8", "--calibration_face", arguments.face, "--calibration_audio", audio])
    (smaller,) = map(str, Path(folder).glob("*_int8.onnx"))
    sides = {
        "torch": Side(weights, "fp32"),
        "torch bf16": Side(weights, "bf16"),
        "onnx": Side(exported, "fp32"),
        "onnx int8": Side(smaller, "fp32"),
    }
    print(f"{processor()}, {len(os.sched_getaffinity(0))} cores, torch {version('torch')}, "
          f"onnxruntime {version('onnxruntime')}, {os.path.basename(weights)}, "
          f"median of {arguments.runs} rounds")  # fmt: skip
    rounds = []
    for _ in range(arguments.runs):
        rounds.append({name: dub(arguments, name, side, folder) for name, side in sides.items()})
    for figure in rounds[0]["torch"]:
        for name in sides:
            show(f"{name}: {figure}", [turn[name][figure] for turn in rounds])
            if name != "torch":
                show(
                    f"{name} / torch: {figure}",
                    [turn[name][figure] / turn["torch"][figure] for turn in rounds],
                )
    alone(sides, 2 * arguments.runs)  # last, because the memory peak of a child starts at that of its parent
    for name in sides:
        if name != "torch":
            print(name, end=": ")
            compare(*(os.path.join(folder, f"{side}.mp4") for side in ("torch", name)))


class Side(NamedTuple):
    """Weights or an exported file, and how they are run."""

    weights: str
    precision: str

    @property
    def engine(self) -> str:
        """The value of --engine."""
        return "onnx" if self.weights.endswith(".onnx") else "torch"


def alone(sides: dict[str, Side], rounds: int) -> None:
    """Measure only the generator, as a dub runs it; the engines alternate in this process."""
    from dub import show
    from dub_parts import generating, timed

    from wav2lip_npu.dubbing.blend import load_mask
    from wav2lip_npu.dubbing.inference import GeneratorRunner, load_models

    runs = {}
    for name, side in sides.items():
        models = load_models(side.weights, precision=side.precision, detector="hog", device="cpu")
        mask = load_mask("soft", models.face_size)
        runs[name] = generating(GeneratorRunner(models, None, mask), 48, models.face_size)
    pace = [{name: timed(run) for name, run in runs.items()} for _ in range(rounds + 1)][1:]
    for name in runs:
        show(f"{name}: generator alone, faces/s", [turn[name]["fps"] for turn in pace])
        show(f"{name}: generator alone, CPU ms/face", [1000 * turn[name]["cpu"] / 48 for turn in pace])
        show(
            f"torch / {name}: CPU of the generator",
            [turn["torch"]["cpu"] / turn[name]["cpu"] for turn in pace],
        )


def dub(arguments: argparse.Namespace, name: str, side: Side, folder: str) -> dict[str, float]:
    """Dub through the command line and return time and memory."""
    from dub import our_command as command

    record = os.path.join(folder, "report.json")
    out = os.path.join(folder, f"{name}.mp4")
    usage = command(
        ["dub", "--face", arguments.face, "--audio", arguments.audio or arguments.face,
         "--checkpoint_path", side.weights, "--engine", side.engine, "--precision", side.precision,
         "--report", record, "--outfile", out, *arguments.flags]
    )  # fmt: skip
    report = json.loads(Path(record).read_text())
    return {
        "seconds": report["seconds"],
        "generate, s": report["seconds_per_stage"]["generate"],
        "frames/s": report["frames_per_second"],
        "whole command, s": usage["seconds"],
        "whole command, CPU s": usage["cpu"],
        "peak memory, GB": usage["peak"] / 1e9,
    }


def compare(one: str, other: str) -> None:
    """Print the largest difference of decoded frames and the number of differing values."""
    from wav2lip_npu.media import video_reader

    frames = in_planes = in_bgr = differing = total = 0
    for a, b in zip(video_reader.read_frames(one), video_reader.read_frames(other), strict=True):
        off = np.concatenate(
            [np.abs(getattr(a.yuv, p).astype(int) - getattr(b.yuv, p)).ravel() for p in "yuv"]
        )
        frames, in_planes = frames + 1, max(in_planes, int(off.max()))
        in_bgr = max(in_bgr, int(np.abs(a.image.astype(int) - b.image).max()))
        differing, total = differing + int((off > 0).sum()), total + off.size
    print(
        f"{frames} decoded frames: largest difference {in_planes} grey levels in the codec's planes, "
        f"{in_bgr} after conversion to BGR; {differing} of {total} differ"
    )


if __name__ == "__main__":
    main()
