"""Generator training, with or without a discriminator: `train_generator`."""

from __future__ import annotations

import functools
import os
from dataclasses import replace
from typing import Any

from wav2lip_npu import signals
from wav2lip_npu.data.augmentation import Augmentation, TargetChanges
from wav2lip_npu.data.batch_changes import ChangedTargets, Loudness
from wav2lip_npu.data.device_batch import TargetBatch
from wav2lip_npu.data.resident_samples import ResidentTargets
from wav2lip_npu.data.samples import MEL_SHIFT, draw_target
from wav2lip_npu.options import expect, with_values
from wav2lip_npu.training.generator_objective import GeneratorObjective
from wav2lip_npu.training.loop import Progress, TrainResult
from wav2lip_npu.training.loss_options import GeneratorOptions
from wav2lip_npu.training.loss_schedule import LossSchedule
from wav2lip_npu.training.options import GeneratorSettings, TrainOptions, TrainPaths
from wav2lip_npu.training.resumed import load_lpips, load_syncnet
from wav2lip_npu.training.session import check_files, open_session
from wav2lip_npu.training.task import Task


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
        **values: Fields of these options, of `TargetChanges` and of `TrainPaths` by name, such as `steps`,
            `disc_wt`, `filelists`, `checkpoint_path` or `device`; also `syncnet_checkpoint_path` (default:
            the bundled SyncNet), `disc_checkpoint_path`, `face_size`, `alexnet` and `lpips`.

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
    syncnet, lpips = load_syncnet(settings.syncnet_checkpoint_path), load_lpips(settings)
    rates: dict[str, float | None] = {"generator": None}
    if losses.discriminator is not None:
        rates[losses.discriminator] = losses.disc_initial_learning_rate
    with open_session(
        settings,
        list(rates),
        shift=MEL_SHIFT,
        disc_checkpoint_path=settings.disc_checkpoint_path,
        face_size=settings.face_size,
    ) as session:
        schedule = LossSchedule(losses)
        state = session.state(rates, {"schedule": schedule})
        objective = GeneratorObjective(
            state,
            session.to_device(syncnet),
            schedule,
            losses,
            options.amp,
            is_compiled=options.compile == "on",
            face_size=session.reader.face_size,
            lpips=None if lpips is None else session.to_device(lpips),
        )
        task = Task(
            session.train_samples(
                draw_target(settings.augment, losses.reference_distance),
                ResidentTargets(settings.augment, losses.reference_distance),
            ),
            options.batch_size,
            objective.step,
            functools.partial(
                objective.evaluate, session.held_out_samples(draw_target()), options.batch_size
            ),
            schedule,
            judge=syncnet,
            begin=objective.begin,
            host_values=objective.used_losses,
        )
        if settings.targets != TargetChanges():
            loudness = Loudness(session.train.clips, session.reader)
            changes = ChangedTargets(settings.targets, session.device, loudness, session.reader.face_size)
            task = replace(task, prepare=session.prepare(TargetBatch, changes))
        return session.fit(state, task, progress)
