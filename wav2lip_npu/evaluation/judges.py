"""The networks of an evaluation, loaded once. Networks whose weights the user does not have are skipped."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from wav2lip_npu.devices import device as devices
from wav2lip_npu.devices import number_formats
from wav2lip_npu.evaluation.expert_judge import Expert, load_expert
from wav2lip_npu.evaluation.face_crops import MIN_TRACK
from wav2lip_npu.evaluation.frame_pair import Figure
from wav2lip_npu.evaluation.options import EvaluateOptions
from wav2lip_npu.evaluation.perceptual import MIN_IMAGES, Fid
from wav2lip_npu.faces.descriptor import PATHS as IDENTITY_PATHS
from wav2lip_npu.faces.descriptor import Descriptor
from wav2lip_npu.faces.detection import Detector
from wav2lip_npu.faces.detectors import load_detector
from wav2lip_npu.models import inception, lpips, syncnet_v2
from wav2lip_npu.models.syncnet_v2 import SyncNetRunner, SyncNetWeights
from wav2lip_npu.models.user_weights import find
from wav2lip_npu.storage.hashing import sha256_of

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
    identity: Descriptor | None = None
    lpips: lpips.Lpips | None = None
    fid: Fid | None = None


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
        path = find(options.syncnet, syncnet_v2.PATHS)
        if path is None:
            skipped["sync"] = "no weights of SyncNet v2: pass --syncnet syncnet_v2.model"
        else:
            weights = syncnet_v2.load(path)
            runner = SyncNetRunner(weights.network, device, number_formats.dtype_of(options.precision))
            names["syncnet"] = f"{_describe(weights)}, {options.precision}"
            frames = options.min_track if options.min_track is not None else MIN_TRACK[options.crop]
            names["crop"] = f"{options.crop}, tracks of more than {frames} frames"
    if "expert" in options.metrics:
        expert = load_expert(options.expert_checkpoint_path, str(device))
        names["expert"] = expert.name
    more = _load_picture_networks(options, device, names, skipped)
    return Judges(device, detector, runner, expert, names, skipped, *more)


def _load_picture_networks(
    options: EvaluateOptions, device: torch.device, names: dict[str, str], skipped: dict[str, str]
) -> tuple[Descriptor | None, lpips.Lpips | None, Fid | None]:
    """Load the networks that compare pictures; add their names, or why they are skipped."""

    def found(group: str, given: str | None, paths: Sequence[Path], advice: str) -> Path | None:
        if group not in options.metrics:
            return None
        path = find(given, paths)
        if path is None:
            skipped.setdefault(group, f"no weights: pass {advice}")
        else:
            names[group] = f"{names.get(group, '')} {path} (sha256 {sha256_of(path)[:12]})".strip()
        return path

    face = found("identity", options.identity, IDENTITY_PATHS, f"--identity {IDENTITY_PATHS[0].name}")
    alexnet = found("lpips", options.alexnet, lpips.ALEXNET_PATHS, f"--alexnet {lpips.ALEXNET_PATHS[0].name}")
    linear = found("lpips", options.lpips, lpips.LINEAR_PATHS, "--lpips alex.pth")
    network = found("fid", options.inception, inception.PATHS, f"--inception {inception.PATHS[0].name}")
    return (
        None if face is None else Descriptor(face),
        None if alexnet is None or linear is None else lpips.Lpips(alexnet, linear).to(device),
        None if network is None else Fid(inception.InceptionFeatures(network, device)),
    )


def fid_figure(judges: Judges) -> tuple[Figure | None, str | None]:
    """Return FID over all videos, and a remark on the number of images."""
    result = None if judges.fid is None else judges.fid.value()
    if result is None:
        return None, None
    value, count = result
    few = f"FID of {count} images is not reliable: {MIN_IMAGES} are needed" if count < MIN_IMAGES else None
    return Figure(value), few


def _describe(weights: SyncNetWeights) -> str:
    known = "the published weights" if weights.is_published else "not the published weights"
    return f"{weights.source} (sha256 {weights.sha256[:12]}, {known})"
