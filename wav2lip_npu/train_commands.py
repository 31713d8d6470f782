"""The `train_syncnet` and `train` commands: their flags, and how a training is set up."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from tqdm import tqdm

from wav2lip_npu import __version__, checkpoint, distributed
from wav2lip_npu import device as devices
from wav2lip_npu.checkpoint import Checkpoint
from wav2lip_npu.clips import Clip, FaceReader
from wav2lip_npu.data import MEL_SHIFT, Batch, Draw, Samples, batches, draw_target, index_clips
from wav2lip_npu.distributed import Ranks
from wav2lip_npu.errors import UsageError
from wav2lip_npu.models import NETWORKS, SyncNet
from wav2lip_npu.train import Evaluate, Step, TrainOptions, fit, trainee
from wav2lip_npu.train_generator import GeneratorOptions, Lessons, SyncSchedule
from wav2lip_npu.train_state import Stateful, TrainState, newest
from wav2lip_npu.train_syncnet import make_evaluate, make_step, recipe_named

log = logging.getLogger(__name__)

_HELD_OUT_SEED = 0


@dataclass(frozen=True, kw_only=True)
class Places:
    """Where a training finds its data, and where it leaves its results."""

    data_root: str
    """Folder of preprocessed clips, to which file lists are relative."""
    checkpoint_dir: str
    """Folder for checkpoints, curves and sample pictures."""
    checkpoint_path: str | None = None
    """Checkpoint to go on from. (default: the newest whole one of checkpoint_dir)"""
    weights_only: bool = False
    """Take just the weights of that checkpoint: no optimizer state, step 0."""
    filelists: str = "filelists"
    """Folder of train.txt and val.txt."""
    no_face_cache: bool = False
    """Read faces picture by picture. (default: keep those of a clip in one file beside, 27 kB each)"""
    device: str = "auto"
    """auto (npu, cuda, cpu in this order), cpu, cuda[:i] or npu[:i]; under torchrun each rank's own card."""


@dataclass(frozen=True, kw_only=True)
class TrainSyncnetCommand:
    """Train the expert, which judges whether mouth and sound are in sync.

    wav2lip-npu train_syncnet --data_root lrs2_preprocessed --checkpoint_dir checkpoints/expert
    """

    places: Places
    train: TrainOptions = field(
        default_factory=lambda: TrainOptions(batch_size=64, checkpoint_interval=10_000, eval_interval=10_000)
    )
    recipe: str = "default"
    """default (every sound of a batch against every picture, averaged weights) or original."""
    eval_clips: int = 200
    """Held-out clips that are looked at, always the same ones."""

    def run(self) -> None:
        """Train until told to stop; then the newest checkpoint is whole."""
        recipe = recipe_named(self.recipe)
        options = recipe.options(self.train)
        options.check()
        if options.batch_size % recipe.windows_per_clip:
            raise UsageError(
                f"--batch_size {options.batch_size} is no multiple of {recipe.windows_per_clip}, "
                "the windows of one clip. Pass one, or --recipe original."
            )
        if self.eval_clips < 1:
            raise UsageError(f"--eval_clips {self.eval_clips} is not at least 1.")
        with _Session.opened(self.places, options, shift=0) as session:
            state = session.state({"expert": None}, {})
            step = make_step(state, recipe, options.amp)
            spread = max(1, len(session.held_out) // self.eval_clips)
            held_out = session.held_out[::spread][: self.eval_clips]
            evaluate = make_evaluate(state, held_out, session.reader)
            clips_in_batch = options.batch_size // recipe.windows_per_clip
            session.fit(state, recipe.draw(), clips_in_batch, step, evaluate)


@dataclass(frozen=True, kw_only=True)
class TrainCommand:
    """Train the generator, with the frozen expert as judge of its sync.

    wav2lip-npu train --data_root lrs2_preprocessed --checkpoint_dir checkpoints/wav2lip
    --syncnet_checkpoint_path checkpoints/expert/checkpoint_step000010000.pth
    """

    places: Places
    syncnet_checkpoint_path: str
    """Weights of the expert."""
    disc_checkpoint_path: str | None = None
    """Discriminator to go on from. (default: the one beside the generator's checkpoint)"""
    train: TrainOptions = field(default_factory=TrainOptions)
    generator: GeneratorOptions = field(default_factory=GeneratorOptions)

    def run(self) -> None:
        """Train until told to stop; then the newest checkpoints are whole."""
        options, asked = self.train, self.generator
        options.check()
        asked.check()
        expert = checkpoint.load(self.syncnet_checkpoint_path, "expert").network()
        assert isinstance(expert, SyncNet)
        with _Session.opened(self.places, options, shift=MEL_SHIFT) as session:
            expert.to(session.device, memory_format=devices.memory_format(session.device))  # type: ignore[call-overload]
            schedule = SyncSchedule(asked.syncnet_wt, asked.sync_gate, asked.risen_weight)
            kinds: dict[str, float | None] = {"generator": None}
            if asked.disc_wt:
                kinds["discriminator"] = asked.disc_initial_learning_rate
            state = session.state(kinds, {"schedule": schedule}, self.disc_checkpoint_path)
            lessons = Lessons(state, expert, schedule, asked, options.amp)
            held_out = session.samples(session.held_out, draw_target, _HELD_OUT_SEED)
            evaluate = lessons.evaluator(held_out, options.batch_size)
            session.fit(state, draw_target, options.batch_size, lessons.step, evaluate)


@dataclass(frozen=True)
class _Session:
    """What both trainings need: a device, ranks, clips, and a state to go on from."""

    places: Places
    options: TrainOptions
    shift: int
    device: torch.device
    ranks: Ranks
    clips: list[Clip]
    held_out: list[Clip]
    reader: FaceReader

    @classmethod
    @contextlib.contextmanager
    def opened(cls, places: Places, options: TrainOptions, *, shift: int) -> Iterator[_Session]:
        """Join the other ranks and index the clips."""
        device = devices.resolve(distributed.local_device(places.device))
        devices.activate(device)
        with distributed.joined(device) as ranks:
            if not ranks.is_first:
                logging.getLogger("wav2lip_npu").setLevel(logging.WARNING)
            log.info("wav2lip-npu %s on %s, rank %d of %d", __version__, devices.describe(device), *ranks)
            log.info("%s", options)
            lists = Path(places.filelists)
            clips, held_out = (
                index_clips(places.data_root, lists / name, shift).clips for name in ("train.txt", "val.txt")
            )
            devices.seed_all(options.seed)
            reader = FaceReader(cache=not places.no_face_cache)
            yield cls(places, options, shift, device, ranks, clips, held_out, reader)

    def samples(self, clips: Sequence[Clip], draw: Draw, seed: int) -> Samples:
        """An endless stream of samples of these clips."""
        return Samples(clips, draw, seed=seed, shift=self.shift, reader=self.reader)

    def state(
        self, kinds: dict[str, float | None], extras: dict[str, Stateful], disc_path: str | None = None
    ) -> TrainState:
        """A training from scratch, or from the checkpoints that were asked for or are the newest."""
        found = self._found(list(kinds), disc_path)
        widths = {kind: found[kind].width if kind in found else self.options.width for kind in kinds}
        betas = (0.5, 0.999) if "discriminator" in kinds else (0.9, 0.999)
        trainees = {
            kind: trainee(
                kind,
                NETWORKS[kind](widths[kind]),
                self.options,
                self.device,
                self.ranks,
                learning_rate=rate,
                betas=betas,
            )
            for kind, rate in kinds.items()
        }
        scaler = devices.grad_scaler(self.device, self.options.amp, self.options.loss_scale)
        state = TrainState(trainees, self.device, scaler, extras, self.ranks)
        if found:
            state.restore(found, weights_only=self.places.weights_only)
            log.info("going on at step %d from %s", state.step, found[state.main.kind].source)
        return state

    def _found(self, kinds: list[str], disc_path: str | None) -> dict[str, Checkpoint]:
        """The checkpoints to go on from, by kind; none for a training from scratch."""
        asked = self.places.checkpoint_path
        if asked is None:
            found = newest(Path(self.places.checkpoint_dir), kinds)
        else:
            found = {kinds[0]: checkpoint.load(asked, kinds[0])}
            beside = Path(asked).with_name(f"disc_{Path(asked).name}")
            if "discriminator" in kinds and disc_path is None and beside.exists():
                found["discriminator"] = checkpoint.load(beside, "discriminator")
        if disc_path is not None and "discriminator" in kinds:
            found["discriminator"] = checkpoint.load(disc_path, "discriminator")
        return found

    def fit(self, state: TrainState, draw: Draw, size: int, step: Step, evaluate: Evaluate) -> None:
        """Train on batches of `size` samples, and show how it goes."""
        samples = self.samples(self.clips, draw, self.options.seed)
        threads = max(1, self.options.num_workers)
        ranks = self.ranks
        stream = batches(
            samples, state.position, size=size, rank=ranks.rank, ranks=ranks.size, threads=threads
        )
        directory = Path(self.places.checkpoint_dir)

        def names(batch: Batch) -> str:
            numbers = dict.fromkeys(int(number) for number in batch.arrays["clip"])
            clips = ", ".join(self.clips[number].name for number in numbers)
            return f"{batch.first} to {batch.after - 1} ({clips})"

        bar = tqdm(
            total=self.options.steps,
            initial=state.step,
            unit="step",
            disable=None if ranks.is_first else True,
        )

        def show(number: int, values: Mapping[str, float]) -> None:
            bar.set_postfix({name: f"{value:.3g}" for name, value in values.items()}, refresh=False)
            bar.update(number - bar.n)

        with bar, contextlib.closing(stream):
            fit(
                state,
                stream,
                step,
                evaluate,
                self.options,
                directory,
                epoch_size=len(samples),
                names=names,
                progress=show,
            )
