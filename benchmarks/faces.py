"""Accuracy and cost of face tracking: python benchmarks/faces.py [folder of real clips]

A photo is panned, zoomed, shaken and turned along a known path, so that the true box of each frame is known.
"raw" is the detector alone on each frame, "tracked" is `find_faces`.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import av
import cv2
import numpy as np
from skimage import data

from wav2lip_npu.faces.detection import Detection, Detector, search_frames
from wav2lip_npu.faces.detectors import HogDetector
from wav2lip_npu.faces.find_faces import FaceOptions, find_faces, rank
from wav2lip_npu.faces.tracker import TrackedFrame
from wav2lip_npu.media.video_reader import Frame
from wav2lip_npu.media.yuv_image import Box, Colour, Image, YuvImage

SIZE = (640, 360)
PATHS: dict[str, Callable[[float], tuple[float, float, float, float]]] = {
    # seconds -> x, y of the face in the frame (px), zoom, turn (degrees)
    "still": lambda t: (320, 180, 1.5, 0),
    "slow pan": lambda t: (260 + 24 * t, 180 + 4 * t, 1.5, 0),
    "fast pan, 18 px per frame": lambda t: (320 + 190 * np.sin(2.4 * t), 190, 1.5, 0),
    "zoom 1 to 1.5": lambda t: (320, 180, 1.2 * 1.5 ** (t / 5), 0),
    "zoom back and forth": lambda t: (320 + 60 * np.sin(t), 190, 1.5 * 1.2 ** np.sin(2.5 * t), 0),
    "turn 8 degrees": lambda t: (320 + 40 * np.sin(2 * t), 185, 1.5, 8 * np.sin(3 * t)),
    "shake": lambda t: (
        320 + 8 * np.sin(23 * t) + 5 * np.sin(31 * t + 1),
        180 + 8 * np.cos(27 * t),
        1.5,
        1.5 * np.sin(19 * t),
    ),
}


class Counting:
    """A detector that counts its calls."""

    def __init__(self, detector: Detector) -> None:
        self._detector, self.calls = detector, 0
        self.short_side, self.face_side, self.views = detector.short_side, detector.face_side, detector.views

    def __call__(self, images: Sequence[Image]) -> list[list[Detection]]:
        """See `Detector`."""
        self.calls += 1
        return self._detector(images)


def moving_photo(
    photo: Image, face: Box, path: Callable[[float], tuple[float, float, float, float]], num_frames: int = 125
) -> Iterator[tuple[Frame, Box]]:
    """Yield frames at 25 fps, with a little noise, and the true box of the photo's `face` in each."""
    rng = np.random.default_rng(0)
    half_width, half_height = (face[2:] - face[:2]) / 2
    middle_x, middle_y = (face[2:] + face[:2]) / 2
    for i in range(num_frames):
        x, y, zoom, turn = path(i / 25)
        matrix = cv2.getRotationMatrix2D((float(middle_x) - 0.5, float(middle_y) - 0.5), turn, zoom)
        matrix[:, 2] += (x - middle_x, y - middle_y)
        image = cv2.warpAffine(photo, matrix, SIZE, flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT_101)
        noisy = np.clip(image + rng.normal(0, 3, image.shape), 0, 255).astype(np.uint8)
        true = np.array(
            [x - zoom * half_width, y - zoom * half_height, x + zoom * half_width, y + zoom * half_height]
        )
        yield Frame(i, YuvImage.from_image(noisy, Colour()), i), true.astype(np.float32)


def measure_photo(photo: Image, detector: Detector) -> Box:
    """Return the detector's box of the photo's face, averaged over scales and positions."""
    planes = YuvImage.from_image(photo, Colour())
    guess = max(search_frames([planes], detector)[0], key=lambda detection: detection.score).box
    side = float(guess[3] - guess[1])
    boxes = []
    rng = np.random.default_rng(0)
    for view in range(96):
        half = 0.9 * side * 1.2 ** (view / 96 - 0.5)
        middle = (guess[:2] + guess[2:]) / 2 + rng.uniform(-0.045, 0.045, 2) * side
        crop = np.concatenate([middle - half, middle + half]).astype(np.float32)
        size = round(1.8 * detector.face_side)
        for detection in detector([planes.crop(crop, size)])[0][:1]:
            boxes.append(detection.box * (2 * half / size) + np.concatenate([crop[:2], crop[:2]]))
    return np.mean(boxes, axis=0).astype(np.float32)


def error(box: Box | None, true: Box) -> float:
    """Return the largest error of centre x, centre y, width and height in % of the height, NaN for no box."""
    if box is None:
        return float("nan")
    difference = box - true
    parts = [*(difference[:2] + difference[2:]) / 2, *(difference[2:] - difference[:2])]
    return float(100 * np.max(np.abs(parts)) / (true[3] - true[1]))


def read(path: Path) -> Iterator[Frame]:
    """Yield the frames of a video with even sides."""
    with av.open(str(path)) as container:
        for i, frame in enumerate(container.decode(video=0)):
            height = frame.height
            planes = frame.reformat(format="yuv420p").to_ndarray()
            half = (height // 2, frame.width // 2)
            u, v = planes[height:].reshape(2, *half)
            yield Frame(i, YuvImage(planes[:height], u, v, Colour()), i)


def timed(frames: Sequence[Frame], detector: Counting) -> tuple[list[TrackedFrame], float]:
    """Return the tracked frames and the CPU milliseconds per frame."""
    start = time.process_time()
    faced = list(find_faces(iter(frames), detector, FaceOptions(detector="hog", pads=(0, 0, 0, 0))))
    return faced, 1000 * (time.process_time() - start) / len(frames)


def main(folder: Path) -> None:
    """Print the tables of known paths and of real clips."""
    cv2.setNumThreads(1)
    options = FaceOptions(detector="hog", pads=(0, 0, 0, 0))
    photo = np.ascontiguousarray(data.astronaut()[:, :, ::-1])
    hog = HogDetector()
    face = measure_photo(photo, hog)
    print(
        f"{'known path, 640 x 360':26} {'raw mean':>9} {'max':>6} {'tracked':>9} {'max':>6}"
        f" {'lost':>5} {'ms':>5} calls/100"
    )
    for name, path in PATHS.items():
        frames, true = zip(*moving_photo(photo, face, path), strict=True)
        raw = []
        for frame, box in zip(frames[::5], true[::5], strict=True):
            best = rank(search_frames([frame.yuv], hog)[0], options, *SIZE)[:1]
            raw.append(error(best[0].box if best else None, box))
        counting = Counting(hog)
        faced, cost = timed(frames, counting)
        errors = [error(tracked.box, box) for tracked, box in zip(faced, true, strict=True)]
        lost = int(np.isnan(errors).sum())
        print(
            f"{name:26} {np.nanmean(raw):8.2f}% {np.nanmax(raw):5.1f}%"
            f" {np.nanmean(errors):8.2f}% {np.nanmax(errors):5.1f}%"
            f" {lost:5} {cost:5.1f} {100 * counting.calls / len(frames):6.0f}"
        )
    real = [
        *sorted((folder / "grid" / "s1").glob("*.mp4"))[:6],
        folder / "clips" / "woman_seated_1080x1920.mp4",
    ]
    if not all(path.exists() for path in real):
        print(f"no real clips in {folder}")
        return
    print(
        f"\n{'real clip':26} {'size std':>9} {'range':>6} {'centre std x':>12} {'y':>6}"
        f" {'lost':>5} {'ms':>5} calls/100"
    )
    for path in real:
        frames = list(read(path))
        counting = Counting(hog)
        faced, cost = timed(frames, counting)
        boxes = np.array([tracked.box for tracked in faced if tracked.box is not None])
        heights, centres = boxes[:, 3] - boxes[:, 1], (boxes[:, :2] + boxes[:, 2:]) / 2
        unit = 100 / heights.mean()
        x, y = centres.std(axis=0) * unit
        print(
            f"{path.stem:26} {heights.std() * unit:8.2f}% {np.ptp(heights) * unit:5.2f}% {x:11.2f}% {y:5.2f}%"
            f" {len(frames) - len(boxes):5} {cost:5.1f} {100 * counting.calls / len(frames):6.0f}"
        )


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parents[2] / "shared" / "data")
