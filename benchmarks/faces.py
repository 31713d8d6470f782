"""Accuracy and cost of face detection and tracking: python benchmarks/faces.py [FOLDER] [--detectors hog ...]

Known paths: a photo is panned, zoomed, shaken and turned along a known path, so that the true box of each
frame is known; it is the mean of the detector's own boxes on 384 crops of the photo, whose positions
fill one cell of the detector's grid. "raw" is the detector
alone on each frame, "tracked" is `find_faces`. Clips: all videos of FOLDER; files whose name contains
"no_face" are known to have none. Milliseconds are CPU time of one thread, without decoding.
"""

from __future__ import annotations

import argparse
import itertools
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np
import torch
from dub import processor
from numpy.typing import NDArray
from skimage import data

from wav2lip_npu.errors import FaceError
from wav2lip_npu.faces.detection import Detection, Detector, search_frames
from wav2lip_npu.faces.detectors import load_detector
from wav2lip_npu.faces.find_faces import FaceOptions, find_faces, rank
from wav2lip_npu.media.container import probe
from wav2lip_npu.media.video_reader import Frame, read_frames
from wav2lip_npu.media.yuv_image import Box, Colour, Image, YuvImage

ROOT = Path(__file__).parents[1]
sys.path.append(str(ROOT / "tests"))

from support.moving_photo import SIZE, moving_photo  # noqa: E402
from support.title_film import title_frames  # noqa: E402

NO_PADS = FaceOptions(pads=(0, 0, 0, 0))
VIDEOS = (".avi", ".mkv", ".mov", ".mp4", ".mpg")
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


class Timed:
    """A detector that measures the CPU time of its thread: decoders have threads of their own."""

    def __init__(self, detector: Detector) -> None:
        self._detector, self.seconds, self.name = detector, 0.0, detector.name
        self.short_side, self.face_side = detector.short_side, detector.face_side
        self.views, self.cell = detector.views, detector.cell

    def __call__(self, images: Sequence[Image]) -> list[list[Detection]]:
        """See `Detector`."""
        start = time.thread_time()
        detections = self._detector(images)
        self.seconds += time.thread_time() - start
        return detections


class Tracked:
    """The faces of a video, without its frames, and CPU milliseconds per frame."""

    def __init__(self, frames: Iterable[Frame], detector: Detector) -> None:
        timed, self._decoding = Timed(detector), 0.0
        start = time.thread_time()
        self.boxes: list[Box | None] = []
        self.landmarks: list[NDArray[np.float32] | None] = []
        self.cuts: list[bool] = []
        for item in find_faces(self._decoded(frames), timed, NO_PADS):
            self.boxes.append(item.box)
            self.landmarks.append(item.landmarks)
            self.cuts.append(item.cut)
        count = max(1, len(self.boxes))
        self.total_ms = 1000 * (time.thread_time() - start - self._decoding) / count
        self.network_ms = 1000 * timed.seconds / count
        self.recall = 100 * sum(box is not None for box in self.boxes) / count

    def _decoded(self, frames: Iterable[Frame]) -> Iterator[Frame]:
        iterator = iter(frames)
        while True:
            start = time.thread_time()
            frame = next(iterator, None)
            self._decoding += time.thread_time() - start
            if frame is None:
                return
            yield frame

    def jitter(self) -> tuple[float, float]:
        """Return the high-frequency standard deviation of boxes and of landmarks, in % of the height.

        Second differences over sqrt(6): the standard deviation of noise that is independent in each frame.
        """
        boxes, points = [], []
        for i in range(1, len(self.boxes) - 1):
            three = [box for box in self.boxes[i - 1 : i + 2] if box is not None]
            if len(three) < 3 or any(self.cuts[i : i + 2]):
                continue
            height = float(three[1][3] - three[1][1])
            sides = np.array([[*(box[:2] + box[2:]) / 2, *(box[2:] - box[:2])] for box in three])
            boxes.append((sides[0] - 2 * sides[1] + sides[2]) / height)
            marks = [landmarks for landmarks in self.landmarks[i - 1 : i + 2] if landmarks is not None]
            if len(marks) == 3:
                points.append((marks[0] - 2 * marks[1] + marks[2]).ravel() / height)
        return _noise(boxes), _noise(points)


def _noise(second_differences: Sequence[NDArray[np.float32]]) -> float:
    """Return the mean over coordinates of a robust standard deviation in percent."""
    if not second_differences:
        return float("nan")
    spread = 1.4826 * np.median(np.abs(second_differences), axis=0) / np.sqrt(6)
    return 100 * float(spread.mean())


def measure_photo(photo: Image, detector: Detector) -> Box:
    """Return the detector's box of the photo's face, averaged over its steps of size and its cells."""
    planes = YuvImage.from_image(photo, Colour())
    box = max(search_frames([planes], detector)[0], key=lambda detection: detection.score).box
    rng = np.random.default_rng(0)
    size = round(1.7 * detector.face_side)
    for _ in range(3):  # the first box is that of one scale and one position
        side, boxes = float(max(box[2:] - box[:2])), []
        for zoom in 1.2 ** (np.arange(384) / 384 - 0.5):
            half = 0.85 * side * zoom
            shift = rng.uniform(-0.5, 0.5, 2) * detector.cell / detector.face_side * side
            middle = (box[:2] + box[2:]) / 2 + shift
            crop = np.concatenate([middle - half, middle + half]).astype(np.float32)
            faces = detector([planes.crop(crop, size)])[0]
            boxes += [detection.from_crop(crop, size).box for detection in faces[:1]]
        box = np.mean(boxes, axis=0).astype(np.float32)
    return box


def errors(box: Box | None, true: Box) -> NDArray[np.float32]:
    """Return the errors of centre x, centre y, width and height in % of the height, NaN for no box."""
    difference = np.full(4, np.nan, np.float32) if box is None else box - true
    parts = [(difference[:2] + difference[2:]) / 2, difference[2:] - difference[:2]]
    return np.asarray(100 * np.concatenate(parts) / (true[3] - true[1]), np.float32)


def lag(boxes: Sequence[Box | None], true: Sequence[Box]) -> float:
    """Return by how many frames the horizontal position follows the true one; NaN without motion."""
    x = np.array([(box[0] + box[2]) / 2 for box in true])
    late = x - [np.nan if box is None else (box[0] + box[2]) / 2 for box in boxes]
    velocity, known = np.gradient(x), ~np.isnan(late)
    return float(np.polyfit(velocity[known], late[known], 1)[0]) if np.ptp(velocity) > 1 else float("nan")


def known_paths(detector: Detector) -> None:
    """Print the table of known paths."""
    photo = np.ascontiguousarray(data.astronaut()[:, :, ::-1])
    face = measure_photo(photo, detector)
    print(
        f"\n| {detector.name}: path of a photo | raw error, mean / max | tracked error, mean / max "
        "| mean offset of x, y, width, height | lag in frames | jitter | lost | ms |"
        "\n|---|---|---|---|---|---|---|---|"
    )
    for name, path in PATHS.items():
        frames, true = moving_photo(photo, face, lambda i, path=path: path(i / 25), 125)  # type: ignore[misc]
        raw = []
        for frame, box in zip(frames[::5], true[::5], strict=True):
            best = rank(search_frames([frame.yuv], detector)[0], NO_PADS, *SIZE)[:1]
            raw.append(errors(best[0].box if best else None, box))
        tracked = Tracked(frames, detector)
        parts = np.array([errors(*pair) for pair in zip(tracked.boxes, true, strict=True)])
        lost = int(np.isnan(parts).any(axis=1).sum())
        print(
            f"| {name} | {_mean_and_max(raw, 1)} | {_mean_and_max(parts, 2)} "
            f"| {', '.join(f'{value:+.2f}' for value in np.nanmean(parts, axis=0))} % "
            f"| {lag(tracked.boxes, true):.2f} "
            f"| {tracked.jitter()[0]:.3f} % | {lost} | {tracked.total_ms:.1f} |",
            flush=True,
        )


def _mean_and_max(parts: Sequence[NDArray[np.float32]] | NDArray[np.float32], digits: int) -> str:
    """Return mean and maximum over frames of the largest of the errors [N, 4]."""
    largest = np.abs(parts).max(axis=1)
    return f"{np.nanmean(largest):.{digits}f} / {np.nanmax(largest):.1f} %"


def clips(folder: Path, detectors: Sequence[Detector], limit: int) -> None:
    """Print the table of real clips, and that of films without a face."""
    sources: dict[str, Callable[[], Iterator[Frame]]] = {
        path.stem: lambda path=path: itertools.islice(read_frames(probe(path)), limit)  # type: ignore[misc]
        for path in sorted(folder.iterdir())
        if path.suffix in VIDEOS
    }
    sources["moving titles (no_face)"] = lambda: title_frames(360)
    print(
        "\n| clip | detector | frames with a face | jitter of boxes | jitter of landmarks "
        "| ms per frame | of which network |\n|---|---|---|---|---|---|---|"
    )
    rows: dict[str, list[tuple[float, ...]]] = {}
    for name, source in sources.items():
        for detector in detectors:
            tracked = Tracked(source(), detector)
            row = (tracked.recall, *tracked.jitter(), tracked.total_ms, tracked.network_ms)
            if "no_face" not in name:
                rows.setdefault(detector.name, []).append(row)
            _print_row(name, detector.name, row)
    for detector_name, values in rows.items():
        _print_row("mean of the clips with a face", detector_name, np.mean(values, axis=0))


def _print_row(clip: str, detector: str, row: Iterable[float]) -> None:
    recall, boxes, points, total, network = row
    print(
        f"| {clip} | {detector} | {recall:.1f} % | {boxes:.3f} % | {points:.3f} % "
        f"| {total:.1f} | {network:.1f} |",
        flush=True,
    )


def main() -> None:
    """Print all tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", nargs="?", type=Path, default=ROOT.parent / "shared" / "data" / "clips")
    parser.add_argument("--detectors", nargs="+", default=["hog", "retinaface", "s3fd"])
    parser.add_argument("--limit", type=int, default=300, help="frames per clip")
    parser.add_argument("--no-paths", action="store_true", help="measure the clips only")
    options = parser.parse_args()
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    print(f"one thread of {processor()}")
    detectors = []
    for name in options.detectors:
        try:
            detectors.append(load_detector(name))
        except FaceError as reason:
            print(f"{name} is left out: {reason}")
    for detector in detectors:
        if not options.no_paths:
            known_paths(detector)
    if options.folder.is_dir():
        clips(options.folder, detectors, options.limit)
    else:
        print(f"no clips in {options.folder}")


if __name__ == "__main__":
    main()
