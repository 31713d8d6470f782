"""Option dataclasses: types of their values, and options by name wherever in the nesting they are."""

from __future__ import annotations

import math
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import wav2lip_npu
from wav2lip_npu.batch.jobs import Job
from wav2lip_npu.batch.options import BatchOptions
from wav2lip_npu.data.augmentation import Augmentation
from wav2lip_npu.doctor.dataset import DatasetOptions, check_dataset
from wav2lip_npu.dubbing.options import DubOptions
from wav2lip_npu.errors import DataError, UsageError
from wav2lip_npu.export.options import ExportOptions
from wav2lip_npu.faces.find_faces import FaceOptions
from wav2lip_npu.media.geometry import Geometry
from wav2lip_npu.media.video_writer import EncodeOptions
from wav2lip_npu.options import fields_of, with_values
from wav2lip_npu.preprocessing.clip_options import ClipOptions
from wav2lip_npu.preprocessing.run import PreprocessOptions
from wav2lip_npu.training.options import (
    GeneratorOptions,
    GeneratorSettings,
    SyncNetSettings,
    SyncNetTrainOptions,
    TrainOptions,
    TrainPaths,
)

WRONG: Any = TrainOptions()
PATHS = TrainPaths(data_root="clips", checkpoint_dir="run")
REQUIRED: dict[type, dict[str, Any]] = {
    TrainPaths: {"data_root": "clips", "checkpoint_dir": "run"},
    SyncNetSettings: {"paths": PATHS},
    GeneratorSettings: {"paths": PATHS},
    Job: {"face": "a.mp4", "audio": "a.wav", "outfile": "b.mp4"},
}
NAMES_OF_DUB_OPTIONS = ["faces", "geometry", "encode", *(name for name, _ in fields_of(DubOptions()))]


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


@pytest.mark.parametrize(
    ("options", "name", "value"),
    [
        (DubOptions, "fps", "25"),
        (DubOptions, "fps", "fast"),
        (DubOptions, "fps", True),
        (DubOptions, "fps", math.nan),
        pytest.param(DubOptions, "fps", 10**400, id="DubOptions-fps-huge"),
        (DubOptions, "fps", 0.0001),
        (DubOptions, "mel_shift", math.nan),
        (DubOptions, "mel_shift", -math.inf),
        (DubOptions, "mel_shift", 100),
        (DubOptions, "static", "False"),
        (DubOptions, "static", 0),
        (DubOptions, "static", None),
        (DubOptions, "blend", None),
        (DubOptions, "blend", ["soft"]),
        (DubOptions, "blend", np.zeros((2, 2))),
        (DubOptions, "wav2lip_batch_size", 2.5),
        (DubOptions, "faces", {"detector": "hog"}),
        (DubOptions, "encode", None),
        (DubOptions, "encode", EncodeOptions),
        (DubOptions, "encode", GeneratorOptions()),
        (FaceOptions, "pads", 5),
        (FaceOptions, "pads", (1, 2)),
        (FaceOptions, "pads", (0, math.nan, 0, 0)),
        (FaceOptions, "pads", "0 10 0 0"),
        (FaceOptions, "box", (10, 100, 10)),
        (FaceOptions, "box", (10, 5, 0, 10)),
        (FaceOptions, "box", (5, 10, 10, 10)),
        (FaceOptions, "face_select", (10, 20)),
        (Geometry, "resize_factor", 1.5),
        (Geometry, "rotate", "no"),
        (Geometry, "crop", (0, -1)),
        (EncodeOptions, "crf", "18"),
        (EncodeOptions, "crf", 18.5),
        (EncodeOptions, "crf", True),
        (EncodeOptions, "preset", "warp"),
        (BatchOptions, "timeout", "60"),
        (BatchOptions, "devices", 0),
        (BatchOptions, "devices", (0,)),
        (BatchOptions, "checkpoint_path", None),
        (Job, "face", None),
        (Job, "dub", None),
        (ClipOptions, "several_people", "many"),
        (ClipOptions, "min_face_px", 4.5),
        (PreprocessOptions, "seed", "x"),
        (PreprocessOptions, "batch_size", math.nan),
        (PreprocessOptions, "clip", None),
        (DatasetOptions, "num_clips", "50"),
        (DatasetOptions, "filelists", 5),
        (TrainOptions, "steps", "2"),
        (TrainOptions, "steps", 2.5),
        (TrainOptions, "loss_scale", 1024),
        (TrainOptions, "amp", "fp8"),
        (SyncNetTrainOptions, "recipe", "best"),
        (SyncNetTrainOptions, "batch_size", None),
        (GeneratorOptions, "expert_bn", True),
        (GeneratorOptions, "sync_gate", math.nan),
        (GeneratorOptions, "sync_gate", math.inf),
        (GeneratorOptions, "sync_gate", -1),
        (GeneratorOptions, "disc_initial_learning_rate", math.nan),
        (GeneratorOptions, "disc_initial_learning_rate", -1),
        (GeneratorOptions, "disc_initial_learning_rate", 0.0),
        (Augmentation, "flip", "0.5"),
        (TrainPaths, "data_root", None),
        (TrainPaths, "weights_only", 1),
        (SyncNetSettings, "train", TrainOptions()),
        (GeneratorSettings, "generator", None),
        (ExportOptions, "network", "discriminator"),
        (ExportOptions, "batch", "8"),
        (ExportOptions, "size", 5),
    ],
)
def test_wrong_value_is_refused_by_name(options, name, value):
    with pytest.raises(UsageError) as error:
        options(**{**REQUIRED.get(options, {}), name: value})
    assert name in str(error.value)
    assert "Pass " in str(error.value)
    assert "\n" not in str(error.value)


def test_error_names_value_and_type():
    with pytest.raises(UsageError, match=r"--crf '18' is invalid\. Pass a whole number\."):
        with_values(DubOptions(), {"crf": "18"})
    with pytest.raises(UsageError, match=r"--pads \(1, 2\) is invalid\. Pass a tuple of 4 whole numbers\."):
        with_values(DubOptions(), {"pads": (1, 2)})
    with pytest.raises(UsageError, match=r"--mel_shift 'x' is invalid\. Pass a number or None\."):
        with_values(DubOptions(), {"mel_shift": "x"})
    with pytest.raises(UsageError, match=r"encode None is invalid\. Pass EncodeOptions\(\.\.\.\)\."):
        with_values(DubOptions(), {"encode": None})


@pytest.mark.parametrize("path", ["", "a\0b", "\ud800", None, b"v.mp4"])
def test_text_that_is_not_a_path(path, tmp_path, monkeypatch):
    """B10: a path that no file can have is refused with the name of the argument."""
    monkeypatch.chdir(tmp_path)
    for name in ("audio", "voice"):
        files = {"audio": "a.wav", "voice": "v.wav", name: path}
        if files["voice"] is not None:
            with pytest.raises(UsageError, match=name):
                wav2lip_npu.dub("f.mp4", files["audio"], "o.mp4", voice=files["voice"])
    with pytest.raises(UsageError, match="face"):
        wav2lip_npu.dub(path, "a.wav", "o.mp4")
    with pytest.raises(UsageError, match="faces"):
        wav2lip_npu.run_batch(faces=[path], audios=["a.wav"], outdir="out")
    with pytest.raises(UsageError, match="checkpoint_path"):
        wav2lip_npu.load_models(path)
    with pytest.raises(UsageError, match="checkpoint_path"):
        wav2lip_npu.export_onnx(path, "a.onnx")
    for name in ("data_root", "preprocessed_root"):
        with pytest.raises(UsageError, match=name):
            wav2lip_npu.preprocess(*({"data_root": "v", "preprocessed_root": "p", name: path}.values()))
    with pytest.raises(UsageError, match="data_root"):
        check_dataset(path)
    if isinstance(path, str):
        with pytest.raises(UsageError, match="job table"):
            wav2lip_npu.run_batch(path and f"{path}.csv")
    if path is not None:
        with pytest.raises(UsageError, match="voice"):
            Job(face="f.mp4", audio="a.wav", outfile="o.mp4", voice=path)
    assert not any(tmp_path.iterdir())


def test_lists_paths_and_numpy_numbers_become_plain_values():
    values = {
        "pads": [0, 10, 0, 0],
        "crop": (0, np.int64(10), 0, -1),
        "crf": np.int32(18),
        "fps": Fraction(30),
    }
    options = with_values(DubOptions(), values)
    assert options == with_values(DubOptions(), {"crop": (0, 10, 0, -1), "crf": 18, "fps": 30.0})
    assert hash(options.faces) == hash(FaceOptions())
    assert {type(number) for number in (*options.geometry.crop, options.encode.crf)} == {int}
    given = with_values(BatchOptions(), {"devices": ["cpu"], "report": Path("report.jsonl")})
    assert given == BatchOptions(devices=("cpu",), report="report.jsonl")


@given(
    name=st.sampled_from(NAMES_OF_DUB_OPTIONS),
    value=st.one_of(st.integers(), st.floats(), st.text(), st.booleans(), st.none()),
)
def test_any_value_is_accepted_or_refused_with_a_usage_error(name, value):
    try:
        hash(with_values(DubOptions(), {name: value}))
    except UsageError as error:
        assert name in str(error)


def test_options_of_nested_objects_are_accepted_by_name():
    """D: `DubOptions(resize_factor=2)`."""
    assert DubOptions(resize_factor=2) == DubOptions(geometry=Geometry(resize_factor=2))  # type: ignore[call-arg]
    assert Job(face="f", audio="a", outfile="o", crf=20, pads=(0, 1, 2, 3)).dub == DubOptions(
        encode=EncodeOptions(crf=20), faces=FaceOptions(pads=(0, 1, 2, 3))
    )
    both = BatchOptions(dub=DubOptions(crf=30), resize_factor=3, devices="cpu")
    assert (both.dub.encode.crf, both.dub.geometry.resize_factor, both.devices) == (30, 3, ("cpu",))


@pytest.mark.parametrize(
    "options", [DubOptions, BatchOptions, Geometry, TrainOptions, SyncNetTrainOptions, ClipOptions]
)
def test_unknown_option_is_a_usage_error(options):
    """D: the error names the option and is not a TypeError."""
    with pytest.raises(UsageError, match=f"{options.__name__} has no option 'colour_of_hair'"):
        options(colour_of_hair=1)


def test_unknown_option_suggests_a_similar_one():
    with pytest.raises(UsageError, match="resize_facter.*Did you mean resize_factor"):
        DubOptions(resize_facter=2)
    with pytest.raises(UsageError, match="--resize_factor 0"):
        DubOptions(resize_factor=0)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("fps", 1000),
        ("fps", 0),
        ("pads", (0, 10**9, 0, 0)),
        ("pads", (0, 0, -(10**9), 0)),
        ("box", (0, 10**9, 0, 10**9)),
        ("resize_factor", 10**9),
        ("min_face", 1e9),
        ("start", 1e300),
        ("duration", 1e300),
        ("duration", 0),
        ("audio_track", 10**30),
        ("face_det_batch_size", 10**9),
    ],
)
def test_numbers_have_limits(name, value):
    with pytest.raises(UsageError, match=f"--{name} .*out of range"):
        DubOptions(**{name: value})
