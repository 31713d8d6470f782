"""Generator training, with or without the discriminator: step, schedule, evaluation, `train_generator`."""

from __future__ import annotations

import contextlib
import functools
import itertools
import logging
import os
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from wav2lip_npu import device as devices
from wav2lip_npu import signals
from wav2lip_npu.data.augmentation import Augmentation
from wav2lip_npu.data.device_batch import TargetBatch, TargetRows, on_device
from wav2lip_npu.data.resident_samples import ResidentTargets
from wav2lip_npu.data.samples import MEL_SHIFT, Batch, Samples, TargetSample, batches, draw_target
from wav2lip_npu.models.inputs import face_windows, generator_input, images_of_faces, syncnet_input
from wav2lip_npu.models.networks import SyncNet
from wav2lip_npu.options import expect, with_values
from wav2lip_npu.training import distributed
from wav2lip_npu.training.loop import Progress, TrainResult
from wav2lip_npu.training.losses import fake_loss, mouth_loss, real_loss, sync_loss
from wav2lip_npu.training.options import GeneratorOptions, GeneratorSettings, TrainOptions, TrainPaths
from wav2lip_npu.training.session import check_files, load_syncnet, open_session
from wav2lip_npu.training.state import TrainState
from wav2lip_npu.training.task import Evaluation, Losses, Task

log = logging.getLogger(__name__)

_SHEET_ROWS = 8
_QUICK_WINDOWS = 4


@signals.deferred()
def train_generator(
    data_root: str | os.PathLike[str],
    checkpoint_dir: str | os.PathLike[str],
    *,
    options: TrainOptions | None = None,
    generator: GeneratorOptions | None = None,
    augmentation: Augmentation | None = None,
    progress: Progress | None = None,
    **values: Any,
) -> TrainResult:
    """Train the Wav2Lip generator against a frozen SyncNet (Prajwal et al., arXiv 2008.10010).

    Training resumes from the newest checkpoint of `checkpoint_dir` if there is one. It ends at `steps` or
    `nepochs`. In the main thread, it also saves and ends on SIGTERM, SIGHUP or Ctrl-C.

    Args:
        data_root: Folder of clips written by `preprocess`.
        checkpoint_dir: Folder for checkpoints, curves and sample images.
        options: Training options.
        generator: Weights of the losses, and the discriminator.
        augmentation: Augmentation of the samples. Default: none.
        progress: Called on the first rank after each step with its number and its losses.
        **values: Fields of these options and of `TrainPaths` by name, such as `steps`, `disc_wt`,
            `filelists`, `checkpoint_path` or `device`; also `syncnet_checkpoint_path` (default: the bundled
            SyncNet) and `disc_checkpoint_path`.

    Returns:
        The final step, the newest and the best checkpoint, and the latest held-out figures.

    Raises:
        UsageError: An option is unknown or out of range, or another training writes to `checkpoint_dir`.
        DataError: The clips or file lists cannot be used.
        CheckpointError: A checkpoint cannot be read or written.
        OutputError: `checkpoint_dir` cannot be written, or an input would be replaced.
        DeviceError: The device is missing or cannot train with these options.
        TrainingError: The loss is not finite.

    Example:
        >>> from wav2lip_npu import train_generator
        >>> result = train_generator(
        ...     "lrs2_preprocessed",
        ...     "checkpoints/wav2lip",
        ...     syncnet_checkpoint_path="checkpoints/syncnet/checkpoint_step000010000.pth",
        ... )
        >>> print(result.checkpoint)

    """
    settings = GeneratorSettings(
        paths=TrainPaths(data_root=os.fspath(data_root), checkpoint_dir=os.fspath(checkpoint_dir)),
        train=expect(options, TrainOptions),
        generator=expect(generator, GeneratorOptions, "generator"),
        augment=expect(augmentation, Augmentation, "augmentation"),
    )
    settings = with_values(settings, values)
    check_files(settings)
    options, losses = settings.train, settings.generator
    syncnet = load_syncnet(settings.syncnet_checkpoint_path)
    rates: dict[str, float | None] = {"generator": None}
    if losses.disc_wt:
        rates["discriminator"] = losses.disc_initial_learning_rate
    with open_session(
        settings, list(rates), shift=MEL_SHIFT, disc_checkpoint_path=settings.disc_checkpoint_path
    ) as session:
        schedule = SyncSchedule(losses.syncnet_wt, losses.sync_gate, losses.risen_weight)
        state = session.state(rates, {"schedule": schedule})
        objective = GeneratorObjective(
            state,
            session.to_device(syncnet),
            schedule,
            losses,
            options.amp,
            is_compiled=options.compile == "on",
        )
        held_out = session.held_out_samples(draw_target())
        task = Task(
            session.train_samples(
                draw_target(settings.augment, losses.reference_distance),
                ResidentTargets(settings.augment, losses.reference_distance),
            ),
            options.batch_size,
            objective.step,
            functools.partial(objective.evaluate, held_out, options.batch_size),
            schedule,
            judge=syncnet,
            host_values=lambda: schedule.weight,
        )
        return session.fit(state, task, progress)


class SyncSchedule:
    """Weight of the sync loss, low until the generator is close to sync and can learn from it.

    Checkpoints store whether the weight has risen; the weights themselves come from the options.
    """

    def __init__(self, first: float, gate: float, risen: float) -> None:
        self._first, self._gate, self._risen = first, gate, risen
        self._passed = False

    @property
    def weight(self) -> float:
        """Current weight."""
        return max(self._first, self._risen) if self._passed else self._first

    def update(self, figures: Mapping[str, float]) -> Mapping[str, float]:
        """Raise the weight permanently once the held-out sync loss is below the gate; return it."""
        held_out = figures["sync"]
        if held_out < self._gate and not self._passed:
            self._passed = True
            log.info("sync loss %.3f is below %g: its weight is now %g", held_out, self._gate, self.weight)
        return {"sync_weight": self.weight}

    def state_dict(self) -> dict[str, Any]:
        """Return whether the gate is passed, and the weight for information."""
        return {"passed": self._passed, "weight": self.weight}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore whether the gate is passed."""
        self._passed = bool(state["passed"])


class GeneratorObjective:
    """Losses of generator and discriminator, and their held-out figures."""

    def __init__(
        self,
        state: TrainState,
        syncnet: SyncNet,
        schedule: SyncSchedule,
        options: GeneratorOptions,
        amp: str,
        *,
        is_compiled: bool = False,
    ) -> None:
        self._state, self._schedule = state, schedule
        self._options, self._amp = options, amp
        self._discriminator = state.networks.get("discriminator")
        syncnet.requires_grad_(False).train(options.expert_bn == "batch")
        self._syncnet = devices.compiled(syncnet, state.device) if is_compiled else syncnet

    def step(self, batch: Batch[TargetRows]) -> Iterator[Losses]:
        """Yield the generator's loss, w sync + d quality + (1 - w - d) L1, then the discriminator's."""
        rows = on_device(batch, TargetBatch, self._state.device)
        target = face_windows(rows.targets)
        with self._autocast():
            pairs = generator_input(target, face_windows(rows.references))
            generated = self._state.main.wrapped(rows.frame_mels[:, :, None], pairs)
        generated = generated.float()
        sync_weight, quality_weight = self._schedule.weight, self._options.disc_wt
        parts = {"l1": functional.l1_loss(generated, target)}
        mouth_weight = self._options.mouth_weight
        pixels = parts["l1"] if mouth_weight == 1 else mouth_loss(generated, target, mouth_weight)
        total = (1 - sync_weight - quality_weight) * pixels
        if sync_weight:
            embeddings = self._embeddings(rows.mels, generated)
            parts["sync"] = sync_loss(*embeddings, self._options.sync_floor, rows.judged)
            total = total + sync_weight * parts["sync"]
        if self._discriminator is not None:
            parts["quality"] = self._quality_loss(generated)
            total = total + quality_weight * parts["quality"]
        yield Losses("generator", total, {**parts, "sync_weight": total.new_full((), sync_weight)})
        if self._discriminator is not None:
            with self._autocast():
                both = self._discriminator.wrapped(torch.cat([target, generated.detach()]))
            real, fake = both.float().view(-1, 2 * len(target)).chunk(2, dim=1)  # time-major
            parts = {"disc_real": real_loss(real), "disc_fake": fake_loss(fake)}
            yield Losses("discriminator", parts["disc_real"] + parts["disc_fake"], parts)

    def _autocast(self) -> contextlib.AbstractContextManager[None]:
        return devices.autocast(self._state.device, self._amp)

    def _embeddings(self, mels: Tensor, generated: Tensor) -> tuple[Tensor, Tensor]:
        """Return SyncNet's float32 embeddings of mels [B, 80, 16] and windows [B, 3, 5, S, S]."""
        with self._autocast():
            audio, faces = self._syncnet(mels[:, None], syncnet_input(generated))
        return audio.float(), faces.float()

    def _quality_loss(self, generated: Tensor) -> Tensor:
        """Return the discriminator's BCE of generated windows against real, without weight gradients."""
        assert self._discriminator is not None
        network = self._discriminator.network.requires_grad_(False)
        try:
            with self._autocast():
                probability = network(generated)
            return real_loss(probability.float())
        finally:
            network.requires_grad_(True)

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
        sums = {"l1": 0.0, "sync": 0.0, **({"quality": 0.0} if self._discriminator else {})}
        sheet = None
        with contextlib.closing(stream):
            for number, batch in enumerate(itertools.islice(stream, count)):
                rows = on_device(batch, TargetBatch, state.device)
                target = face_windows(rows.targets)
                pairs = generator_input(target, face_windows(rows.references))
                generated = state.main.network(rows.frame_mels[:, :, None], pairs)
                sums["l1"] += float(functional.l1_loss(generated, target))
                sums["sync"] += float(sync_loss(*self._embeddings(rows.mels, generated)))
                if self._discriminator is not None:
                    sums["quality"] += float(real_loss(self._discriminator.network(generated)))
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
