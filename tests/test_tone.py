"""Generated mouths take over the tone of the face around them, and nothing else."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch

from wav2lip_npu.blend import load_mask
from wav2lip_npu.tone import Tone

CPU = torch.device("cpu")
MASK = load_mask("soft", 96)
SHAPE = (3, *MASK.weights.shape)


def faces(count: int = 2) -> torch.Tensor:
    """Smooth pictures of many tones."""
    random = np.random.default_rng(0)
    small = random.uniform(0.3, 0.7, (count, 3, 4, 6)).astype(np.float32)
    rows, columns = MASK.weights.shape
    large = [[cv2.resize(c, (columns, rows), interpolation=cv2.INTER_CUBIC) for c in face] for face in small]
    return torch.from_numpy(np.array(large))


def test_what_is_right_stays():
    torch.testing.assert_close(Tone(MASK, CPU)(faces(), faces()), faces())


@pytest.mark.parametrize("cast", [(0.2, 0, 0), (-0.15, 0.1, 0.05), (0.1, 0.1, 0.1)])
def test_a_wrong_colour_is_taken_out(cast):
    wrong = faces() + torch.tensor(cast)[:, None, None]
    mended = Tone(MASK, CPU)(wrong, faces())
    shown = torch.from_numpy(MASK.weights) > 0
    assert (mended - faces())[..., shown].abs().max() < 0.01


def test_light_that_falls_from_the_side_is_followed():
    slope = torch.linspace(-0.2, 0.2, 96)
    mended = Tone(MASK, CPU)(faces() + slope, faces())
    assert (mended - faces()).abs().mean() < 0.25 * slope.abs().mean()


def test_a_mouth_is_not_touched_by_what_happens_inside():
    """The mouth of the source may be open where the made one is closed: that is no matter of tone."""
    source = faces()
    source[:, :, 20:40, 36:60] = 0.05
    mended = Tone(MASK, CPU)(faces(), source)
    assert (mended - faces()).abs().max() < 0.01


def test_half_precision_is_summed_in_full():
    wrong = (faces() + 0.2).half()
    exact = Tone(MASK, CPU)(faces() + 0.2, faces())
    torch.testing.assert_close(Tone(MASK, CPU)(wrong, faces().half()), exact, atol=2e-3, rtol=0)
