"""Figures without weights: identity, extremes, and comparison with other implementations."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from skimage.color import rgb2lab
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from support.frame_pairs import BOX, POINTS, texture, tracked
from support.media_files import chirp, numbered, write_frames
from wav2lip_npu.data.clip_layout import FACE_SIZE
from wav2lip_npu.dubbing.blend import load_mask, paste
from wav2lip_npu.evaluation.frame_pair import FramePair
from wav2lip_npu.evaluation.listed_frames import ListedFrames
from wav2lip_npu.evaluation.mouth_motion import MouthMeasure
from wav2lip_npu.evaluation.picture import LIPS, PictureMeasure, colour_error, psnr, squared_error, ssim
from wav2lip_npu.evaluation.skin import SkinMeasure
from wav2lip_npu.evaluation.timing import measure_timing
from wav2lip_npu.evaluation.track_figures import TrackMeasure
from wav2lip_npu.faces.tracker import TrackedFrame
from wav2lip_npu.media.video_reader import Frame
from wav2lip_npu.media.yuv_image import Colour, YuvImage


def with_mouth(level: int, image: np.ndarray | None = None) -> np.ndarray:
    """Return an image whose mouth has a brightness."""
    image = texture() if image is None else image.copy()
    image[98:112, 66:96] = level
    return image


def figures(measure, generated, truth=None, silent=None):
    """Return the figures of a measure of lists of images."""
    for index, image in enumerate(generated):
        original = None if truth is None else tracked(truth[index], index)
        quiet = None if silent is None else YuvImage.from_image(silent[index], Colour())
        measure.add(FramePair(index, tracked(image, index), original, quiet))
    return measure.figures()


def test_ssim_is_that_of_scikit_image():
    a, b = texture(0, (96, 96)), texture(0, (96, 96))
    b[50:70] = texture(1, (96, 20))
    options = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, "data_range": 255}
    assert ssim(a, b) == pytest.approx(structural_similarity(a, b, channel_axis=2, **options), abs=1e-6)
    assert ssim(a, a) == pytest.approx(1)


def test_psnr_is_that_of_scikit_image():
    a, b = texture(0), texture(1)
    assert psnr(squared_error(a, b)) == pytest.approx(peak_signal_noise_ratio(a, b))
    assert psnr(squared_error(np.zeros_like(a), np.full_like(a, 255))) == pytest.approx(0)


def test_colour_error_is_the_distance_in_lab():
    a, b = np.full((96, 96, 3), (90, 110, 150), np.uint8), np.full((96, 96, 3), (120, 110, 140), np.uint8)
    labs = [rgb2lab(image[0, 0, ::-1]) for image in (a, b)]
    assert colour_error(a, b, LIPS) == pytest.approx(np.linalg.norm(labs[0] - labs[1]), rel=1e-2)


def test_same_video_is_perfect():
    images = [with_mouth(60 + 20 * (n % 5)) for n in range(12)]
    picture = figures(PictureMeasure(), images, images)
    assert picture["psnr_face"].generated == picture["psnr_mouth"].generated == float("inf")
    assert picture["ssim_face"].generated == pytest.approx(1)
    assert picture["colour_error"].generated == 0
    skin = figures(SkinMeasure(), images, images)
    assert skin["outside_psnr"].generated == float("inf")
    assert skin["outside_changed"].generated == skin["seam"].generated == 0
    assert skin["flicker"].generated == skin["flicker"].truth
    track = figures(TrackMeasure(), images, images)
    assert track["lmd"].generated == track["lmd_mouth"].generated == 0
    assert track["jitter"].generated == track["jitter"].truth == 0
    mouth = figures(MouthMeasure(), images, images, images)
    assert mouth["motion"].generated == mouth["motion"].truth > 1
    assert mouth["leak"].generated == pytest.approx(1) and mouth["own"].generated == 0


def test_silence_that_stills_the_mouth_has_no_leak():
    images = [with_mouth(60 + 20 * (n % 5)) for n in range(12)]
    mouth = figures(MouthMeasure(), images, images, [with_mouth(100)] * 12)
    assert mouth["leak"].generated == pytest.approx(0)
    assert mouth["own"].generated == pytest.approx(1)


def test_motion_in_pauses():
    images = [with_mouth(60 + 10 * (n % 2 if n < 20 else 0)) for n in range(40)]
    still_pauses = figures(MouthMeasure(lambda index: index >= 20), images)
    assert still_pauses["pause_motion"].generated < 0.1
    moving_pauses = figures(MouthMeasure(lambda index: index % 4 < 2), images)
    assert moving_pauses["pause_motion"].generated == pytest.approx(1, abs=0.2)


def test_sharpness_falls_with_blur():
    sharp = [texture(2)] * 3
    blurred = [cv2.GaussianBlur(image, (0, 0), 4) for image in sharp]
    found = figures(MouthMeasure(), blurred, sharp)["sharpness"]
    assert found.generated < 0.5 * found.truth


@pytest.mark.parametrize("blend", ["soft", "hard"])
def test_only_a_hard_paste_has_a_seam(blend):
    image = texture()
    mask = load_mask(blend, FACE_SIZE)
    yuv = YuvImage.from_image(image, Colour())
    mouth = np.clip(yuv.crop(BOX, FACE_SIZE).astype(int) + 40, 0, 255).astype(np.uint8)[mask.top_row :]
    pasted = TrackedFrame(Frame(0, paste(yuv, mouth, BOX, mask), 0), BOX, False, POINTS)
    measure = SkinMeasure()
    measure.add(FramePair(0, pasted, tracked(image)))
    found = measure.figures()
    assert found["outside_psnr"].generated == float("inf")
    assert (found["seam"].generated > 20) == (blend == "hard")


def test_changes_outside_the_face_are_found():
    changed = texture()
    changed[0:10, 0:16] = 255 - changed[0:10, 0:16]
    found = figures(SkinMeasure(), [changed], [texture()])
    assert 0 < found["outside_changed"].generated < 0.02
    assert found["outside_psnr"].generated < 40


def test_flicker_of_skin_is_found():
    images = [texture() + np.uint8(3 * (n % 2)) for n in range(6)]
    found = figures(SkinMeasure(), images, [texture()] * 6)["flicker"]
    assert found.truth == 0 and found.generated == pytest.approx(3, abs=0.5)


def test_jitter_of_a_box_and_distance_of_landmarks():
    measure, image = TrackMeasure(), texture()
    for index in range(20):
        box = BOX + np.float32(index % 2)
        points = POINTS.copy()
        points[3:] += [[-2, 0], [2, 0]]
        measure.add(FramePair(index, tracked(image, index, box, points), tracked(image, index)))
    found = measure.figures()
    assert found["jitter"].truth == 0
    assert found["jitter"].generated == pytest.approx(100 * 2 * 2**0.5 / 100, rel=0.01)
    assert found["lmd"].generated == pytest.approx(2 * 2 / 5 * 2.56)
    assert found["lmd_mouth"].generated == pytest.approx(2 * 2.56)


def test_videos_of_different_sizes_are_not_compared():
    pair = FramePair(0, tracked(texture()), tracked(texture(0, (200, 200))))
    for measure in (PictureMeasure(), MouthMeasure(), SkinMeasure(), TrackMeasure()):
        measure.add(pair)
        assert not measure.figures().keys() & {"psnr_face", "motion", "seam", "outside_psnr", "lmd"}


def test_listed_frames():
    truth = [with_mouth(60)] * 60
    generated = [with_mouth(200) if n < 30 else with_mouth(60) for n in range(60)]
    right = figures(ListedFrames([(1.2, 2.4)]), generated, truth)
    assert right["listed_but_changed"].generated == right["unlisted_but_filmed"].generated == 0
    wrong = figures(ListedFrames([(0, 0.8)]), generated, truth)
    assert wrong["listed_but_changed"].generated > 0.2
    assert wrong["unlisted_but_filmed"].generated > 0.45


@pytest.mark.parametrize(("seconds", "start"), [(2.5, 0.0), (1.5, 0.0), (2.0, 0.32)])
def test_timing(tmp_path, seconds, start):
    images = (numbered(n) for n in range(50))
    path = write_frames(
        tmp_path / "a.mkv", images, audio=chirp(seconds), audio_start=start, audio_codec="flac"
    )
    timing = measure_timing(path)
    assert timing.video_s == pytest.approx(2, abs=0.05)
    assert timing.start_s == pytest.approx(start, abs=0.05)
    assert timing.tail_s == pytest.approx(start + seconds - 2, abs=0.1)
