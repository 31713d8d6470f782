"""Training samples and batches.

Sample `i` of epoch `e` is a pure function of (seed, epoch, i), independent of the thread, process or resumed
run. Threads load the samples: reading and decoding release the GIL, and threads need no shared memory, no
pickling and no fork, which NPUs do not support.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import threading
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import Any, Generic, NamedTuple, Protocol, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

from wav2lip_npu.data.augmentation import UNCHANGED, Augmentation
from wav2lip_npu.data.buffers import Buffers
from wav2lip_npu.data.clip import Clip, ClipError, Faces, Indices, mel_columns
from wav2lip_npu.data.clip_layout import FACE_SIZE, WINDOW
from wav2lip_npu.data.clip_order import ClipOrder
from wav2lip_npu.data.face_reader import FaceReader
from wav2lip_npu.devices import device
from wav2lip_npu.errors import DataError
from wav2lip_npu.mel import DEFAULT_MEL, Mel
from wav2lip_npu.parallel.threads import map_in_threads

log = logging.getLogger(__name__)

MEL_SHIFT = -1
"""Frames between a frame and the start of its mel window in generator training, as in the original."""
_LIGHT_LANES = 4
"""Threads that load samples from the face cache at the same time. Such a sample is mostly Python, and more
threads pass its lock around: on 16 cores, 4 threads loaded 2,086 samples per second, 16 threads 1,224."""
MAX_UNREADABLE = 100
"""Consecutive unreadable clips after which the disk is considered broken."""
_IN_WINDOW = np.arange(WINDOW)


class WindowSample(NamedTuple):
    """`N` windows of one clip, each with its own audio, for SyncNet."""

    mels: Mel
    """float32 [N, 80, 16]"""
    faces: Faces
    """Lower halves of the faces, uint8 [N, 5, S/2, S, 3]."""
    frames: Indices
    """First frame of each window, [N]."""


class PairSample(NamedTuple):
    """The original's SyncNet sample: the audio of one window with its own faces or with those of another."""

    mels: Mel
    """float32 [1, 80, 16]"""
    faces: Faces
    """Lower halves of the faces, uint8 [1, 5, S/2, S, 3]."""
    in_sync: NDArray[np.float32]
    """1 if the faces belong to the audio, else 0, [1]."""


class TargetSample(NamedTuple):
    """A window for the generator to produce, and a reference window from the same shot."""

    targets: Faces
    """uint8 [1, 5, S, S, 3]"""
    references: Faces
    """uint8 [1, 5, S, S, 3]"""
    frame_mels: Mel
    """Mel window of each frame, float32 [1, 5, 80, 16]."""
    mels: Mel
    """Mel window of the whole window, for SyncNet, float32 [1, 80, 16]."""
    judged: NDArray[np.float32]
    """1 if SyncNet judges the sample, 0 if the sync loss ignores it, [1]."""


Sample = TypeVar("Sample", bound=tuple[Any, ...])
Rows = TypeVar("Rows", bound=tuple[Any, ...], covariant=True)
Draw: TypeAlias = Callable[[Clip, Indices, np.random.Generator, FaceReader], Sample]
"""Draws a sample from a clip, given the positions of its windows, a random generator and a face reader."""


@dataclass(frozen=True)
class Batch(Generic[Rows]):
    """Stacked samples of consecutive positions in the endless stream of epochs."""

    first: int
    """Position of the first sample on any rank."""
    after: int
    """Position after the last sample on any rank, where a resumed run continues."""
    clips: Indices
    """Number of the clip that each row comes from."""
    samples: Rows


class SampleSource(Protocol[Sample]):
    """The samples of an epoch, as many as clips, in a different order every epoch."""

    uses_threads: bool
    """Whether batches are loaded ahead in threads, or when they are consumed."""

    def __len__(self) -> int: ...

    def load(self, first: int, after: int, own: range) -> Batch[Sample]:
        """Return a batch with the samples at positions of this rank, between those of all ranks."""

    def describe(self, batch: Batch[Sample]) -> str:
        """Return the positions and clip names of a batch, for error messages."""


class Samples(Generic[Sample]):
    """The samples of an epoch, read from the files of the clips."""

    uses_threads = True

    def __init__(
        self,
        clips: Sequence[Clip],
        draw: Draw[Sample],
        *,
        seed: int,
        shift: int,
        reader: FaceReader,
        is_augmented: bool = False,
        balance_speakers: bool = False,
    ) -> None:
        self.clips = clips
        self._order = ClipOrder(clips, seed, balance_speakers=balance_speakers)
        self._draw, self._seed, self._shift, self._reader = draw, seed, shift, reader
        self._is_augmented = is_augmented
        self._buffers, self._light_lanes = Buffers(), threading.BoundedSemaphore(_LIGHT_LANES)
        self._reported: set[int] = set()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self.clips)

    def __getitem__(self, position: tuple[int, int]) -> tuple[int, Sample]:
        """Return the number of the clip and the sample at (epoch, i).

        An unreadable clip is replaced by the next one of the epoch. Raises `DataError` if 100 consecutive
        clips are unreadable.
        """
        epoch, i = position
        order = self._order(epoch)
        error: Exception | None = None
        for index in range(i, i + min(len(order), MAX_UNREADABLE)):
            number = int(order[index % len(order)])
            clip = self.clips[number]
            random = np.random.default_rng((self._seed, epoch, 1 + i))  # a trailing 0 would not count
            try:
                return number, self._draw(clip, clip.windows(self._shift), random, self._reader)
            except (ClipError, OSError) as unreadable:
                error = unreadable
                self._warn_once(number, error)
        raise DataError(f"no clip can be read. Last error: {error} Check the disk.")

    def load(self, first: int, after: int, own: range) -> Batch[Sample]:
        """Return the batch of the samples at the positions `own`; it is between `first` and `after`."""
        with self._light_lanes if self._is_light(own) else contextlib.nullcontext():
            numbers, parts = zip(*(self[divmod(index, len(self))] for index in own), strict=True)
            clips = np.repeat(numbers, [len(part[0]) for part in parts])
            rows = map(self._buffers.concatenate, zip(*parts, strict=True))
            return Batch(first, after, clips, type(parts[0])(*rows))

    def describe(self, batch: Batch[Sample]) -> str:
        """Return the positions and clip names of a batch, for error messages."""
        return describe_batch(self.clips, batch)

    def _is_light(self, own: range) -> bool:
        """Return whether samples need neither decoding nor augmentation."""
        if self._is_augmented:
            return False
        places = (divmod(index, len(self)) for index in own)
        numbers = (self._order(epoch)[i] for epoch, i in places)
        return all(self._reader.is_cached(self.clips[number]) for number in numbers)

    def _warn_once(self, number: int, error: Exception) -> None:
        with self._lock:
            known = number in self._reported
            self._reported.add(number)
        if not known:
            log.warning("%s is skipped: %s", self.clips[number].name, error)


def describe_batch(clips: Sequence[Clip], batch: Batch[Any]) -> str:
    """Return the positions and clip names of a batch."""
    names = (clips[number].name for number in dict.fromkeys(batch.clips.tolist()))
    return f"{batch.first} to {batch.after - 1} ({', '.join(names)})"


def batches(
    samples: SampleSource[Sample],
    position: int,
    *,
    size: int,
    rank: int = 0,
    ranks: int = 1,
    threads: int = 1,
) -> Generator[Batch[Sample], None, None]:
    """Yield the batches of one rank, `size` samples each, from a position in the endless stream."""

    def load(first: int) -> Batch[Sample]:
        own = range(first + rank * size, first + (rank + 1) * size)
        return samples.load(first, first + size * ranks, own)

    positions = itertools.count(position, size * ranks)
    if not samples.uses_threads:
        return (load(first) for first in positions)
    return map_in_threads(load, positions, max(1, min(threads, device.cpu_count())))


def draw_windows(count: int, augmentation: Augmentation = UNCHANGED) -> Draw[WindowSample]:
    """Return a function that draws `count` windows of a clip, all different if the clip has that many."""

    def draw(clip: Clip, positions: Indices, random: np.random.Generator, reader: FaceReader) -> WindowSample:
        chosen = random.choice(positions, count, replace=len(positions) < count)
        frames, change = clip.frames[chosen], augmentation.drawn(random)
        mels = change.mels(random, _mel_windows(reader, clip, frames))
        return WindowSample(mels, _lower_faces(clip, chosen, reader, random, change), frames)

    return draw


def draw_pair(augmentation: Augmentation = UNCHANGED) -> Draw[PairSample]:
    """Return a function that draws a pair of audio and faces, which is in sync with probability 1/2."""

    def draw(clip: Clip, positions: Indices, random: np.random.Generator, reader: FaceReader) -> PairSample:
        right, wrong = random.choice(positions, 2, replace=False)
        in_sync, change = int(random.integers(2)), augmentation.drawn(random)
        shown = np.array([right if in_sync else wrong])
        mels = change.mels(random, _mel_windows(reader, clip, clip.frames[[right]]))
        faces = _lower_faces(clip, shown, reader, random, change)
        return PairSample(mels, faces, np.array([in_sync], np.float32))

    return draw


def draw_target(augmentation: Augmentation = UNCHANGED, reference_distance: int = 0) -> Draw[TargetSample]:
    """Return a function that draws a target window and a reference window of the same shot.

    At least `reference_distance` frames lie between the two if the clip is long enough. If the augmentation
    has untouched samples, SyncNet judges only those.
    """

    def draw(clip: Clip, positions: Indices, random: np.random.Generator, reader: FaceReader) -> TargetSample:
        shots = clip.shots[positions]
        target = int(random.choice(positions[np.bincount(shots)[shots] > 1]))
        others = positions[(shots == clip.shots[target]) & (positions != target)]
        distances = np.abs(clip.frames[others] - clip.frames[target])
        if reference_distance:
            others = others[distances >= min(reference_distance + WINDOW, distances.max())]
        reference = int(random.choice(others))
        frame = int(clip.frames[target])
        first = frame + MEL_SHIFT
        mels = _mel_windows(reader, clip, np.array([frame, *range(first, first + WINDOW)]))
        change = augmentation.drawn(random)
        mels = change.mels(random, mels)
        windows = reader.pick(clip, np.array([[target], [reference]]) + _IN_WINDOW)
        targets, references = change.faces(random, windows[:1], windows[1:])
        return TargetSample(
            targets=targets,
            references=change.degrade(random, references),
            frame_mels=mels[None, 1:],
            mels=mels[:1],
            judged=np.array([not augmentation.untouched or change == UNCHANGED], np.float32),
        )

    return draw


def _lower_faces(
    clip: Clip, chosen: Indices, reader: FaceReader, random: np.random.Generator, change: Augmentation
) -> Faces:
    """Return lower halves [N, 5, S/2, S, 3] of the windows at N positions, each augmented separately."""
    positions, middle = chosen[:, None] + _IN_WINDOW, FACE_SIZE // 2
    if change == UNCHANGED:
        return reader.pick(clip, positions, middle)
    windows = [change.faces(random, window)[0] for window in reader.pick(clip, positions)]
    return np.stack([change.degrade(random, window)[:, middle:] for window in windows])


def _mel_windows(reader: FaceReader, clip: Clip, frames: Indices) -> Mel:
    """Return the mel windows [N, 80, 16] that start at N frames. Raises `ClipError`."""
    mel = reader.mel(clip)
    windows = np.stack([mel_columns(mel, int(frame)) for frame in frames])
    if not np.abs(windows).max() <= DEFAULT_MEL.max_abs:  # also true for NaN
        raise ClipError("damaged mel", f"the mel of {clip.folder} is out of range. Delete its mel.npy.")
    return windows
