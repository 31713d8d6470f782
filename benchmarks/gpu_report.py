"""Tests and figures of one GPU in one report, within nine minutes: for a bare machine that is lent briefly.

    python benchmarks/gpu_report.py [--device cuda] [--out build/gpu_report] [--minutes 9] [--original FOLDER]

Runs the device tests, dubs of two sizes with each stage alone (`benchmarks/dub.py`), trainings of two widths,
eager and compiled (`benchmarks/train.py`), and the generator alone (`benchmarks/npu_acceptance.py`).
A part that fails or does not fit in the time is reported as such, and the others still run.
Writes report.json and report.md.
Needs no data. `--device cpu --quick` runs the same parts on a CPU, each as short as possible.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from wav2lip_npu import __version__
from wav2lip_npu.devices import device as devices

ROOT = Path(__file__).resolve().parents[1]
PYTHON = sys.executable
TESTS = [
    "tests/data/test_batch_changes.py",
    "tests/data/test_device_augmentation.py",
    "tests/data/test_resident_samples.py",
    "tests/models",
    "tests/training/test_data_on.py",
    "tests/training/test_generator.py",
    "tests/training/test_graph.py",
    "tests/training/test_loop.py",
    "tests/training/test_resume.py",
    "tests/dubbing",
    "tests/evaluation",
]
QUICK_TESTS = ["tests/data/test_device_augmentation.py"]

DUBS = [("1080x1920", "12"), ("512x512", "40")]
"""Sizes and seconds."""
QUICK_DUBS = [("192x256", "1")]
SHORT = ["--seconds", "2", "--clips", "60"]
VARIANTS: list[tuple[int, str, list[str]]] = [
    (16, "graph", [*SHORT, "--recipe", "--end_to_end"]),
    (16, "on", [*SHORT, "--recipe", "--end_to_end"]),
    (32, "off", [*SHORT, "--full"]),
    (32, "on", [*SHORT, "--end_to_end"]),
    (16, "on", [*SHORT, "--end_to_end"]),
]
"""Width, compilation and further flags of the trainings."""
QUICK_VARIANTS: list[tuple[int, str, list[str]]] = [
    (2, "off", ["--batch", "8", "--clips", "6", "--seconds", "0.2", "--amp", "off"]),
    (2, "off", ["--batch", "8", "--clips", "6", "--seconds", "0.2", "--amp", "off", "--recipe"]),
]


class Part(NamedTuple):
    """A program of the report."""

    name: str
    command: list[str]
    longest_s: float
    result: Path | None = None
    """JSON that the program writes."""
    env: dict[str, str] = {}  # noqa: RUF012 never changed


def parts(given: argparse.Namespace) -> Iterator[Part]:
    """Yield the programs, the most important ones first."""
    out: Path = given.out
    pytest = [PYTHON, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--maxfail=20"]
    pytest += QUICK_TESTS if given.quick else TESTS
    yield Part("device tests", pytest, 100, None, {"TEST_DEVICE": given.device.partition(":")[0]})
    for size, seconds in QUICK_DUBS if given.quick else DUBS:
        file = out / f"dub_{size}.json"
        words = ["--device", given.device, "--size", size, "--seconds", seconds, "--json", str(file)]
        words += ["--runs", "1", "--longer", "0"]
        words += ["--checkpoint_path", "starter"] if given.quick else []
        if given.original is not None:
            words += ["--original", str(given.original)]
        yield Part(f"dub {size}", [PYTHON, "benchmarks/dub.py", *words], 110, file)
    variants = QUICK_VARIANTS if given.quick else VARIANTS
    for width, compiled, more in variants:
        name = f"width {width}, compile {compiled}{', recipe' if '--recipe' in more else ''}"
        file = out / f"train_{name.replace(', ', '_').replace(' ', '_')}.json"
        words = ["--device", given.device, "--width", str(width), "--compile", compiled, "--json", str(file)]
        if given.original is not None and "--full" in more:
            words += ["--original", str(given.original)]
        command = [PYTHON, "benchmarks/train.py", *words, *more]
        yield Part(f"training, {name}", command, 100, file)
    file = out / "acceptance.json"
    words = ["--device", given.device, "--out", str(file), "--parts", "dub", "throughput"]
    words += ["--width", "2"] if given.quick else []
    yield Part("dubs", [PYTHON, "benchmarks/npu_acceptance.py", *words], 90, file)


def run(part: Part, seconds: float) -> dict[str, Any]:
    """Run a program for at most some seconds, and return its result, output and duration."""
    begun = time.monotonic()
    env = {**os.environ, "PYTHONPATH": str(ROOT), **part.env}
    try:
        done = subprocess.run(
            part.command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=max(1.0, seconds)
        )
        code: int | str = done.returncode
        output = done.stdout + done.stderr
    except subprocess.TimeoutExpired as late:
        code = "did not end in time"
        output = "".join(text.decode(errors="replace") for text in (late.stdout, late.stderr) if text)
    figures = json.loads(part.result.read_text()) if part.result and part.result.exists() else None
    return {
        "ok": code == 0,
        "exit": code,
        "seconds": round(time.monotonic() - begun, 1),
        "command": " ".join(part.command[1:]),
        "figures": figures,
        "output": output[-6000:],
    }


def markdown(report: dict[str, Any]) -> str:
    """Return the report as a page."""
    lines = [f"# {report['machine']}", "", f"wav2lip-npu {report['version']}, torch {report['torch']}", ""]
    lines += ["| part | result | seconds |", "|---|---|---|"]
    for name, result in report["parts"].items():
        lines.append(f"| {name} | {'ok' if result['ok'] else result['exit']} | {result['seconds']} |")
    rows = []
    for name, result in report["parts"].items():
        for kind in ("train_syncnet", "train"):
            found = (result["figures"] or {}).get(kind)
            for row, rate in (found or {}).get("windows_per_second", {}).items():
                rows.append(f"| {name} | {kind} | {found['batch']} | {row} | {rate} windows/s |")
            for row, cost in (found or {}).get("cost_ms", {}).items():
                rows.append(f"| {name} | {kind} | {found['batch']} | {row} | {cost} ms per step |")
        for what, figure in (result["figures"] or {}).get("rounds", [{}])[-1].items():
            rows.append(f"| {name} | dub | | {what} | {figure:.2f} |")
        figures = result["figures"] or {}
        if speed := figures.get("dub", {}).get("report", {}).get("frames_per_second"):
            rows.append(f"| {name} | dub | | whole dub of a short clip | {speed} frames/s |")
        for precision, of_batch in figures.get("throughput", {}).items():
            for size, found in of_batch.items() if "left_out" not in of_batch else ():
                rows.append(
                    f"| {name} | {precision} | {size} | generator | {found['faces_per_second']} faces/s |"
                )
    lines += ["", "| part | command or precision | batch | what | figure |", "|---|---|---|---|---|", *rows]
    for name, result in report["parts"].items():
        tail = "\n".join(result["output"].strip().splitlines()[-15:])
        lines += ["", f"## {name}", "", f"`{result['command']}`", "", "```", tail, "```"]
    return "\n".join(lines) + "\n"


def main() -> int:
    """Run all parts that fit in the time, and write the report after each of them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "gpu_report")
    parser.add_argument("--minutes", type=float, default=9)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--original", type=Path, help="folder of the original's repository")
    given = parser.parse_args()
    end = time.monotonic() + 60 * given.minutes
    given.out = given.out.resolve()
    given.out.mkdir(parents=True, exist_ok=True)
    import torch

    device = devices.resolve(given.device)
    report: dict[str, Any] = {
        "machine": f"{devices.describe(device)}, {devices.cpu_count()} cores",
        "version": __version__,
        "torch": torch.__version__,
        "parts": {},
    }
    for part in parts(given):
        left = end - time.monotonic()
        result = run(part, min(part.longest_s, left)) if left > 5 else None
        report["parts"][part.name] = result or {
            "ok": False, "exit": "no time left", "seconds": 0, "command": " ".join(part.command[1:]),
            "figures": None, "output": "",
        }  # fmt: skip
        verdict = report["parts"][part.name]
        print(
            f"{part.name}: {'ok' if verdict['ok'] else verdict['exit']} ({verdict['seconds']} s)", flush=True
        )
        (given.out / "report.json").write_text(json.dumps(report, indent=1, default=str) + "\n")
        (given.out / "report.md").write_text(markdown(report))
    print(given.out / "report.md")
    return 0 if all(result["ok"] for result in report["parts"].values()) else 1


if __name__ == "__main__":
    sys.exit(main())
