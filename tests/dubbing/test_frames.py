"""Dubbing frames in memory: the same mouths as in a video file, and every other pixel as given."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest

from support.faces import face_frames
from wav2lip_npu import UsageError, dub, dub_frames
from wav2lip_npu.dubbing.inference import Models
from wav2lip_npu.errors import FaceError
from wav2lip_npu.media.video_reader import read_frames

QUICK = {"occlusion": "off", "rest": "off"}


def rgb_frames(count: int = 20) -> list[np.ndarray]:
    """Return frames with an odd width and colours that YUV 4:2:0 cannot keep."""
    noise = np.random.default_rng(0).integers(0, 11, (240, 319, 3))
    return [
        np.clip(yuv.to_image()[:, :319, ::-1] + noise, 0, 255).astype(np.uint8)
        for yuv in itertools.islice(face_frames(count), count)
    ]


@pytest.mark.any_device
def test_pixels_outside_the_mask_are_those_given(models: Models, speech: Path) -> None:
    frames, progress = rgb_frames(), []
    dubbed = list(
        dub_frames(frames, speech, models=models, progress=lambda *counts: progress.append(counts), **QUICK)
    )
    assert [frame.index for frame in dubbed] == list(range(15)) and progress[-1] == (15, 15)
    for frame in dubbed:
        image = frames[frame.source]
        assert frame.image.shape == image.shape and frame.image.dtype == np.uint8
        assert frame.mask.shape == image.shape[:2] and 0.9 < frame.mask.max() <= 1 and frame.mask.min() == 0
        outside = frame.mask == 0
        assert outside.mean() > 0.5
        assert (frame.image[outside] == image[outside]).all()
        assert np.abs(frame.image[~outside] - image[~outside].astype(int)).mean() > 5


def test_mouths_are_those_of_a_video_file(
    models: Models, speech: Path, face_video: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out.mp4"
    dub(face_video, speech, out, models=models, crf=0, preset="ultrafast", extend="pingpong", **QUICK)
    given = [frame.image[:, :, ::-1] for frame in itertools.islice(read_frames(face_video), 8)]
    dubbed = list(dub_frames(given, speech, models=models, extend="pingpong", **QUICK))
    assert [frame.source for frame in dubbed[:11]] == [0, 1, 2, 3, 4, 5, 6, 7, 6, 5, 4]
    for frame, expected in zip(dubbed[:6], read_frames(out), strict=False):
        difference = frame.image[:, :, ::-1].astype(int) - expected.image
        assert np.abs(difference).mean() < 1 and np.percentile(np.abs(difference), 99) <= 8


def test_one_frame_is_a_photo_and_the_iterator_can_be_left(models: Models, speech: Path) -> None:
    photo = rgb_frames(1)
    frames = dub_frames(photo, speech, fps=30, models=models, **QUICK)
    assert next(frames).source == 0
    frames.close()
    assert len(list(dub_frames(np.stack(photo), speech, fps=30, models=models, **QUICK))) == 18


def test_frames_without_a_face_and_skipped_ones_stay_as_they_are(models: Models, speech: Path) -> None:
    frames = rgb_frames(10)
    dubbed = list(dub_frames(frames, speech, models=models, skip="0-0.2", blend="hard"))
    assert not dubbed[0].mask.any() and (dubbed[0].image == frames[0]).all()
    assert dubbed[-1].mask.max() == 1
    grey = [np.full((240, 320, 3), 128, np.uint8)] * 10
    with pytest.raises(FaceError, match="the frames"):
        list(dub_frames(grey, speech, models=models))


@pytest.mark.parametrize(
    ("frames", "options", "named"),
    [
        ([], {}, "frames"),
        ([np.zeros((8, 8), np.uint8)], {}, r"frame 0 .*\[8, 8\].*RGB"),
        ([np.zeros((8, 8, 3), np.float32)], {}, "frame 0 .*float32"),
        ([np.zeros((8, 8, 3), np.uint8)], {"crf": 20}, "encode"),
        ([np.zeros((8, 8, 3), np.uint8)], {"resize_factor": 2}, "geometry"),
        ([np.zeros((8, 8, 3), np.uint8)], {"fps": 0}, "--fps 0"),
    ],
)
def test_wrong_frames_and_options_are_named(frames, options, named, speech: Path) -> None:
    with pytest.raises(UsageError, match=named):
        dub_frames(frames, speech, **options)


def test_a_frame_of_another_size_is_named(models: Models, speech: Path) -> None:
    frames = [*rgb_frames(3), np.zeros((100, 100, 3), np.uint8)]
    with pytest.raises(UsageError, match=r"frame 3 .*100.*240, 319"):
        list(dub_frames(frames, speech, models=models, **QUICK))
