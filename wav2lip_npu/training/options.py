"""Training options, with the names and defaults of the original's hparams.py."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal

import tyro

from wav2lip_npu.data.augmentation import Augmentation, TargetChanges, WindowChanges
from wav2lip_npu.devices.mixed_precision import Amp
from wav2lip_npu.errors import UsageError
from wav2lip_npu.models.bundled import STARTER
from wav2lip_npu.options import check_minimum, check_positive, check_types, group, nested_by_name
from wav2lip_npu.training.loss_options import GeneratorOptions
from wav2lip_npu.training.recipes import RECIPES, RecipeName

Compilation = Literal["off", "graph", "on"]
DataPlace = Literal["auto", "device", "host"]
_MIN_WINDOWS = 2
_NO_BATCH_STATISTICS = "SyncNet's batch norms need at least 2 windows. Pass --batch_size 2 or more."


@dataclass(frozen=True, kw_only=True)
class TrainPaths:
    """Input, output and device of a training run."""

    data_root: str
    """Folder of the preprocessed clips. File lists are relative to it."""
    checkpoint_dir: str
    """Folder for checkpoints, curves and sample images."""
    checkpoint_path: str | None = None
    """Checkpoint to resume from; starter is the bundled network, unless checkpoint_dir has a newer one. None:
    the newest complete checkpoint of checkpoint_dir."""
    weights_only: bool = False
    """Load only the weights of that checkpoint and start at step 0 without optimizer state."""
    filelists: str = "filelists"
    """Folder of train.txt and val.txt."""
    no_face_cache: bool = False
    """Decode JPEGs for every sample instead of caching the faces of a clip in one file (27 kB per face)."""
    device: str = "auto"
    """auto (npu, cuda, cpu in this order), cpu, cuda[:i] or npu[:i]. Under torchrun, each process uses the
    card of its local rank."""

    def __post_init__(self) -> None:
        """Raise `UsageError` if a value has another type."""
        check_types(self)


@nested_by_name
@dataclass(frozen=True, kw_only=True)
class TrainOptions:
    """Steps, data loading and optimizer."""

    batch_size: int = 16
    """Windows per batch, on each card."""
    learning_rate: Annotated[float, tyro.conf.arg(aliases=["--initial_learning_rate"])] = 1e-4
    """Learning rate of Adam."""
    nepochs: int = 200_000_000_000_000_000
    """Number of passes over the clips."""
    steps: int | None = None
    """Step at which training stops. None: at --nepochs, SIGTERM or Ctrl-C."""
    checkpoint_interval: int = 3000
    """Steps between checkpoints."""
    eval_interval: int = 3000
    """Steps between held-out evaluations."""
    patience: int | None = None
    """Stop after this many evaluations without a lower held-out loss; the best checkpoint is kept. None: no
    limit."""
    log_interval: int = 50
    """Steps averaged into one point of the training curves."""
    balance_speakers: bool = False
    """Draw speakers, the folders above the clips, by the square root of their time, of at most a minute."""
    num_workers: int = 16
    """Threads that load samples, at most one per core."""
    data_on: DataPlace = "auto"
    """Where the training clips are: device loads them into device memory once, 29 kB per frame, and draws and
    augments samples there; host reads each sample from the files. auto: device if the clips take at most half
    of the free memory of an NPU or GPU, otherwise host."""
    save_optimizer_state: bool = True
    """Store the optimizer state in checkpoints, for an exact resume. Without it they are a third of the
    size."""
    keep: int | None = None
    """Number of newest checkpoints to keep, in addition to the best. None: all."""
    seed: int = 0
    """Seed of the initial weights and of the samples."""
    warmup_steps: int | None = None
    """Steps over which the learning rate rises from 0. None: 0, or 20 with --recipe default, or 100 from a
    checkpoint without optimizer state."""
    cosine_steps: int | None = None
    """Step at which the learning rate has fallen to 2 % along a cosine. None: it stays constant."""
    weight_decay: float = 0.0
    """Weight decay; above 0, the optimizer is AdamW instead of Adam."""
    accumulate: int = 1
    """Batches whose gradients are accumulated for one step."""
    clip_grad_norm: float | None = None
    """Maximum norm of the gradients of a network. None: no limit."""
    average: float | None = None
    """Decay of the running average of the weights that is evaluated and saved; 0 turns it off. None: 0, or
    0.99 with --recipe default."""
    amp: Amp = "off"
    """Mixed precision: bf16, fp16, or off for float32. Losses and weights stay float32."""
    compile: Compilation = "off"
    """on: the networks are compiled for the device, which takes minutes before the first step; an NPU needs
    torchair. graph, and with CUDA also on: the kernels of a step form one graph, if the data are on the
    device."""
    loss_scale: str = "dynamic"
    """Loss scale with --amp fp16: dynamic, or a constant such as 1024."""
    sync_batchnorm: bool = False
    """Compute batch norms over the batches of all cards."""
    width: int | None = None
    """Base channels of the networks; narrower networks train faster. None: the width of the checkpoint, or 32
    as in the published networks."""

    def __post_init__(self) -> None:
        """Raise `UsageError` if a value is out of range."""
        check_types(self)
        minima = {
            "batch_size": 1,
            "nepochs": 1,
            "steps": 1,
            "checkpoint_interval": 1,
            "eval_interval": 1,
            "log_interval": 1,
            "num_workers": 0,
            "keep": 1,
            "patience": 1,
            "seed": 0,
            "warmup_steps": 0,
            "cosine_steps": 1,
            "accumulate": 1,
        }
        for name, minimum in minima.items():
            check_minimum(self, name, minimum)
        check_positive(self, "learning_rate")
        check_positive(self, "clip_grad_norm")
        if not 0 <= self.weight_decay <= 1:
            raise UsageError(f"--weight_decay {self.weight_decay:g} is out of range. Pass 0 to 1.")
        if self.average is not None and not 0 <= self.average < 1:
            raise UsageError(f"--average {self.average:g} is out of range. Pass 0 to 0.9999.")
        if self.width is not None and (self.width < 2 or self.width % 2 or self.width > 256):
            raise UsageError(f"--width {self.width} is invalid. Pass an even number from 2 to 256.")
        for name, maximum in {"batch_size": 1 << 16, "seed": (1 << 63) - 1}.items():
            if getattr(self, name) > maximum:
                raise UsageError(f"--{name} {getattr(self, name)} is out of range. Pass at most {maximum}.")


@nested_by_name
@dataclass(frozen=True, kw_only=True)
class SyncNetTrainOptions(TrainOptions):
    """Steps, data loading, optimizer and recipe."""

    batch_size: Annotated[int, tyro.conf.arg(aliases=["--syncnet_batch_size"])] = 64
    """Windows per batch, on each card."""
    learning_rate: Annotated[float, tyro.conf.arg(aliases=["--initial_learning_rate", "--syncnet_lr"])] = 1e-4
    """Learning rate of Adam. From random weights, the default recipe multiplies it by 10."""
    checkpoint_interval: Annotated[int, tyro.conf.arg(aliases=["--syncnet_checkpoint_interval"])] = 10_000
    """Steps between checkpoints."""
    eval_interval: Annotated[int, tyro.conf.arg(aliases=["--syncnet_eval_interval"])] = 10_000
    """Steps between held-out evaluations."""
    recipe: RecipeName = "default"
    """default compares the audio of each window with the faces of all windows of a batch, with warm-up and
    averaged weights; original is the recipe of the original code."""
    same_clip: float | None = None
    """Weight of negatives from the same clip among all negatives, 0 to 1. Held-out losses use only such
    negatives. None: all negatives are weighted equally."""
    eval_clips: int = 200
    """Held-out clips per evaluation, always the same ones."""

    def __post_init__(self) -> None:
        """Raise `UsageError` if a value is out of range."""
        super().__post_init__()
        check_minimum(self, "eval_clips", 1)
        windows = RECIPES[self.recipe].windows_per_clip
        if self.same_clip is not None:
            if not 0 <= self.same_clip <= 1:
                raise UsageError(f"--same_clip {self.same_clip:g} is out of range. Pass 0 to 1.")
            if windows == 1:
                raise UsageError(f"--same_clip has no effect with --recipe {self.recipe}. Leave it out.")
        if self.batch_size % windows:
            raise UsageError(
                f"--batch_size {self.batch_size} is not a multiple of {windows}, the windows of one clip. "
                "Pass a multiple, or --recipe original."
            )
        if self.batch_size < _MIN_WINDOWS:
            raise UsageError(f"--batch_size {self.batch_size}: {_NO_BATCH_STATISTICS}")


@dataclass(frozen=True, kw_only=True)
class SyncNetSettings:
    """All options of a SyncNet training run."""

    paths: Annotated[TrainPaths, group("file and device")]
    train: Annotated[SyncNetTrainOptions, group("training")] = field(default_factory=SyncNetTrainOptions)
    augment: Annotated[Augmentation, group("augmentation")] = field(default_factory=Augmentation)
    windows: Annotated[WindowChanges, group("SyncNet augmentation")] = field(default_factory=WindowChanges)

    def __post_init__(self) -> None:
        """Raise `UsageError` if a value has another type."""
        check_types(self)


@dataclass(frozen=True, kw_only=True)
class GeneratorSettings:
    """All options of a generator training run."""

    paths: Annotated[TrainPaths, group("file and device")]
    syncnet_checkpoint_path: str = STARTER
    """SyncNet checkpoint that judges the sync; starter is the bundled network."""
    disc_checkpoint_path: str | None = None
    """Discriminator checkpoint to resume from. None: the one next to the generator's checkpoint."""
    face_size: int | None = None
    """Size of the generated faces in pixels: 96, 192 or 256. None: that of the checkpoint, or 96."""
    alexnet: str | None = None
    """Weights of AlexNet for --lpips_weight, as of `evaluate`. None: searched in checkpoints/."""
    lpips: str | None = None
    """Linear weights of LPIPS for --lpips_weight, as of `evaluate`. None: checkpoints/lpips_alex.pth."""
    train: Annotated[TrainOptions, group("training")] = field(default_factory=TrainOptions)
    generator: Annotated[GeneratorOptions, group("generator loss")] = field(default_factory=GeneratorOptions)
    augment: Annotated[Augmentation, group("augmentation")] = field(default_factory=Augmentation)
    targets: Annotated[TargetChanges, group("generator augmentation")] = field(default_factory=TargetChanges)

    def __post_init__(self) -> None:
        """Raise `UsageError` if options conflict."""
        check_types(self)
        if self.generator.expert_bn == "batch" and self.train.batch_size < _MIN_WINDOWS:
            raise UsageError(
                f"--batch_size {self.train.batch_size} --expert_bn batch: {_NO_BATCH_STATISTICS}"
            )
        if self.disc_checkpoint_path is not None and self.generator.discriminator is None:
            raise UsageError("--disc_checkpoint_path has no effect without --disc_wt. Pass --disc_wt 0.07.")
        for name in ("alexnet", "lpips"):
            if getattr(self, name) is not None and not self.generator.lpips_weight:
                raise UsageError(f"--{name} has no effect without --lpips_weight. Pass --lpips_weight 0.1.")
