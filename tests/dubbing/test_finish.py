"""Sharpness and opacity of generated mouths."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch

from wav2lip_npu.dubbing.blend import load_mask
from wav2lip_npu.dubbing.finish import _DETAIL_BLUR, _WIDE_BLUR, MouthFinish, _Blur

MASK = load_mask("soft", 96)
INSIDE = torch.from_numpy(MASK.weights) > 0
LIPS = (slice(None), slice(None), slice(22, 34), slice(36, 60))


def faces(count: int = 2) -> torch.Tensor:
    """Return smooth images of many tones."""
    small = np.random.default_rng(0).uniform(0.3, 0.7, (count, 3, 4, 6)).astype(np.float32)
    rows, columns = MASK.weights.shape
    large = [[cv2.resize(c, (columns, rows), interpolation=cv2.INTER_CUBIC) for c in face] for face in small]
    return torch.from_numpy(np.array(large))


def finished(mouths: torch.Tensor, faces: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    both = MouthFinish(MASK, torch.device("cpu"))(mouths, faces)
    return both[:, :3], both[:, 3]


def test_equal_mouth_is_transparent():
    mouths, shown = finished(faces(), faces())
    torch.testing.assert_close(mouths, faces())
    assert shown.max() == 0


def test_colours_of_the_generator_are_kept():
    """C3: a wall or collar at the rim of the mask does not tint the mouth."""
    mouths, _ = finished(faces() + 0.1, faces())
    torch.testing.assert_close(mouths, faces() + 0.1)


def blurred(images: torch.Tensor, sigma: float) -> torch.Tensor:
    rows = [cv2.GaussianBlur(i.permute(1, 2, 0).numpy(), (0, 0), sigma) for i in images]
    return torch.from_numpy(np.array(rows)).permute(0, 3, 1, 2)


def detailed_faces() -> torch.Tensor:
    """Return images with edges: a nose above, lips below."""
    images = faces()
    images[..., 5:9, 40:44] = images[..., 5:9, 52:56] = 0.1
    images[..., 26:30, 36:60] = 0.2
    return blurred(images, 0.7)


def detail(images: torch.Tensor) -> torch.Tensor:
    return (images - blurred(images, 2))[LIPS].std()


@pytest.mark.parametrize("sigma", [1, 1.5, 2.5])
def test_blurred_mouth_is_sharpened(sigma):
    """C4: towards the detail of the filmed face."""
    filmed = detailed_faces()
    given = blurred(filmed, sigma)
    mouths, shown = finished(given, filmed)
    assert 1.3 < detail(mouths) / detail(given) < 2.6
    assert detail(mouths) < 1.1 * detail(filmed)
    assert shown[:, :12].max() < 0.15, "the nose stays as filmed"


def test_sharp_mouth_stays_as_generated():
    filmed = detailed_faces()
    given = filmed.flip(3)
    mouths, _ = finished(given, filmed)
    torch.testing.assert_close(mouths, given, atol=0.02, rtol=0)


def test_moved_mouth_is_opaque_and_skin_around_it_transparent():
    mouth = faces()
    mouth[LIPS] = 0.05
    _, shown = finished(mouth, faces())
    assert shown[LIPS[0], LIPS[2], LIPS[3]].min() > 0.95
    assert shown[:, :, :20].max() < 0.01 and shown[:, :, 76:].max() < 0.01
    assert (shown.diff(dim=1).abs().max() < 0.35) and (shown.diff(dim=2).abs().max() < 0.35), "no hard edge"


def test_smoother_skin_is_transparent():
    grain = torch.from_numpy(np.random.default_rng(0).normal(0, 0.03, faces().shape).astype(np.float32))
    _, shown = finished(faces(), faces() + grain)
    assert shown[..., INSIDE].mean() < 0.1


SKIN, WALL = torch.tensor([0.42, 0.5, 0.7]), torch.tensor([0.6, 0.5, 0.45])


def in_front_of(wall: torch.Tensor, edge: int, light: float = 1) -> torch.Tensor:
    """Return a face of plain skin, lit from the side, with a wall to the left of `edge`."""
    image = SKIN[:, None, None].expand(3, *MASK.weights.shape).clone()
    image[:, :, :edge] = wall[:, None, None]
    return (image * torch.linspace(light, 1, MASK.weights.shape[1]))[None]


@pytest.mark.parametrize("wall", [WALL, torch.zeros(3), torch.ones(3), torch.tensor([0.1, 0.3, 0.1])])
@pytest.mark.parametrize("light", [1, 0.5])
def test_background_next_to_the_face_is_kept(wall, light):
    """The network may generate a wrong wall."""
    filmed = in_front_of(wall, 20, light)
    mouth = filmed.clone()
    mouth[..., :20] = 0.5 * (filmed[..., :20] + SKIN[:, None, None])
    mouth[LIPS] = 0.05
    _, shown = finished(mouth, filmed)
    assert shown[:, :, :14].max() < 0.02
    assert shown[LIPS[0], LIPS[2], LIPS[3]].min() > 0.95
    assert shown.diff(dim=2).abs().max() < 0.35, "no hard edge"


def test_shaded_cheek_is_face():
    filmed = in_front_of(SKIN, 0, light=0.25)
    _, shown = finished(filmed + torch.linspace(-0.3, 0.3, 52)[:, None], filmed)
    _, plain = finished(
        filmed[..., -1:].expand_as(filmed) + torch.linspace(-0.3, 0.3, 52)[:, None],
        filmed[..., -1:].expand_as(filmed),
    )
    torch.testing.assert_close(shown, plain, atol=0.02, rtol=0)


def test_lips_are_never_background():
    """In the middle, where the mouth is, red, white and black do not count as background."""
    for colour in ([0.2, 0.2, 0.8], [0.9, 0.9, 0.9], [0.02, 0.02, 0.02]):
        filmed = in_front_of(SKIN, 0)
        filmed[LIPS] = torch.tensor(colour)[:, None, None]
        _, shown = finished(in_front_of(SKIN, 0), filmed)
        assert shown[LIPS[0], LIPS[2], LIPS[3]].min() > 0.95


def test_half_precision_is_computed_in_float32():
    exact = torch.cat([result.flatten() for result in finished(faces() + 0.2, faces())])
    halves = torch.cat([result.flatten() for result in finished((faces() + 0.2).half(), faces().half())])
    torch.testing.assert_close(halves, exact, atol=0.03, rtol=0)


@pytest.mark.parametrize("size", [96, 384])
@pytest.mark.parametrize("part", [_DETAIL_BLUR, _WIDE_BLUR])
def test_blur_has_no_subnormal_numbers(part, size):
    """A CPU takes a hundred times as long to multiply them."""
    image = torch.zeros(size // 2, size)
    image[size // 4, size // 2] = 1
    blurred = _Blur(image, part)(image)
    assert ((blurred == 0) | (blurred > torch.finfo(torch.float32).tiny)).all()
    assert blurred.sum().item() == pytest.approx(1, abs=1e-3)
