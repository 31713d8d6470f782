"""What every training is set up with: device, ranks, clips, and the checkpoints to go on from."""

from __future__ import annotations

import contextlib
import logging
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from wav2lip_npu import __version__
from wav2lip_npu import device as devices
from wav2lip_npu.data.clip_index import ClipIndex, index_clips
from wav2lip_npu.data.face_reader import FaceReader
from wav2lip_npu.data.file_lists import TRAIN, VAL
from wav2lip_npu.data.samples import Batch, Draw, Samples, batches
from wav2lip_npu.errors import UsageError
from wav2lip_npu.media.video_writer import check_writable
from wav2lip_npu.models import checkpoint
from wav2lip_npu.models.bundled import STARTER
from wav2lip_npu.models.checkpoint import Checkpoint
from wav2lip_npu.models.networks import NETWORKS, SyncNet
from wav2lip_npu.storage.locks import lock_folder
from wav2lip_npu.training import distributed
from wav2lip_npu.training.checkpoints import clean_up, newest, saved_steps
from wav2lip_npu.training.distributed import Ranks
from wav2lip_npu.training.loop import Evaluate, Step, fit, trainee
from wav2lip_npu.training.metrics_log import CURVES_FILE
from wav2lip_npu.training.options import TrainOptions, TrainPaths
from wav2lip_npu.training.state import Stateful, TrainState

log = logging.getLogger(__name__)

_HELD_OUT_SEED = 0


@dataclass(frozen=True)
class Session:
    """What both trainings need."""

    places: TrainPaths
    options: TrainOptions
    shift: int
    """Frames by which the sound is moved against the picture."""
    device: torch.device
    ranks: Ranks
    found: dict[str, Checkpoint]
    """By kind; none for a training from scratch."""
    train: ClipIndex
    held_out: ClipIndex
    reader: FaceReader

    def placed(self, network: SyncNet) -> SyncNet:
        """A network on the device, in its fastest layout."""
        layout = devices.memory_format(self.device)
        placed: SyncNet = network.to(self.device, memory_format=layout)  # type: ignore[call-overload]
        return placed

    def held_out_samples(self, draw: Draw) -> Samples:
        """An endless stream of samples of the held-out clips, the same in each run."""
        return Samples(self.held_out.clips, draw, seed=_HELD_OUT_SEED, shift=self.shift, reader=self.reader)

    def state(self, rates: dict[str, float | None], extras: dict[str, Stateful] | None = None) -> TrainState:
        """A training of networks with learning rates of their own, going on from what was found."""
        betas = (0.5, 0.999) if "discriminator" in rates else (0.9, 0.999)
        widths = {kind: found.width for kind, found in self.found.items()}
        trainees = {
            kind: trainee(
                kind,
                NETWORKS[kind](widths.get(kind, self.options.width)),
                self.options,
                self.device,
                self.ranks,
                learning_rate=rate,
                betas=betas,
            )
            for kind, rate in rates.items()
        }
        scaler = devices.grad_scaler(self.device, self.options.amp, self.options.loss_scale)
        state = TrainState(trainees, self.device, scaler, extras or {}, self.ranks, mel_shift=self.shift)
        if self.found:
            state.restore(self.found, weights_only=self.places.weights_only)
            source = self.found[state.main.kind].source
            log.info("going on at step %d from %s, width %d", state.step, source, widths[state.main.kind])
            later = [step for step in saved_steps(Path(self.places.checkpoint_dir)) if step > state.step]
            if self.places.checkpoint_path is not None and later:
                log.warning(
                    "%s holds step %d, which is not gone on from and may be overwritten. Leave out "
                    "--checkpoint_path to go on from there.",
                    self.places.checkpoint_dir,
                    later[0],
                )
            for kind in rates.keys() - self.found.keys():
                log.warning("there is no checkpoint of a %s beside it: it starts from scratch", kind)
        return state

    def fit(self, state: TrainState, draw: Draw, size: int, step: Step, evaluate: Evaluate) -> None:
        """Train on batches of `size` samples, and show how it goes."""
        clips, ranks = self.train.clips, self.ranks
        samples = Samples(clips, draw, seed=self.options.seed, shift=self.shift, reader=self.reader)
        # The original counts epochs only; its checkpoints go on at the start of one.
        state.position = state.position or state.epoch * len(samples)
        threads = max(1, self.options.num_workers)
        stream = batches(
            samples, state.position, size=size, rank=ranks.rank, ranks=ranks.size, threads=threads
        )

        def names(batch: Batch) -> str:
            numbers = dict.fromkeys(int(number) for number in batch.arrays["clip"])
            found = ", ".join(clips[number].name for number in numbers)
            return f"{batch.first} to {batch.after - 1} ({found})"

        bar = tqdm(
            total=self.options.steps,
            initial=state.step,
            unit="step",
            disable=None if ranks.is_first else True,
        )

        def show(number: int, values: Mapping[str, float]) -> None:
            bar.set_postfix({name: f"{value:.3g}" for name, value in values.items()}, refresh=False)
            bar.update(number - bar.n)

        with logging_redirect_tqdm(), bar, contextlib.closing(stream):
            fit(
                state,
                stream,
                step,
                evaluate,
                self.options,
                Path(self.places.checkpoint_dir),
                epoch_size=len(samples),
                names=names,
                progress=show,
            )
        log.info("checkpoints, curves and samples: %s", self.places.checkpoint_dir)


@contextlib.contextmanager
def opened(
    places: TrainPaths,
    options: TrainOptions,
    kinds: list[str],
    said: str,
    *,
    shift: int = 0,
    disc: str | None = None,
) -> Iterator[Session]:
    """Join the other ranks, find the checkpoints to go on from, index the clips.

    `kinds` are the networks, the one that the training is for first; `disc` is a discriminator to go on
    from. Raises a `Wav2LipError` when something is not as asked for, before the long look at the clips if
    it can be told by then. The log says what was asked for.
    """
    directory = Path(places.checkpoint_dir)
    check_writable(directory / CURVES_FILE)
    device = devices.resolve(distributed.local_device(places.device))
    devices.activate(device)
    devices.check_training(device, options.amp, options.loss_scale, options.sync_batchnorm)
    with distributed.joined(device) as ranks, contextlib.ExitStack() as stack:
        if not ranks.is_first:
            logging.getLogger("wav2lip_npu").setLevel(logging.WARNING)
        log.info("wav2lip-npu %s on %s, rank %d of %d", __version__, devices.describe(device), *ranks)
        log.info("%s", said)
        if ranks.is_first:
            if not stack.enter_context(lock_folder(directory)):
                raise UsageError(
                    f"another training works in {directory}. End it, or pass another --checkpoint_dir."
                )
            clean_up(directory)
        found = _found(places, kinds, disc)
        train, val = (Path(places.filelists) / name for name in (TRAIN, VAL))
        learnt = index_clips(places.data_root, train, shift)
        _check_alike(ranks, found, learnt)
        held_out = learnt
        if val.exists():
            held_out = index_clips(places.data_root, val, shift)
        else:
            log.warning("there is no %s: held-out figures are of the clips that are trained on", val)
        devices.seed_all(options.seed)
        reader = FaceReader(cache=not places.no_face_cache)
        yield Session(places, options, shift, device, ranks, found, learnt, held_out, reader)


def _check_alike(ranks: Ranks, found: Mapping[str, Checkpoint], learnt: ClipIndex) -> None:
    """Raise `UsageError`, on every rank, when one sees other files than the first: on another machine."""
    steps = {kind: str((each.training or {}).get("global_step", 0)) for kind, each in found.items()}
    names = zlib.crc32("\n".join(clip.name for clip in learnt.clips).encode())
    (first, clips), *others = distributed.from_each((steps, (len(learnt.clips), names)), ranks)
    for rank, (theirs, seen) in enumerate(others, 1):
        if theirs != first:
            raise UsageError(
                f"rank {rank} goes on from {_step_in(theirs)}, the first rank from {_step_in(first)}. "
                "--checkpoint_dir must be one folder that all machines share."
            )
        if seen != clips:
            raise UsageError(
                f"rank {rank} finds {seen[0]} clips that are not the {clips[0]} of the first rank. "
                "--data_root and --filelists must hold the same on all machines."
            )


def _step_in(steps: Mapping[str, str]) -> str:
    return ", ".join(f"step {step} ({kind})" for kind, step in steps.items()) or "no checkpoint"


def load_syncnet(path: str) -> SyncNet:
    """The judge of a generator, copied out of its file. Raises `CheckpointError`."""
    loaded = checkpoint.load(path, "syncnet")
    syncnet = SyncNet(loaded.width)
    syncnet.load_state_dict(loaded.weights)
    return syncnet.eval()


def _found(places: TrainPaths, kinds: list[str], disc: str | None) -> dict[str, Checkpoint]:
    """The checkpoints to go on from, by kind. Raises `CheckpointError`."""
    found = {}
    if places.checkpoint_path in (None, STARTER):
        found = newest(Path(places.checkpoint_dir), kinds)
    if places.checkpoint_path is not None and not found:
        path = Path(places.checkpoint_path)
        found = {kinds[0]: checkpoint.load(path, kinds[0])}
        beside = path.with_name(f"disc_{path.name}")
        if "discriminator" in kinds and disc is None and beside.exists():
            found["discriminator"] = checkpoint.load(beside, "discriminator")
    if disc is not None:
        found["discriminator"] = checkpoint.load(disc, "discriminator")
    return found
