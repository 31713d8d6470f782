"""Criteria by which preprocessing drops videos, and the size of the crops."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

from wav2lip_npu.errors import UsageError
from wav2lip_npu.options import check_types, nested_by_name

MIN_CROP_PX = 96
"""Smallest side of a crop: the input size of the paper's generator."""
_MAX_FACE_SIZE = 1024


@nested_by_name
@dataclass(frozen=True, kw_only=True)
class ClipOptions:
    """Criteria for dropping videos.

    Raises:
        UsageError: A value is unknown or out of range.

    """

    several_people: Literal["drop", "keep"] = "drop"
    """What to do with videos in which most frames show a second face of at least 0.6 times the size: drop
    them, or keep them and track the largest face."""
    min_face_px: int = 48
    """Drop videos whose median face is smaller than this, in pixels of the video."""
    face_size: int = 96
    """Face size of the generator that will be trained. Above 96, crops keep at least this size if the video
    has it, and videos whose median face is smaller than half of it are dropped."""
    min_face_share: float = 0.75
    """Drop videos with a face in less than this share of the frames."""

    def __post_init__(self) -> None:
        """Check the values."""
        check_types(self)
        if self.min_face_px < 1:
            raise UsageError(f"--min_face_px {self.min_face_px} is out of range. Pass at least 1.")
        if not MIN_CROP_PX <= self.face_size <= _MAX_FACE_SIZE:
            raise UsageError(
                f"--face_size {self.face_size} is out of range. Pass {MIN_CROP_PX} to {_MAX_FACE_SIZE}."
            )
        if not 0 <= self.min_face_share <= 1:
            raise UsageError(f"--min_face_share {self.min_face_share:g} is out of range. Pass 0 to 1.")

    @property
    def smallest_face(self) -> int:
        """Smallest median face in pixels."""
        is_larger = self.face_size > MIN_CROP_PX
        return max(self.min_face_px, self.face_size // 2) if is_larger else self.min_face_px

    def as_dict(self) -> dict[str, Any]:
        """Return the options as clip.json stores them: like earlier versions, without a `face_size` of 96."""
        options = asdict(self)
        if self.face_size == MIN_CROP_PX:
            del options["face_size"]
        return options
