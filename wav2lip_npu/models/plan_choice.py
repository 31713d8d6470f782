"""Tell the design of a generator by its weights, and decide what they leave open.

Names and shapes of the tensors tell the design. They do not tell the size of faces, if the network fits
several, nor whether `audio_refine` is used: published programs disagree. Its use is measured in the weights.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import pi
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from wav2lip_npu.errors import UsageError
from wav2lip_npu.options import check_types

if TYPE_CHECKING:
    from torch import Tensor

    from wav2lip_npu.models.plans import AudioRefine, Plan

log = logging.getLogger(__name__)

AudioRefineOption = Literal["auto", "off", "plain", "normalized"]
_REFINE = "audio_refine.1.conv_block"
_DECODER = "face_decoder_blocks.0.0.conv_block"


@dataclass(frozen=True)
class Design:
    """What the names and shapes of a generator's weights do not tell.

    Raises `UsageError` if a value is invalid.
    """

    face_size: int | None = None
    """Rows and columns of the faces; None: as published."""
    audio_refine: AudioRefineOption = "auto"
    """Whether the layers `audio_refine` are used; auto: measured in the weights."""

    def __post_init__(self) -> None:
        """Check the values."""
        check_types(self)


AS_TRAINED = Design()


def plans_like(weights: Mapping[str, Tensor]) -> list[Plan | None]:
    """Return the plans with the stages of the weights, or else all; with slopes if the weights have them."""
    from wav2lip_npu.models.plans import PLANS

    stages = [
        len({key.split(".")[1] for key in weights if key.startswith(f"face_{part}coder_blocks.")})
        for part in ("en", "de")
    ]
    plans = [plan for plan in PLANS if stages == [len(plan.encoder), len(plan.decoder) + 1]] or PLANS
    has_refine, has_slopes = f"{_REFINE}.0.weight" in weights, "face_encoder_blocks.0.0.act.weight" in weights
    return [
        replace(
            plan,
            audio_refine=plan.audio_refine or ("off" if has_refine and plan.attention else None),
            activation="prelu" if has_slopes else plan.activation,
        )
        for plan in plans
    ]


def chosen_plan(plan: Plan, weights: Mapping[str, Tensor], design: Design, source: Path) -> Plan:
    """Return the plan with the face size and the audio refinement of the design.

    Raises `UsageError` if the weights cannot have them.
    """
    if design.face_size not in (None, plan.size, *plan.sizes):
        sizes = " or ".join(map(str, plan.sizes or (plan.size,)))
        raise UsageError(
            f"--face_size {design.face_size}: {source} takes faces of {sizes} px. Pass such a size, or other "
            "weights."
        )
    if plan.audio_refine is None and design.audio_refine not in ("auto", "off"):
        raise UsageError(
            f"--audio_refine {design.audio_refine}: {source} has no weights audio_refine. Remove it."
        )
    refine = plan.audio_refine
    if refine is not None and design.audio_refine != "auto":
        refine = design.audio_refine
    elif refine is not None and plan.attention:  # published programs agree on the designs without
        refine = measured_refine(weights)
    chosen = replace(plan, size=design.face_size or plan.size, audio_refine=refine)
    if chosen.name != "96":
        used = f", audio_refine {refine}" if refine else ""
        log.info("%s: design %s, faces of %d px%s", source, chosen.name, chosen.size, used)
    return chosen


def measured_refine(weights: Mapping[str, Tensor]) -> AudioRefine:
    """Return how the training used `audio_refine`, from the statistics of the batch norms.

    Layers that never ran have the statistics of new layers, and those that ran in less than half of the steps
    were dropped. The last batch norm of the layers tells the mean of their output x, and the next one, in the
    decoder, the mean of w x + b. Both agree if x is used as it is. If it is divided by its length |x|, which
    is about 20, the second is smaller by this factor; the limit is the square root of it.
    """
    counts = [weights[f"{name}.1.num_batches_tracked"].item() for name in (_REFINE, _DECODER)]
    has_run = bool((weights[f"{_REFINE}.1.running_mean"] != 0).any())
    if not has_run or 2 * counts[0] < counts[1]:
        return "off"
    deviation, shift = (weights[f"{_REFINE}.1.{name}"].double() for name in ("weight", "bias"))
    mean, mean_square = _rectified(deviation.abs(), shift)
    kernel, bias = (weights[f"{_DECODER}.0.{name}"].double() for name in ("weight", "bias"))
    expected = kernel.flatten(1) @ mean
    measured = weights[f"{_DECODER}.1.running_mean"].double() - bias
    factor = (expected @ measured) / expected.square().sum()
    return "plain" if factor > mean_square.sum() ** -0.25 else "normalized"


def _rectified(deviation: Tensor, mean: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and mean square of max(0, y) for normally distributed y."""
    ratio = mean / deviation.clamp(min=1e-12)
    above = ratio.mul(0.5**0.5).erf() / 2 + 0.5
    density = (-ratio.square() / 2).exp() * deviation / (2 * pi) ** 0.5
    return mean * above + density, (mean.square() + deviation.square()) * above + mean * density
