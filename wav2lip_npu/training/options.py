"""Flags that all trainings share, with the names and defaults of the original's hparams.py."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, fields
from typing import Annotated

import tyro

from wav2lip_npu.device import AMP
from wav2lip_npu.errors import UsageError
from wav2lip_npu.mel import DEFAULT_MEL, TRAINING_FPS


@dataclass(frozen=True, kw_only=True)
class Fixed:
    """Settings of the original that clips, networks and published weights depend on.

    They are flags so that command lines that name them work; another value is refused, not ignored.
    """

    img_size: int = 96
    """Side of a face. The networks are made for this, as for all that follows."""
    fps: int = TRAINING_FPS
    """Pictures a second."""
    sample_rate: int = DEFAULT_MEL.sample_rate
    """Samples of sound a second."""
    num_mels: int = DEFAULT_MEL.n_mels
    """Frequency bands of the mel."""
    n_fft: int = DEFAULT_MEL.n_fft
    """Samples of a Fourier window."""
    win_size: int = DEFAULT_MEL.n_fft
    """Samples of it that are heard."""
    hop_size: int = DEFAULT_MEL.hop
    """Samples from one column of the mel to the next."""
    fmin: float = DEFAULT_MEL.fmin
    """Lowest band edge, Hz."""
    fmax: float = DEFAULT_MEL.fmax
    """Highest band edge, Hz."""
    rescale: bool = True
    """Of no effect: the original never used it."""
    rescaling_max: float = 0.9
    """Of no effect either."""
    use_lws: bool = False
    """Nor this."""
    frame_shift_ms: float | None = None
    """Nor this."""
    preemphasize: bool = True
    """Whether high tones are raised first."""
    preemphasis: float = DEFAULT_MEL.preemphasis
    """By how much."""
    min_level_db: float = DEFAULT_MEL.min_level_db
    """Level that becomes -max_abs_value."""
    ref_level_db: float = DEFAULT_MEL.ref_level_db
    """Level that becomes max_abs_value."""
    max_abs_value: float = DEFAULT_MEL.max_abs
    """Bound of the mel."""
    signal_normalization: bool = True
    """Whether levels are brought to that bound."""
    allow_clipping_in_normalization: bool = True
    """Whether levels outside are clipped."""
    symmetric_mels: bool = True
    """Whether the mel goes below 0."""

    def check(self) -> None:
        """Raise `UsageError` when a value is another."""
        for each in fields(self):
            if (value := getattr(self, each.name)) != each.default:
                raise UsageError(
                    f"--{each.name} {value}: the networks are made for {each.default}, and clips, training "
                    "and dubs must agree on it. Leave the flag out."
                )


@dataclass(frozen=True, kw_only=True)
class TrainOptions:
    """How any of the networks is trained."""

    batch_size: int = 16
    """Windows in a batch, on each card."""
    learning_rate: Annotated[float, tyro.conf.arg(aliases=["--initial_learning_rate"])] = 1e-4
    """Step size of Adam."""
    nepochs: int = 200_000_000_000_000_000
    """Stop after so many passes over the clips."""
    steps: int | None = None
    """Stop at this step. (default: only at nepochs, or when told to)"""
    checkpoint_interval: int = 3000
    """Steps from one checkpoint to the next."""
    eval_interval: int = 3000
    """Steps from one look at the held-out clips to the next."""
    log_interval: int = 50
    """Steps that a point of the training curves is the mean of."""
    num_workers: int = 16
    """Threads that make samples, at most one a core."""
    save_optimizer_state: bool = True
    """Keep optimizer state in checkpoints, so that training can go on exactly; with no_ it is left out."""
    keep: int | None = None
    """Keep only so many checkpoints, and the best. (default: all)"""
    seed: int = 0
    """Of the first weights and of the samples."""
    warmup_steps: int | None = None
    """Steps over which the learning rate rises from 0. (default: none, or what the recipe says)"""
    accumulate: int = 1
    """Batches whose gradients are added up for one step."""
    clip_grad_norm: float | None = None
    """Largest norm of the gradients of a network. (default: no limit)"""
    average: float | None = None
    """Decay of the running average of the weights that is saved and judged, 0: the weights themselves.
    (default: 0, or what the recipe says)"""
    amp: str = "off"
    """Numbers inside the networks: off (float32), bf16 or fp16. Losses and weights stay float32."""
    loss_scale: str = "dynamic"
    """With fp16, what losses are multiplied by: dynamic, or a constant such as 1024."""
    sync_batchnorm: bool = False
    """Batch norms see the batches of all cards together."""
    width: int = 32
    """Channels of the networks, 32 for the published ones; smaller ones train faster."""
    fixed: Fixed = field(default_factory=Fixed, repr=False)

    def check(self) -> None:
        """Raise `UsageError` when a value is out of range."""
        at_least = {
            "batch_size": 1,
            "nepochs": 1,
            "checkpoint_interval": 1,
            "eval_interval": 1,
            "log_interval": 1,
            "num_workers": 0,
            "accumulate": 1,
            "seed": 0,
        }
        for name, least in at_least.items():
            if getattr(self, name) < least:
                raise UsageError(f"--{name} {getattr(self, name)} is not at least {least}.")
        for name, least in {"steps": 1, "keep": 1, "warmup_steps": 0}.items():
            if (value := getattr(self, name)) is not None and value < least:
                raise UsageError(f"--{name} {value} is not at least {least}.")
        if not 0 < self.learning_rate < math.inf:
            raise UsageError(f"--learning_rate {self.learning_rate:g} is not above 0.")
        if self.clip_grad_norm is not None and not 0 < self.clip_grad_norm < math.inf:
            raise UsageError(f"--clip_grad_norm {self.clip_grad_norm:g} is not above 0.")
        if self.average is not None and not 0 <= self.average < 1:
            raise UsageError(f"--average {self.average:g} is out of range. Pass 0 to 0.9999.")
        if self.width < 2 or self.width % 2 or self.width > 256:
            raise UsageError(f"--width {self.width} is not an even number from 2 to 256.")
        if self.seed >= 2**63:
            raise UsageError(f"--seed {self.seed} is above 2^63 - 1.")
        if self.amp not in AMP:
            raise UsageError(f"unknown --amp {self.amp!r}. Pass {', '.join(AMP)}.")
        self.fixed.check()


@dataclass(frozen=True, kw_only=True)
class SyncNetTrainOptions(TrainOptions):
    """How the expert is trained: what the original's hparams.py has of its own for it."""

    batch_size: Annotated[int, tyro.conf.arg(aliases=["--syncnet_batch_size"])] = 64
    """Windows in a batch, on each card."""
    learning_rate: Annotated[float, tyro.conf.arg(aliases=["--initial_learning_rate", "--syncnet_lr"])] = 1e-4
    """Step size of Adam; the default recipe takes ten times as much."""
    checkpoint_interval: Annotated[int, tyro.conf.arg(aliases=["--syncnet_checkpoint_interval"])] = 10_000
    """Steps from one checkpoint to the next."""
    eval_interval: Annotated[int, tyro.conf.arg(aliases=["--syncnet_eval_interval"])] = 10_000
    """Steps from one look at the held-out clips to the next."""


@dataclass(frozen=True, kw_only=True)
class GeneratorOptions:
    """What the generator is taught by."""

    syncnet_wt: float = 0.0
    """Weight of the sync loss in the beginning."""
    sync_gate: float = 0.75
    """Held-out sync loss below which the weight of the sync loss rises."""
    sync_weight: float | None = None
    """The weight that it rises to. (default: 0.01, or 0.03 with the discriminator)"""
    sync_floor: float = 0.0
    """Cosine of the expert below which a window pulls no harder than at it; 0 as the original. The held-out
    sync loss is the original's."""
    disc_wt: float = 0.0
    """Weight of the visual-quality discriminator; the original's hq training has 0.07, 0 trains without."""
    disc_initial_learning_rate: float = 1e-4
    """Step size of Adam for the discriminator."""
    mouth_weight: float = 1.0
    """How many times an error in the middle of the mouth counts in the L1; with 1 as much as any, as in the
    original. The curves show the plain L1."""
    expert_bn: str = "eval"
    """Batch norms of the expert: eval (running statistics) or batch (of each batch, as the original)."""
    reference_distance: int = 0
    """Pictures between the one to make and the one to know the face from at least, where a clip has them."""
    eval_batches: int = 40
    """Batches of held-out windows that are looked at, always the same ones."""

    def check(self) -> None:
        """Raise `UsageError` when a value is unknown or out of range."""
        if self.expert_bn not in ("eval", "batch"):
            raise UsageError(f"unknown --expert_bn {self.expert_bn!r}. Pass eval or batch.")
        for name in ("syncnet_wt", "disc_wt", "risen_weight"):
            if not 0 <= getattr(self, name) <= 1:
                raise UsageError(f"--{name} {getattr(self, name):g} is out of range. Pass 0 to 1.")
        if self.disc_wt + max(self.syncnet_wt, self.risen_weight) > 1:
            raise UsageError("the weights of sync loss and discriminator are above 1 together. Lower one.")
        if not 0 <= self.sync_floor <= 1:
            raise UsageError(f"--sync_floor {self.sync_floor:g} is out of range. Pass 0 to 1.")
        if not 1 <= self.mouth_weight <= 100:
            raise UsageError(f"--mouth_weight {self.mouth_weight:g} is out of range. Pass 1 to 100.")
        if self.reference_distance < 0:
            raise UsageError(f"--reference_distance {self.reference_distance} is below 0.")
        if self.eval_batches < 1:
            raise UsageError(f"--eval_batches {self.eval_batches} is not at least 1.")

    @property
    def risen_weight(self) -> float:
        """Weight of the sync loss once the gate is passed."""
        if self.sync_weight is not None:
            return self.sync_weight
        return 0.03 if self.disc_wt else 0.01


@dataclass(frozen=True, kw_only=True)
class TrainPaths:
    """Where a training finds its data, and where it leaves its results."""

    data_root: str
    """Folder of preprocessed clips, to which file lists are relative."""
    checkpoint_dir: str
    """Folder for checkpoints, curves and sample pictures."""
    checkpoint_path: str | None = None
    """Checkpoint to go on from; starter: the weights of the package, unless checkpoint_dir has newer ones.
    (default: the newest whole one of checkpoint_dir)"""
    weights_only: bool = False
    """Take just the weights of that checkpoint: no optimizer state, step 0."""
    filelists: str = "filelists"
    """Folder of train.txt and val.txt."""
    no_face_cache: bool = False
    """Read faces picture by picture. (default: keep those of a clip in one file beside, 27 kB each)"""
    device: str = "auto"
    """auto (npu, cuda, cpu in this order), cpu, cuda[:i] or npu[:i]; under torchrun each rank's own card."""
