"""Held-out figures of SyncNet, and a warning if it does not learn."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn

from wav2lip_npu import signals
from wav2lip_npu.data.clip import Clip, ClipError
from wav2lip_npu.data.face_reader import FaceReader
from wav2lip_npu.errors import DataError
from wav2lip_npu.training import distributed
from wav2lip_npu.training.distributed import SINGLE, Ranks
from wav2lip_npu.training.state import TrainState
from wav2lip_npu.training.sync_offset import MAX_OFFSET, Similarities, similarities
from wav2lip_npu.training.task import Evaluation

log = logging.getLogger(__name__)

MAX_EVAL_WINDOWS = 256
"""Maximum number of windows evaluated per held-out clip."""
_QUICK_CLIPS, _QUICK_WINDOWS = 4, 40
_PLATEAU_LOSS, _PLATEAU_ACCURACY = math.log(2) - 0.03, 0.56
"""A held-out loss above and an accuracy below these mean that SyncNet has not learned anything yet."""
_PATIENCE = 2
"""Consecutive evaluations on the plateau after which a warning is logged."""
_PER_CLIP = ("bce", "auc", "accuracy", "in_sync", "out_of_sync")


def evaluate_syncnet(
    state: TrainState, clips: Sequence[Clip], reader: FaceReader, is_quick: bool = False
) -> Evaluation:
    """Return the figures of SyncNet on held-out clips. Clips that cannot be read are skipped.

    A quick evaluation takes a few windows of a few clips.
    """
    own = clips[state.ranks.rank :: state.ranks.size]
    if is_quick:
        own = own[:: max(1, len(own) // _QUICK_CLIPS)][:_QUICK_CLIPS]
    windows = _QUICK_WINDOWS if is_quick else MAX_EVAL_WINDOWS
    tables = _tables(state.main.network, own, reader, state.device, windows)
    return Evaluation(held_out_figures(tables, state.device, state.ranks))


def _tables(
    syncnet: nn.Module, clips: Sequence[Clip], reader: FaceReader, device: torch.device, windows: int
) -> Iterator[Similarities]:
    for clip in clips:
        signals.check()
        try:
            positions = clip.windows()[:windows]
            yield similarities(syncnet, clip, reader, device, positions)  # type: ignore[arg-type]
        except (ClipError, OSError) as error:
            log.warning("%s is skipped: %s", clip.name, error)


def held_out_figures(
    tables: Iterable[Similarities], device: torch.device, ranks: Ranks = SINGLE
) -> dict[str, float]:
    """Return the figures of SyncNet from the cosines of held-out clips, weighted equally.

    `bce` is the expected value of the original's loss: half of the pairs are in sync, half combine audio
    with the faces of any other window of its clip. `auc` is the probability that a pair in sync has a higher
    cosine than another pair of the same clip. `retrieval` is the share of windows, `clip_retrieval`
    that of clips, whose best offset within 15 frames is -1, 0 or 1. Raises `DataError` without a table.
    """
    sums = dict.fromkeys((*_PER_CLIP, "clips", "retrieval", "windows", "clip_retrieval", "long_clips"), 0.0)
    for table in tables:
        in_sync, out_of_sync = table.in_sync(), table.out_of_sync()
        by_offset = table.by_offset()
        sums["clips"] += 1
        sums["bce"] -= float(in_sync.log().mean() + (1 - out_of_sync).log().mean()) / 2
        sums["auc"] += _auc(in_sync, out_of_sync)
        sums["accuracy"] += float((in_sync > 0.5).float().mean() + (out_of_sync <= 0.5).float().mean()) / 2
        sums["in_sync"] += float(in_sync.mean())
        sums["out_of_sync"] += float(out_of_sync.mean())
        if len(by_offset):
            sums["retrieval"] += int(((by_offset.argmax(dim=1) - MAX_OFFSET).abs() <= 1).sum())
            sums["windows"] += len(by_offset)
            sums["clip_retrieval"] += abs(table.offset()[0]) <= 1
            sums["long_clips"] += 1
    sums = dict(zip(sums, distributed.all_sum(list(sums.values()), device, ranks), strict=True))
    if not sums["clips"]:
        raise DataError("no held-out clip can be read. Check the disk.")
    figures = {name: sums[name] / sums["clips"] for name in _PER_CLIP}
    if sums["windows"]:
        figures["retrieval"] = sums["retrieval"] / sums["windows"]
        figures["clip_retrieval"] = sums["clip_retrieval"] / sums["long_clips"]
    return figures


def _auc(in_sync: Tensor, out_of_sync: Tensor) -> float:
    """Return the probability that a pair in sync has a higher cosine than one that is not, 0.5 by chance."""
    others, values = out_of_sync.sort().values, in_sync.contiguous()
    below, not_above = (torch.searchsorted(others, values, right=right) for right in (False, True))
    return float((below + not_above).double().mean() / 2 / len(others))


class PlateauMonitor:
    """Warns if the held-out loss stays at ln 2, that of random guesses."""

    def __init__(self, diagnose: Callable[[], Sequence[str]], ranks: Ranks = SINGLE) -> None:
        self._diagnose = diagnose
        self._ranks = ranks
        self._evaluations = 0
        self._warned = False

    def update(self, figures: Mapping[str, float]) -> Mapping[str, float]:
        """Count evaluations on the plateau; after two in a row, log a warning with a diagnosis once."""
        guessing = figures["bce"] > _PLATEAU_LOSS and figures["accuracy"] < _PLATEAU_ACCURACY
        self._evaluations = self._evaluations + 1 if guessing else 0
        if self._evaluations >= _PATIENCE and self._ranks.is_first and not self._warned:
            self._warned = True
            log.warning(
                "the held-out loss stays at ln 2 = 0.69: SyncNet is still guessing. This is common in the "
                "first few thousand steps; after that, audio and video of the clips are probably out of sync."
            )
            for line in self._diagnose():
                log.warning("  %s", line)
        return {}
