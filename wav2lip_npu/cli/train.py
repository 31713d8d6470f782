"""The `train_syncnet` and `train` commands: their flags, and who trains what. Imports no torch for --help."""

from __future__ import annotations

import functools
from dataclasses import dataclass, field, replace

from wav2lip_npu.data.augmentation import Augmentation
from wav2lip_npu.errors import UsageError
from wav2lip_npu.models.bundled import STARTER
from wav2lip_npu.options import resolved
from wav2lip_npu.training.options import GeneratorOptions, SyncNetTrainOptions, TrainOptions, TrainPaths

_FEWEST_WINDOWS = 2
_NO_STATISTICS = "the expert's batch norms need two windows or more. Pass --batch_size 2 at least."


@dataclass(frozen=True, kw_only=True)
class TrainSyncnetCommand:
    """Train the expert, which judges whether mouth and sound are in sync.

    wav2lip-npu train_syncnet --data_root lrs2_preprocessed --checkpoint_dir checkpoints/expert
    """

    places: TrainPaths
    train: SyncNetTrainOptions = field(default_factory=SyncNetTrainOptions)
    augment: Augmentation = field(default_factory=Augmentation)
    recipe: str = "default"
    """default (every sound of a batch against every picture, averaged weights) or original."""
    same_clip: float | None = None
    """Weight of wrong pairs of the same clip among all wrong pairs, 0 to 1; held-out losses have no others.
    (default: as many as they are)"""
    eval_clips: int = 200
    """Held-out clips that are looked at, always the same ones."""

    def run(self) -> None:
        """Train until told to stop; then the newest checkpoint is whole."""
        self.train.check()
        self.augment.check()
        if self.eval_clips < 1:
            raise UsageError(f"--eval_clips {self.eval_clips} is not at least 1.")
        if self.same_clip is not None and not 0 <= self.same_clip <= 1:
            raise UsageError(f"--same_clip {self.same_clip:g} is out of range. Pass 0 to 1.")
        from wav2lip_npu.doctor.dataset import warnings_of
        from wav2lip_npu.training.session import opened
        from wav2lip_npu.training.syncnet import make_evaluate, make_step, recipe_named

        recipe = recipe_named(self.recipe)
        options = recipe.options(self.train)
        if self.same_clip is not None and recipe.windows_per_clip == 1:
            raise UsageError(f"--same_clip is of no use with --recipe {self.recipe}. Leave it out.")
        if options.batch_size % recipe.windows_per_clip:
            raise UsageError(
                f"--batch_size {options.batch_size} is no multiple of {recipe.windows_per_clip}, "
                "the windows of one clip. Pass one, or --recipe original."
            )
        if options.batch_size < _FEWEST_WINDOWS:
            raise UsageError(f"--batch_size {options.batch_size}: {_NO_STATISTICS}")
        said = resolved(replace(self, train=options))
        with opened(self.places, options, ["syncnet"], said) as session:
            state = session.state({"syncnet": None})
            step = make_step(state, options.amp, self.same_clip)
            spread = max(1, len(session.held_out.clips) // self.eval_clips)
            held_out = session.held_out.clips[::spread][: self.eval_clips]
            findings = functools.cache(lambda: warnings_of(session.train, session.held_out))
            evaluate = make_evaluate(state, held_out, session.reader, when_guessing=findings)
            clips_in_batch = options.batch_size // recipe.windows_per_clip
            session.fit(state, recipe.draw(self.augment), clips_in_batch, step, evaluate)


@dataclass(frozen=True, kw_only=True)
class TrainCommand:
    """Train the generator, with the frozen expert as judge of its sync.

    wav2lip-npu train --data_root lrs2_preprocessed --checkpoint_dir checkpoints/wav2lip
    --syncnet_checkpoint_path checkpoints/expert/checkpoint_step000010000.pth

    With a few minutes of your own face, from the weights of the package on:
    wav2lip-npu train --checkpoint_path starter --data_root my_clips --checkpoint_dir checkpoints/me
    """

    places: TrainPaths
    syncnet_checkpoint_path: str = STARTER
    """Weights of the expert. (default: those of the package)"""
    disc_checkpoint_path: str | None = None
    """Discriminator to go on from. (default: the one beside the generator's checkpoint)"""
    train: TrainOptions = field(default_factory=TrainOptions)
    generator: GeneratorOptions = field(default_factory=GeneratorOptions)
    augment: Augmentation = field(default_factory=Augmentation)

    def run(self) -> None:
        """Train until told to stop; then the newest checkpoints are whole."""
        options, asked = self.train, self.generator
        options.check()
        asked.check()
        self.augment.check()
        if asked.expert_bn == "batch" and options.batch_size < _FEWEST_WINDOWS:
            raise UsageError(f"--batch_size {options.batch_size} --expert_bn batch: {_NO_STATISTICS}")
        if self.disc_checkpoint_path is not None and not asked.disc_wt:
            raise UsageError("--disc_checkpoint_path is of no use without --disc_wt. Pass --disc_wt 0.07.")
        from wav2lip_npu.data.samples import MEL_SHIFT, draw_target
        from wav2lip_npu.training.generator import Lessons, SyncSchedule
        from wav2lip_npu.training.session import load_syncnet, opened

        syncnet = load_syncnet(self.syncnet_checkpoint_path)
        rates: dict[str, float | None] = {"generator": None}
        if asked.disc_wt:
            rates["discriminator"] = asked.disc_initial_learning_rate
        with opened(
            self.places, options, list(rates), resolved(self), shift=MEL_SHIFT, disc=self.disc_checkpoint_path
        ) as session:
            schedule = SyncSchedule(asked.syncnet_wt, asked.sync_gate, asked.risen_weight)
            state = session.state(rates, {"schedule": schedule})
            lessons = Lessons(state, session.placed(syncnet), schedule, asked, options.amp)
            evaluate = lessons.evaluator(session.held_out_samples(draw_target()), options.batch_size)
            draw = draw_target(self.augment, asked.reference_distance)
            session.fit(state, draw, options.batch_size, lessons.step, evaluate)
