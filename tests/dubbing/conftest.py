"""Models that dub any frame: a tiny generator, and a face at a fixed place."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from support.devices import DEVICE
from support.faces import SquareDetector
from wav2lip_npu.dubbing import inference


@pytest.fixture(scope="module")
def models(tiny_checkpoint: Path) -> inference.Models:
    loaded = inference.load_models(tiny_checkpoint, detector="hog", device=str(DEVICE), precision="fp32")
    return replace(loaded, detector=SquareDetector())
