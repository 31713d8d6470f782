"""Offset and confidence by the SyncNet of this package."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
import soundfile
import torch

from support.devices import DEVICE
from support.networks import golden_weights
from wav2lip_npu.evaluation.expert_judge import Expert, ExpertJudge, load_expert
from wav2lip_npu.faces.tracker import TrackedFrame
from wav2lip_npu.media.audio_reader import measure_audio, read_audio
from wav2lip_npu.media.video_reader import Frame
from wav2lip_npu.media.yuv_image import Colour, YuvImage
from wav2lip_npu.mel import log_mel, mel_window
from wav2lip_npu.models.inputs import syncnet_input_of_images
from wav2lip_npu.models.networks import SyncNet

BOX = np.array([0, 0, 96, 96], np.float32)


def noise(path, frames: int):
    soundfile.write(path, np.random.default_rng(0).normal(0, 0.1, frames * 640), 16_000)
    return measure_audio(path)


@pytest.mark.any_device
def test_score_is_that_of_single_windows(tmp_path):
    count = 52
    info = noise(tmp_path / "a.wav", count)
    network = golden_weights(SyncNet(width=2))
    random = np.random.default_rng(1)
    images = random.integers(0, 255, (count, 96, 96, 3), np.uint8)
    frames = [
        TrackedFrame(Frame(n, YuvImage.from_image(image, Colour()), n), BOX, False)
        for n, image in enumerate(images)
    ]
    mel = log_mel(read_audio(info))
    with torch.inference_mode():
        faces = [frame.frame.yuv.crop(BOX, 96)[48:] for frame in frames]
        windows = torch.from_numpy(np.stack([np.stack(faces[n : n + 5]) for n in range(count - 4)]))
        lips = network.encode_faces(syncnet_input_of_images(windows))
        starts = [n for n in range(count) if n * 16 // 5 + 16 <= mel.shape[1]]
        mels = np.stack([mel_window(mel, n, Fraction(25)) for n in starts])
        voice = network.encode_audio(torch.from_numpy(mels)[:, None])
    table = (voice @ lips.T).numpy()
    rows = [n for n in range(count - 4) if n >= 15 and n + 15 < len(starts)]
    mean = np.array([[table[n + k, n] for k in range(-15, 16)] for n in rows]).mean(axis=0)
    judge = ExpertJudge(Expert(network.to(DEVICE), DEVICE, "tiny"), info)
    for frame in frames:
        judge.add(frame)
    score = judge.finish()
    assert score is not None and score.windows == len(rows)
    assert score.offset == 15 - int(mean.argmax())
    assert score.confidence == pytest.approx(mean.max() - np.median(mean), abs=1e-4)
    assert score.cosine == pytest.approx(mean[15], abs=1e-4)
    assert score.frames == list(range(count - 4)) and len(score.cosines) == count - 4


class CodeExpert:
    """Embeds faces by their brightness, and the audio of frame n by the brightness of face n - `late`."""

    def __init__(self, codes: np.ndarray, late: int) -> None:
        self._codes, self._late = codes, late

    def faces(self, mouths):
        return _unit(np.array([window[0].mean() / 255 for window in mouths]))

    def audio(self, info):
        numbers = np.arange(int(info.duration * 25)) + 40 - self._late
        yield _unit(self._codes[numbers] / 255)


def _unit(codes) -> torch.Tensor:
    angles = torch.from_numpy(np.asarray(codes)) * np.pi / 2
    return torch.stack([angles.cos(), angles.sin()], dim=1).float()


def judged(tmp_path, late=0, count=80, gap=None):
    codes = np.random.default_rng(3).integers(0, 255, count + 80)
    judge = ExpertJudge(CodeExpert(codes, late), noise(tmp_path / "a.wav", count))  # type: ignore[arg-type]
    for number in range(count):
        image = np.full((96, 96, 3), codes[40 + number], np.uint8)
        box = None if number == gap else BOX
        judge.add(TrackedFrame(Frame(number, YuvImage.from_image(image, Colour()), number), box, False))
    return judge.finish()


@pytest.mark.parametrize("late", [0, 3, -4, 10])
def test_shifting_the_sound_moves_the_offset(tmp_path, late):
    score = judged(tmp_path, late)
    assert score is not None and score.offset == -late
    assert score.confidence > 0.05


def test_windows_do_not_cross_frames_without_a_face(tmp_path):
    score = judged(tmp_path, gap=40)
    assert score is not None
    assert not {36, 37, 38, 39, 40} & set(score.frames)
    assert {35, 41} <= set(score.frames)


def test_too_few_windows_have_no_score(tmp_path):
    assert judged(tmp_path, count=40) is None


def test_audio_shorter_than_a_window_has_no_score(tmp_path):
    expert = load_expert()
    judge = ExpertJudge(expert, noise(tmp_path / "a.wav", 4))
    for number in range(20):
        yuv = YuvImage.from_image(np.zeros((96, 96, 3), np.uint8), Colour())
        judge.add(TrackedFrame(Frame(number, yuv, number), BOX, False))
    assert judge.finish() is None
    assert load_expert() is expert
