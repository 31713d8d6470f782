"""A dub by an exported ONNX file against the same dub by PyTorch, on a real clip, in one run on this machine.

    python benchmarks/engines.py --face talk.mp4 [--audio speech.wav] [--checkpoint_path wav2lip.pth]

Without --checkpoint_path the full-size network with seeded random weights is used. The commands take turns,
each in a process of its own, so that a drifting machine touches both; `seconds` are those of the report,
without loading the models. Videos are lossless: what differs between them is what the engines made.
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
    """Export, dub in turns, compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--face", required=True)
    parser.add_argument("--audio", help="default: the sound of --face")
    parser.add_argument("--checkpoint_path", help="default: random weights of the full-size network")
    parser.add_argument("--batch", type=int, default=0, help="of the exported file; 0: any")
    parser.add_argument("--runs", type=int, default=5, help="rounds: the median is printed")
    parser.add_argument("flags", nargs="*", help="more flags for dub, after --")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        measure(given, folder)


def measure(given: argparse.Namespace, folder: str) -> None:
    """Both engines in turns, and what differs between their videos."""
    from dub import command, processor, save_random, show

    weights = given.checkpoint_path
    if not weights:
        weights = os.path.join(folder, "random.pth")
        save_random(weights)
    command(["export", "--checkpoint_path", weights, "--batch", str(given.batch), "--outdir", folder])
    (exported,) = Path(folder).glob("*.onnx")
    files = {"torch": weights, "onnx": str(exported)}
    print(f"{processor()}, {len(os.sched_getaffinity(0))} cores, torch {version('torch')}, "
          f"onnxruntime {version('onnxruntime')}, {os.path.basename(weights)}, {exported.name}, "
          f"median of {given.runs} rounds")  # fmt: skip
    rounds = []
    for _ in range(given.runs):
        rounds.append({engine: dub(given, engine, file, folder) for engine, file in files.items()})
    for what in rounds[0]["torch"]:
        for engine in files:
            show(f"{engine}: {what}", [each[engine][what] for each in rounds])
    for what in ("seconds", "generate, s", "whole command, s", "whole command, CPU s"):
        show(f"onnx / torch: {what}", [each["onnx"][what] / each["torch"][what] for each in rounds])
    alone(files, 2 * given.runs)  # last: a child's peak of memory begins with that of its parent
    compare(*(os.path.join(folder, f"{engine}.mp4") for engine in files))


def alone(files: dict[str, str], rounds: int) -> None:
    """The generator as dubbing runs it, without what is around it; both engines in turns, in this process."""
    from dub import show, speaking, timed

    from wav2lip_npu import device
    from wav2lip_npu.dubbing.blend import load_mask
    from wav2lip_npu.dubbing.inference import GeneratorRunner, load_models

    mask = load_mask("soft", 96)
    runs = {
        engine: speaking(
            GeneratorRunner(load_models(file, detector="hog", device=device.HOST), None, mask), 48
        )
        for engine, file in files.items()
    }
    pace = [{engine: timed(run)["fps"] for engine, run in runs.items()} for _ in range(rounds + 1)][1:]
    for engine in runs:
        show(f"{engine}: generator alone, faces/s", [each[engine] for each in pace])
    show("onnx / torch: generator alone, s", [each["torch"] / each["onnx"] for each in pace])


def dub(given: argparse.Namespace, engine: str, weights: str, folder: str) -> dict[str, float]:
    """One dub by the command line: its own time and memory."""
    from dub import command

    record = os.path.join(folder, "report.json")
    out = os.path.join(folder, f"{engine}.mp4")
    spent = command(
        ["dub", "--face", given.face, "--audio", given.audio or given.face, "--checkpoint_path", weights,
         "--engine", engine, "--crf", "0", "--report", record, "--outfile", out, *given.flags]
    )  # fmt: skip
    report = json.loads(Path(record).read_text())
    return {
        "seconds": report["seconds"],
        "generate, s": report["seconds_per_stage"]["generate"],
        "frames/s": report["frames_per_second"],
        "whole command, s": spent["seconds"],
        "whole command, CPU s": spent["cpu"],
        "peak memory, GB": spent["peak"] / 1e9,
    }


def compare(one: str, other: str) -> None:
    """The largest difference of decoded frames, and how many pixels differ at all."""
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
