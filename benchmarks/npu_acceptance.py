"""Acceptance test of an accelerator: function, speed, and difference from the CPU.

    python benchmarks/npu_acceptance.py [--device npu] [--out acceptance.json] [--width 32]

Compares the device with the CPU in float32, fp16 and bf16 as the doctor does, trains SyncNet and the
generator for a few steps, dubs on the device and on the CPU, and times the generator at several batch sizes
and precisions. The JSON report also lists operators that fell back to the CPU; set
TORCH_NPU_FALLBACK_CPU_DISABLE=1 to turn fallbacks into errors. Needs no data and no network access.
Exit code 0 if every part passed, else 1.
"""

from __future__ import annotations

import argparse
import json
import logging
import re
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import skimage.data
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "recipes"))
import demo

from wav2lip_npu.cli import main as cli
from wav2lip_npu.devices import device, device_memory, transfers
from wav2lip_npu.doctor import device_check, machine
from wav2lip_npu.dubbing.inference import load_models
from wav2lip_npu.media import video_reader
from wav2lip_npu.media.video_writer import EncodeOptions, write_video
from wav2lip_npu.media.yuv_image import SCREEN, YuvImage
from wav2lip_npu.models import checkpoint, numerics
from wav2lip_npu.models.networks import Wav2Lip
from wav2lip_npu.storage.outputs import OutputPath, check_outputs, write_output

BATCHES = (1, 8, 32, 128)
PRECISIONS = ("fp32", "fp16", "bf16")
PARTS = ("differences", "throughput", "dub", "training")
STEPS = 10
TIMED_S = 2.0
SECONDS = 3
GREY_LEVELS = 2.0
"""Mean difference of a frame from the CPU's dub that counts as rounding."""
_FELL_BACK = re.compile(r"operator '?([\w:.]+)'? .*fall ?back", re.IGNORECASE | re.DOTALL)


def compare(target: torch.device) -> dict[str, Any]:
    """Compare networks and a training step with the CPU, like `doctor`."""
    differences: dict[str, Any] = {}
    for amp in numerics.TOLERANCES:
        try:
            rows = device_check.compare_with_cpu(target, amp)
        except device.DeviceError as error:  # a chip without bf16
            differences[amp] = {"left_out": str(error)}
            continue
        differences[amp] = {row.what: {"largest": row.largest, "mean": row.mean} for row in rows}
        if large := [str(row) for row in rows if not row.is_small]:
            raise AssertionError(f"{amp}: " + "; ".join(large))
    return differences


def train(target: torch.device, work: Path, video: Path) -> dict[str, Any]:
    """Train SyncNet and the generator for a few steps in float32 and fp16, and resume both."""
    (work / "videos").mkdir()
    video.rename(work / "videos" / "a.mp4")
    run("preprocess", data_root=work / "videos", preprocessed_root=work / "clips", filelists=work / "lists")
    shared = {"data_root": work / "clips", "filelists": work / "lists", "device": target, "width": 8}
    results: dict[str, Any] = {}
    for amp in ("off", "fp16"):
        for command, flags in {"train_syncnet": {"batch_size": 8}, "train": {"batch_size": 2}}.items():
            begun = time.perf_counter()
            out = work / f"{command}_{amp}"
            for steps in (STEPS, 2 * STEPS):
                run(command, **shared, **flags, amp=amp, steps=steps, checkpoint_dir=out, log_interval=STEPS)
            rows = [json.loads(line) for line in (out / "curves.jsonl").read_text().splitlines()]
            losses = [row.get("l1", row.get("bce")) for row in rows if row["part"] == "train"]
            assert len(losses) == 2 and np.isfinite(losses).all(), f"{command} {amp}: losses {losses}"
            results[f"{command} {amp}"] = {"losses": losses, "seconds": time.perf_counter() - begun}
    return results


def dub(target: torch.device, work: Path, video: Path) -> dict[str, Any]:
    """Dub on the device and on the CPU, and compare the frames."""
    outputs = {}
    shared = {"face": video, "audio": demo.SENTENCE}
    for name, spec in {"device": str(target), "cpu": "cpu"}.items():
        outputs[name] = work / f"{name}.mp4"
        run("dub", **shared, outfile=outputs[name], device=spec, report=work / f"{name}.json")
    pairs = zip(*(video_reader.read_frames(path) for path in outputs.values()), strict=True)
    of_frames = [float(np.abs(a.image.astype(int) - b.image).mean()) for a, b in pairs]
    difference = numerics.Difference(
        "dub, grey levels of a frame", max(of_frames), np.mean(of_frames), GREY_LEVELS
    )
    assert difference.is_small, str(difference)
    return {
        "mean_difference_grey_levels": difference.largest,
        "report": json.loads((work / "device.json").read_text()),
    }


def throughput(target: torch.device, work: Path, width: int) -> dict[str, Any]:
    """Measure faces per second and peak memory of the generator alone, by precision and batch size."""
    torch.manual_seed(0)
    weights = work / "random.pth"
    checkpoint.save(weights, Wav2Lip(width))
    results: dict[str, Any] = {}
    for precision in PRECISIONS:
        try:
            models = load_models(weights, detector="hog", device=str(target), precision=precision)
            results[precision] = {batch: rate(models, batch) for batch in BATCHES}
        except (device.DeviceError, RuntimeError) as error:
            results[precision] = {"left_out": " ".join(str(error).split())[:300]}
    assert "left_out" not in results["fp32"], results["fp32"]
    return results


@torch.inference_mode()
def rate(models: Any, batch: int) -> dict[str, float]:
    """Measure faces per second at one batch size, after a batch of warm-up."""
    target, dtype = models.device, models.precision
    layout = device.memory_format(target)
    faces = torch.rand(batch, 6, 96, 96).to(target, dtype).contiguous(memory_format=layout)
    mels = torch.rand(batch, 1, 80, 16).to(target, dtype)
    models.generator(mels, faces)
    transfers.synchronize(target)
    begun, done = time.perf_counter(), 0
    while time.perf_counter() - begun < TIMED_S:
        models.generator(mels, faces)
        transfers.synchronize(target)
        done += batch
    peak = device_memory.device_peak_memory(target) or device_memory.peak_memory()
    return {"faces_per_second": round(done / (time.perf_counter() - begun), 1), "peak_mb": round(peak / 1e6)}


def run(command: str, **flags: Any) -> None:
    """Run a command of the package."""
    words = [str(word) for name, value in flags.items() for word in (f"--{name}", value)]
    code = cli.main([command, *words])
    assert code == 0, f"wav2lip-npu {command} exited with code {code}"


def main() -> int:
    """Run all parts, even after a failure, and write the report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--out", type=Path, default=Path("acceptance.json"))
    parser.add_argument("--width", type=int, default=32)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    given = parser.parse_args()
    check_outputs([OutputPath("--out", given.out)])
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    target = device.resolve(given.device)
    device.activate(target)
    report: dict[str, Any] = {"installation": machine.check_machine(str(target)).as_dict(), "failed": {}}
    photo = np.ascontiguousarray(skimage.data.astronaut()[:, :, ::-1])
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        work, video = Path(folder), Path(folder, "face.mp4")
        shots = (YuvImage.from_image(shot, SCREEN) for shot in demo.camera(photo, int(demo.FPS) * SECONDS))
        write_video(shots, video, fps=demo.FPS, audio=demo.SENTENCE, options=EncodeOptions(crf=12))
        parts: dict[str, Callable[[], dict[str, Any]]] = {
            "differences": lambda: compare(target),
            "throughput": lambda: throughput(target, work, given.width),
            "dub": lambda: dub(target, work, video),
            "training": lambda: train(target, work, video),
        }
        for name in given.parts:
            part = parts[name]
            begun = time.perf_counter()
            try:
                report[name] = part()
                verdict = "ok"
            except Exception as error:  # the other parts still run
                report["failed"][name] = traceback.format_exc()
                verdict = f"FAILED: {' '.join(str(error).split())[:300]}"
            sys.stdout.write(f"{name}: {verdict} ({time.perf_counter() - begun:.0f} s)\n")
    messages = [str(warning.message) for warning in caught]
    report["fell_back"] = sorted({match[1] for text in messages if (match := _FELL_BACK.search(text))})
    report["ok"] = not report["failed"] and report["installation"]["ok"]
    write_output(given.out, json.dumps(report, indent=1, default=str) + "\n")
    for precision, rows in report.get("throughput", {}).items():
        sys.stdout.write(f"{precision}: {rows}\n")
    sys.stdout.write(f"fell back to the CPU: {', '.join(report['fell_back']) or 'nothing'}\n{given.out}\n")
    return 0 if report["ok"] else 1


if __name__ == "__main__":
    sys.exit(main())
