"""Measure how fast samples are loaded and how fast a device trains on them, to find the bottleneck."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import TYPE_CHECKING

from wav2lip_npu.data.clip import Clip
from wav2lip_npu.data.face_reader import FaceReader
from wav2lip_npu.data.samples import Samples, WindowSample, batches, draw_windows
from wav2lip_npu.devices import device as devices
from wav2lip_npu.doctor.rules import Problem, Severity

if TYPE_CHECKING:
    import torch

log = logging.getLogger(__name__)

WINDOWS_PER_CLIP = 8
BATCH = 64
"""Windows per batch, as in SyncNet training."""
_SMALL_BATCH = 8
_SLOW_STEP_S = 0.5
"""If a small batch takes longer than this, it is timed instead of a whole one."""
_CLIPS = 32
_MIN_SECONDS = 2.0
_MIN_RUNS = 3


@dataclass(frozen=True, kw_only=True)
class LoaderSpeed:
    """Speed of loader and device, in windows per second."""

    device: str
    """Description of the device."""
    width: int
    """Base channels of the timed SyncNet."""
    batch: int
    """Windows per timed training step."""
    threads: int
    """Number of loader threads."""
    first_pass: float
    """Speed of the loader for clips that it reads for the first time."""
    loader: float
    """Speed of the loader for clips that it has read before; their files may be in the page cache."""
    step: float
    """Speed of training on the device."""

    @property
    def is_loader_bound(self) -> bool:
        """Whether the device waits for the loader."""
        return self.loader < self.step

    def __str__(self) -> str:
        limit = "loader" if self.is_loader_bound else "device"
        hours = 100_000 * BATCH / min(self.loader, self.step) / 3600
        return (
            f"the loader reads {self.loader:.0f} windows/s with {self.threads} threads "
            f"({self.first_pass:.0f} in the first pass); {self.device} trains SyncNet of width {self.width} "
            f"at {self.step:.0f} windows/s. The {limit} is the bottleneck: 100,000 steps of {BATCH} windows "
            f"take {hours:.1f} hours"
        )

    def problems(self) -> Iterator[Problem]:
        """Yield a problem if the loader is too slow."""
        if not self.is_loader_bound:
            return
        cores = devices.cpu_count()
        way_out = "Put the clips on a local disk, remove --no_face_cache"
        way_out += (
            " and raise --num_workers." if self.threads < cores else f". All {cores} CPU cores are busy."
        )
        yield Problem(
            Severity.HARMS if self.loader < 0.7 * self.step else Severity.NOTE,
            "slow_loader",
            f"the device waits for samples {1 - self.loader / self.step:.0%} of the time: it trains on "
            f"{self.step:.0f} windows/s, but only {self.loader:.0f} windows/s are loaded",
            way_out,
        )


def measure_loader_speed(
    clips: Sequence[Clip], device: torch.device, *, width: int, num_workers: int
) -> LoaderSpeed:
    """Time the loader and a SyncNet training step for a few seconds each.

    Writes the face cache of up to 32 clips, as training does. Raises `DataError`.
    """
    threads = max(1, min(num_workers, devices.cpu_count()))
    spread = clips[:: max(1, len(clips) // _CLIPS)][:_CLIPS]
    samples = Samples(spread, draw_windows(WINDOWS_PER_CLIP), seed=0, shift=0, reader=FaceReader())
    stream = batches(samples, 0, size=BATCH // WINDOWS_PER_CLIP, threads=threads)
    with contextlib.closing(stream):
        passes = -(-len(spread) // (BATCH // WINDOWS_PER_CLIP))
        start = perf_counter()
        for _ in range(passes):
            batch = next(stream)
        first_pass = passes * BATCH / (perf_counter() - start)
        loader = BATCH / _mean_seconds(lambda: next(stream))
    size, seconds = _time_step(batch.samples, device, width)
    return LoaderSpeed(
        device=devices.describe(device),
        width=width,
        batch=size,
        threads=threads,
        first_pass=first_pass,
        loader=loader,
        step=size / seconds,
    )


def _time_step(samples: WindowSample, device: torch.device, width: int) -> tuple[int, float]:
    """Return a number of windows per step that suits the speed of the device, and the seconds of a step."""
    import torch

    from wav2lip_npu.models.inputs import syncnet_input_of_images
    from wav2lip_npu.models.networks import SyncNet
    from wav2lip_npu.training.losses import pair_loss

    devices.activate(device)
    syncnet = SyncNet(width).to(device, memory_format=devices.memory_format(device))  # type: ignore[call-overload]
    optimizer = torch.optim.Adam(syncnet.parameters(), lr=1e-5)
    mels, faces = (torch.from_numpy(array) for array in (samples.mels, samples.faces))

    def step(size: int) -> None:
        mouths = syncnet_input_of_images(faces[:size].to(device))
        audio_embeddings, face_embeddings = syncnet(mels[:size, None].to(device), mouths)
        loss = pair_loss(audio_embeddings, face_embeddings, torch.ones(size, device=device))
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        loss.item()  # waits for the device

    step(_SMALL_BATCH)
    start = perf_counter()
    step(_SMALL_BATCH)
    if perf_counter() - start > _SLOW_STEP_S:
        return _SMALL_BATCH, _mean_seconds(lambda: step(_SMALL_BATCH))
    step(BATCH)
    return BATCH, _mean_seconds(lambda: step(BATCH))


def _mean_seconds(work: Callable[[], object]) -> float:
    """Return the mean seconds of a call, repeated for two seconds and at least three times."""
    start, done = perf_counter(), 0
    while done < _MIN_RUNS or perf_counter() - start < _MIN_SECONDS:
        work()
        done += 1
    return (perf_counter() - start) / done
