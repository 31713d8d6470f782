"""Options by name, wherever in the nesting of dataclasses they are."""

from __future__ import annotations

import pytest

from wav2lip_npu.dubbing.options import DubOptions
from wav2lip_npu.errors import UsageError
from wav2lip_npu.media.video_writer import EncodeOptions
from wav2lip_npu.options import fields_of, with_values


def test_nested_option_is_set_by_name():
    options = with_values(DubOptions(), {"crf": 18})
    assert options == with_values(DubOptions(), {"encode": EncodeOptions(crf=18)})
    assert dict(fields_of(options))["crf"] == 18


def test_unknown_option_names_the_nearest_one():
    with pytest.raises(UsageError, match=r"DubOptions.*'resize_facto'.*resize_factor"):
        with_values(DubOptions(), {"resize_facto": 2})
