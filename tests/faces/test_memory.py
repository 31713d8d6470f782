"""Faces of earlier frames: their size in memory."""

from __future__ import annotations

import tracemalloc
from typing import Any

import numpy as np

from wav2lip_npu.faces.memory import COLUMNS, FaceMemory
from wav2lip_npu.faces.tracker import TrackedFrame
from wav2lip_npu.media.video_reader import Frame

NO_IMAGE: Any = None


def test_boxes_of_a_long_video_are_compact():
    """A16: an hour of video takes 20 MB, including the frame index."""
    memory = FaceMemory()
    rows = np.random.default_rng(0).uniform(0, 1000, (9000, COLUMNS)).astype(np.float32)
    rows[:, 4] = rows[:, 4] > 990
    rows[100:200, :4] = rows[100:200, 5:] = rows[300:400, 5:] = np.nan
    tracemalloc.start()
    try:
        for source, row in enumerate(rows):
            box = None if np.isnan(row[0]) else row[:4].copy()
            memory.expect(source)
            landmarks = None if np.isnan(row[5]) else row[5:].reshape(5, 2)
            memory.store(TrackedFrame(Frame(source, NO_IMAGE, source), box, bool(row[4]), landmarks))
        size = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert size < 2.2 * 9000 * 100
    np.testing.assert_array_equal(memory.to_array(), rows)
    known = FaceMemory(memory.to_array())
    for source in (0, 150, 350, 8999):
        tracked = known.recall(Frame(0, NO_IMAGE, source))
        assert (tracked.box is None) == (source == 150)
        assert tracked.box is None or np.array_equal(tracked.box, rows[source, :4])
        assert (tracked.landmarks is None) == (source in (150, 350))
        assert tracked.landmarks is None or np.array_equal(tracked.landmarks.ravel(), rows[source, 5:])
