"""Options by name, wherever in the nesting of dataclasses they are."""

from __future__ import annotations

from typing import Any

import pytest

import wav2lip_npu
from wav2lip_npu.doctor.dataset import check_dataset
from wav2lip_npu.dubbing.options import DubOptions
from wav2lip_npu.errors import DataError, UsageError
from wav2lip_npu.media.video_writer import EncodeOptions
from wav2lip_npu.options import fields_of, with_values
from wav2lip_npu.training.options import TrainOptions

WRONG: Any = TrainOptions()


def test_nested_option_is_set_by_name():
    options = with_values(DubOptions(), {"crf": 18})
    assert options == with_values(DubOptions(), {"encode": EncodeOptions(crf=18)})
    assert dict(fields_of(options))["crf"] == 18


def test_unknown_option_names_the_nearest_one():
    with pytest.raises(UsageError, match=r"DubOptions.*'resize_facto'.*resize_factor"):
        with_values(DubOptions(), {"resize_facto": 2})


@pytest.mark.parametrize(
    ("call", "kind"),
    [
        (lambda: wav2lip_npu.dub("a.mp4", "b.wav", "c.mp4", options=WRONG), "DubOptions"),
        (lambda: wav2lip_npu.dub_many("a.mp4", [], options=5), "DubOptions"),
        (lambda: wav2lip_npu.run_batch("jobs.csv", options=WRONG), "BatchOptions"),
        (lambda: wav2lip_npu.preprocess("videos", "clips", options={"workers": 1}), "PreprocessOptions"),
        (lambda: check_dataset("clips", options=WRONG), "DatasetOptions"),
        (lambda: wav2lip_npu.train_syncnet("clips", "out", options=WRONG), "SyncNetTrainOptions"),
        (lambda: wav2lip_npu.train_syncnet("clips", "out", augmentation=WRONG), "Augmentation"),
        (lambda: wav2lip_npu.train_generator("clips", "out", options=EncodeOptions()), "TrainOptions"),
        (lambda: wav2lip_npu.train_generator("clips", "out", generator=WRONG), "GeneratorOptions"),
    ],
)
def test_options_of_another_class_are_refused(call, kind):
    with pytest.raises(UsageError, match=rf"{kind}\(\.\.\.\)"):
        call()


def test_augmentation_may_be_none(tmp_path):
    for train in (wav2lip_npu.train_syncnet, wav2lip_npu.train_generator):
        with pytest.raises(DataError, match="clips"):
            train(tmp_path / "clips", tmp_path / "out", augmentation=None, device="cpu")
