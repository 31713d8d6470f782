"""Measure how soon SyncNet converges, with both recipes, on a clean and on a hard set of clips.

    python benchmarks/syncnet.py --data_root grid_clips --out build/syncnet [--mix other_clips]

Creates the hard set (recipes/hard_clips.py; the clips of --mix are added to it), splits clips by a fixed
seed, and trains SyncNet through its command line, several seeds per recipe and set. Prints the windows seen
until the held-out BCE, the median of three evaluations, is below each level, and the share of held-out
windows whose best offset within 15 frames is 0 or 1 at the end. Run it again to resume.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from statistics import median

import numpy as np

REPOSITORY = Path(__file__).resolve().parents[1]
BATCH = 64
LEVELS = {"clean": (0.50, 0.40, 0.25), "hard": (0.65, 0.60, 0.58)}
LONGEST = {
    ("clean", "default"): 64_000,
    ("clean", "original"): 140_000,
    ("hard", "default"): 200_000,
    ("hard", "original"): 100_000,
}
"""Windows after which a run ends."""
HELD_OUT = 0.1
EVALUATIONS = 3
"""Evaluations whose median counts."""


def split(names: list[str], lists: Path) -> None:
    """Write train.txt and val.txt: a fixed tenth of the clips is held out."""
    lists.mkdir(parents=True, exist_ok=True)
    order = np.random.default_rng(0).permutation(len(names))
    held_out = {names[at] for at in order[: round(HELD_OUT * len(names))]}
    for file, chosen in (("train.txt", set(names) - held_out), ("val.txt", held_out)):
        (lists / file).write_text("".join(f"{name}\n" for name in sorted(chosen)))


def clips_below(root: Path) -> list[str]:
    """Return clip folders relative to the root."""
    return sorted(str(path.parent.relative_to(root)) for path in root.rglob("audio.wav"))


def make_sets(arguments: argparse.Namespace) -> dict[str, tuple[Path, Path]]:
    """Create both sets and return their data roots and file lists."""
    out: Path = arguments.out
    clean = (arguments.data_root, out / "lists" / "clean")
    split(clips_below(arguments.data_root), clean[1])
    hard = (out / "hard", out / "lists" / "hard")
    if not hard[0].exists():
        part = out / "hard.part"
        shutil.rmtree(part, ignore_errors=True)
        for root in filter(None, (arguments.data_root, arguments.mix)):
            names = out / "lists" / "all.txt"
            names.write_text("".join(f"{name}\n" for name in clips_below(root)))
            script = str(REPOSITORY / "recipes" / "hard_clips.py")
            command = [sys.executable, script, "--data_root", str(root), "--names", str(names)]
            subprocess.run([*command, "--out", str(part)], check=True)
        part.rename(hard[0])
    split(clips_below(hard[0]), hard[1])
    return {"clean": clean, "hard": hard}


def start(
    folder: Path, data: tuple[Path, Path], recipe: str, seed: int, steps: int, width: int
) -> subprocess.Popen:
    """Start one training on one core."""
    folder.mkdir(parents=True, exist_ok=True)
    every = 64 if recipe == "default" else 128
    command = [
        sys.executable, "-m", "wav2lip_npu", "train_syncnet", "--data_root", data[0], "--filelists", data[1],
        "--checkpoint_dir", folder, "--recipe", recipe, "--seed", seed, "--width", width, "--amp", "bf16",
        "--device", "cpu", "--batch_size", BATCH, "--steps", steps, "--eval_interval", every,
        "--checkpoint_interval", 4 * every, "--keep", 1, "--eval_clips", 16, "--num_workers", 1,
    ]  # fmt: skip
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    log = (folder / "log.txt").open("w")
    return subprocess.Popen(list(map(str, command)), stdout=log, stderr=log, env=environment, cwd=REPOSITORY)


def evaluations(folder: Path) -> list[dict[str, float]]:
    """Return the held-out figures of a run, in order."""
    path = folder / "curves.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    return [row for row in map(json.loads, lines) if row["part"] == "held_out"]


def smoothed(rows: list[dict[str, float]]) -> list[tuple[int, float]]:
    """Return windows seen at each evaluation, and the median BCE of it and its neighbours."""
    values = [row["bce"] for row in rows]
    around = EVALUATIONS // 2
    return [
        (rows[at]["step"] * BATCH, median(values[at - around : at + around + 1]))
        for at in range(around, len(values) - around)
    ]


def until(rows: list[dict[str, float]], level: float) -> int | None:
    """Return the windows seen when the smoothed BCE falls below a level, interpolated linearly."""
    for (before, high), (after, low) in itertools.pairwise(smoothed(rows)):
        if low < level:
            return round(before + (after - before) * max(0.0, high - level) / max(high - low, 1e-9))
    return None


def is_over(rows: list[dict[str, float]], longest: int, level: float) -> bool:
    """Return whether a run has seen all its windows or passed its last level."""
    return bool(rows) and (rows[-1]["step"] * BATCH >= longest or until(rows, level) is not None)


def train_all(arguments: argparse.Namespace, sets: dict[str, tuple[Path, Path]]) -> None:
    """Run every unfinished training, `jobs` at a time."""
    waiting = [
        (kind, recipe, seed)
        for seed, recipe, kind in itertools.product(range(arguments.seeds), ("default", "original"), sets)
    ]
    running: dict[tuple[str, str, int], subprocess.Popen] = {}
    while waiting or running:
        while waiting and len(running) < arguments.jobs:
            run = waiting.pop(0)
            kind, recipe, seed = run
            folder = arguments.out / f"{kind}_{recipe}_{seed}"
            if not is_over(evaluations(folder), LONGEST[kind, recipe], LEVELS[kind][-1]):
                steps = LONGEST[kind, recipe] // BATCH
                running[run] = start(folder, sets[kind], recipe, seed, steps, arguments.width)
        time.sleep(2)
        for run, process in list(running.items()):
            rows = evaluations(arguments.out / "{}_{}_{}".format(*run))
            if process.poll() is None and is_over(rows, LONGEST[run[0], run[1]], LEVELS[run[0]][-1]):
                process.terminate()  # it saves a checkpoint and ends
                process.wait()
            if process.poll() is not None:
                del running[run]
                print(run, f"{rows[-1]['step'] * BATCH} windows" if rows else "failed", flush=True)


def table(arguments: argparse.Namespace) -> str:
    """Return the figures as a Markdown table, one row per run."""
    lines = [
        "| set | recipe | seed | " + "BCE under: windows | " * 3 + "BCE, retrieval at the end |",
        "|---" * 7 + "|",
    ]
    for kind, recipe in itertools.product(LEVELS, ("default", "original")):
        for seed in range(arguments.seeds):
            rows = evaluations(arguments.out / f"{kind}_{recipe}_{seed}")
            if len(rows) < EVALUATIONS:
                continue
            cells = []
            for level in LEVELS[kind]:
                windows = until(rows, level)
                seen = rows[-1]["step"] * BATCH
                cells.append(f"{level:.2f}: {f'not in {seen:,}' if windows is None else f'{windows:,}'}")
            last = rows[-1]
            end = f"{smoothed(rows)[-1][1]:.3f}, {last.get('retrieval', 0):.0%} at {last['step'] * BATCH:,}"
            lines.append(f"| {kind} | {recipe} | {seed} | {' | '.join(cells)} | {end} |")
    return "\n".join(lines)


def main() -> None:
    """Train all runs and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--data_root", required=True, type=Path, help="clips of one speaker, in sync")
    parser.add_argument("--mix", type=Path, help="clips of other speakers for the hard set")
    parser.add_argument("--out", required=True, type=Path)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--width", type=int, default=4, help="channels of SyncNet, 32 for the published one")
    parser.add_argument("--jobs", type=int, default=2, help="parallel trainings, one core each")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    train_all(arguments, make_sets(arguments))
    print(table(arguments))


if __name__ == "__main__":
    main()
