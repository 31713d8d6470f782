"""The `faces` command."""

from __future__ import annotations

from fractions import Fraction
from types import SimpleNamespace
from typing import Any

import numpy as np

from wav2lip_npu.cli.faces import FacesCommand, _line
from wav2lip_npu.faces.people import Person, Sighting


def test_people_without_landmarks():
    """A person found by `hog`, the default detector, has no pose."""
    box = np.array([10, 10, 60, 60], np.float32)
    person = Person(spans=[(0, 4)], sightings=[Sighting(0, box, None), Sighting(4, box, None)])
    info: Any = SimpleNamespace(fps=Fraction(25))
    entry = FacesCommand(video="v.mp4")._entry(1, person, info)
    assert (entry["yaw"], entry["width"], entry["dubbed_share"]) == (None, [50, 50, 50], 1)
    assert "--face_select 35,35" in _line(entry)
