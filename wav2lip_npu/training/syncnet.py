"""SyncNet training: steps, held-out evaluation, `train_syncnet`."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor

from wav2lip_npu import signals
from wav2lip_npu.data.augmentation import Augmentation, WindowChanges
from wav2lip_npu.data.batch_changes import ChangedWindows
from wav2lip_npu.data.clip_index import ClipIndex
from wav2lip_npu.data.device_batch import PairBatch, PairRows, WindowBatch, WindowRows, on_device
from wav2lip_npu.data.resident_samples import ResidentDraw, ResidentPairs, ResidentWindows
from wav2lip_npu.data.samples import Batch, Draw, draw_pair, draw_windows
from wav2lip_npu.devices import mixed_precision
from wav2lip_npu.models.inputs import syncnet_input_of_images
from wav2lip_npu.options import expect, with_values
from wav2lip_npu.training.distributed import gather_rows
from wav2lip_npu.training.loop import Progress, TrainResult
from wav2lip_npu.training.losses import all_pairs_loss, cosine, pair_loss
from wav2lip_npu.training.options import SyncNetSettings, SyncNetTrainOptions, TrainPaths
from wav2lip_npu.training.recipes import RECIPES
from wav2lip_npu.training.session import Session, check_files, open_session
from wav2lip_npu.training.state import TrainState
from wav2lip_npu.training.syncnet_figures import PlateauMonitor, evaluate_syncnet
from wav2lip_npu.training.task import Losses, Task

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
        **values: Fields of `SyncNetTrainOptions`, `TrainPaths`, `Augmentation` or `WindowChanges` by name,
            such as `steps`, `filelists`, `checkpoint_path`, `device`, `flip` or `grey`.

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
    draw: Draw[Any]
    resident: ResidentDraw[Any]
    kind: type[PairBatch] | type[WindowBatch]
    step: Callable[[Batch[Any]], Iterator[Losses]]
    if windows_per_clip == 1:
        draw, resident, kind = draw_pair(settings.augment), ResidentPairs(settings.augment), PairBatch
        step = functools.partial(pair_step, state, options.amp)
    else:
        draw = draw_windows(windows_per_clip, settings.augment)
        resident, kind = ResidentWindows(windows_per_clip, settings.augment), WindowBatch
        step = functools.partial(all_pairs_step, state, options.amp, options.same_clip)
    task = Task(
        session.train_samples(draw, resident),
        options.batch_size // windows_per_clip,
        step,
        evaluate,
        monitor,
    )
    if settings.windows == WindowChanges():
        return task
    return replace(task, prepare=session.prepare(kind, ChangedWindows(settings.windows, session.device)))


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
    with mixed_precision.autocast(state.device, amp):
        audio, mouths = state.main.wrapped(mels[:, None], syncnet_input_of_images(faces))
    return audio.float(), mouths.float()
