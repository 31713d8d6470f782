"""Compare a dub with an exported ONNX file and the same dub with PyTorch, on a real clip, in one run.

    python benchmarks/engines.py --face talk.mp4 [--audio speech.wav] [--checkpoint_path wav2lip.pth]

Without --checkpoint_path the full-size network with seeded random weights is used. The commands alternate,
each in its own process, so that a drift of the machine affects both. `seconds` are those of the report,
without loading the models. Outputs are lossless, so their difference is that of the engines.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

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
    from dub import command, processor, save_random, show

    weights = arguments.checkpoint_path
    if not weights:
        weights = os.path.join(folder, "random.pth")
        save_random(weights)
    command(["export", "--checkpoint_path", weights, "--batch", str(arguments.batch), "--outdir", folder])
    (exported,) = Path(folder).glob("*.onnx")
    files = {"torch": weights, "onnx": str(exported)}
    print(f"{processor()}, {len(os.sched_getaffinity(0))} cores, torch {version('torch')}, "
          f"onnxruntime {version('onnxruntime')}, {os.path.basename(weights)}, {exported.name}, "
          f"median of {arguments.runs} rounds")  # fmt: skip
    rounds = []
    for _ in range(arguments.runs):
        rounds.append({engine: dub(arguments, engine, file, folder) for engine, file in files.items()})
    for figure in rounds[0]["torch"]:
        for engine in files:
            show(f"{engine}: {figure}", [turn[engine][figure] for turn in rounds])
    for figure in ("seconds", "generate, s", "whole command, s", "whole command, CPU s"):
        show(f"onnx / torch: {figure}", [turn["onnx"][figure] / turn["torch"][figure] for turn in rounds])
    alone(files, 2 * arguments.runs)  # last, because the memory peak of a child starts at that of its parent
    compare(*(os.path.join(folder, f"{engine}.mp4") for engine in files))


def alone(files: dict[str, str], rounds: int) -> None:
    """Measure only the generator, as a dub runs it; both engines alternate in this process."""
    from dub import generating, show, timed

    from wav2lip_npu import device
    from wav2lip_npu.dubbing.blend import load_mask
    from wav2lip_npu.dubbing.inference import GeneratorRunner, load_models

    mask = load_mask("soft", 96)
    runs = {
        engine: generating(
            GeneratorRunner(load_models(file, detector="hog", device=device.HOST), None, mask), 48
        )
        for engine, file in files.items()
    }
    pace = [{engine: timed(run)["fps"] for engine, run in runs.items()} for _ in range(rounds + 1)][1:]
    for engine in runs:
        show(f"{engine}: generator alone, faces/s", [turn[engine] for turn in pace])
    show("onnx / torch: generator alone, s", [turn["torch"] / turn["onnx"] for turn in pace])


def dub(arguments: argparse.Namespace, engine: str, weights: str, folder: str) -> dict[str, float]:
    """Dub through the command line and return time and memory."""
    from dub import command

    record = os.path.join(folder, "report.json")
    out = os.path.join(folder, f"{engine}.mp4")
    usage = command(
        ["dub", "--face", arguments.face, "--audio", arguments.audio or arguments.face,
         "--checkpoint_path", weights, "--engine", engine, "--crf", "0", "--report", record,
         "--outfile", out, *arguments.flags]
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
