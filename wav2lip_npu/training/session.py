"""Setup of a training run: device, ranks, clips, and the checkpoints to resume from."""

from __future__ import annotations

import contextlib
import logging
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from wav2lip_npu import __version__
from wav2lip_npu.data.augmentation import UNCHANGED
from wav2lip_npu.data.batch_changes import Changes, Prepare
from wav2lip_npu.data.clip_index import ClipIndex, index_clips, index_held_out
from wav2lip_npu.data.clip_layout import CLIP_FILES
from wav2lip_npu.data.device_batch import DeviceRows
from wav2lip_npu.data.face_reader import FaceReader, warn_of_small_crops
from wav2lip_npu.data.file_lists import LISTS, TRAIN, VAL
from wav2lip_npu.data.resident_clips import ResidentClips
from wav2lip_npu.data.resident_samples import ResidentDraw, ResidentSamples
from wav2lip_npu.data.samples import Batch, Draw, Sample, Samples, SampleSource
from wav2lip_npu.devices import compilation, mixed_precision, random_state
from wav2lip_npu.devices import device as devices
from wav2lip_npu.errors import UsageError
from wav2lip_npu.models import checkpoint
from wav2lip_npu.models.bundled import STARTER, TERMS, weights_inputs, weights_path
from wav2lip_npu.models.checkpoint import Checkpoint
from wav2lip_npu.models.networks import FULL_WIDTH
from wav2lip_npu.models.plans import Plan
from wav2lip_npu.options import resolved
from wav2lip_npu.storage.locks import lock_folder
from wav2lip_npu.storage.outputs import InputPath, OutputPath, check_outputs
from wav2lip_npu.training import data_place, distributed
from wav2lip_npu.training.checkpoints import OUTPUT_FILES, clean_up, saved_steps
from wav2lip_npu.training.distributed import Ranks
from wav2lip_npu.training.loop import Progress, TrainResult, fit
from wav2lip_npu.training.metrics_log import CURVES_FILE
from wav2lip_npu.training.options import GeneratorSettings, SyncNetSettings, TrainOptions, TrainPaths
from wav2lip_npu.training.resumed import check_width, generator_plan, is_resumed, load_checkpoints
from wav2lip_npu.training.state import Stateful, TrainState
from wav2lip_npu.training.task import Task
from wav2lip_npu.training.trained_network import betas_of, trained_network

log = logging.getLogger(__name__)

_HELD_OUT_SEED = 0


@dataclass(frozen=True)
class Session:
    """Device, ranks, data and checkpoints of a training run."""

    paths: TrainPaths
    options: TrainOptions
    shift: int
    """Frames by which mel windows are shifted."""
    device: torch.device
    ranks: Ranks
    checkpoints: dict[str, Checkpoint]
    """Checkpoints to resume from, by kind; empty to train from scratch."""
    is_continued: bool
    """Whether the run starts or once started from the weights of another run, such as published weights."""
    train: ClipIndex
    held_out: ClipIndex
    reader: FaceReader
    plan: Plan
    """Design of the generator."""
    data_on: str
    """Where the training clips are, `device` or `host`."""

    def to_device(self, network: nn.Module) -> Any:
        """Move a network to the device, in its fastest memory format, and return it."""
        memory_format = devices.memory_format(self.device)
        return network.to(self.device, memory_format=memory_format)  # type: ignore[call-overload]

    def train_samples(self, draw: Draw[Any], resident_draw: ResidentDraw[Any]) -> SampleSource[Any]:
        """Return the samples of the training clips, drawn on the host or on the device."""
        clips, seed, is_balanced = self.train.clips, self.options.seed, self.options.balance_speakers
        if self.data_on == data_place.HOST:
            is_augmented = resident_draw.augmentation != UNCHANGED
            return Samples(
                clips, draw, seed=seed, shift=self.shift, reader=self.reader, is_augmented=is_augmented,
                balance_speakers=is_balanced,
            )  # fmt: skip
        resident = ResidentClips(clips, self.reader, self.device)
        return ResidentSamples(
            clips, resident, resident_draw, seed=seed, shift=self.shift, balance_speakers=is_balanced
        )

    def prepare(
        self, kind: type[DeviceRows], changes: Changes[DeviceRows]
    ) -> Callable[[Batch[Any]], Batch[DeviceRows]]:
        """Return a function that changes the batches of this rank on the device."""
        return Prepare(
            kind, changes, self.device, seed=self.options.seed, samples=len(self.train.clips),
            rank=self.ranks.rank, ranks=self.ranks.size,
        )  # fmt: skip

    def held_out_samples(self, draw: Draw[Sample]) -> Samples[Sample]:
        """Return samples of the held-out clips, the same in each run."""
        return Samples(self.held_out.clips, draw, seed=_HELD_OUT_SEED, shift=self.shift, reader=self.reader)

    def state(self, rates: dict[str, float | None], extras: dict[str, Stateful] | None = None) -> TrainState:
        """Return the state of networks with their learning rates, restored from the checkpoints.

        A rate of `None` is the one in the options.
        """
        widths = {kind: loaded.width for kind, loaded in self.checkpoints.items()}
        networks = {
            kind: trained_network(
                kind,
                checkpoint.new_network(
                    kind,
                    widths.get(kind) or self.options.width or FULL_WIDTH,
                    self.plan if kind == "generator" else None,
                ),
                self.options,
                self.device,
                self.ranks,
                learning_rate=rate,
                betas=betas_of(kind, list(rates)),
            )
            for kind, rate in rates.items()
        }
        scaler = mixed_precision.grad_scaler(self.device, self.options.amp, self.options.loss_scale)
        state = TrainState(networks, self.device, scaler, extras or {}, self.ranks, mel_shift=self.shift)
        state.is_continued, state.data_on = self.is_continued, self.data_on
        if self.checkpoints:
            state.restore(
                self.checkpoints,
                weights_only=self.paths.weights_only,
                warmup_steps=self.options.warmup_steps,
            )
            if main := self.checkpoints.get(state.main.kind):
                log.info("resuming from step %d of %s", state.step, main.source)
                if main.source == weights_path(STARTER, state.main.kind):
                    log.info("%s: the bundled network, %s", STARTER, TERMS)
            self._warn_of_later_steps(state.step)
            for kind in rates.keys() - self.checkpoints.keys():
                log.warning("no checkpoint of a %s: the %s starts from scratch", kind, kind)
        for kind, trained in state.networks.items():
            log.info(
                "%s of width %d: learning rate %g, %d warm-up steps from step %d",
                kind,
                getattr(trained.network, "width", 0),
                trained.learning_rate,
                trained.warmup_steps,
                trained.first_step,
            )
        return state

    def _warn_of_later_steps(self, step: int) -> None:
        directory = self.paths.checkpoint_dir
        later = [saved for saved in saved_steps(Path(directory)) if saved > step]
        flags = {"--checkpoint_path": self.paths.checkpoint_path, "--weights_only": self.paths.weights_only}
        given = " and ".join(flag for flag, value in flags.items() if value)
        if given and later:
            log.warning(
                "%s has a checkpoint of step %d, which may be overwritten. Remove %s to resume from it.",
                directory,
                later[0],
                given,
            )

    def fit(self, state: TrainState, task: Task[Sample], progress: Progress | None = None) -> TrainResult:
        """Train, see `loop.fit`."""
        result = fit(state, task, self.options, Path(self.paths.checkpoint_dir), progress=progress)
        log.info("checkpoints, curves and samples: %s", self.paths.checkpoint_dir)
        return result


@contextlib.contextmanager
def open_session(
    settings: SyncNetSettings | GeneratorSettings,
    kinds: list[str],
    *,
    shift: int = 0,
    disc_checkpoint_path: str | None = None,
    face_size: int | None = None,
) -> Iterator[Session]:
    """Join the other ranks, load the checkpoints to resume from, and index the clips.

    Args:
        settings: All options; they are logged.
        kinds: Networks to train, the main one first.
        shift: Frames by which mel windows are shifted.
        disc_checkpoint_path: Discriminator to resume from.
        face_size: Face size of the generator; None: that of its checkpoint, or 96.

    Raises:
        Wav2LipError: A path, checkpoint, device or option cannot be used. Everything that does not
            depend on the clips is checked before they are read, which may take long.

    """
    paths, options = settings.paths, settings.train
    directory = Path(paths.checkpoint_dir)
    device = devices.resolve(distributed.local_device(paths.device))
    devices.activate(device)
    mixed_precision.check_training(device, options.amp, options.loss_scale, options.sync_batchnorm)
    if options.compile == "on":
        compilation.check_compile(device)
    elif options.compile == "graph":
        compilation.check_graphs(device)
    with distributed.process_group(device) as ranks, contextlib.ExitStack() as stack:
        if not ranks.is_first:
            logger = logging.getLogger("wav2lip_npu")
            stack.callback(logger.setLevel, logger.level)
            logger.setLevel(logging.WARNING)
        log.info("wav2lip-npu %s on %s, rank %d of %d", __version__, devices.describe(device), *ranks)
        log.info("%s", resolved(settings))
        if ranks.is_first:
            if not stack.enter_context(lock_folder(directory)):
                raise UsageError(
                    f"another training is writing to {directory}. Stop it, or pass another --checkpoint_dir."
                )
            clean_up(directory)
        checkpoints = load_checkpoints(paths, kinds, disc_checkpoint_path)
        check_width(options, checkpoints)
        plan = generator_plan(face_size, checkpoints.get("generator"), kinds)
        train_list, val_list = (Path(paths.filelists) / name for name in (TRAIN, VAL))
        train = index_clips(paths.data_root, train_list, shift)
        _check_same_files(ranks, checkpoints, train)
        held_out = index_held_out(paths.data_root, val_list, train, shift)
        random_state.seed_all(options.seed)
        reader = FaceReader(cache=not paths.no_face_cache, face_size=plan.size)
        warn_of_small_crops(train.clips, plan.size)
        main = checkpoints.get(kinds[0])
        resumed = main if main is not None and is_resumed(paths, main) else None
        data_on = data_place.place_of_data(options.data_on, train.clips, plan.size, device, ranks, resumed)
        yield Session(
            paths=paths,
            options=options,
            shift=shift,
            device=device,
            ranks=ranks,
            checkpoints=checkpoints,
            is_continued=main is not None and (bool(main.more.get("continued")) or resumed is None),
            train=train,
            held_out=held_out,
            reader=reader,
            plan=plan,
            data_on=data_on,
        )


def check_files(settings: SyncNetSettings | GeneratorSettings) -> None:
    """Check the output files of a run, before `open_session`. Raises `OutputError`.

    The run may resume from a checkpoint of its own folder, but must not replace the weights of another one.
    """
    paths = settings.paths
    directory = Path(paths.checkpoint_dir)
    inputs = [
        InputPath("--data_root", paths.data_root, CLIP_FILES),
        *(InputPath("--filelists", Path(paths.filelists) / name) for name in LISTS),
    ]
    if isinstance(settings, GeneratorSettings):
        inputs += weights_inputs("--syncnet_checkpoint_path", settings.syncnet_checkpoint_path, "syncnet")
        given = {"--alexnet": settings.alexnet, "--lpips": settings.lpips}
        inputs += [InputPath(name, Path(path)) for name, path in given.items() if path is not None]
    outputs = [
        OutputPath("--checkpoint_dir", directory, is_folder=True, files=OUTPUT_FILES),
        OutputPath("--checkpoint_dir", directory / CURVES_FILE),
    ]
    check_outputs(outputs, inputs)


def _check_same_files(ranks: Ranks, checkpoints: Mapping[str, Checkpoint], train: ClipIndex) -> None:
    """Raise `UsageError` on every rank if a rank on another machine has other files than the first rank."""
    own_steps = {
        kind: str((loaded.training or {}).get("global_step", 0)) for kind, loaded in checkpoints.items()
    }
    names = zlib.crc32("\n".join(clip.name for clip in train.clips).encode())
    own = (own_steps, (len(train.clips), names))
    (first_steps, first_clips), *others = distributed.all_gather(own, ranks)
    for rank, (steps, clips) in enumerate(others, 1):
        if steps != first_steps:
            raise UsageError(
                f"rank {rank} resumes from {_format_steps(steps)}, the first rank from "
                f"{_format_steps(first_steps)}. --checkpoint_dir must be one folder that all machines share."
            )
        if clips != first_clips:
            raise UsageError(
                f"rank {rank} has {clips[0]} clips that differ from the {first_clips[0]} of the first rank. "
                "--data_root and --filelists must be the same on all machines."
            )


def _format_steps(steps: Mapping[str, str]) -> str:
    return ", ".join(f"step {step} ({kind})" for kind, step in steps.items()) or "no checkpoint"
