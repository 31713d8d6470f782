"""Measure the loading of training samples: OMP_NUM_THREADS=1 python benchmarks/loader.py --data_root DIR

Each kind of sample is compared with the original's way, reimplemented from its description: per sample ten
JPEGs are decoded and resized, and the whole audio is loaded and analysed. Both run alternately in one thread
on the same clips, so that other load on the machine affects both. The second table compares the time of a
batch with that of a training step of the full-width network.

The face cache is used as in training, so the folders must be writable. An existing faces96.npy is removed
first, because the first epoch is measured too.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import librosa
import numpy as np
import scipy.signal
import torch

from wav2lip_npu.data.clip import Clip
from wav2lip_npu.data.clip_index import index_clips
from wav2lip_npu.data.clip_layout import FACE_SIZE, FACES_FILE, WINDOW
from wav2lip_npu.data.face_reader import FaceReader
from wav2lip_npu.data.file_lists import Entry, write_list
from wav2lip_npu.data.samples import (
    MEL_SHIFT,
    Draw,
    Samples,
    draw_pair,
    draw_target,
    draw_windows,
)
from wav2lip_npu.models.networks import SyncNet, Wav2Lip

Sample = dict[str, np.ndarray]


def original_window(folder: Path, numbers: list[int]) -> np.ndarray:
    """Load five faces [5, 96, 96, 3] in [0, 1]."""
    faces = [cv2.resize(cv2.imread(str(folder / f"{n}.jpg")), (FACE_SIZE, FACE_SIZE)) for n in numbers]
    return np.asarray(faces) / 255.0


def original_mel(folder: Path) -> np.ndarray:
    """Compute the mel [T, 80] of the whole audio."""
    wav, _ = librosa.load(folder / "audio.wav", sr=16_000)
    wav = scipy.signal.lfilter([1, -0.97], [1], wav)
    spectrum = librosa.stft(y=wav, n_fft=800, hop_length=200, win_length=800, pad_mode="reflect")
    mel = original_bank() @ np.abs(spectrum)
    level = 20 * np.log10(np.maximum(1e-5, mel)) - 20
    return np.clip(8 * (level + 100) / 100 - 4, -4, 4).T


_BANK: list[np.ndarray] = []


def original_bank() -> np.ndarray:
    """Return the filter bank, which the original also computes only once."""
    if not _BANK:
        _BANK.append(librosa.filters.mel(sr=16_000, n_fft=800, n_mels=80, fmin=55, fmax=7600))
    return _BANK[0]


def original_choice(clip: Clip, random: np.random.Generator) -> tuple[list[int], list[int]]:
    """Return the frames of two windows. The first try succeeds, which favours the original."""
    numbers = sorted(int(path.stem) for path in clip.folder.glob("*.jpg"))
    positions = clip.windows(MEL_SHIFT)
    one, other = random.choice(positions, 2, replace=False)
    return numbers[one : one + WINDOW], numbers[other : other + WINDOW]


def original_pair(clip: Clip, random: np.random.Generator) -> Sample:
    """Load a SyncNet sample: mouth regions [15, 48, 96] and mel [1, 80, 16]."""
    one, other = original_choice(clip, random)
    right, wrong = original_window(clip.folder, one), original_window(clip.folder, other)
    shown = right if random.integers(2) else wrong  # the original reads both
    begin = int(80 * (one[0] / 25))
    stacked = np.concatenate(list(shown), axis=2).transpose(2, 0, 1)[:, FACE_SIZE // 2 :]
    mel = original_mel(clip.folder)[begin : begin + 16].T[None]
    return {"faces": np.asarray(stacked, np.float32), "mels": np.asarray(mel, np.float32)}


def original_target(clip: Clip, random: np.random.Generator) -> Sample:
    """Load a generator sample."""
    one, other = original_choice(clip, random)
    target = original_window(clip.folder, one).transpose(3, 0, 1, 2)
    reference = original_window(clip.folder, other).transpose(3, 0, 1, 2)
    mel = original_mel(clip.folder)
    begins = [int(80 * (number / 25)) for number in [one[0], *(number - 1 for number in one)]]
    mels = np.asarray([mel[begin : begin + 16].T for begin in begins])
    masked = target.copy()
    masked[:, :, FACE_SIZE // 2 :] = 0
    return {
        "faces": np.asarray(np.concatenate([masked, reference]), np.float32),
        "target": np.asarray(target, np.float32),
        "mels": np.asarray(mels, np.float32),
    }


def rate(load: Callable[[int], object], count: int, per_call: int = 1) -> float:
    """Return samples per second of CPU time of one thread."""
    start = time.thread_time()
    for i in range(count):
        load(i)
    return count * per_call / (time.thread_time() - start)


def clear_cache(clips: list[Clip]) -> None:
    """Remove the face cache, as before the first epoch."""
    for clip in clips:
        (clip.folder / FACES_FILE).unlink(missing_ok=True)


def compare(clips: list[Clip], name: str, draw: Draw, per_call: int, original: Callable, rounds: int) -> None:
    """Print samples per second: with a warm cache, in the first epoch and without the cache."""

    def ours(reader: FaceReader) -> Samples:
        return Samples(clips, draw, seed=0, shift=MEL_SHIFT, reader=reader)

    clear_cache(clips)
    first = rate(lambda i: cold[0, i], len(cold := ours(FaceReader())), per_call)
    warm, bare = ours(FaceReader()), ours(FaceReader(cache=False))
    random = np.random.default_rng(0)
    rate(lambda i: warm[0, i], len(clips))
    original(clips[0], random)
    rates: list[tuple[float, float, float]] = []
    for turn in range(rounds):
        old = rate(lambda i: original(clips[i % len(clips)], random), 40)
        new = rate(lambda i, turn=turn: warm[1 + turn, i], len(clips), per_call)
        without = rate(lambda i, turn=turn: bare[1 + turn, i], min(40, len(clips)), per_call)
        rates.append((old, new, without))
    olds, news, withouts = (statistics.median(column) for column in zip(*rates, strict=True))
    ratios = [new / old for old, new, _ in rates]
    print(
        f"{name:34} {olds:9.0f} {news:9.0f} {first:9.0f} {withouts:9.0f}"
        f"   {statistics.median(ratios):6.0f} ({min(ratios):.0f} to {max(ratios):.0f})"
    )


def step_seconds(network: torch.nn.Module, inputs: tuple[torch.Tensor, ...], threads: int) -> float:
    """Return the seconds of a forward and backward pass."""
    torch.set_num_threads(threads)
    network.train()

    def step() -> float:
        start = time.perf_counter()
        outputs = network(*inputs)
        sum(
            part.square().mean() for part in (outputs if isinstance(outputs, tuple) else (outputs,))
        ).backward()
        return time.perf_counter() - start

    step()
    return min(step() for _ in range(3))


def batch_seconds(clips: list[Clip], draw: Draw, count: int) -> float:
    """Return the seconds to load `count` samples in one thread from a warm cache."""
    samples = Samples(clips, draw, seed=0, shift=MEL_SHIFT, reader=FaceReader())

    def make(epoch: int) -> float:
        start = time.perf_counter()
        parts = [samples[epoch, i % len(clips)] for i in range(count)]
        for arrays in zip(*(sample for _, sample in parts), strict=True):
            np.concatenate(arrays)
        return time.perf_counter() - start

    for i in range(len(samples)):
        samples[0, i]
    return statistics.median(make(epoch) for epoch in range(1, 12))


def share(name: str, batch: float, step: float) -> None:
    """Print the time of a batch as a share of that of a step."""
    print(f"{name:44} {1000 * batch:9.1f} ms {1000 * step:11.0f} ms {100 * batch / step:9.2f} %")


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data_root", type=Path, required=True)
    parser.add_argument(
        "--file_list", type=Path, help="default: all folders under the root with an audio.wav"
    )
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="of the training step")
    args = parser.parse_args()
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        file_list = args.file_list or all_clips(args.data_root, Path(folder) / "all.txt")
        clips = index_clips(args.data_root, file_list, MEL_SHIFT).clips
    frames = sum(len(clip.frames) for clip in clips)
    print(f"{len(clips)} clips, {frames} frames; samples per second of one core\n")
    print(f"{'':34} {'original':>9} {'warm':>9} {'1st epoch':>9} {'no cache':>9}   warm / original")
    rows: list[tuple[str, Draw, int, Callable]] = [
        ("SyncNet, as the original's", draw_pair(), 1, original_pair),
        ("SyncNet, 8 windows of a clip", draw_windows(8), 8, original_pair),
        ("generator", draw_target(), 1, original_target),
    ]
    for name, draw, per_call, original in rows:
        compare(clips, name, draw, per_call, original, args.rounds)

    print(f"\n{'':44} {'batch':>12} {'CPU step':>14} {'share':>11}")
    torch.manual_seed(0)
    few = 16
    inputs = torch.randn(few, 1, 80, 16), torch.rand(few, 15, 48, 96)
    step = step_seconds(SyncNet(), inputs, args.threads) * 64 / few
    share("SyncNet, 64 windows, as the original's", batch_seconds(clips, draw_pair(), 64), step)
    share("SyncNet, 64 windows, 8 of a clip", batch_seconds(clips, draw_windows(8), 8), step)
    few = 2
    inputs = torch.randn(few, 5, 1, 80, 16), torch.rand(few, 6, 5, 96, 96)
    step = step_seconds(Wav2Lip(), inputs, args.threads) * 16 / few
    share("generator, 16 windows", batch_seconds(clips, draw_target(), 16), step)
    print(f"(the batch uses one thread, the step {args.threads}; its time is scaled up from a smaller batch)")


def all_clips(root: Path, path: Path) -> Path:
    """Write a list of all clips under a root."""
    names = sorted(folder.parent.relative_to(root).as_posix() for folder in root.rglob("audio.wav"))
    write_list(path, map(Entry, names))
    return path


if __name__ == "__main__":
    main()
