"""Order of the clips of an epoch, balanced over speakers or not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from wav2lip_npu.data.clip import Clip
from wav2lip_npu.data.clip_order import ClipOrder, speaker_shares


def clip(name: str, seconds: float) -> Clip:
    frames = np.arange(round(25 * seconds))
    return Clip(name, Path(name), frames, np.array([], np.int64), round(80 * seconds))


CLIPS = [clip("a/0", 10), clip("a/1", 30), clip("b/0", 10), *(clip(f"set/c/{n}", 20) for n in range(30))]


def test_each_clip_once_in_another_order_every_epoch():
    order = ClipOrder(CLIPS, 3)
    assert sorted(order(0)) == sorted(order(1)) == list(range(len(CLIPS)))
    assert order(0).tolist() != order(1).tolist()
    assert order(1).tolist() == ClipOrder(CLIPS, 3)(1).tolist() != ClipOrder(CLIPS, 4)(1).tolist()


def test_shares_are_the_square_roots_of_at_most_a_minute():
    shares = speaker_shares(CLIPS)
    a, b, c = shares[:2].sum(), shares[2], shares[3:].sum()
    assert shares.sum() == pytest.approx(1)
    assert a / b == pytest.approx(2) and c / b == pytest.approx(6**0.5)
    assert shares[1] / shares[0] == pytest.approx(3)


def test_balanced_order_has_these_shares():
    order = ClipOrder(CLIPS, 3, balance_speakers=True)
    epochs = [order(epoch) for epoch in range(200)]
    expected = speaker_shares(CLIPS) * len(CLIPS)
    for epoch in epochs:
        counts = np.bincount(epoch, minlength=len(CLIPS))
        assert (counts >= np.floor(expected)).all() and (counts <= np.ceil(expected)).all()
    mean = np.bincount(np.concatenate(epochs), minlength=len(CLIPS)) / 200
    np.testing.assert_allclose(mean, expected, atol=0.15)
    assert order(5).tolist() == ClipOrder(CLIPS, 3, balance_speakers=True)(5).tolist()
    assert np.abs(np.corrcoef(epochs[0][:-1], epochs[0][1:])[0, 1]) < 0.6, "the order is shuffled"
