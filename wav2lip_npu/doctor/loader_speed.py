"""How fast samples are made and how fast a device learns from them: which of the two is the limit."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import TYPE_CHECKING

from wav2lip_npu import device as devices
from wav2lip_npu.data.clip import Clip
from wav2lip_npu.data.face_reader import FaceReader
from wav2lip_npu.data.samples import Samples, WindowSample, batches, draw_windows
from wav2lip_npu.doctor.rules import Finding, Severity

if TYPE_CHECKING:
    import torch

log = logging.getLogger(__name__)

WINDOWS_PER_CLIP = 8
BATCH = 64
"""Windows in a batch, as in the training of the expert."""
_SMALL_BATCH = 8
_SLOW_STEP_S = 0.5
_TIMED_CLIPS = 32
_TIMED_S = 2.0
_FEWEST_TIMED = 3


@dataclass(frozen=True, kw_only=True)
class Pace:
    """Windows a second."""

    device: str
    """In words."""
    width: int
    """Of the expert that was timed."""
    batch: int
    """Windows in a timed step."""
    threads: int
    """Of the loader."""
    first_pass: float
    """What the loader makes of clips that it meets for the first time."""
    loader: float
    """What it makes of clips that it has met, of files that the system may still hold in memory."""
    step: float
    """What the device learns from."""

    @property
    def is_held_up(self) -> bool:
        """Whether the device waits for the loader."""
        return self.loader < self.step

    def __str__(self) -> str:
        limit = "the loader" if self.is_held_up else "the device"
        hours = 100_000 * BATCH / min(self.loader, self.step) / 3600
        return (
            f"loader {self.loader:.0f} windows a second with {self.threads} threads ({self.first_pass:.0f} "
            f"in the first pass), expert of width {self.width} on {self.device} learns from {self.step:.0f}: "
            f"{limit} is the limit, 100 000 steps of {BATCH} windows take {hours:.1f} hours"
        )

    def findings(self) -> Iterator[Finding]:
        """That the loader is too slow, when it is."""
        if not self.is_held_up:
            return
        cores = devices.cpu_count()
        way_out = "Put the clips on a local disk and leave --no_face_cache out"
        way_out += (
            ", and raise --num_workers." if self.threads < cores else f"; all {cores} cores are at work."
        )
        yield Finding(
            Severity.HARMS if self.loader < 0.7 * self.step else Severity.NOTE,
            "slow_loader",
            f"the device waits {1 - self.loader / self.step:.0%} of the time for samples: {self.loader:.0f} "
            f"windows a second are made, {self.step:.0f} could be learned from",
            way_out,
        )


def measure(clips: Sequence[Clip], device: torch.device, *, width: int, num_workers: int) -> Pace:
    """Time the loader and the device for a few seconds each.

    The loader leaves its cache of faces beside up to 32 clips, as the training does. Raises `DataError`.
    """
    threads = max(1, min(num_workers, devices.cpu_count()))
    some = clips[:: max(1, len(clips) // _TIMED_CLIPS)][:_TIMED_CLIPS]
    samples = Samples(some, draw_windows(WINDOWS_PER_CLIP), seed=0, shift=0, reader=FaceReader())
    made = batches(samples, 0, size=BATCH // WINDOWS_PER_CLIP, threads=threads)
    with contextlib.closing(made):
        passes = -(-len(some) // (BATCH // WINDOWS_PER_CLIP))
        start = perf_counter()
        for _ in range(passes):
            batch = next(made)
        first_pass = passes * BATCH / (perf_counter() - start)
        loader = BATCH / _seconds_each(lambda: next(made))
    size, seconds = _step_seconds(batch.samples, device, width)
    return Pace(
        device=devices.describe(device),
        width=width,
        batch=size,
        threads=threads,
        first_pass=first_pass,
        loader=loader,
        step=size / seconds,
    )


def _step_seconds(samples: WindowSample, device: torch.device, width: int) -> tuple[int, float]:
    """Windows of a step that the device does in reasonable time, and its seconds."""
    import torch

    from wav2lip_npu.models.inputs import syncnet_input_of_images
    from wav2lip_npu.models.networks import SyncNet
    from wav2lip_npu.training.losses import pair_loss

    devices.activate(device)
    syncnet = SyncNet(width).to(device, memory_format=devices.memory_format(device))  # type: ignore[call-overload]
    optimizer = torch.optim.Adam(syncnet.parameters(), lr=1e-5)
    mels, faces = (torch.from_numpy(array) for array in (samples.mels, samples.faces))

    def step(size: int) -> None:
        sound, picture = syncnet(
            mels[:size, None].to(device), syncnet_input_of_images(faces[:size].to(device))
        )
        loss = pair_loss(sound, picture, torch.ones(len(sound), device=device))
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        loss.item()  # waits for the device

    step(_SMALL_BATCH)
    start = perf_counter()
    step(_SMALL_BATCH)
    if perf_counter() - start > _SLOW_STEP_S:
        return _SMALL_BATCH, _seconds_each(lambda: step(_SMALL_BATCH))
    step(BATCH)
    return BATCH, _seconds_each(lambda: step(BATCH))


def _seconds_each(work: Callable[[], object]) -> float:
    """Mean seconds of a piece of work that is done for some seconds, at least three times."""
    start, done = perf_counter(), 0
    while done < _FEWEST_TIMED or perf_counter() - start < _TIMED_S:
        work()
        done += 1
    return (perf_counter() - start) / done
