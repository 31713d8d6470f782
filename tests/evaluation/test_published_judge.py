"""LSE-D, LSE-C and offset, compared with a slow implementation that follows the published scripts."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import soundfile
import torch
from scipy.signal import medfilt

from support.devices import DEVICE
from support.networks import golden_weights
from wav2lip_npu.errors import CheckpointError
from wav2lip_npu.evaluation.face_crops import FaceCrops, crop, whole
from wav2lip_npu.evaluation.mfcc import mfcc
from wav2lip_npu.evaluation.published_judge import PublishedJudge, TrackScore, score_of
from wav2lip_npu.faces.tracker import TrackedFrame
from wav2lip_npu.media.audio_reader import measure_audio
from wav2lip_npu.media.video_reader import Frame
from wav2lip_npu.media.yuv_image import Colour, YuvImage
from wav2lip_npu.models.syncnet_v2 import SyncNetRunner, SyncNetV2

SHOT = 45
"""Frames of the track; three frames without a face precede it."""


def film() -> list[TrackedFrame]:
    """Return noisy frames with a box that moves, partly outside the frame."""
    random = np.random.default_rng(0)
    frames = []
    for index in range(SHOT + 3):
        image = cv2.resize(random.integers(0, 255, (12, 16, 3), np.uint8), (160, 120))
        box = np.array([20 + index, 5, 140 + index, 119], np.float32) + random.normal(0, 2, 4)
        yuv = YuvImage.from_image(image, Colour())
        box = box.astype(np.float32) if index >= 3 else None
        frames.append(TrackedFrame(Frame(index, yuv, index), box, False))
    return frames


def write_wav(path: Path, wav: np.ndarray) -> Path:
    soundfile.write(path, wav, 16_000, subtype="PCM_16")
    return path


@pytest.fixture(scope="module")
def frames():
    return film()


@pytest.fixture(scope="module")
def wav():
    return np.random.default_rng(1).normal(0, 0.1, 640 * (SHOT + 3) + 100).astype(np.float32)


def published_score(frames, wav, network, vshift=15) -> tuple[int, float, float, np.ndarray]:
    """Return offset, LSE-C, LSE-D and distances; all images and features are held, nothing is shared."""
    faces = [frame for frame in frames if frame.box is not None]
    boxes = np.array([frame.box for frame in faces], float)
    size = medfilt(np.maximum(boxes[:, 3] - boxes[:, 1], boxes[:, 2] - boxes[:, 0]) / 2, 13)
    down, across = (medfilt((boxes[:, i] + boxes[:, i + 2]) / 2, 13) for i in (1, 0))
    images = []
    for frame, half, y, x in zip(faces, size, down, across, strict=True):
        margin = int(half * 1.8)
        padded = np.pad(
            frame.frame.image, ((margin, margin), (margin, margin), (0, 0)), "constant", constant_values=110
        )
        y, x = y + margin, x + margin
        face = padded[int(y - half) : int(y + half * 1.8), int(x - half * 1.4) : int(x + half * 1.4)]
        images.append(cv2.resize(face, (224, 224)))
    film = torch.from_numpy(np.stack(images).transpose(3, 0, 1, 2).astype(float)).float()
    first = faces[0].frame.index
    samples = np.rint(wav[first * 640 : (first + len(faces)) * 640] * 32768).astype(np.int16)
    sound = torch.from_numpy(mfcc(samples).T).float()
    with torch.inference_mode():
        lips, voice = [], []
        for start in range(min(len(faces), len(samples) // 640) - 5):
            window = film[None, :, start : start + 5]
            lips.append(network.netfclip(network.netcnnlip(window).flatten(1)))
            window = sound[None, None, :, start * 4 : start * 4 + 20]
            voice.append(network.netfcaud(network.netcnnaud(window).flatten(1)))
        lips, voice = torch.cat(lips), torch.cat(voice)
        padded = torch.nn.functional.pad(voice, (0, 0, vshift, vshift))
        rows = [
            torch.nn.functional.pairwise_distance(
                lips[[i]].repeat(2 * vshift + 1, 1), padded[i : i + 2 * vshift + 1]
            )
            for i in range(len(lips))
        ]
    table = torch.stack(rows, 1)
    mean = table.mean(1)
    low, at = mean.min(0)
    confidence = medfilt((mean.median() - table[at]).numpy(), 9)
    return vshift - int(at), float(mean.median() - low), float(low), confidence


@pytest.mark.any_device
def test_score_is_that_of_the_published_scripts(tmp_path, frames, wav):
    network = golden_weights(SyncNetV2(2))
    path = write_wav(tmp_path / "a.wav", wav)
    read, _ = soundfile.read(path, dtype="float32")
    offset, lse_c, lse_d, confidences = published_score(frames, read, network)
    judge = PublishedJudge(SyncNetRunner(network, DEVICE), measure_audio(path), min_track=30)
    for frame in frames:
        judge.add(frame)
    (score,) = judge.finish()
    assert (score.offset, score.first, score.frames, score.windows) == (offset, 3, SHOT, SHOT - 5)
    assert score.lse_d == pytest.approx(lse_d, rel=1e-4)
    assert score.lse_c == pytest.approx(lse_c, rel=2e-3, abs=1e-3)
    np.testing.assert_allclose(score.confidences, confidences, atol=2e-3)


class CodeRunner:
    """Features of faces are their brightness, those of audio its energy: both follow the same code."""

    def faces(self, strip: torch.Tensor) -> torch.Tensor:
        values = (strip[:, 40:80, 90:130].float().mean(dim=(1, 2, 3))[:-4] - 60) / 60
        return torch.stack([values, values * 0], dim=1)

    def audio(self, windows: torch.Tensor) -> torch.Tensor:
        values = (windows[:, 0, 1:2].mean(dim=1) - 14.3) / 6  # log energy of the noise
        return torch.stack([values, values * 0], dim=1)


def coded(tmp_path: Path, late: int, count: int = 80) -> tuple[list[TrackedFrame], Path]:
    """Return frames whose brightness follows the log energy of the audio, which comes `late` frames later."""
    code = np.random.default_rng(2).uniform(0, 1, count + 40)
    times = np.arange(640 * count)
    noise = np.random.default_rng(3).normal(0, 1, len(times))
    levels = 0.002 * np.exp(3 * code[20 - late + times // 640])
    path = write_wav(tmp_path / f"{late}.wav", (noise * levels).astype(np.float32))
    frames = []
    for index in range(count):
        image = np.full((120, 160, 3), np.rint(60 + 60 * code[20 + index]), np.uint8)
        box = np.array([20, 10, 130, 120], np.float32)
        frames.append(TrackedFrame(Frame(index, YuvImage.from_image(image, Colour()), index), box, False))
    return frames, path


def judged(frames, path, **options) -> list[TrackScore]:
    judge = PublishedJudge(CodeRunner(), measure_audio(path), **options)  # type: ignore[arg-type]
    for frame in frames:
        judge.add(frame)
    return judge.finish()


@pytest.mark.parametrize("late", [0, 3, -4, 10, -10])
def test_shifting_the_sound_moves_the_offset(tmp_path, late):
    (score,) = judged(*coded(tmp_path, late), min_track=50)
    assert score.offset == -late
    assert score.lse_c > 0.1


def test_tracks_are_those_of_the_published_pipeline(tmp_path):
    """A track has more than 100 frames (LatentSync: 50) of one shot, and a face of more than 100 px."""
    frames, path = coded(tmp_path, 0, 160)
    assert [score.frames for score in judged(frames, path)] == [160]
    cut = [TrackedFrame(f.frame, f.box, f.frame.index == 101) for f in frames]
    assert [(s.first, s.frames) for s in judged(cut, path)] == [(0, 101)]
    assert [(s.first, s.frames) for s in judged(cut, path, crop="latentsync")] == [(0, 101), (101, 59)]
    gap = [TrackedFrame(f.frame, None if f.frame.index == 100 else f.box, False) for f in frames]
    assert not judged(gap, path)
    small = [TrackedFrame(f.frame, f.box * 0.8, False) for f in frames]
    assert not judged(small, path)


def test_whole_frames_need_no_face(tmp_path):
    frames, path = coded(tmp_path, 2)
    (score,) = judged([TrackedFrame(f.frame, None, False) for f in frames], path, crop="whole")
    assert score.offset == -2


def test_short_audio_has_no_score(tmp_path):
    frames, _ = coded(tmp_path, 0)
    path = write_wav(tmp_path / "short.wav", np.ones(3000, np.float32) / 2)
    assert not judged(frames, path, min_track=10)


def test_audio_that_ends_early_counts_as_missing(tmp_path):
    frames, path = coded(tmp_path, 0)
    wav, _ = soundfile.read(path, dtype="float32")
    (score,) = judged(frames, write_wav(tmp_path / "cut.wav", wav[: 640 * 60]), min_track=50)
    assert score.windows == 55 and score.offset == 0


def test_crop_of_a_constant_box():
    """The middle crop has the published geometry; those at the ends have smaller sides."""
    image = np.zeros((300, 400, 3), np.uint8)
    image[100:240, 130:270] = 255  # rows y - s to y + 1.8 s, columns x - 1.4 s to x + 1.4 s
    yuv = YuvImage.from_image(image, Colour())
    crops = FaceCrops()
    box = np.array([150, 100, 250, 200], np.float32)
    images = [image for _ in range(20) for image in crops.push(yuv, box)]
    assert len(images) == 14
    images += crops.flush()
    assert len(images) == 20
    assert all(np.abs(image.astype(int) - 255).mean() < 4 for image in images[6:14])
    assert crops.is_large is False  # 100 is not more than 100
    outside = crop(yuv, 50, 20, 20)
    assert (outside[:20, :20] == 110).all() and outside.shape == (224, 224, 3)
    assert whole(yuv).shape == (224, 224, 3)


def test_infinite_distances_are_an_error_and_not_a_score():
    table = np.ones((4, 31), np.float32)
    assert score_of(table, 0, 9).lse_d == 1
    table[2, 5] = np.nan
    with pytest.raises(CheckpointError, match="--syncnet"):
        score_of(table, 0, 9)
