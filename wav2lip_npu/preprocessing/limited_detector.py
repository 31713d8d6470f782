"""A face detector with the limits of preprocessing: batch size, views, and errors that stop the run."""

from __future__ import annotations

from collections.abc import Sequence

from wav2lip_npu.devices.device import HOST
from wav2lip_npu.errors import DeviceError
from wav2lip_npu.faces.detection import Detection, Detector
from wav2lip_npu.media.yuv_image import Image

_VIEWS = 3
"""With 3 views instead of 7, the error of HOG boxes is 0.4 % of their size instead of 0.2 %, in 0.6 of the
time."""


class LimitedDetector:
    """Calls a detector with at most `batch_size` images, and averages at most 3 views of a face.

    Raises `DeviceError` for errors on an accelerator, which affect the whole run and not only one video.
    """

    def __init__(self, detector: Detector, batch_size: int, device: str) -> None:
        self.name, self.short_side, self.face_side = detector.name, detector.short_side, detector.face_side
        self.views, self.cell = min(detector.views, _VIEWS), detector.cell
        self._detector, self._batch_size, self._device = detector, batch_size, device

    def __call__(self, images: Sequence[Image]) -> list[list[Detection]]:
        """See `Detector`."""
        detections: list[list[Detection]] = []
        try:
            for first in range(0, len(images), self._batch_size):
                detections += self._detector(images[first : first + self._batch_size])
        except RuntimeError as error:
            if self._device == HOST:
                raise
            reason = (str(error).strip().splitlines() or [""])[0]
            raise DeviceError(
                f"detector {self.name} failed on {self._device}: {reason}. Run again with fewer --workers."
            ) from error
        return detections
