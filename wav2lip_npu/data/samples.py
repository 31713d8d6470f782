"""Training samples: which clips there are, and what sample `i` of epoch `e` is.

A sample is a pure function of (seed, epoch, i), whichever thread, process or resumed run asks for it.
Samples are made in threads: reading and decoding run outside Python's lock, and threads need no shared
memory, no pickling and no fork, which an NPU forbids.
"""

from __future__ import annotations

import itertools
import logging
import threading
from collections.abc import Callable, Generator, Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from wav2lip_npu import device
from wav2lip_npu.data.augmentation import UNCHANGED, Augmentation
from wav2lip_npu.data.clip import Clip, ClipError, Faces, Numbers, mel_columns
from wav2lip_npu.data.clip_layout import FACE_SIZE, WINDOW
from wav2lip_npu.data.face_reader import FaceReader
from wav2lip_npu.errors import DataError
from wav2lip_npu.mel import DEFAULT_MEL, Mel
from wav2lip_npu.parallel.threads import map_in_threads

log = logging.getLogger(__name__)

Arrays = dict[str, NDArray[np.generic]]
"""Named arrays, all of the same first dimension."""
MEL_SHIFT = -1
"""The generator hears frame t from frame t - 1 on, as in the original's training."""
_PROBED_NAMES = 32
_MOST_BAD_CLIPS = 100
"""In a row: as many broken clips beside each other are a broken disk."""
_TELL_EVERY_S = 30
_NEXT = np.arange(WINDOW)


Draw = Callable[[Clip, Numbers, np.random.Generator, FaceReader], Arrays]
"""Makes a sample of a clip, the positions of its windows, a random generator and a reader of faces."""


class Samples:
    """The samples of an epoch, one a clip, in an order of its own in each epoch."""

    def __init__(
        self, clips: Sequence[Clip], draw: Draw, *, seed: int, shift: int, reader: FaceReader
    ) -> None:
        self.clips = clips
        self._draw, self._seed, self._shift, self._reader = draw, seed, shift, reader
        self._bad: set[int] = set()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self.clips)

    def __getitem__(self, at: tuple[int, int]) -> Arrays:
        """Sample `i` of epoch `e`. A clip that cannot be read gives way to the next one of the epoch.

        Raises `DataError` when so many cannot be read that the disk must be broken.
        """
        epoch, i = at
        order = _order(self._seed, epoch, len(self.clips))
        error: Exception | None = None
        for place in range(i, i + min(len(order), _MOST_BAD_CLIPS)):
            number = int(order[place % len(order)])
            clip = self.clips[number]
            random = np.random.default_rng((self._seed, epoch, 1 + i))  # a 0 at the end would not count
            try:
                arrays = self._draw(clip, clip.windows(self._shift), random, self._reader)
            except (ClipError, OSError) as caught:
                error = caught
                self._warn_once(number, error)
                continue
            rows = len(next(iter(arrays.values())))
            return {**arrays, "clip": np.full(rows, number)}
        raise DataError(f"no clip can be read any more, last: {error} Check the disk.")

    def _warn_once(self, number: int, error: Exception) -> None:
        with self._lock:
            known = number in self._bad
            self._bad.add(number)
        if not known:
            log.warning("%s is left out: %s", self.clips[number].name, error)


@lru_cache(maxsize=8)
def _order(seed: int, epoch: int, count: int) -> NDArray[np.int64]:
    """The order of the clips in an epoch."""
    return np.random.default_rng((seed, epoch)).permutation(count)


class Batch(NamedTuple):
    """Samples of consecutive places of the endless stream, stacked."""

    first: int
    """Place in the stream of the first sample on any rank."""
    after: int
    """Place after the last sample on any rank: where a resumed run goes on."""
    arrays: Arrays


def batches(
    samples: Samples, position: int, *, size: int, rank: int = 0, ranks: int = 1, threads: int = 1
) -> Generator[Batch, None, None]:
    """Batches of `size` samples for one rank from a place in the stream of all epochs on, without end."""

    def make(first: int) -> Batch:
        mine = range(first + rank * size, first + (rank + 1) * size)
        parts = [samples[divmod(place, len(samples))] for place in mine]
        stacked = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
        return Batch(first, first + size * ranks, stacked)

    lanes = max(1, min(threads, device.cpu_count()))
    return map_in_threads(make, itertools.count(position, size * ranks), lanes)


def draw_windows(count: int, changes: Augmentation = UNCHANGED) -> Draw:
    """`count` windows of a clip with their sound: mels [count, 80, 16] and the lower halves of five faces,
    faces uint8 [count, 5, S/2, S, 3]; all different where the clip has as many.
    """

    def draw(clip: Clip, positions: Numbers, random: np.random.Generator, faces: FaceReader) -> Arrays:
        chosen = random.choice(positions, count, replace=len(positions) < count)
        frames, done = clip.frames[chosen], changes.drawn(random)
        return {
            "mels": done.sounds(random, _sounds(clip, frames)),
            "faces": _lower_faces(clip, chosen, faces, random, done),
            "frame": frames,
        }

    return draw


def draw_pair(changes: Augmentation = UNCHANGED) -> Draw:
    """The original's sample: the sound of one window, and by a fair coin its faces or those of another.

    mels [1, 80, 16], faces uint8 [1, 5, S/2, S, 3], in_sync float32 [1].
    """

    def draw(clip: Clip, positions: Numbers, random: np.random.Generator, faces: FaceReader) -> Arrays:
        right, wrong = random.choice(positions, 2, replace=False)
        in_sync, done = int(random.integers(2)), changes.drawn(random)
        shown = np.array([right if in_sync else wrong])
        return {
            "mels": done.sounds(random, _sounds(clip, clip.frames[[right]])),
            "faces": _lower_faces(clip, shown, faces, random, done),
            "in_sync": np.array([in_sync], np.float32),
        }

    return draw


def draw_target(changes: Augmentation = UNCHANGED, reference_distance: int = 0) -> Draw:
    """The generator's sample: a window to make and another of the same shot to know the face from.

    target and reference uint8 [1, 5, S, S, 3], frame_mels [1, 5, 80, 16] (each frame's own sound),
    mels [1, 80, 16] (the sound of the window, for SyncNet), judged float32 [1] (whether it is to judge).
    Where a clip is long enough, as many pictures as asked for lie between the two.
    """

    def draw(clip: Clip, positions: Numbers, random: np.random.Generator, faces: FaceReader) -> Arrays:
        shots = clip.shots[positions]
        target = int(random.choice(positions[np.bincount(shots)[shots] > 1]))
        others = positions[(shots == clip.shots[target]) & (positions != target)]
        away = np.abs(clip.frames[others] - clip.frames[target])
        far = others[away >= min(reference_distance + WINDOW, away.max())] if reference_distance else others
        reference = int(random.choice(far))
        frame = int(clip.frames[target])
        sounds = _sounds(clip, np.array([frame, *range(frame + MEL_SHIFT, frame + MEL_SHIFT + WINDOW)]))
        done = changes.drawn(random)
        sounds = done.sounds(random, sounds)
        windows = faces.pick(clip, np.array([[target], [reference]]) + _NEXT)
        made, given = done.faces(random, windows[:1], windows[1:])
        return {
            "target": made,
            "reference": done.worsen(random, given),
            "frame_mels": sounds[None, 1:],
            "mels": sounds[:1],
            "judged": np.array([not changes.untouched or done == UNCHANGED], np.float32),
        }

    return draw


def _lower_faces(
    clip: Clip, chosen: Numbers, reader: FaceReader, random: np.random.Generator, changes: Augmentation
) -> Faces:
    """Lower halves [len(chosen), 5, S/2, S, 3] of the windows at some positions, each changed on its own."""
    positions, middle = chosen[:, None] + _NEXT, FACE_SIZE // 2
    if changes == UNCHANGED:
        return reader.pick(clip, positions, middle)
    windows = [changes.faces(random, window)[0] for window in reader.pick(clip, positions)]
    return np.stack([changes.worsen(random, window)[:, middle:] for window in windows])


def _sounds(clip: Clip, frames: Numbers) -> Mel:
    """The 200 ms of sound [len(frames), 80, 16] that begin with each picture. Raises `ClipError`."""
    mel = clip.mel()
    sounds = np.stack([mel_columns(mel, int(frame)) for frame in frames])
    if not np.abs(sounds).max() <= DEFAULT_MEL.max_abs:  # which a NaN is not either
        raise ClipError("damaged mel", f"the mel of {clip.folder} is out of range. Delete its mel.npy.")
    return sounds
