"""Training samples from clips on the device: drawn on the host, gathered and augmented on the device.

A batch is drawn as a whole: clips and windows as a few hundred integers, and the amounts of augmentation.
Faces and mels never leave the device. Sample `i` of epoch `e` is a pure function of (seed, epoch, i), but not
the same one as in `samples`, whose random numbers come from a generator per sample.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Generic, Protocol, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from wav2lip_npu.data.amounts import FACE_RANDOMS, MEL_AMOUNTS, face_amounts, mel_amounts
from wav2lip_npu.data.augmentation import UNCHANGED, Augmentation
from wav2lip_npu.data.clip import Clip, Indices, first_column
from wav2lip_npu.data.clip_layout import FACE_SIZE, WINDOW
from wav2lip_npu.data.clip_order import ClipOrder
from wav2lip_npu.data.counter_random import uniforms
from wav2lip_npu.data.device_augmentation import DeviceAugmentation
from wav2lip_npu.data.device_batch import PairBatch, TargetBatch, WindowBatch
from wav2lip_npu.data.resident_clips import ResidentClips, substitutes
from wav2lip_npu.data.samples import MEL_SHIFT, Batch, describe_batch
from wav2lip_npu.data.window_table import Uniforms, WindowTable
from wav2lip_npu.devices import transfers

Rows = TypeVar("Rows", bound=tuple[Any, ...])
Drawn = TypeVar("Drawn", bound=tuple[Any, ...], covariant=True)
Arrays = dict[str, NDArray[Any]]
Tensors = dict[str, Tensor]
_ORDERS = 4


class ResidentDraw(Protocol[Drawn]):
    """Draws the samples of a batch: a plan on the host, and the rows on the device."""

    windows: int
    """Rows of a sample."""
    reference_distance: int
    randoms: int
    """Random numbers of a sample."""
    augmentation: Augmentation

    def plan(self, places: Places, clips: Indices, random: Uniforms) -> Arrays:
        """Return the windows and amounts of a batch of clips [B], from random numbers [B, randoms]."""

    def rows(self, clips: ResidentClips, augmentation: DeviceAugmentation, plan: Tensors) -> Drawn:
        """Return the rows of a plan on the device."""


@dataclass(frozen=True)
class Places:
    """Where windows begin in `ResidentClips`."""

    table: WindowTable
    first_face: Indices
    first_column: Indices

    def faces(self, clips: Indices, windows: Indices) -> Indices:
        """Return the first face of windows of clips, both [B] or [B, K]."""
        return self.first_face[clips] + self.table.positions[windows]

    def columns(self, clips: Indices, frames: Indices) -> Indices:
        """Return the first mel column of frames of clips, both of the same shape."""
        columns: Indices = self.first_column[clips] + first_column(frames)
        return columns


class ResidentSamples(Generic[Rows]):
    """The samples of an epoch, as many as clips, in the order of `Samples`."""

    uses_threads = False

    def __init__(
        self,
        clips: Sequence[Clip],
        resident: ResidentClips,
        draw: ResidentDraw[Rows],
        *,
        seed: int,
        shift: int,
        balance_speakers: bool = False,
    ) -> None:
        self.clips = clips
        self._drawn_order = ClipOrder(clips, seed, balance_speakers=balance_speakers)
        self._resident, self._draw, self._seed = resident, draw, seed
        table = WindowTable.of(clips, shift, draw.reference_distance)
        self._places = Places(table, resident.first_face, resident.first_column)
        self._augmentation = DeviceAugmentation(draw.augmentation, resident.device, resident.faces.shape[1])
        self._order = lru_cache(maxsize=_ORDERS)(self._substituted_order)

    def __len__(self) -> int:
        return len(self.clips)

    def load(self, first: int, after: int, own: range) -> Batch[Rows]:
        """Return the batch of the samples at the positions `own`; it is between `first` and `after`."""
        epochs, numbers = np.divmod(np.array(own, np.int64), len(self))
        clips = np.array([self._order(int(e))[i] for e, i in zip(epochs, numbers, strict=True)], np.int64)
        random = uniforms(self._seed, epochs, numbers, self._draw.randoms)
        plan = self._draw.plan(self._places, clips, random)
        return Batch(first, after, np.repeat(clips, self._draw.windows), self.gather(plan))

    @torch.no_grad()
    def gather(self, plan: Arrays) -> Rows:
        """Return the rows of a plan. The device works while the host continues."""
        tensors = transfers.upload(plan, self._resident.device)
        return self._draw.rows(self._resident, self._augmentation, tensors)

    def describe(self, batch: Batch[Rows]) -> str:
        """Return the positions and clip names of a batch, for error messages."""
        return describe_batch(self.clips, batch)

    def _substituted_order(self, epoch: int) -> Indices:
        return substitutes(self._drawn_order(epoch), self._resident.is_readable)


class ResidentWindows:
    """Draws `count` windows of each clip, as `samples.draw_windows` does."""

    reference_distance = 0

    def __init__(self, count: int, augmentation: Augmentation = UNCHANGED) -> None:
        self.windows, self.augmentation = count, augmentation
        self.randoms = count + _changes(augmentation, count)

    def plan(self, places: Places, clips: Indices, random: Uniforms) -> Arrays:
        """Return `count` windows of each clip, all different if the clip has that many."""
        windows = places.table.pick_different(clips, random[:, : self.windows])
        each = np.repeat(clips[:, None], self.windows, axis=1)
        frames = places.table.frames[windows]
        return {
            "faces": places.faces(each, windows).ravel(),
            "columns": places.columns(each, frames),
            "frames": frames.ravel(),
            "clips": each.ravel(),
            **_plan_changes(self.augmentation, random[:, self.windows :], self.windows),
        }

    def rows(self, clips: ResidentClips, augmentation: DeviceAugmentation, plan: Tensors) -> WindowBatch:
        """Return the rows of a plan on the device."""
        mels = _changed_mels(clips.mels(plan["columns"]), augmentation, plan)
        faces = _lower_faces(clips, augmentation, plan)
        return WindowBatch(mels.flatten(0, 1), faces, plan["frames"], plan["clips"])


class ResidentPairs:
    """Draws a pair of each clip, in sync with probability 1/2, as `samples.draw_pair` does."""

    windows, reference_distance = 1, 0

    def __init__(self, augmentation: Augmentation = UNCHANGED) -> None:
        self.augmentation = augmentation
        self.randoms = 3 + _changes(augmentation, 1)

    def plan(self, places: Places, clips: Indices, random: Uniforms) -> Arrays:
        """Return two different windows of each clip, or the first one twice."""
        right, wrong = places.table.pick_different(clips, random[:, :2]).T
        in_sync = random[:, 2] < 0.5
        return {
            "faces": places.faces(clips, np.where(in_sync, right, wrong)),
            "columns": places.columns(clips, places.table.frames[right])[:, None],
            "in_sync": in_sync.astype(np.float32),
            **_plan_changes(self.augmentation, random[:, 3:], 1),
        }

    def rows(self, clips: ResidentClips, augmentation: DeviceAugmentation, plan: Tensors) -> PairBatch:
        """Return the rows of a plan on the device."""
        mels = _changed_mels(clips.mels(plan["columns"]), augmentation, plan)
        return PairBatch(mels.flatten(0, 1), _lower_faces(clips, augmentation, plan), plan["in_sync"])


class ResidentTargets:
    """Draws a target and a reference window of each clip, as `samples.draw_target` does."""

    windows = 1

    def __init__(self, augmentation: Augmentation = UNCHANGED, reference_distance: int = 0) -> None:
        self.augmentation, self.reference_distance = augmentation, reference_distance
        self.randoms = 2 + _changes(augmentation, 1)

    def plan(self, places: Places, clips: Indices, random: Uniforms) -> Arrays:
        """Return a target and a reference window of each clip."""
        targets, references = places.table.pick_target(clips, random[:, :2])
        frames = places.table.frames[targets][:, None] + np.array([0, *range(MEL_SHIFT, MEL_SHIFT + WINDOW)])
        judged = np.ones(len(clips), bool)
        if self.augmentation.untouched:
            judged = ~_are_changed(self.augmentation, random[:, 2:])
        return {
            "targets": places.faces(clips, targets),
            "references": places.faces(clips, references),
            "columns": places.columns(clips[:, None], frames),
            "judged": judged.astype(np.float32),
            **_plan_changes(self.augmentation, random[:, 2:], 1),
        }

    def rows(self, clips: ResidentClips, augmentation: DeviceAugmentation, plan: Tensors) -> TargetBatch:
        """Return the rows of a plan on the device."""
        mels = _changed_mels(clips.mels(plan["columns"]), augmentation, plan)
        targets, references = clips.windows(plan["targets"]), clips.windows(plan["references"])
        if "face_amounts" in plan:
            both = torch.cat([targets, references], dim=1)
            changed = augmentation.faces(both, plan["face_amounts"], degraded=WINDOW)
            targets, references = changed[:, :WINDOW], changed[:, WINDOW:]
        return TargetBatch(targets, references, mels[:, 1:], mels[:, 0], plan["judged"])


def _changes(augmentation: Augmentation, rows: int) -> int:
    """Return how many random numbers the augmentation of a sample with a number of rows takes."""
    return 0 if augmentation == UNCHANGED else 1 + MEL_AMOUNTS + rows * FACE_RANDOMS


def _plan_changes(augmentation: Augmentation, random: Uniforms, rows: int) -> Arrays:
    """Return the amounts of augmentation of samples with a number of rows each."""
    if augmentation == UNCHANGED:
        return {}
    changed = _are_changed(augmentation, random)
    of_rows = random[:, 1 + MEL_AMOUNTS :].reshape(-1, FACE_RANDOMS)
    return {
        "mel_amounts": mel_amounts(augmentation, random[:, 1 : 1 + MEL_AMOUNTS], changed),
        "face_amounts": face_amounts(augmentation, of_rows, np.repeat(changed, rows)),
    }


def _are_changed(augmentation: Augmentation, random: Uniforms) -> NDArray[np.bool_]:
    changed: NDArray[np.bool_] = random[:, 0] >= augmentation.untouched
    return changed


def _changed_mels(mels: Tensor, augmentation: DeviceAugmentation, plan: Tensors) -> Tensor:
    return augmentation.mels(mels, plan["mel_amounts"]) if "mel_amounts" in plan else mels


def _lower_faces(clips: ResidentClips, augmentation: DeviceAugmentation, plan: Tensors) -> Tensor:
    """Return the lower halves uint8 [R, 5, S/2, S, 3] of the planned windows, each augmented separately."""
    if "face_amounts" not in plan:
        return clips.windows(plan["faces"], FACE_SIZE // 2)
    changed = augmentation.faces(clips.windows(plan["faces"]), plan["face_amounts"])
    return changed[:, :, FACE_SIZE // 2 :]
