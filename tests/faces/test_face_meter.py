"""Measuring a face whose detected box depends on its position on the detector's grid."""

from __future__ import annotations

import numpy as np
from faces.test_find_faces import RedDetector, scene

from wav2lip_npu.faces.detection import Detection
from wav2lip_npu.faces.face_meter import FaceMeter
from wav2lip_npu.faces.optical_flow import Pose
from wav2lip_npu.media.yuv_image import Image

CELL = 32


class GridDetector(RedDetector):
    """Its boxes are shifted by up to 3 px: waves with the period of the grid."""

    def __init__(self) -> None:
        super().__init__()
        self.views, self.cell = 3, CELL

    def _detect(self, image: Image) -> list[Detection]:
        found = []
        for face in super()._detect(image):
            shift = 3 * np.sin(np.pi * (face.box[:2] + face.box[2:]) / CELL)
            box = face.box + np.tile(shift, 2).astype(np.float32)
            found.append(Detection(box, face.score))
        return found


def test_position_on_the_grid_does_not_bias_the_box() -> None:
    """A single view is off by up to 3 % of the face, the mean of six measurements by less than 0.4 %."""
    planes, box = scene([(150, 90, 70, True)]), np.array([115, 55, 185, 125], np.float32)
    pose = Pose.of_box(box)
    meter = FaceMeter(GridDetector())
    rows = [meter.measure(number, planes, box, pose) for number in range(12)]
    errors = np.array([row.relative - pose.relative(box) for row in rows if row is not None])[:, :2]
    assert len(errors) == 12 and np.abs(errors).max() > 0.005
    for start in range(6):
        assert np.abs(errors[start : start + 6].mean(axis=0)).max() < 0.004
