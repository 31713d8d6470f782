"""Arrays in .npy files: writing from blocks of columns."""

from __future__ import annotations

import io

import numpy as np
import pytest

from wav2lip_npu.storage import npy


@pytest.mark.parametrize("sizes", [[7], [1, 6], [3, 3, 1]])
def test_blocks_of_columns_give_the_file_of_numpy(tmp_path, sizes):
    """A16: a mel is written while it is computed."""
    array = np.random.default_rng(0).normal(size=(5, 7)).astype(np.float32)
    npy.write_columns(tmp_path / "a.npy", array.shape, np.split(array, np.cumsum(sizes)[:-1], axis=1))
    expected = io.BytesIO()
    np.save(expected, array)
    assert (tmp_path / "a.npy").read_bytes() == expected.getvalue()
    np.testing.assert_array_equal(npy.read(tmp_path / "a.npy"), array)


@pytest.mark.parametrize("columns", [6, 8])
def test_blocks_of_another_length_are_refused(tmp_path, columns):
    with pytest.raises(ValueError, match="7|8"):
        npy.write_columns(tmp_path / "a.npy", (5, columns), [np.zeros((5, 7), np.float32)])
