"""Training of the expert: its recipes, its step, and how it is judged."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from wav2lip_npu import device as devices
from wav2lip_npu.data.augmentation import UNCHANGED, Augmentation
from wav2lip_npu.data.clip import Clip, ClipError
from wav2lip_npu.data.face_reader import FaceReader
from wav2lip_npu.data.samples import Draw, draw_pair, draw_windows
from wav2lip_npu.errors import DataError, UsageError
from wav2lip_npu.models.inputs import syncnet_input_of_images
from wav2lip_npu.training import distributed
from wav2lip_npu.training.distributed import gathered
from wav2lip_npu.training.loop import Losses, Step
from wav2lip_npu.training.losses import all_pairs_loss, cosine, pair_loss
from wav2lip_npu.training.metrics_log import Curves
from wav2lip_npu.training.options import SyncNetTrainOptions
from wav2lip_npu.training.state import TrainState
from wav2lip_npu.training.sync_offset import MAX_OFFSET, Similarities, similarities

log = logging.getLogger(__name__)

MOST_WINDOWS = 256
"""Windows of a held-out clip that are looked at."""
_GUESSING = (math.log(2) - 0.03, 0.56)
"""A loss above and an accuracy below these: the expert has found nothing yet."""
_PATIENCE = 2
"""Evaluations in a row in which it may be so before the log tells."""


@dataclass(frozen=True)
class Recipe:
    """How the expert learns."""

    windows_per_clip: int
    """Windows of the same clip in a batch, each a wrong pair for the others."""
    rate_factor: float
    """The learning rate after warm-up, in units of --learning_rate."""
    warmup_steps: int
    average: float

    def options(self, asked: SyncNetTrainOptions) -> SyncNetTrainOptions:
        """What was asked for, with what was left open filled in."""
        return replace(
            asked,
            learning_rate=asked.learning_rate * self.rate_factor,
            warmup_steps=self.warmup_steps if asked.warmup_steps is None else asked.warmup_steps,
            average=self.average if asked.average is None else asked.average,
        )

    def draw(self, changes: Augmentation = UNCHANGED) -> Draw:
        """What makes its samples."""
        several = self.windows_per_clip > 1
        return draw_windows(self.windows_per_clip, changes) if several else draw_pair(changes)


RECIPES = {
    "default": Recipe(windows_per_clip=8, rate_factor=10, warmup_steps=20, average=0.99),
    "original": Recipe(windows_per_clip=1, rate_factor=1, warmup_steps=0, average=0.0),
}
"""By name; their figures are in docs/training.md."""


def recipe_named(name: str) -> Recipe:
    """The recipe. Raises `UsageError` when there is none of that name."""
    if name not in RECIPES:
        raise UsageError(f"unknown --recipe {name!r}. Pass {' or '.join(RECIPES)}.")
    return RECIPES[name]


def make_step(state: TrainState, amp: str, same_clip: float | None = None) -> Step:
    """What one batch teaches the expert; `same_clip` is that of `all_pairs_loss`."""
    syncnet = state.main.parallel

    def step(batch: dict[str, Tensor]) -> Iterator[Losses]:
        with devices.autocast(state.device, amp):
            embeddings = syncnet(batch["mels"][:, None], syncnet_input_of_images(batch["faces"]))
        sound, picture = (each.float() for each in embeddings)
        if "in_sync" in batch:
            loss = pair_loss(sound, picture, batch["in_sync"])
            right = ((cosine(sound, picture) > 0.5) == (batch["in_sync"] > 0.5)).float().mean()
            yield Losses("syncnet", loss, {"bce": loss, "accuracy": right})
            return
        sound, picture = (gathered(each, state.ranks) for each in (sound, picture))
        clip, frame = (gathered(batch[name].int(), state.ranks) for name in ("clip", "frame"))
        loss, table = all_pairs_loss(sound, picture, clip, frame, same_clip)
        inside, count = table.detach().diagonal(), len(table)
        outside = (table.detach().sum() - inside.sum()) / max(1, count * (count - 1))
        yield Losses("syncnet", loss, {"bce": loss, "in_sync": inside.mean(), "out_of_sync": outside})

    return step


def make_evaluate(
    state: TrainState,
    clips: Sequence[Clip],
    reader: FaceReader,
    *,
    when_guessing: Callable[[], Sequence[str]] = lambda: (),
) -> Callable[[Curves | None], Mapping[str, float]]:
    """What tells how good the expert is on held-out clips; `when_guessing` may say why it learns nothing.

    A clip that cannot be read is left out, as it is in training.
    """
    guesses = 0

    def tables() -> Iterator[Similarities]:
        network = state.main.network
        for clip in clips[state.ranks.rank :: state.ranks.size]:
            try:
                yield similarities(network, clip, reader, state.device, clip.windows()[:MOST_WINDOWS])  # type: ignore[arg-type]
            except (ClipError, OSError) as error:
                log.warning("%s is left out: %s", clip.name, error)

    def evaluate(curves: Curves | None) -> Mapping[str, float]:
        nonlocal guesses
        found = judge(tables(), state.device, state.ranks)
        guessing = found["bce"] > _GUESSING[0] and found["accuracy"] < _GUESSING[1]
        guesses = guesses + 1 if guessing else 0
        if guesses >= _PATIENCE and state.ranks.is_first:
            log.warning(
                "the loss sits at ln 2 = 0.69: the expert still guesses. Common for the first few thousand "
                "steps; later it means that sound and picture of the clips do not belong together."
            )
            for reason in when_guessing():
                log.warning("  %s", reason)
        return found

    return evaluate


def judge(
    tables: Iterator[Similarities], device: torch.device, ranks: distributed.Ranks = distributed.ALONE
) -> dict[str, float]:
    """Figures of an expert from the cosines of held-out clips, each clip counting the same.

    `bce` is the expectation of the original's loss: half the pairs in sync, half a sound with the picture
    of any other window of its clip. `retrieval` is the share of windows, `clip_retrieval` that of clips,
    whose best offset within 15 frames is 0 or 1 either way.
    """
    sums = dict.fromkeys((*_PER_CLIP, "clips", "retrieval", "windows", "clip_retrieval", "long_clips"), 0.0)
    for table in tables:
        inside, outside = table.in_sync(), table.out_of_sync()
        by_offset = table.by_offset()
        sums["clips"] += 1
        sums["bce"] -= float(inside.log().mean() + (1 - outside).log().mean()) / 2
        sums["accuracy"] += float((inside > 0.5).float().mean() + (outside <= 0.5).float().mean()) / 2
        sums["in_sync"] += float(inside.mean())
        sums["out_of_sync"] += float(outside.mean())
        if len(by_offset):
            sums["retrieval"] += int(((by_offset.argmax(dim=1) - MAX_OFFSET).abs() <= 1).sum())
            sums["windows"] += len(by_offset)
            sums["clip_retrieval"] += abs(table.offset()[0]) <= 1
            sums["long_clips"] += 1
    sums = dict(zip(sums, distributed.total(list(sums.values()), device, ranks), strict=True))
    if not sums["clips"]:
        raise DataError("no held-out clip can be read any more. Check the disk.")
    found = {name: sums[name] / sums["clips"] for name in _PER_CLIP}
    if sums["windows"]:
        found["retrieval"] = sums["retrieval"] / sums["windows"]
        found["clip_retrieval"] = sums["clip_retrieval"] / sums["long_clips"]
    return found


_PER_CLIP = ("bce", "accuracy", "in_sync", "out_of_sync")
