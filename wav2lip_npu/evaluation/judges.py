"""The networks of an evaluation, loaded once. Networks whose weights the user does not have are skipped."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from wav2lip_npu import device as devices
from wav2lip_npu.evaluation.expert_judge import Expert, load_expert
from wav2lip_npu.evaluation.options import EvaluateOptions
from wav2lip_npu.faces.detection import Detector
from wav2lip_npu.faces.detectors import load_detector
from wav2lip_npu.models import syncnet_v2
from wav2lip_npu.models.syncnet_v2 import SyncNetRunner, SyncNetWeights

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Judges:
    """The networks; None for those that are not wanted or whose weights are missing."""

    device: torch.device
    detector: Detector
    syncnet: SyncNetRunner | None
    expert: Expert | None
    names: dict[str, str]
    """Description of each network, for the report."""
    skipped: dict[str, str]
    """Groups of figures whose weights are missing, and how to get them."""


def load_judges(options: EvaluateOptions) -> Judges:
    """Load the networks that the options want.

    Raises:
        CheckpointError: Weights named by an option cannot be used.
        DeviceError: The device does not exist.
        FaceError: The detector has no weights.

    """
    device = devices.resolve(options.device)
    devices.activate(device)
    detector = load_detector(options.detector, str(device))
    names = {"detector": detector.name, "device": devices.describe(device)}
    skipped: dict[str, str] = {}
    runner = expert = None
    if "sync" in options.metrics:
        path = options.syncnet or syncnet_v2.find_weights()
        if path is None:
            skipped["sync"] = "no weights of SyncNet v2: pass --syncnet syncnet_v2.model"
        else:
            weights = syncnet_v2.load(path)
            runner = SyncNetRunner(weights.network, device)
            names["syncnet"] = _describe(weights)
            names["crop"] = options.crop
    if "expert" in options.metrics:
        expert = load_expert(options.expert_checkpoint_path, str(device))
        names["expert"] = expert.name
    return Judges(device, detector, runner, expert, names, skipped)


def _describe(weights: SyncNetWeights) -> str:
    known = "the published weights" if weights.is_published else "not the published weights"
    return f"{weights.source} (sha256 {weights.sha256[:12]}, {known})"
