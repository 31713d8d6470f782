"""Face tracking on synthetic scenes, on a photo moved along a known path, and on real clips."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage import data

from support.marks import slow
from support.moving_photo import moving_photo
from wav2lip_npu.errors import FaceError, UsageError
from wav2lip_npu.faces import tracker
from wav2lip_npu.faces.detection import Detection, overlap
from wav2lip_npu.faces.detectors import HogDetector
from wav2lip_npu.faces.find_faces import FaceOptions, find_faces, padded
from wav2lip_npu.faces.track import MAX_GAP
from wav2lip_npu.faces.tracker import TrackedFrame
from wav2lip_npu.media.video_reader import Frame
from wav2lip_npu.media.yuv_image import Box, Colour, Image, YuvImage

CLIPS = Path(__file__).parents[3] / "shared" / "data"
NO_PADS = FaceOptions(pads=(0, 0, 0, 0))
WIDTH, HEIGHT = 320, 180
Head = tuple[float, float, float, bool]
"""centre x, centre y, side, whether the detector sees it"""


def texture(seed: int, shape: tuple[int, int]) -> Image:
    noise = np.random.default_rng(seed).normal(0, 1, shape).astype(np.float32)
    smooth = cv2.GaussianBlur(noise, (0, 0), 2.5)
    return np.clip(128 + 45 * smooth / smooth.std(), 16, 235).astype(np.uint8)


HEAD = texture(1, (128, 128))


def scene(heads: Sequence[Head], background: int = 2, view: float = 0.0) -> YuvImage:
    """Draw textured squares on a textured wall, which `view` pans by pixels. Visible heads are red."""
    wall = texture(background, (HEIGHT, 3 * WIDTH))
    y = cv2.warpAffine(wall, np.array([[1, 0, -WIDTH - view], [0, 1, 0]]), (WIDTH, HEIGHT))
    v = np.full((HEIGHT, WIDTH), 128, np.uint8)
    for number, (centre_x, centre_y, side, seen) in enumerate(heads):
        zoom = side / 128
        matrix = np.array([[zoom, 0, centre_x - 64 * zoom], [0, zoom, centre_y - 64 * zoom]])
        matrix[:, 2] += 0.5 * zoom - 0.5
        skin = np.roll(HEAD, 40 * number, axis=0)
        inside = cv2.warpAffine(np.full_like(HEAD, 255), matrix, (WIDTH, HEIGHT)) > 127
        y[inside] = cv2.warpAffine(skin, matrix, (WIDTH, HEIGHT), borderMode=cv2.BORDER_REPLICATE)[inside]
        if seen:
            v[inside] = 200
    small = cv2.resize(v, (WIDTH // 2, HEIGHT // 2), interpolation=cv2.INTER_AREA)
    return YuvImage(y, np.full_like(small, 128), small, Colour())


def video(shots: Sequence[YuvImage]) -> list[Frame]:
    return [Frame(i, planes, i) for i, planes in enumerate(shots)]


class RedDetector:
    """Detects red squares; with `coarse`, boxes have the steps of a pyramid: 1.2 in size, 8 px in position."""

    short_side, face_side = 180, 96

    def __init__(self, coarse: bool = False) -> None:
        self.coarse, self.views, self.cell = coarse, 6 if coarse else 1, 10
        self.calls: list[int] = []

    def __call__(self, images: Sequence[Image]) -> list[list[Detection]]:
        self.calls.append(len(images))
        return [self._detect(image) for image in images]

    def _detect(self, image: Image) -> list[Detection]:
        red = (image[:, :, 2].astype(int) - image[:, :, 1] > 50).astype(np.uint8)
        _, _, stats, _ = cv2.connectedComponentsWithStats(red)
        found = []
        for left, top, width, height, area in stats[1:]:
            if area < 100:
                continue
            x, y, side = left + width / 2, top + height / 2, (width * height) ** 0.5
            if self.coarse:
                side = 1.2 ** round(np.log(side) / np.log(1.2))
                x, y = (8 * round(edge / 8) for edge in (x, y))
            box = np.array([x - side / 2, y - side / 2, x + side / 2, y + side / 2], np.float32)
            found.append(Detection(box, 0.9))
        return found


def follow(
    frames: Sequence[Frame], detector: RedDetector | HogDetector | None = None, options: FaceOptions = NO_PADS
) -> list[TrackedFrame]:
    tracked = list(find_faces(iter(frames), detector or RedDetector(), options))
    assert [item.frame.index for item in tracked] == [frame.index for frame in frames]
    return tracked


def errors(tracked: Sequence[TrackedFrame], heads: Sequence[Head]) -> np.ndarray:
    """Return the errors [N, 3] of x, y and side of the boxes, in % of the side; NaN without a box."""
    rows = []
    for item, (x, y, side, _) in zip(tracked, heads, strict=True):
        x1, y1, x2, y2 = item.box if item.box is not None else [np.nan] * 4
        rows.append([(x1 + x2) / 2 - x, (y1 + y2) / 2 - y, ((x2 - x1) * (y2 - y1)) ** 0.5 - side])
        rows[-1] = [100 * part / side for part in rows[-1]]
    return np.array(rows)


PATHS: dict[str, Callable[[int], Head]] = {
    "pan that speeds up": lambda i: (60 + 0.08 * i**2, 90, 70, True),
    "swing": lambda i: (160 + 80 * np.sin(i / 5), 90 + 10 * np.cos(i / 4), 70, True),
    "zoom": lambda i: (160, 90, 60 * 1.5 ** (i / 50), True),
    "shake": lambda i: (160 + 6 * np.sin(1.9 * i), 90 + 6 * np.sin(2.3 * i), 70, True),
}


@pytest.mark.parametrize("name", PATHS)
def test_moving_head_is_tracked_without_lag(name: str) -> None:
    heads = [PATHS[name](i) for i in range(50)]
    off = errors(follow(video([scene([head]) for head in heads]), RedDetector(coarse=True)), heads)
    assert np.abs(off).mean() < 1.5 and np.abs(off).max() < 4
    # The error of a lagging box would grow with the velocity.
    velocity = np.gradient([head[0] for head in heads])
    if np.ptp(velocity) > 1:
        assert abs(np.polyfit(velocity, off[:, 0], 1)[0]) < 0.15


def test_box_of_a_still_head_is_still() -> None:
    rng = np.random.default_rng(0)
    frames = []
    for i in range(80):
        planes = scene([(150.3, 88.7, 71, True)])
        noisy = np.clip(planes.y + rng.normal(0, 3, planes.y.shape), 0, 255).astype(np.uint8)
        frames.append(Frame(i, YuvImage(noisy, planes.u, planes.v, Colour()), i))
    boxes = np.array([item.box for item in follow(frames, RedDetector(coarse=True))])
    assert np.ptp(boxes[:, 2] - boxes[:, 0]) < 0.01 * 71
    assert np.ptp(boxes, axis=0).max() < 0.01 * 71


def test_no_smoothing_across_a_cut() -> None:
    before, after = (90.0, 80.0, 60.0, True), (220.0, 100.0, 90.0, True)
    heads = [before] * 30 + [after] * 30
    shots = [scene([before], background=2)] * 30 + [scene([after], background=3)] * 30
    tracked = follow(video(shots), RedDetector(coarse=True))
    assert [i for i, item in enumerate(tracked) if item.cut] == [30]
    assert np.abs(errors(tracked, heads)).max() < 4


def test_fast_pan_is_not_a_cut() -> None:
    shots = [scene([(160, 90, 70, True)], view=200 * np.sin(i / 6)) for i in range(40)]
    assert not any(item.cut for item in follow(video(shots)))
    empty = [scene([], view=200 * np.sin(i / 6)) for i in range(40)]
    assert not any(item.cut for item in follow(video(empty)))


def test_cut_without_faces_is_detected() -> None:
    tracked = follow(video([scene([], background=2)] * 5 + [scene([], background=3)] * 5))
    assert [item.cut for item in tracked] == [i == 5 for i in range(10)]


def _blind(first: int, last: int, count: int) -> list[YuvImage]:
    """Return a moving head that the detector does not see from `first` to before `last`."""
    return [scene([(100 + i, 90, 70, not first <= i < last)]) for i in range(count)]


def test_short_gap_is_bridged() -> None:
    tracked = follow(video(_blind(20, 32, 60)))
    heads = [(100.0 + i, 90.0, 70.0, True) for i in range(60)]
    assert np.abs(errors(tracked, heads)).max() < 3


def test_long_gap_has_no_box() -> None:
    boxes = [item.box is not None for item in follow(video(_blind(30, 110, 140)))]
    assert all(boxes[:30]) and not any(boxes[45:95]) and all(boxes[125:])


def test_face_is_tracked_backwards() -> None:
    tracked = follow(video(_blind(0, 6, 30)))
    assert all(item.box is not None for item in tracked)
    assert np.abs(errors(tracked, [(100.0 + i, 90.0, 70.0, True) for i in range(30)])).max() < 3


def test_box_ends_with_the_face() -> None:
    shots = [scene([(160, 90, 70, True)])] * 30 + [scene([])] * 40
    boxes = [item.box is not None for item in follow(video(shots))]
    assert all(boxes[:30]) and not any(boxes[30 + MAX_GAP :])


def test_missed_detections_leave_no_gap() -> None:
    class Careless(RedDetector):
        def __call__(self, images: Sequence[Image]) -> list[list[Detection]]:
            found = super().__call__(images)
            return found if len(self.calls) % 3 else [[] for _ in images]

    heads = [(120 + i, 90.0, 70.0, True) for i in range(60)]
    tracked = follow(video([scene([head]) for head in heads]), Careless(coarse=True))
    assert np.abs(errors(tracked, heads)).max() < 4


# Two people: one is selected and then kept.
LEFT, RIGHT = (80.0, 90.0, 60.0, True), (230.0, 90.0, 72.0, True)


@pytest.mark.parametrize(
    ("rule", "x"),
    [
        ("largest", 230),
        ("left", 80),
        ("right", 230),
        ("center", 230),
        ("80,90", 80),
        ("231.5,80", 230),
        ("0,0", 80),
    ],
)
def test_face_select(rule: str, x: float) -> None:
    tracked = follow(
        video([scene([LEFT, RIGHT])] * 12), options=FaceOptions(face_select=rule, pads=(0, 0, 0, 0))
    )
    assert all(abs((item.box[0] + item.box[2]) / 2 - x) < 3 for item in tracked if item.box is not None)
    assert all(item.box is not None for item in tracked)


def test_box_stays_with_one_person() -> None:
    def heads(i: int) -> list[Head]:
        grown = (LEFT[0], LEFT[1], LEFT[2] + min(i, 40), True)  # later the larger of the two
        return [grown, (RIGHT[0], RIGHT[1], RIGHT[2], not 40 <= i < 80)]

    tracked = follow(video([scene(heads(i)) for i in range(100)]))
    centres = [(item.box[0] + item.box[2]) / 2 for item in tracked if item.box is not None]
    assert len(centres) > 60 and min(centres) > 200
    assert tracked[-1].box is not None


def test_face_is_selected_again_after_a_cut() -> None:
    shots = [scene([LEFT, RIGHT], background=2)] * 15
    shots += [scene([(80, 90, 80, True), (230, 90, 50, True)], background=3)] * 15
    tracked = follow(video(shots))
    x = [(item.box[0] + item.box[2]) / 2 for item in tracked if item.box is not None]
    assert len(x) == 30 and min(x[:15]) > 220 and max(x[15:]) < 90


# Repeated sources.
def test_loop_is_detected_once() -> None:
    shots = [scene([(100 + 2 * i, 90, 70, True)]) for i in range(20)]
    order = [*range(20), *range(20), *range(7)]
    once, again = RedDetector(), RedDetector()
    alone = follow(video(shots), once)
    looped = follow([Frame(i, shots[source], source) for i, source in enumerate(order)], again)
    assert again.calls == once.calls
    for item in looped:
        np.testing.assert_array_equal(item.box, alone[item.frame.source].box)
    assert [i for i, item in enumerate(looped) if item.cut] == [20, 40]


def test_pingpong_turns_without_a_cut() -> None:
    shots = [scene([LEFT], background=2)] * 6 + [scene([RIGHT], background=3)] * 6
    order = [*range(12), *range(10, -1, -1), *range(1, 12)]
    tracked = follow([Frame(i, shots[source], source) for i, source in enumerate(order)])
    cuts = [(order[i - 1], order[i]) for i, item in enumerate(tracked) if item.cut]
    assert cuts == [(5, 6), (6, 5), (5, 6)]
    assert all(item.box is not None for item in tracked)


def test_still_image_is_detected_once() -> None:
    planes, detector = scene([(150, 90, 70, True)]), RedDetector(coarse=True)
    tracked = follow([Frame(i, planes, 0) for i in range(50)], detector)
    assert sum(detector.calls) == 1 + 3 * (detector.views + 1)
    assert not any(item.cut for item in tracked)
    assert np.abs(errors(tracked, [(150.0, 90.0, 70.0, True)] * 50)).max() < 3


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(0, 4), max_size=20))
def test_each_source_has_one_box_in_any_order(order: list[int]) -> None:
    shots = [scene([(60 + 40 * i, 90, 60, True)]) for i in range(5)]
    seen: dict[int, Box | None] = {}
    for item in follow([Frame(i, shots[source], source) for i, source in enumerate(order)]):
        first = seen.setdefault(item.frame.source, item.box)
        np.testing.assert_array_equal(first, item.box)


# Options.
def test_pads_are_clipped_to_the_frame() -> None:
    frames = video([scene([(60, 90, 70, True)])] * 3)
    plain = follow(frames)[0].box
    padded = follow(frames, options=FaceOptions(pads=(5, 200, 60, 8)))[0].box
    assert plain is not None and padded is not None
    np.testing.assert_allclose(padded, [0, plain[1] - 5, plain[2] + 8, HEIGHT], atol=0.01)


@pytest.mark.parametrize(
    ("box", "expected"),
    [
        ([40, 80, 140, 190], [40, 80, 140, 190]),  # without a chin
        ([40, 90, 140, 210], None),  # without a mouth
        ([-40, 20, 80, 160], [-40, 20, 80, 170]),
        ([-70, 20, 50, 160], None),
        ([-50, -60, 370, 200], [-50, -60, 370, 200]),  # larger than the frame
    ],
)
def test_face_partly_outside_the_frame_is_not_squeezed(
    box: list[float], expected: list[float] | None
) -> None:
    """B2: a box clipped to the frame smears eyes and nose."""
    result = padded(np.float32(box), FaceOptions(), scene([]))
    assert (result is None) == (expected is None)
    if expected is not None:
        np.testing.assert_array_equal(result, np.float32(expected))


def test_constant_box_is_used_unchanged() -> None:
    detector = RedDetector()
    options = FaceOptions(box=(20, 120, 30, 110), pads=(9, 9, 9, 9))
    tracked = follow(
        video([scene([LEFT], background=2)] * 3 + [scene([LEFT], background=3)] * 3), detector, options
    )
    for item in tracked:
        np.testing.assert_array_equal(item.box, np.array([30, 20, 110, 120], np.float32))
    assert [item.cut for item in tracked] == [False, False, False, True, False, False]
    assert not detector.calls


@pytest.mark.parametrize("box", [(0, 181, 0, 90), (0, 90, -5, 90)])
def test_constant_box_outside_the_frame_is_an_error(box: tuple[int, int, int, int]) -> None:
    named = rf"--box {' '.join(map(str, box))} is empty or outside the frame of 320x180"
    with pytest.raises(FaceError, match=named):
        follow(video([scene([])]), options=FaceOptions(box=box))


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("detector", "haar"),
        ("face_select", "tallest"),
        ("face_select", "3,nan"),
        ("no_face", "skip"),
        ("face_det_batch_size", 0),
    ],
)
def test_invalid_option_is_named(option: str, value: Any) -> None:
    with pytest.raises(UsageError, match=f"--{option} {value!r}"):
        FaceOptions(**{option: value})


@pytest.mark.parametrize("box", [(50, 50, 10, 90), (90, 20, 10, 90), (0, -1, 0, 50), (10, 90, 50, 50)])
def test_empty_constant_box_is_refused(box: tuple[int, int, int, int]) -> None:
    with pytest.raises(UsageError, match=f"--box {' '.join(map(str, box))} is empty"):
        FaceOptions(box=box)


def test_nosmooth_yields_detected_boxes_in_batches() -> None:
    heads = [(100 + 3.3 * i, 90, 70, i != 4) for i in range(10)]
    detector = RedDetector(coarse=True)
    options = FaceOptions(nosmooth=True, face_det_batch_size=4, pads=(0, 0, 0, 0))
    shots = [scene([head]) for head in heads]
    tracked = follow(video(shots), detector, options)
    assert detector.calls == [4, 4, 2]
    for item, planes in zip(tracked, shots, strict=True):
        raw = detector([planes.to_image()])[0]
        if raw:
            np.testing.assert_allclose(item.box, raw[0].box, atol=1e-3)
        else:
            assert item.box is None


# The stream.
class Source:
    """Counts the items taken, and records that it is closed."""

    def __init__(self, frames: Sequence[Frame]) -> None:
        self.taken, self.closed, self.frames = 0, False, frames

    def __iter__(self) -> Iterator[Frame]:
        return self

    def __next__(self) -> Frame:
        if self.taken == len(self.frames):
            raise StopIteration
        self.taken += 1
        return self.frames[self.taken - 1]

    def close(self) -> None:
        self.closed = True


def test_look_ahead_is_bounded_in_frames() -> None:
    source = Source(video([scene([LEFT])] * 60))
    stream = find_faces(source, RedDetector(), NO_PADS)
    assert source.taken == 0
    for number, _ in enumerate(stream, start=1):
        assert source.taken <= number + tracker.LOOK_AHEAD


def test_look_ahead_is_bounded_in_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    frames = video([scene([LEFT])] * 30)
    monkeypatch.setattr(tracker, "LOOK_AHEAD_BYTES", 5.5 * frames[0].yuv.nbytes)
    source = Source(frames)
    for number, item in enumerate(find_faces(source, RedDetector(), NO_PADS), start=1):
        assert source.taken <= number + 5
        assert item.box is not None
    monkeypatch.setattr(tracker, "LOOK_AHEAD_BYTES", 1)
    assert all(item.box is not None for item in follow(frames))


def test_close_closes_the_source() -> None:
    source = Source(video([scene([LEFT])] * 60))
    stream = find_faces(source, RedDetector(), NO_PADS)
    next(stream)
    stream.close()  # type: ignore[attr-defined]
    assert source.closed


def test_two_runs_are_identical() -> None:
    frames = video([scene([(100 + 2.3 * i, 90, 70, True)]) for i in range(40)])
    for one, other in zip(follow(frames, RedDetector(True)), follow(frames, RedDetector(True)), strict=True):
        np.testing.assert_array_equal(one.box, other.box)


@pytest.mark.parametrize("options", [NO_PADS, FaceOptions(nosmooth=True)])
@pytest.mark.parametrize(("height", "width"), [(0, 0), (2, 2), (16, 16), (16, 2000), (90, 160), (4320, 7680)])
def test_frames_without_pixels_pass(options: FaceOptions, height: int, width: int) -> None:
    half = np.full((height // 2, width // 2), 128, np.uint8)
    planes = YuvImage(np.zeros((height, width), np.uint8), half, half, Colour())
    detector = HogDetector() if height < 4320 else RedDetector()
    tracked = follow(video([planes] * 3), detector, options)
    assert all(item.box is None and not item.cut for item in tracked)


def test_change_of_size_is_a_cut() -> None:
    small = scene([LEFT])
    large = YuvImage.from_image(small.scaled(640, 360), Colour())
    tracked = follow(video([small] * 5 + [large] * 5))
    assert [i for i, item in enumerate(tracked) if item.cut] == [5]
    assert all(item.box is not None for item in tracked)


unit = st.floats(-50, 400, width=32)


@given(
    unit,
    unit,
    st.floats(1, 300, width=32),
    st.floats(1, 300, width=32),
    st.tuples(*[st.integers(-30, 60)] * 4),
)
def test_mouth_of_a_padded_box_is_inside_the_frame(
    x: float, y: float, width: float, height: float, pads: tuple[int, int, int, int]
) -> None:
    box = np.array([x, y, x + width, y + height], np.float32)
    finished = padded(box, FaceOptions(pads=pads), scene([]))
    if finished is not None:
        assert finished.dtype == np.float32
        visible = np.clip(finished, 0, [WIDTH, HEIGHT, WIDTH, HEIGHT])
        assert visible[2] - visible[0] >= 4 and visible[3] - visible[1] >= 4
        mouth = finished[:2] + np.float32([0.5, 0.85]) * (finished[2:] - finished[:2])
        assert (mouth >= 0).all() and (mouth <= [WIDTH, HEIGHT]).all()
    assert 0 <= overlap(box, box + np.float32(3)) <= 1
    assert overlap(box, box) == pytest.approx(1)


# With dlib's detector, on a photo moved along a known path.
PHOTO = np.ascontiguousarray(data.astronaut()[:, :, ::-1])
PHOTO_FACE = np.array([173.6, 61.2, 275.9, 177.4], np.float32)
"""The mean of the detector over 96 crops, see benchmarks/faces.py"""


@pytest.mark.parametrize(
    "path",
    [
        lambda i: (320 + 190 * np.sin(i / 10), 190, 1.5, 0),
        slow(lambda i: (320, 180, 1.2 * 1.5 ** (i / 45), 0), id="zoom"),
        lambda i: (320 + 5 * np.sin(1.1 * i), 180 + 5 * np.cos(0.9 * i), 1.5, 6 * np.sin(i / 9)),
    ],
    ids=["fast pan", None, "shake and turn"],
)
def test_photo_is_tracked_along_a_known_path(
    path: Callable[[int], tuple[float, float, float, float]],
) -> None:
    frames, true = moving_photo(PHOTO, PHOTO_FACE, path, 45)
    boxes = np.array([item.box for item in follow(frames, HogDetector())])
    side = np.array(true)[:, 3] - np.array(true)[:, 1]
    error = np.abs(boxes - np.array(true)).max(axis=1) / side
    assert error.mean() < 0.02 and error.max() < 0.035


# Real clips.
def clip(name: str, *, first: int = 0, count: int = 10_000) -> list[Frame]:
    path = CLIPS / name
    if not path.exists():
        pytest.skip(f"needs the real clip {path}")
    frames = []
    with av.open(str(path)) as container:
        for i, frame in enumerate(container.decode(video=0)):
            if i >= first + count:
                break
            if i < first:
                continue
            planes = frame.reformat(format="yuv420p").to_ndarray()
            u, v = planes[frame.height :].reshape(2, frame.height // 2, frame.width // 2)
            frames.append(Frame(i, YuvImage(planes[: frame.height], u, v, Colour()), i))
    return frames


@pytest.mark.parametrize("name", ["bbaf4p", slow("bbal6n"), slow("bbal7s")])
def test_real_clips_of_a_still_head(name: str) -> None:
    boxes = np.array([item.box for item in follow(clip(f"grid/s1/{name}.mp4"), HogDetector())])
    height = boxes[:, 3] - boxes[:, 1]
    assert np.ptp(height) < 0.02 * height.mean()  # OpenCV 5: 0.7 %, OpenCV 4: 1.7 %
    centre = (boxes[:, :2] + boxes[:, 2:]) / 2
    assert centre.std(axis=0).max() < 0.01 * height.mean()


def test_real_clip_with_cuts_and_a_side_face() -> None:
    tracked = follow(clip("clips/cuts_side_faces_2997.mp4", count=95), HogDetector())
    assert [item.frame.index for item in tracked if item.cut] == [20, 82]
    assert [item.box is not None for item in tracked] == [not 20 <= i < 82 for i in range(95)]


def test_real_clip_of_two_people() -> None:
    frames = clip("clips/two_faces_ac3.avi", count=40)
    for rule, low, high in (("left", 0, 640), ("right", 640, 1280)):
        tracked = follow(frames, HogDetector(), FaceOptions(face_select=rule))
        boxes = [item.box for item in tracked if item.box is not None]
        assert len(boxes) == 40 and all(low <= box[0] and box[2] <= high for box in boxes)


def test_real_clip_without_faces() -> None:
    assert all(item.box is None for item in follow(clip("clips/no_face.mp4", count=100), HogDetector()))
