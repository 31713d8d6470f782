"""Load and save networks: checkpoints of the original and of this package, checked before use.

The content may be the original's dict (`state_dict`, `optimizer`, `global_step`, `global_epoch`) or a bare
state dict, with or without the prefix `module.`, in any file format of `weight_formats.py`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from wav2lip_npu.devices.device import HOST
from wav2lip_npu.errors import CheckpointError, CheckpointMismatchError
from wav2lip_npu.mel import DEFAULT_MEL
from wav2lip_npu.models.bundled import weights_path
from wav2lip_npu.models.content import find_tensors, one_line, other_network
from wav2lip_npu.models.plan_choice import AS_TRAINED, Design, chosen_plan, plans_like
from wav2lip_npu.models.weight_formats import MORE, read
from wav2lip_npu.storage.atomic import replacing
from wav2lip_npu.storage.hashing import sha256_of

if TYPE_CHECKING:
    from torch import Tensor, nn

    from wav2lip_npu.models.plans import Plan

DISTINCTIVE_KEYS = {
    "generator": "output_block.1.weight",
    "syncnet": "face_encoder.0.conv_block.0.weight",
    "discriminator": "binary_pred.0.weight",
    "patch_discriminator": "layers.0.parametrizations.weight.original",
    "detector": "conv3_3_norm.weight",
}
NAMES = {
    "generator": "a Wav2Lip generator",
    "syncnet": "a SyncNet",
    "discriminator": "a quality discriminator",
    "patch_discriminator": "a patch discriminator",
    "detector": "an S3FD face detector",
}
"""Description of each kind of network."""


_FIRST_LAYERS = {
    "generator": ("face_encoder_blocks.0.0.conv_block.0.weight", 16),
    "syncnet": (DISTINCTIVE_KEYS["syncnet"], 32),
    "discriminator": ("face_encoder_blocks.0.0.conv_block.0.weight", 32),
    "patch_discriminator": (DISTINCTIVE_KEYS["patch_discriminator"], 96),
}
"""First layer of each kind, and its channels at full width."""
_KEPT = ("version", "mel", "mel_shift", "face_size")
"""Entries that a small file keeps."""
_PUBLISHED_KINDS = {"syncnet": "expert"}
_OTHERS_BESIDE = ("disc.", "discriminator.", "syncnet.")
"""Prefixes of other networks in one dict with a generator."""
_PASS_OTHERS = "Pass 96 px weights.", "Pass weights of a design that docs/hd.md lists."


@dataclass(frozen=True)
class Checkpoint:
    """Weights of one network, on the CPU."""

    kind: str
    """`generator`, `syncnet`, `discriminator` or `patch_discriminator`."""
    weights: dict[str, Tensor]
    width: int
    """Channel scale of the network, 32 for the published ones."""
    training: dict[str, Any] | None
    """Other entries of the file: `optimizer`, `global_step`, ..."""
    source: Path
    """The weights file."""
    plan: Plan | None = None
    """Design of a generator."""

    @property
    def more(self) -> dict[str, Any]:
        """Entries that only checkpoints of wav2lip-npu have; empty for others."""
        return _more(self.training)

    @property
    def mel_shift(self) -> float:
        """Frames of 1/25 s by which the audio was shifted in training; 0 if not stored."""
        shift = self.more.get("mel_shift", 0)
        return float(shift) if isinstance(shift, (int, float)) and abs(shift) < 100 else 0.0

    def network(self) -> nn.Module:
        """Return the network with these weights, in eval mode, float32."""
        import torch

        with torch.device("meta"):
            network = new_network(self.kind, self.width, self.plan)
        network.load_state_dict(self.weights, assign=True)
        return network.float().eval()

    def digest(self) -> str:
        """Return the first 12 hex digits of the file's SHA-256, which identify the weights in reports."""
        return sha256_of(self.source)[:12]


def load(path: str | os.PathLike[str], kind: str, design: Design = AS_TRAINED) -> Checkpoint:
    """Load the checkpoint of a kind of network, such as `generator`; `starter` is the bundled one.

    The design of a generator is recognised by its weights; `design` decides what they leave open.

    Raises `CheckpointError` if the file is missing, damaged, not a weights file, or for another network, and
    `UsageError` if the weights cannot have the design.
    """
    source = weights_path(path, kind)
    content = read(source)
    tensors, training = content, None
    if isinstance(content.get("state_dict"), dict):
        tensors = content["state_dict"]
        training = {key: value for key, value in content.items() if key != "state_dict"}
    weights = {key.replace("module.", ""): value for key, value in _tensors_of(tensors, source).items()}
    weights = {key: value for key, value in weights.items() if not key.startswith(_OTHERS_BESIDE)}
    width, plan = _check(weights, kind, source)
    check_mel(_more(training).get("mel"), source)
    if plan is not None:
        stored = _more(training).get("face_size")
        if design.face_size is None and type(stored) is int:
            design = replace(design, face_size=stored)
        plan = chosen_plan(plan, weights, design, source)
    return Checkpoint(kind, weights, width, training, source, plan)


def new_network(kind: str, width: int, plan: Plan | None = None) -> nn.Module:
    """Return a network of a kind; `plan` is the design of a generator, `None` that of the paper."""
    from wav2lip_npu.models.networks import NETWORKS, Wav2Lip

    return NETWORKS[kind](width) if plan is None else Wav2Lip(width, plan)


def published_kind(kind: str) -> str:
    """Return the name of a kind in files and reports: `expert` for `syncnet`, else unchanged."""
    return _PUBLISHED_KINDS.get(kind, kind)


def load_tensors(path: str | os.PathLike[str]) -> dict[str, Tensor]:
    """Load a bare state dict to the CPU. Raises `CheckpointError`."""
    return _tensors_of(read(path), Path(path))


def _tensors_of(content: dict[Any, Any], source: Path) -> dict[str, Tensor]:
    """Return the tensors of a dict, or of a nested dict such as `model`. Raises `CheckpointError`."""
    _, tensors = find_tensors(content)
    if not tensors:
        keys = ", ".join(sorted(f"{key!s:.40}" for key in content)[:5]) or "none"
        raise CheckpointError(
            f"{source} has no weights (keys: {one_line(keys)}). Pass a file with a state dict."
        )
    return tensors


def save(path: str | os.PathLike[str], network: nn.Module, training: dict[str, Any] | None = None) -> None:
    """Write a checkpoint atomically, with CPU tensors, in the original's format."""
    import torch

    weights = {key: value.detach().cpu() for key, value in network.state_dict().items()}
    progress = {"optimizer": None, "global_step": 0, "global_epoch": 0, **(training or {})}
    with replacing(path) as part, part.open("wb") as file:
        torch.save({"state_dict": weights, **progress}, file)


def save_small(path: str | os.PathLike[str], loaded: Checkpoint, metadata: Mapping[str, Any]) -> None:
    """Write the weights of a checkpoint as safetensors, convolutions as float16, without optimizer state.

    Width, mel settings and mel shift are kept; `metadata` is added to them. Raises `OSError`.
    """
    from safetensors.torch import save

    weights = {
        key: (value.half() if value.dim() > 1 else value).contiguous()
        for key, value in loaded.weights.items()
    }
    more: dict[str, Any] = {"kind": published_kind(loaded.kind), "width": loaded.width, **metadata}
    more.update((key, loaded.more[key]) for key in _KEPT if key in loaded.more)
    with replacing(path) as part:
        part.write_bytes(save(weights, {MORE: json.dumps(more)}))


def _more(training: Mapping[str, Any] | None) -> dict[str, Any]:
    more = (training or {}).get(MORE)
    return more if isinstance(more, dict) else {}


def check_mel(settings: Any, source: Path) -> None:
    """Raise `CheckpointMismatchError` if the mel settings of a checkpoint differ from this version."""
    expected = asdict(DEFAULT_MEL)
    if settings is None or settings == expected:
        return
    stored = settings if isinstance(settings, dict) else {}
    different = [
        f"{key}={stored.get(key)!r:.40}, not {value}"
        for key, value in expected.items()
        if stored.get(key) != value
    ]
    raise CheckpointMismatchError(
        f"{source} was trained with other mel settings ({'; '.join(different) or 'more settings'}). "
        "Use the version of wav2lip-npu that wrote it, or train again."
    )


def _check(weights: dict[str, Tensor], kind: str, source: Path) -> tuple[int, Plan | None]:
    """Return width and plan. Raises `CheckpointError` unless the weights are exactly those of `kind`."""
    actual_kind = next((name for name, key in DISTINCTIVE_KEYS.items() if key in weights), "")
    if actual_kind != kind:
        unknown = f"an unknown network with tensors such as {next(iter(weights))!r:.60}"
        actual = NAMES.get(actual_kind) or other_network(weights) or unknown
        raise CheckpointMismatchError(f"{source} is {actual}, not {NAMES[kind]}. Pass the file of a {kind}.")
    check_form(weights, source)
    plans = plans_like(weights) if kind == "generator" else [None]
    differences = [_difference(weights, kind, plan) for plan in plans]
    nearest = min(differences, key=lambda difference: len(difference.names))
    plan = plans[differences.index(nearest)]
    if nearest.names:
        design = f" from the design {plan.name}" if nearest.width and plan is not None else ""
        raise CheckpointMismatchError(
            f"{source} is {NAMES[kind]} with another architecture: {len(nearest.names)} of its tensors "
            f"differ{design}, first {nearest.names[0]}. {_PASS_OTHERS[kind == 'generator']}"
        )
    check_finite(weights, source, "the training diverged. Pass an earlier checkpoint.")
    return nearest.width, plan


class _Difference(NamedTuple):
    """How weights differ from the network of a kind and plan."""

    names: list[str]
    """Tensors that are missing, superfluous or have another shape, each with its shapes."""
    width: int
    """Width of the network; 0 if the first layer fits none."""


def _difference(weights: Mapping[str, Tensor], kind: str, plan: Plan | None) -> _Difference:
    import torch

    from wav2lip_npu.models.blocks import FULL_WIDTH

    first, full = _FIRST_LAYERS[kind]
    full = full if plan is None else plan.encoder[0].channels
    width = len(weights[first]) * FULL_WIDTH // full if first in weights and weights[first].dim() else 0
    shapes = {key: value.shape for key, value in weights.items()}
    unfit = _Difference([f"{name!r} ({_shape_of(shapes.get(name))})" for name in (first, *shapes)], 0)
    if not 2 <= width <= 8 * FULL_WIDTH:
        return unfit
    try:
        with torch.device("meta"):
            network = new_network(kind, width, plan)
    except ValueError:  # no such width
        return unfit
    expected = {key: value.shape for key, value in network.state_dict().items()}
    names = sorted(key for key in expected.keys() | shapes.keys() if expected.get(key) != shapes.get(key))
    return _Difference(
        [f"{key!r:.100} ({_shape_of(shapes.get(key))}, not {_shape_of(expected.get(key))})" for key in names],
        width,
    )


def _shape_of(shape: Sequence[int] | None) -> str:
    return "none" if shape is None else f"{[*shape]}"


def check_form(weights: Mapping[str, Tensor], source: Path) -> None:
    """Raise `CheckpointError` unless all weights are plain tensors of floating point numbers."""
    import torch

    types = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
    for key, value in weights.items():
        plain = value.layout is torch.strided and value.device.type == HOST
        if not plain or (value.dtype not in types and not key.endswith("num_batches_tracked")):
            form = f"{value.dtype}, {value.layout}, {value.device}".replace("torch.", "")
            raise CheckpointError(
                f"{source} stores {key!r:.100} in an unsupported form ({form}). "
                "Pass the weights as plain float32 or float16."
            )


def check_finite(weights: Mapping[str, Tensor], source: Path, advice: str) -> None:
    """Raise `CheckpointError`, which ends with `advice`, if a weight is NaN or infinite."""
    # A sum is finite only if all terms are, and much faster than isfinite on every element. It may overflow.
    suspect = [key for key, value in weights.items() if not value.sum().isfinite()]
    broken = [key for key in suspect if not weights[key].isfinite().all()]
    if broken:
        raise CheckpointError(f"{source} has NaN or infinite weights, first in {broken[0]!r:.100}: {advice}")
