"""Options of the losses of the generator, with the names and defaults of the original's hparams.py."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from wav2lip_npu.errors import UsageError
from wav2lip_npu.options import check_minimum, check_positive, check_types, nested_by_name

NormMode = Literal["eval", "batch"]


@nested_by_name
@dataclass(frozen=True, kw_only=True)
class GeneratorOptions:
    """Losses of the generator, and the discriminator."""

    syncnet_wt: float = 0.0
    """Initial weight of the sync loss."""
    sync_gate: float = 0.75
    """Held-out sync loss below which the weight of the sync loss rises."""
    sync_weight: float | None = None
    """Risen weight of the sync loss. None: 0.01, or 0.03 with the discriminator."""
    sync_floor: float = 0.0
    """SyncNet's cosine below which the gradient of the sync loss stops growing; 0 is the original's loss. The
    held-out sync loss is always the original's."""
    sync_from: int | None = None
    """Step from which the sync loss has its risen weight, instead of from --sync_gate."""
    sync_augmented: float = 0.0
    """Weight of augmented samples in the sync loss, with --untouched above 0."""
    disc_wt: float = 0.0
    """Weight of the visual-quality discriminator; 0 trains without one. The original's hq training
    uses 0.07."""
    patch_disc_wt: float = 0.0
    """Weight of a discriminator of patches with a hinge loss, instead of --disc_wt: the size of its gradient
    relative to that of the L1 loss."""
    disc_from: int = 0
    """Step from which the discriminator is trained and used."""
    ramp_steps: int = 0
    """Steps over which the weights rise after --sync_from and --disc_from."""
    disc_initial_learning_rate: float = 1e-4
    """Learning rate of the discriminator's Adam."""
    mouth_weight: float = 1.0
    """Weight of the middle of the mouth in the L1 loss, relative to the rest of the face. The curves show
    the plain L1."""
    gradient_weight: float = 0.0
    """Weight of the L1 loss of image gradients, for sharp edges, relative to the L1 loss of pixels."""
    motion_weight: float = 0.0
    """Weight of the L1 loss of differences between frames, relative to the L1 loss of pixels."""
    lpips_weight: float = 0.0
    """Weight of the perceptual distance LPIPS of the lower halves of the faces, relative to the L1 loss of
    pixels, by --alexnet and --lpips."""
    expert_bn: NormMode = "eval"
    """Batch norm mode of SyncNet: eval uses running statistics, batch those of each batch, as in the
    original."""
    reference_distance: int = 0
    """Minimum number of frames between target and reference in clips that are long enough."""
    eval_batches: int = 40
    """Held-out batches per evaluation, always the same ones."""

    def __post_init__(self) -> None:
        """Raise `UsageError` if a value is out of range."""
        check_types(self)
        ranges = {
            "syncnet_wt": (0, 1),
            "disc_wt": (0, 1),
            "sync_weight": (0, 1),
            "sync_floor": (0, 1),
            "sync_augmented": (0, 1),
            "patch_disc_wt": (0, 10),
            "gradient_weight": (0, 100),
            "motion_weight": (0, 100),
            "lpips_weight": (0, 100),
            "mouth_weight": (1, 100),
        }
        for name, (low, high) in ranges.items():
            value = getattr(self, name)
            if value is not None and not low <= value <= high:
                raise UsageError(f"--{name} {value:g} is out of range. Pass {low} to {high}.")
        if self.disc_wt + max(self.syncnet_wt, self.risen_weight) > 1:
            raise UsageError(
                f"the weights of the sync loss and the discriminator add up to more than 1: --disc_wt "
                f"{self.disc_wt:g} and {max(self.syncnet_wt, self.risen_weight):g}. Lower one."
            )
        if self.disc_wt and self.patch_disc_wt:
            raise UsageError("--disc_wt and --patch_disc_wt exclude each other. Leave one out.")
        if not 0 <= self.sync_gate < math.inf:
            raise UsageError(f"--sync_gate {self.sync_gate:g} is out of range. Pass 0 or more.")
        check_positive(self, "disc_initial_learning_rate")
        for name in ("reference_distance", "sync_from", "disc_from", "ramp_steps"):
            check_minimum(self, name, 0)
        check_minimum(self, "eval_batches", 1)

    @property
    def discriminator(self) -> str | None:
        """Kind of the discriminator, if there is one."""
        return "discriminator" if self.disc_wt else "patch_discriminator" if self.patch_disc_wt else None

    @property
    def risen_weight(self) -> float:
        """Weight of the sync loss once the gate is passed."""
        if self.sync_weight is not None:
            return self.sync_weight
        return 0.03 if self.disc_wt else 0.01
