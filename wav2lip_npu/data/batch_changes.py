"""Changes of whole batches on the training device, the same for samples from the files and from the device.

The random numbers of a sample are counter-based, so a changed sample is a function of (seed, epoch, i). All
changes are tensor operations without data-dependent shapes. `R` rows, `T` frames of a window.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Generic, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from wav2lip_npu.data.augmentation import LUMA, TargetChanges, WindowChanges
from wav2lip_npu.data.clip import Clip, Indices
from wav2lip_npu.data.clip_layout import FACE_SIZE
from wav2lip_npu.data.counter_random import uniforms
from wav2lip_npu.data.device_batch import DeviceRows, PairBatch, TargetBatch, WindowBatch, on_device
from wav2lip_npu.data.face_reader import FaceReader
from wav2lip_npu.data.samples import Batch
from wav2lip_npu.devices import transfers
from wav2lip_npu.mel import DEFAULT_MEL

_STREAM = 1 << 63
"""Distinguishes the random numbers of these changes from those that draw the windows."""
_GREY = 128
_PATCH = 0.14, 0.12
"""Half height and half width of a hidden patch, as a share of the mouth region."""
_BAND, _HIDDEN = 5, -2.0
"""Half width of hidden mel bands, and their value: the middle of the levels of speech and silence."""
_NOISE = 1 << 20
_MOUTH, _MOUTH_SPREAD, _PASTE_SPREAD = 0.54, (0.38, 0.3), (0.34, 0.26)
"""Vertical position of the mouth, and standard deviations, across and down, of the warp and of the pasted
mouth. Positions in a face are in [-1, 1]."""
_HEIGHT, _WIDTH, _DOWN, _RIGHT = 0.5, 0.2, 0.04, 0.03
"""Largest relative changes of height and width of the mouth of a reference, and its largest shifts."""
_QUIET = 1.5
"""Mel units, of 12.5 dB each, below the loud columns of a clip, for audio without speech."""
_LOUD_PERCENTILE = 95
_SILENT_ROOM = 0.4
"""Mel units by which the noise of a silent room is above digital silence."""

Tensors = dict[str, Tensor]
Arrays = dict[str, NDArray[Any]]


class Changes(Protocol[DeviceRows]):
    """Random changes of the rows of a batch."""

    randoms: int
    """Random numbers of a row."""

    def of_clips(self, clips: Indices) -> Arrays:
        """Return what the changes need of the clip of each row, [R, ...]."""

    def __call__(self, rows: DeviceRows, random: Tensor, of_clips: Tensors) -> DeviceRows:
        """Return changed rows, for random numbers [R, randoms] in [0, 1)."""


class Prepare(Generic[DeviceRows]):
    """Brings the batches of a rank to the device, and changes them there."""

    def __init__(
        self, kind: type[DeviceRows], changes: Changes[DeviceRows], device: torch.device, *,
        seed: int, samples: int, rank: int = 0, ranks: int = 1,
    ) -> None:  # fmt: skip
        """`samples` is the number of samples of an epoch."""
        self._kind: type[DeviceRows] = kind
        self._changes: Changes[DeviceRows] = changes
        self._device, self._seed, self._samples = device, seed ^ _STREAM, samples
        self._rank, self._ranks = rank, ranks

    @torch.no_grad()
    def __call__(self, batch: Batch[Any]) -> Batch[DeviceRows]:
        """Return the changed batch on the device, which works while the host continues."""
        rows = on_device(batch, self._kind, self._device)
        size = (batch.after - batch.first) // self._ranks
        epochs, numbers = np.divmod(batch.first + self._rank * size + np.arange(size), self._samples)
        count = self._changes.randoms * len(batch.clips) // size
        random = uniforms(self._seed, epochs, numbers, count).reshape(len(batch.clips), -1)
        plan = {"random": random.astype(np.float32), **self._changes.of_clips(batch.clips)}
        tensors = transfers.upload(plan, self._device)
        return replace(batch, samples=self._changes(rows, tensors.pop("random"), tensors))


class ChangedWindows:
    """The changes of SyncNet's windows: grey faces, hidden patches and mel bands, noise."""

    randoms = 7

    def __init__(self, options: WindowChanges, device: torch.device) -> None:
        self._options = options
        self._luma = torch.tensor(LUMA, dtype=torch.float32, device=device)
        rows, columns = FACE_SIZE // 2, FACE_SIZE
        self._y = (torch.arange(rows, device=device) / rows).view(-1, 1, 1)
        self._x = (torch.arange(columns, device=device) / columns).view(-1, 1)
        self._bands = torch.arange(DEFAULT_MEL.n_mels, device=device).view(-1, 1)
        if options.mel_noise:
            noise = np.random.default_rng(0).standard_normal(_NOISE).astype(np.float32)
            self._noise = torch.from_numpy(noise).to(device)
            self._in_mel = torch.arange(DEFAULT_MEL.n_mels * DEFAULT_MEL.columns_per_window, device=device)

    def of_clips(self, clips: Indices) -> Arrays:
        """Return nothing: the changes do not depend on the clip."""
        return {}

    def __call__(
        self, rows: WindowBatch | PairBatch, random: Tensor, of_clips: Tensors
    ) -> WindowBatch | PairBatch:
        """Return changed rows, for random numbers [R, 7]."""
        return rows._replace(faces=self.faces(rows.faces, random), mels=self.mels(rows.mels, random))

    def faces(self, faces: Tensor, random: Tensor) -> Tensor:
        """Return lower faces uint8 [R, T, S/2, S, 3]."""
        options = self._options
        grey, hidden, down, right = random[:, :4].view(-1, 4, 1, 1, 1, 1).unbind(1)
        if options.grey:
            luma = (faces.float() * self._luma).sum(-1, keepdim=True).round().to(torch.uint8)
            faces = torch.where(grey < options.grey, luma, faces)
        if options.hide_patch:
            inside = ((self._y - down).abs() < _PATCH[0]) & ((self._x - right).abs() < _PATCH[1])
            faces = faces.masked_fill(inside & (hidden < options.hide_patch), _GREY)
        return faces

    def mels(self, mels: Tensor, random: Tensor) -> Tensor:
        """Return mels [R, 80, 16]."""
        options = self._options
        hidden, band, noise = random[:, 4:].view(-1, 3, 1, 1).unbind(1)
        if options.mel_noise:
            first = (noise[:, 0] * (_NOISE - len(self._in_mel))).long()
            grain = self._noise.index_select(0, (first + self._in_mel).flatten()).view(mels.shape)
            mels = mels + options.mel_noise * grain
        if options.hide_band:
            inside = (self._bands - band * DEFAULT_MEL.n_mels).abs() < _BAND
            mels = mels.masked_fill(inside & (hidden < options.hide_band), _HIDDEN)
        return mels.clamp(-DEFAULT_MEL.max_abs, DEFAULT_MEL.max_abs)


class ChangedTargets:
    """The changes of the generator's samples: mouths of references, and silence in pauses."""

    randoms = 7

    def __init__(
        self, options: TargetChanges, device: torch.device, loudness: Loudness, face_size: int = FACE_SIZE
    ) -> None:
        self._options, self._loudness = options, loudness
        axis = (torch.arange(face_size, device=device) + 0.5) / face_size * 2 - 1
        self._y, self._x = axis[:, None], axis[None]
        self._warped = self._bump(*_MOUTH_SPREAD)
        self._pasted = (1.8 * self._bump(*_PASTE_SPREAD)).clamp(max=1)

    def of_clips(self, clips: Indices) -> Arrays:
        """Return the level of the loud columns of each clip, if silence is an option."""
        return {"loud": self._loudness(clips)} if self._options.silence else {}

    def __call__(self, rows: TargetBatch, random: Tensor, of_clips: Tensors) -> TargetBatch:
        """Return changed rows, for random numbers [R, 7]."""
        references, mels = rows.references, rows.frame_mels
        if self._options.reference_paste or self._options.reference_mouth_warp:
            references = self.references(references, rows.targets, random)
        if self._options.silence:
            mels = self.silenced(mels, of_clips["loud"], random)
        return rows._replace(references=references, frame_mels=mels)

    def references(self, references: Tensor, targets: Tensor, random: Tensor) -> Tensor:
        """Return references uint8 [R, T, S, S, 3] with other mouths, or with the frame of the target."""
        options = self._options
        faces = references.float()
        pasted, high, wide, down, right = random[:, :5].view(-1, 5, 1, 1).unbind(1)
        if options.reference_paste:
            own = torch.where(pasted < options.reference_paste, self._pasted, 1.0)
            faces = torch.lerp(targets.float(), faces, own[:, None, :, :, None])
        if options.reference_mouth_warp:

            def spread(part: Tensor, largest: float) -> Tensor:
                return (2 * part - 1) * largest * options.reference_mouth_warp * self._warped

            x = self._x + self._x * spread(wide, _WIDTH) + spread(right, _RIGHT)
            y = self._y + (self._y - _MOUTH) * spread(high, _HEIGHT) + spread(down, _DOWN)
            planes = faces.permute(0, 1, 4, 2, 3).flatten(1, 2)
            warped = functional.grid_sample(
                planes, torch.stack([x, y], dim=-1), padding_mode="border", align_corners=False
            )
            faces = warped.view(len(faces), -1, 3, *warped.shape[2:]).permute(0, 1, 3, 4, 2)
        return faces.round().clamp(0, 255).to(torch.uint8)

    def silenced(self, mels: Tensor, loud: Tensor, random: Tensor) -> Tensor:
        """Return mels [R, T, 80, 16] in which quiet frames of a share of the rows are silent."""
        chosen, level = random[:, 5:].view(-1, 2, 1, 1, 1).unbind(1)
        quiet = mels.mean((2, 3), keepdim=True) < loud.view(-1, 1, 1, 1) - _QUIET
        silence = level * _SILENT_ROOM - DEFAULT_MEL.max_abs
        return torch.where(quiet & (chosen < self._options.silence), silence, mels)

    def _bump(self, across: float, down: float) -> Tensor:
        return torch.exp(-((self._x / across) ** 2 + ((self._y - _MOUTH) / down) ** 2) / 2)


class Loudness:
    """Level of the loud columns of each clip, in mel units, computed when it is first needed."""

    def __init__(self, clips: Sequence[Clip], reader: FaceReader) -> None:
        self._clips, self._reader = clips, reader
        self._levels = np.full(len(clips), np.nan, np.float32)

    def __call__(self, numbers: Indices) -> NDArray[np.float32]:
        """Return the levels of clips [R]. Raises `ClipError` if the mel of one is unreadable."""
        for number in np.unique(numbers[np.isnan(self._levels[numbers])]):
            columns = self._reader.mel(self._clips[number]).mean(axis=0)
            self._levels[number] = np.percentile(columns, _LOUD_PERCENTILE)
        levels: NDArray[np.float32] = self._levels[numbers]
        return levels
