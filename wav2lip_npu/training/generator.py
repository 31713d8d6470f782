"""Training of the generator, with or without the discriminator: step, sync-weight schedule, evaluation."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from wav2lip_npu import device as devices
from wav2lip_npu.data.samples import Samples, batches
from wav2lip_npu.models.inputs import face_windows, generator_input, images_of_faces, syncnet_input
from wav2lip_npu.models.networks import SyncNet
from wav2lip_npu.training import distributed
from wav2lip_npu.training.loop import Evaluate, Losses
from wav2lip_npu.training.losses import fake_loss, mouth_loss, real_loss, sync_loss
from wav2lip_npu.training.metrics_log import Curves
from wav2lip_npu.training.options import GeneratorOptions
from wav2lip_npu.training.state import TrainState

log = logging.getLogger(__name__)

_SHEET_ROWS = 8


class SyncSchedule:
    """The weight of the sync loss: low until the generator is close, for a far one learns nothing from it.

    That it has risen is saved with the training and comes back with it; the weights are those asked for.
    """

    def __init__(self, first: float, gate: float, risen: float) -> None:
        self._first, self._gate, self._risen = first, gate, risen
        self._passed = False

    @property
    def weight(self) -> float:
        """As it is now."""
        return max(self._first, self._risen) if self._passed else self._first

    def update(self, held_out: float) -> None:
        """Raise the weight, for good, when the held-out sync loss has passed the gate."""
        if held_out < self._gate and not self._passed:
            self._passed = True
            log.info("sync loss %.3f is below %g: its weight is now %g", held_out, self._gate, self.weight)

    def state_dict(self) -> dict[str, Any]:
        """Whether the gate is passed; the weight is for who reads the file."""
        return {"passed": self._passed, "weight": self.weight}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on before or after the gate."""
        self._passed = bool(state["passed"])


class Lessons:
    """Turns batches into losses for generator and discriminator, and into held-out figures."""

    def __init__(
        self, state: TrainState, syncnet: SyncNet, schedule: SyncSchedule, options: GeneratorOptions, amp: str
    ) -> None:
        self._state, self._syncnet, self._schedule = state, syncnet, schedule
        self._options, self._amp = options, amp
        self._generator = state.main.parallel
        critic = state.trainees.get("discriminator")
        self._critic = critic
        syncnet.requires_grad_(False).train(options.expert_bn == "batch")

    def step(self, batch: dict[str, Tensor]) -> Iterator[Losses]:
        """Losses of one batch: w sync + d quality + (1 - w - d) L1, then those of the discriminator."""
        target = face_windows(batch["target"])
        with devices.autocast(self._state.device, self._amp):
            made = self._generator(
                batch["frame_mels"][:, :, None], generator_input(target, face_windows(batch["reference"]))
            )
        made = made.float()
        weight, quality = self._schedule.weight, self._options.disc_wt
        parts = {"l1": functional.l1_loss(made, target)}
        asked = self._options.mouth_weight
        pixels = parts["l1"] if asked == 1 else mouth_loss(made, target, asked)
        total = (1 - weight - quality) * pixels
        if weight:
            embedded = self._embedded(batch["mels"], made)
            parts["sync"] = sync_loss(*embedded, self._options.sync_floor, batch.get("judged"))
            total = total + weight * parts["sync"]
        if self._critic is not None:
            parts["quality"] = self._quality(made)
            total = total + quality * parts["quality"]
        yield Losses("generator", total, {**parts, "sync_weight": total.new_tensor(weight)})
        if self._critic is not None:
            with devices.autocast(self._state.device, self._amp):
                both = self._critic.parallel(torch.cat([target, made.detach()]))
            real, fake = both.float().view(-1, 2 * len(target)).chunk(2, dim=1)  # time-major
            critics = {"disc_real": real_loss(real), "disc_fake": fake_loss(fake)}
            yield Losses("discriminator", critics["disc_real"] + critics["disc_fake"], critics)

    def _embedded(self, mels: Tensor, made: Tensor) -> tuple[Tensor, Tensor]:
        """What the expert makes of sounds and of made windows [B, 3, 5, S, S]."""
        with devices.autocast(self._state.device, self._amp):
            sound, picture = self._syncnet(mels[:, None], syncnet_input(made))
        return sound.float(), picture.float()

    def _quality(self, made: Tensor) -> Tensor:
        """How far the discriminator is from taking made windows for real; it learns nothing from that."""
        assert self._critic is not None
        network = self._critic.network.requires_grad_(False)
        try:
            with devices.autocast(self._state.device, self._amp):
                probability = network(made)
            return real_loss(probability.float())
        finally:
            network.requires_grad_(True)

    def evaluator(self, held_out: Samples, batch_size: int) -> Evaluate:
        """What judges the generator on the same held-out windows each time, and moves the schedule."""

        @torch.inference_mode()
        def evaluate(curves: Curves | None) -> Mapping[str, float]:
            state, ranks = self._state, self._state.ranks
            stream = batches(held_out, 0, size=batch_size, rank=ranks.rank, ranks=ranks.size, threads=2)
            sums = {"l1": 0.0, "sync": 0.0, **({"quality": 0.0} if self._critic else {})}
            for number, batch in enumerate(itertools.islice(stream, self._options.eval_batches)):
                tensors = devices.upload(batch.arrays, state.device)
                target = face_windows(tensors["target"])
                pairs = generator_input(target, face_windows(tensors["reference"]))
                made = state.main.network(tensors["frame_mels"][:, :, None], pairs)
                sums["l1"] += float(functional.l1_loss(made, target))
                sums["sync"] += float(sync_loss(*self._embedded(tensors["mels"], made)))
                if self._critic is not None:
                    sums["quality"] += float(real_loss(self._critic.network(made)))
                if number == 0 and curves is not None:
                    curves.picture(state.step, _sheet(pairs, made, target))
            stream.close()
            means = [value / (self._options.eval_batches * ranks.size) for value in sums.values()]
            found = dict(zip(sums, distributed.total(means, state.device, ranks), strict=True))
            self._schedule.update(found["sync"])
            return {**found, "sync_weight": self._schedule.weight}

        return evaluate


def _sheet(pairs: Tensor, made: Tensor, target: Tensor) -> NDArray[np.uint8]:
    """Rows of reference, masked, generated and true face, one window a row, the middle frame of each."""
    middle = pairs.shape[2] // 2
    columns = [pairs[:, 3:], pairs[:, :3], made, target]
    row = torch.cat([column[:_SHEET_ROWS, :, middle].float() for column in columns], dim=3)
    sheet: NDArray[np.uint8] = images_of_faces(row).flatten(0, 1).cpu().numpy()
    return sheet
