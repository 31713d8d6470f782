"""The objective of the generator: the losses of a step, and held-out figures."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from wav2lip_npu.data.clip_layout import FACE_SIZE
from wav2lip_npu.data.device_batch import TargetBatch, TargetRows, on_device
from wav2lip_npu.data.samples import Batch, Samples, TargetSample, batches
from wav2lip_npu.devices import compilation, mixed_precision
from wav2lip_npu.models.inputs import face_windows, generator_input, images_of_faces, syncnet_input
from wav2lip_npu.models.networks import SyncNet
from wav2lip_npu.models.patch_discriminator import lower_halves
from wav2lip_npu.training import distributed
from wav2lip_npu.training.critics import PATCH, QUALITY, Critic, PatchCritic, QualityCritic
from wav2lip_npu.training.loss_options import GeneratorOptions
from wav2lip_npu.training.loss_schedule import LossSchedule
from wav2lip_npu.training.losses import gradient_loss, motion_loss, mouth_loss, mouth_weights, sync_loss
from wav2lip_npu.training.state import TrainState
from wav2lip_npu.training.task import Evaluation, Losses

_SHEET_ROWS = 8
_QUICK_WINDOWS = 4


class GeneratorObjective:
    """Losses of generator and discriminator, and their held-out figures."""

    def __init__(
        self,
        state: TrainState,
        syncnet: SyncNet,
        schedule: LossSchedule,
        options: GeneratorOptions,
        amp: str,
        *,
        is_compiled: bool = False,
        face_size: int = FACE_SIZE,
        lpips: nn.Module | None = None,
    ) -> None:
        self._lpips = lpips
        self._state, self._schedule = state, schedule
        self._options, self._amp = options, amp
        syncnet.requires_grad_(False).train(options.expert_bn == "batch")
        self._syncnet = compilation.compiled(syncnet, state.device) if is_compiled else syncnet
        self._pixel_weights = mouth_weights(face_size, options.mouth_weight, state.device)
        self._critic: Critic | None = None
        if QUALITY in state.networks:
            self._critic = QualityCritic(state.networks[QUALITY], self._autocast)
        elif PATCH in state.networks:
            self._critic = PatchCritic(state.networks[PATCH], self._autocast, self._pixel_weights)
        self._weights = torch.zeros(len(self._schedule.weights), device=state.device)
        self.begin(0)

    def begin(self, step: int) -> None:
        """Set the weights of the losses after a number of steps, without waiting for the device."""
        self._schedule.begin(step)
        for place, value in zip(self._weights, self._schedule.weights, strict=True):
            place.fill_(value)

    def used_losses(self) -> tuple[bool, bool]:
        """Return whether the sync loss and the discriminator have a weight."""
        weights = self._schedule.weights
        return weights.sync > 0, weights.quality > 0

    def step(self, batch: Batch[TargetRows]) -> Iterator[Losses]:
        """Yield the generator's loss, w sync + d quality + (1 - w - d) pixels, then the discriminator's."""
        rows = on_device(batch, TargetBatch, self._state.device)
        target = face_windows(rows.targets)
        with self._autocast():
            pairs = generator_input(target, face_windows(rows.references))
            generated = self._state.main.wrapped(rows.frame_mels[:, :, None], pairs)
        generated = generated.float()
        has_sync, has_quality = self.used_losses()
        pixel_weight, sync_weight, quality_weight = self._weights.unbind()
        pixels, parts = self._pixel_losses(generated, target)
        total = pixel_weight * pixels
        if has_sync:
            judged = rows.judged.clamp(min=self._options.sync_augmented)
            embeddings = self._embeddings(rows.mels, generated)
            parts["sync"] = sync_loss(*embeddings, self._options.sync_floor, judged)
            total = total + sync_weight * parts["sync"]
        if self._critic is not None and has_quality:
            quality = self._critic.quality(generated)
            parts["quality"] = quality.figure
            total = total + quality_weight * quality.term
        yield Losses("generator", total, {**parts, "sync_weight": sync_weight.clone()})
        if self._critic is not None and has_quality:
            yield self._critic.losses(target, generated)

    def _pixel_losses(self, generated: Tensor, target: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the weighted losses of pixels, image gradients, motion and LPIPS, and each of them."""
        options, weights = self._options, self._pixel_weights
        parts = {"l1": functional.l1_loss(generated, target)}
        total = parts["l1"] if options.mouth_weight == 1 else mouth_loss(generated, target, weights)
        if options.gradient_weight:
            parts["gradients"] = gradient_loss(generated, target, weights)
            total = total + options.gradient_weight * parts["gradients"]
        if options.motion_weight:
            parts["motion"] = motion_loss(generated, target, weights)
            total = total + options.motion_weight * parts["motion"]
        if self._lpips is not None:
            with self._autocast():
                parts["lpips"] = self._lpips(lower_halves(generated), lower_halves(target)).mean()
            total = total + options.lpips_weight * parts["lpips"]
        return total, parts

    def _autocast(self) -> contextlib.AbstractContextManager[None]:
        return mixed_precision.autocast(self._state.device, self._amp)

    def _embeddings(self, mels: Tensor, generated: Tensor) -> tuple[Tensor, Tensor]:
        """Return SyncNet's float32 embeddings of mels [B, 80, 16] and windows [B, 3, 5, S, S]."""
        with self._autocast():
            audio, faces = self._syncnet(mels[:, None], syncnet_input(generated))
        return audio.float(), faces.float()

    @torch.inference_mode()
    def evaluate(
        self, held_out: Samples[TargetSample], batch_size: int, is_quick: bool = False
    ) -> Evaluation:
        """Return held-out figures and sample images; the windows are the same each time.

        A quick evaluation takes a few windows.
        """
        state, ranks = self._state, self._state.ranks
        count = 1 if is_quick else self._options.eval_batches
        batch_size = min(batch_size, _QUICK_WINDOWS) if is_quick else batch_size
        stream = batches(held_out, 0, size=batch_size, rank=ranks.rank, ranks=ranks.size, threads=2)
        sums = {"l1": 0.0, "sync": 0.0, **({"quality": 0.0} if self._critic else {})}
        sheet = None
        with contextlib.closing(stream):
            for number, batch in enumerate(itertools.islice(stream, count)):
                rows = on_device(batch, TargetBatch, state.device)
                target = face_windows(rows.targets)
                pairs = generator_input(target, face_windows(rows.references))
                generated = state.main.network(rows.frame_mels[:, :, None], pairs)
                sums["l1"] += float(functional.l1_loss(generated, target))
                sums["sync"] += float(sync_loss(*self._embeddings(rows.mels, generated)))
                if self._critic is not None:
                    sums["quality"] += float(self._critic.held_out(generated))
                if number == 0 and ranks.is_first:
                    sheet = _sheet(pairs, generated, target)
        means = [value / (count * ranks.size) for value in sums.values()]
        totals = distributed.all_sum(means, state.device, ranks)
        return Evaluation(dict(zip(sums, totals, strict=True)), sheet)


def _sheet(pairs: Tensor, generated: Tensor, target: Tensor) -> NDArray[np.uint8]:
    """Return an image with a row per window: middle frame of reference, masked, generated and true face."""
    middle = pairs.shape[2] // 2
    columns = [pairs[:, 3:], pairs[:, :3], generated, target]
    row = torch.cat([column[:_SHEET_ROWS, :, middle].float() for column in columns], dim=3)
    sheet: NDArray[np.uint8] = images_of_faces(row).flatten(0, 1).cpu().numpy()
    return sheet
