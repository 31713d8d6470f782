"""SyncNet training: steps, held-out evaluation, `train_syncnet`."""

from __future__ import annotations

import functools
import logging
import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from wav2lip_npu import device as devices
from wav2lip_npu import signals
from wav2lip_npu.data.augmentation import Augmentation
from wav2lip_npu.data.clip import Clip, ClipError
from wav2lip_npu.data.clip_index import ClipIndex
from wav2lip_npu.data.device_batch import PairBatch, PairRows, WindowBatch, WindowRows, on_device
from wav2lip_npu.data.face_reader import FaceReader
from wav2lip_npu.data.resident_samples import ResidentPairs, ResidentWindows
from wav2lip_npu.data.samples import Batch, draw_pair, draw_windows
from wav2lip_npu.errors import DataError
from wav2lip_npu.models.inputs import syncnet_input_of_images
from wav2lip_npu.options import expect, with_values
from wav2lip_npu.training import distributed
from wav2lip_npu.training.distributed import SINGLE, Ranks, gather_rows
from wav2lip_npu.training.loop import Progress, TrainResult
from wav2lip_npu.training.losses import all_pairs_loss, cosine, pair_loss
from wav2lip_npu.training.options import SyncNetSettings, SyncNetTrainOptions, TrainPaths
from wav2lip_npu.training.recipes import RECIPES
from wav2lip_npu.training.session import Session, check_files, open_session
from wav2lip_npu.training.state import TrainState
from wav2lip_npu.training.sync_offset import MAX_OFFSET, Similarities, similarities
from wav2lip_npu.training.task import Evaluation, Losses, Task

log = logging.getLogger(__name__)

MAX_EVAL_WINDOWS = 256
"""Maximum number of windows evaluated per held-out clip."""
_QUICK_CLIPS, _QUICK_WINDOWS = 4, 40
_PLATEAU_LOSS, _PLATEAU_ACCURACY = math.log(2) - 0.03, 0.56
"""A held-out loss above and an accuracy below these mean that SyncNet has not learned anything yet."""
_PATIENCE = 2
"""Consecutive evaluations on the plateau after which a warning is logged."""
_PER_CLIP = ("bce", "accuracy", "in_sync", "out_of_sync")

Diagnose = Callable[[ClipIndex, ClipIndex], Sequence[str]]
"""Returns the problems of training and held-out clips as lines of text."""


@signals.deferred()
def train_syncnet(
    data_root: str | os.PathLike[str],
    checkpoint_dir: str | os.PathLike[str],
    *,
    options: SyncNetTrainOptions | None = None,
    augmentation: Augmentation | None = None,
    diagnose: Diagnose | None = None,
    progress: Progress | None = None,
    **values: Any,
) -> TrainResult:
    """Train SyncNet, the lip-sync expert of Prajwal et al. (arXiv 2008.10010).

    Training resumes from the newest checkpoint of `checkpoint_dir` if there is one. It ends at `steps` or
    `nepochs`. In the main thread, it also saves and ends on SIGTERM, SIGHUP or Ctrl-C.

    Args:
        data_root: Folder of clips written by `preprocess`.
        checkpoint_dir: Folder for checkpoints, curves and sample images.
        options: Training options.
        augmentation: Augmentation of the samples. Default: none.
        diagnose: Called once with training and held-out clips if SyncNet does not learn; the returned
            lines are logged.
        progress: Called on the first rank after each step with its number and its losses.
        **values: Fields of `SyncNetTrainOptions`, `TrainPaths` or `Augmentation` by name, such as `steps`,
            `filelists`, `checkpoint_path`, `device` or `flip`.

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
        >>> from wav2lip_npu import train_syncnet
        >>> result = train_syncnet("lrs2_preprocessed", "checkpoints/syncnet", steps=9000)
        >>> print(result.best_checkpoint, result.held_out["bce"])

    """
    paths = TrainPaths(data_root=os.fspath(data_root), checkpoint_dir=os.fspath(checkpoint_dir))
    settings = SyncNetSettings(
        paths=paths,
        train=expect(options, SyncNetTrainOptions),
        augment=expect(augmentation, Augmentation, "augmentation"),
    )
    settings = with_values(settings, values)
    check_files(settings)
    with open_session(settings, ["syncnet"]) as session:
        session = replace(session, options=with_recipe(settings.train, session.is_continued))
        state = session.state({"syncnet": None})
        return session.fit(state, _task(session, state, settings, diagnose), progress)


def with_recipe(options: SyncNetTrainOptions, is_continued: bool) -> SyncNetTrainOptions:
    """Return the options with the recipe's learning rate, warm-up and average filled in.

    The learning rate of the default recipe is for random weights. It would destroy trained weights.
    """
    recipe = RECIPES[options.recipe]
    warmup_steps = options.warmup_steps
    if warmup_steps is None and not is_continued:
        warmup_steps = recipe.warmup_steps
    return replace(
        options,
        learning_rate=options.learning_rate * (1 if is_continued else recipe.rate_factor),
        warmup_steps=warmup_steps,
        average=recipe.average if options.average is None else options.average,
    )


def _task(
    session: Session, state: TrainState, settings: SyncNetSettings, diagnose: Diagnose | None
) -> Task[Any]:
    options = settings.train
    windows_per_clip = RECIPES[options.recipe].windows_per_clip
    clips = session.held_out.clips
    chosen = clips[:: max(1, len(clips) // options.eval_clips)][: options.eval_clips]
    evaluate = functools.partial(evaluate_syncnet, state, chosen, session.reader)
    monitor = PlateauMonitor(
        functools.partial(diagnose, session.train, session.held_out) if diagnose else tuple, state.ranks
    )
    size = options.batch_size // windows_per_clip
    if windows_per_clip == 1:
        step = functools.partial(pair_step, state, options.amp)
        samples = session.train_samples(draw_pair(settings.augment), ResidentPairs(settings.augment))
        return Task(samples, size, step, evaluate, monitor)
    draw = draw_windows(windows_per_clip, settings.augment)
    return Task(
        session.train_samples(draw, ResidentWindows(windows_per_clip, settings.augment)),
        size,
        functools.partial(all_pairs_step, state, options.amp, options.same_clip),
        evaluate,
        monitor,
    )


def pair_step(state: TrainState, amp: str, batch: Batch[PairRows]) -> Iterator[Losses]:
    """Yield the loss of the original's recipe."""
    rows = on_device(batch, PairBatch, state.device)
    audio, faces = _embeddings(state, amp, rows.mels, rows.faces)
    loss = pair_loss(audio, faces, rows.in_sync)
    right = ((cosine(audio, faces) > 0.5) == (rows.in_sync > 0.5)).float().mean()
    yield Losses("syncnet", loss, {"bce": loss, "accuracy": right})


def all_pairs_step(
    state: TrainState, amp: str, same_clip: float | None, batch: Batch[WindowRows]
) -> Iterator[Losses]:
    """Yield the loss of the default recipe; `same_clip` is that of `all_pairs_loss`."""
    rows = on_device(batch, WindowBatch, state.device)
    audio, faces = (
        gather_rows(rows_of_rank, state.ranks)
        for rows_of_rank in _embeddings(state, amp, rows.mels, rows.faces)
    )
    clips, frames = (gather_rows(numbers.int(), state.ranks) for numbers in (rows.clips, rows.frames))
    loss, table = all_pairs_loss(audio, faces, clips, frames, same_clip)
    in_sync, count = table.detach().diagonal(), len(table)
    out_of_sync = (table.detach().sum() - in_sync.sum()) / max(1, count * (count - 1))
    yield Losses("syncnet", loss, {"bce": loss, "in_sync": in_sync.mean(), "out_of_sync": out_of_sync})


def _embeddings(state: TrainState, amp: str, mels: Tensor, faces: Tensor) -> tuple[Tensor, Tensor]:
    """Return float32 embeddings [B, D] of audio and faces."""
    with devices.autocast(state.device, amp):
        audio, mouths = state.main.wrapped(mels[:, None], syncnet_input_of_images(faces))
    return audio.float(), mouths.float()


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
    with the faces of any other window of its clip. `retrieval` is the share of windows, `clip_retrieval`
    that of clips, whose best offset within 15 frames is -1, 0 or 1. Raises `DataError` without a table.
    """
    sums = dict.fromkeys((*_PER_CLIP, "clips", "retrieval", "windows", "clip_retrieval", "long_clips"), 0.0)
    for table in tables:
        in_sync, out_of_sync = table.in_sync(), table.out_of_sync()
        by_offset = table.by_offset()
        sums["clips"] += 1
        sums["bce"] -= float(in_sync.log().mean() + (1 - out_of_sync).log().mean()) / 2
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
