"""Options of an evaluation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from wav2lip_npu.errors import UsageError
from wav2lip_npu.faces.detectors import DetectorName
from wav2lip_npu.faces.find_faces import FaceOptions
from wav2lip_npu.models.bundled import STARTER
from wav2lip_npu.options import check_types, nested_by_name

Crop = Literal["upstream", "latentsync", "whole"]
Group = Literal[
    "sync", "expert", "picture", "skin", "mouth", "track", "timing", "frames", "identity", "lpips", "fid"
]
GROUPS: tuple[Group, ...] = get_args(Group)
WEIGHTS = ("syncnet", "alexnet", "lpips", "inception", "identity")
"""Options that name files of weights."""


@nested_by_name
@dataclass(frozen=True, kw_only=True)
class EvaluateOptions:
    """Options of an evaluation.

    Raises:
        UsageError: A value is unknown or out of range.

    """

    metrics: tuple[Group, ...] = GROUPS
    """Groups of figures to measure, see docs/evaluate.md."""
    syncnet: str | None = None
    """Weights of SyncNet v2 for LSE-D and LSE-C: syncnet_v2.model. None: searched in checkpoints/."""
    crop: Crop = "upstream"
    """Face crop for LSE: upstream (the published one), latentsync (the same, tracks from 50 frames), or whole
    (the whole frame, for videos that are face crops, such as LRS2)."""
    min_track: int | None = None
    """LSE is measured on tracks with more frames than this. None: 100 (upstream), 50 (latentsync), 0
    (whole)."""
    expert_checkpoint_path: str = STARTER
    """SyncNet of Wav2Lip or of this package for the figures `expert_...`; starter is the bundled one."""
    alexnet: str | None = None
    """Weights of AlexNet for LPIPS: alexnet-owt-7be5be79.pth. None: searched in checkpoints/."""
    lpips: str | None = None
    """Linear weights of LPIPS 0.1 for AlexNet: alex.pth. None: checkpoints/lpips_alex.pth."""
    inception: str | None = None
    """Weights of Inception for FID: pt_inception-2015-12-05-6726825d.pth. None: searched in checkpoints/."""
    identity: str | None = None
    """Weights of dlib's face descriptor: dlib_face_recognition_resnet_model_v1.dat. None: searched in
    checkpoints/."""
    detector: DetectorName = "auto"
    """Face detector, see `dub`."""
    face_select: str = "largest"
    """Face to evaluate if there are several, see `dub`."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """Number format of SyncNet v2: fp32 for figures to publish. bf16 is faster on accelerators and on CPUs
    with AMX, and rounds LSE, see docs/evaluate.md."""
    device: str = "auto"
    """Device of the networks: cpu, cuda, cuda:1, npu, npu:1, or auto: the first available of npu, cuda,
    cpu."""

    def __post_init__(self) -> None:
        """Check the values."""
        check_types(self)
        if not self.metrics:
            raise UsageError(f"--metrics is empty. Pass some of: {', '.join(GROUPS)}.")
        if self.min_track is not None and self.min_track < 0:
            raise UsageError(f"--min_track {self.min_track} is out of range. Pass at least 0 frames.")
        self.faces  # noqa: B018 checks face_select

    @property
    def faces(self) -> FaceOptions:
        """Options of the face tracker. Boxes are not padded."""
        return FaceOptions(detector=self.detector, face_select=self.face_select, pads=(0, 0, 0, 0))
