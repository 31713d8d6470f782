"""Measure the speed of training: windows per second end to end, of a step and of the data alone.

    python benchmarks/train.py [--device cuda] [--width 32] [--kinds train_syncnet train] [--json FILE]
                               [--data_root CLIPS --filelists LISTS] [--recipe] [--original FOLDER]

Every row is a training through `train_syncnet` or `train_generator`, timed between its steps, so that start,
compilation and evaluation do not count. `cost` is the time of a step that a part takes: the full training
against one without the part. Without --data_root the clips are noise, with which the speed is the same.

--recipe trains with all options and losses of recipes/starter, from the first step on.

--original is a folder with the original's repository. Its scripts run unchanged on the same clips, with the
batch size of their hparams.py; librosa's old way of calling `filters.mel` is restored for them.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import itertools
import json
import os
import subprocess
import sys
import tempfile
import time
import wave
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from wav2lip_npu import train_generator, train_syncnet
from wav2lip_npu.data.device_batch import TargetBatch, WindowBatch, on_device
from wav2lip_npu.data.samples import batches
from wav2lip_npu.devices import device as devices
from wav2lip_npu.devices import transfers
from wav2lip_npu.models import checkpoint
from wav2lip_npu.models.networks import SyncNet
from wav2lip_npu.training import loop

AUGMENTATION = {
    "flip": 0.5, "stretch": 0.1, "shift": 0.05, "turn": 8, "bend": 0.02, "colour": 0.25, "gamma": 0.4,
    "blur": 0.6, "formants": 0.1, "loudness": 6, "tilt": 6,
}  # fmt: skip
KINDS: dict[str, dict[str, Any]] = {
    "train_syncnet": {"batch_size": 512, "average": 0.99},
    "train": {"batch_size": 64, "average": 0.99, "syncnet_wt": 0.03},
}
RECIPE = Path(__file__).resolve().parents[1] / "recipes" / "starter"
RECIPE_FLAGS = {
    "train_syncnet": ("syncnet.flags", {"batch_size": 512}),
    "train": ("generator.flags", {"batch_size": 128, "sync_from": 0, "disc_from": 0}),
}
RECIPE_WITHOUT: dict[str, dict[str, dict[str, Any]]] = {
    "train_syncnet": {"changes": {"grey": 0, "hide_patch": 0, "hide_band": 0, "mel_noise": 0}},
    "train": {
        "changes": {"reference_mouth_warp": 0, "reference_paste": 0, "silence": 0},
        "discriminator": {"patch_disc_wt": 0},
    },
}
WITHOUT: dict[str, dict[str, Any]] = {
    "augmentation": dict.fromkeys(AUGMENTATION, 0),
    "expert": {"syncnet_wt": 0, "sync_weight": 0},
    "average": {"average": 0},
}
ROWS: dict[str, Any] = {"train_syncnet": WindowBatch, "train": TargetBatch}
WARM_STEPS = 5
ORIGINALS = {"train_syncnet": "color_syncnet_train.py", "train": "wav2lip_train.py"}
ORIGINAL_BATCH = {"train_syncnet": 64, "train": 16}
RUN_ORIGINAL = """
import functools, os, runpy, sys, time
import librosa, torch
script, seconds = sys.argv[1], float(sys.argv[2])
mel = librosa.filters.mel
librosa.filters.mel = lambda sr, n_fft, **more: mel(sr=sr, n_fft=n_fft, **more)
step, times = torch.optim.Adam.step, []
@functools.wraps(step)
def timed(self, *given, **more):
    result = step(self, *given, **more)
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    times.append(time.perf_counter())
    if len(times) > 3 and times[-1] - times[2] > seconds:
        print("STEPS", (len(times) - 3) / (times[-1] - times[2]), flush=True)
        os._exit(0)
    return result
torch.optim.Adam.step = timed
sys.argv = [script, *sys.argv[3:]]
sys.path.insert(0, os.path.dirname(script))
runpy.run_path(script, run_name="__main__")
"""


class Enough(Exception):  # noqa: N818 not an error
    """The training has run for the wanted time."""


class Timer:
    """Times the steps of a training after the first few, for a number of seconds."""

    def __init__(self, seconds: float) -> None:
        self._seconds, self._count, self._begun, self._now = seconds, 0, 0.0, 0.0

    def __call__(self, step: int, losses: Any) -> None:
        """Count a step; the losses have been read, so the device has finished it."""
        self._now = time.perf_counter()
        if step == WARM_STEPS:
            self._begun = self._now
        self._count = step - WARM_STEPS
        if self._count > 0 and self._now - self._begun > self._seconds:
            raise Enough

    @property
    def step_seconds(self) -> float:
        """Seconds of a step."""
        return (self._now - self._begun) / self._count


def recipe(kind: str) -> dict[str, Any]:
    """Return the options of recipes/starter, without the width."""
    name, values = RECIPE_FLAGS[kind]
    flags: dict[str, Any] = {}
    for word in (RECIPE / name).read_text().split():
        if word.startswith("--"):
            flags[flag := word[2:]] = True
        else:
            flags[flag] = ast.literal_eval(word)
    return {name: value for name, value in {**flags, **values}.items() if name != "width"}


def step_seconds(kind: str, given: argparse.Namespace, clips: Clips, **flags: Any) -> float:
    """Train for some seconds, and return the seconds of a step."""
    values = {**(recipe(kind) if given.recipe else {**KINDS[kind], **AUGMENTATION}), **flags}
    if kind == "train_syncnet":
        values = {name: value for name, value in values.items() if name not in ("syncnet_wt", "sync_weight")}
    timer = Timer(given.seconds)
    train = train_syncnet if kind == "train_syncnet" else train_generator
    judge = {} if kind == "train_syncnet" else {"syncnet_checkpoint_path": str(clips.syncnet)}
    with tempfile.TemporaryDirectory() as out, contextlib.suppress(Enough):
        train(
            clips.root, out, progress=timer, filelists=str(clips.lists), device=given.device,
            width=given.width, amp=given.amp, num_workers=given.num_workers,
            eval_interval=10**9, checkpoint_interval=10**9, **judge, **values,
        )  # fmt: skip
    return timer.step_seconds


@contextlib.contextmanager
def replaced_stream(stream: Any) -> Iterator[None]:
    """Give the loop other batches."""
    loop.batches = stream
    try:
        yield
    finally:
        loop.batches = batches


def same_batch(kind: str, device: Any) -> Any:
    """Return a stream that yields its first batch, on the device, without end."""

    def stream(*given: Any, **options: Any) -> Iterator[Any]:
        with contextlib.closing(batches(*given, **options)) as real:
            first = next(real)
        yield from itertools.repeat(replace(first, samples=on_device(first, ROWS[kind], device)))

    return stream


def data_seconds(kind: str, given: argparse.Namespace, clips: Clips, **flags: Any) -> float:
    """Return the seconds to draw a batch and bring it to the device, without training."""
    device, result = devices.resolve(given.device), []

    def timed(*words: Any, **options: Any) -> Iterator[Any]:
        stream = batches(*words, **options)
        for number in itertools.count():
            if number == WARM_STEPS:
                transfers.synchronize(device)
                begun = time.perf_counter()
            on_device(next(stream), ROWS[kind], device)
            if number > WARM_STEPS and time.perf_counter() - begun > given.seconds:
                transfers.synchronize(device)
                result.append((time.perf_counter() - begun) / (number - WARM_STEPS + 1))
                stream.close()
                raise Enough
        yield

    with replaced_stream(timed), contextlib.suppress(Enough, ZeroDivisionError):
        step_seconds(kind, given, clips, **flags)
    return result[0]


class Clips:
    """The clips of the benchmark, and a SyncNet that judges the generator."""

    def __init__(self, given: argparse.Namespace, folder: Path) -> None:
        self.root, self.lists = given.data_root, given.filelists
        self.syncnet = folder / "syncnet.pth"
        checkpoint.save(self.syncnet, SyncNet(given.width))
        if self.root is None:
            self.root, self.lists = folder / "clips", folder / "lists"
            names = [f"s{number % 8}/{number:04}" for number in range(given.clips)]
            for number, name in enumerate(names):
                write_noise(self.root / name, number)
            self.lists.mkdir()
            (self.lists / "train.txt").write_text("".join(f"{name}\n" for name in names[:-2]))
            (self.lists / "val.txt").write_text("".join(f"{name}\n" for name in names[-2:]))


def write_noise(folder: Path, seed: int, frames: int = 75) -> None:
    """Write a clip of noise in the original's layout."""
    random = np.random.default_rng(seed)
    folder.mkdir(parents=True)
    for number in range(frames):
        face = cv2.resize(random.integers(0, 255, (6, 6, 3), np.uint8), (96, 96))
        cv2.imwrite(str(folder / f"{number}.jpg"), face)
    with wave.open(str(folder / "audio.wav"), "wb") as file:
        file.setparams((1, 2, 16_000, 0, "NONE", ""))
        file.writeframes(random.integers(-9000, 9000, frames * 640).astype("<i2").tobytes())


def original_rate(kind: str, given: argparse.Namespace, clips: Clips, folder: Path) -> float | None:
    """Return the windows per second of the original's script, or `None` if it does not run."""
    work = folder / f"original_{kind}"
    work.mkdir()
    (work / "filelists").symlink_to(Path(clips.lists).resolve())
    words = ["--data_root", f"{Path(clips.root).resolve()}/", "--checkpoint_dir", str(work / "out")]
    if kind == "train":
        words += ["--syncnet_checkpoint_path", str(clips.syncnet)]
    script = given.original.resolve() / ORIGINALS[kind]
    done = subprocess.run(
        [sys.executable, "-c", RUN_ORIGINAL, str(script), str(given.seconds), *words],
        cwd=work, capture_output=True, text=True, timeout=120 + 10 * given.seconds,
        env={**os.environ, "PYTHONPATH": str(given.original.resolve())},
    )  # fmt: skip
    steps = [line.split()[1] for line in done.stdout.splitlines() if line.startswith("STEPS")]
    if not steps:
        print(f"{script} did not run: {done.stderr.strip()[-300:]}", file=sys.stderr)
        return None
    return float(steps[0]) * ORIGINAL_BATCH[kind]


def measure(kind: str, given: argparse.Namespace, clips: Clips, folder: Path) -> dict[str, Any]:
    """Return windows per second of each part, and the milliseconds that parts of a step cost."""
    batch = given.batch or (recipe(kind) if given.recipe else KINDS[kind])["batch_size"]
    shared = {"batch_size": batch, "data_on": given.data_on, "compile": given.compile}
    full = step_seconds(kind, given, clips, **shared)
    seconds = {"end to end": full}
    if not given.end_to_end:
        with replaced_stream(same_batch(kind, devices.resolve(given.device))):
            seconds["step alone"] = step_seconds(kind, given, clips, **shared)
        seconds["data alone"] = data_seconds(kind, given, clips, **shared)
    if given.full:
        seconds["data on the host"] = step_seconds(kind, given, clips, **{**shared, "data_on": "host"})
    parts = {**WITHOUT, **(RECIPE_WITHOUT[kind] if given.recipe else {})} if given.full else {}
    if kind == "train_syncnet":
        parts.pop("expert", None)
    cost = {name: full - step_seconds(kind, given, clips, **{**shared, **off}) for name, off in parts.items()}
    rates: dict[str, float | None] = {name: batch / value for name, value in seconds.items()}
    if given.original is not None:
        rates["original"] = original_rate(kind, given, clips, folder)
    return {
        "batch": batch,
        "windows_per_second": {name: rate and round(rate, 1) for name, rate in rates.items()},
        "cost_ms": {name: round(1000 * value, 2) for name, value in cost.items()},
    }


def main() -> None:
    """Print a table per training, and write the figures as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--kinds", nargs="+", choices=list(KINDS), default=list(KINDS))
    parser.add_argument("--width", type=int, default=32)
    parser.add_argument("--batch", type=int, help="default: 512 for SyncNet; 64 for the generator, or 128")
    parser.add_argument("--amp", default="bf16")
    parser.add_argument("--compile", default="off", choices=["off", "graph", "on"])
    parser.add_argument("--data_on", default="auto", choices=["auto", "device", "host"])
    parser.add_argument("--num_workers", type=int, default=16)
    parser.add_argument("--seconds", type=float, default=5, help="of each figure")
    parser.add_argument("--end_to_end", action="store_true", help="no figures of step and data alone")
    parser.add_argument("--recipe", action="store_true", help="the options of recipes/starter")
    parser.add_argument("--full", action="store_true", help="also host loading, and what each part costs")
    parser.add_argument("--data_root", type=Path)
    parser.add_argument("--filelists", type=Path, default=Path("filelists"))
    parser.add_argument("--clips", type=int, default=200, help="of noise, without --data_root")
    parser.add_argument("--original", type=Path)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    device = devices.resolve(given.device)
    machine = f"{devices.describe(device)}, {devices.cpu_count()} cores"
    print(f"{machine}; width {given.width}, {given.amp}, compile {given.compile}, data on {given.data_on}")
    results: dict[str, Any] = {"machine": machine, **{k: v for k, v in vars(given).items() if k != "json"}}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        clips = Clips(given, folder)
        for kind in given.kinds:
            results[kind] = found = measure(kind, given, clips, folder)
            print(f"\n{kind}, batches of {found['batch']} windows")
            for row, rate in found["windows_per_second"].items():
                print(f"  {row:18} {'did not run' if rate is None else f'{rate:10,.0f} windows/s'}")
            for row, cost in found["cost_ms"].items():
                print(f"  {row:18} {cost:10.1f} ms of a step")
    if given.json is not None:
        given.json.write_text(json.dumps(results, indent=1, default=str) + "\n")


if __name__ == "__main__":
    main()
