"""Measure the detection of what is in front of a mouth: python benchmarks/occlusion.py CLIPS OUT

Over each face moves a hand, cut from man_30fps_1080x1920.mp4 where it is before a white shirt, and a bar;
their true masks are known. "over" is the share of their pixels in the mouth mask that are painted over,
"IoU" that of the masks; "kept" is the share of the mouth mask that stays as filmed in the clip without an
occluder, and "frames" that of frames which stay as filmed. Prints a table, and writes figures and contact
sheets.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from tracked_clips import Clip, clips, sheet

from wav2lip_npu.data.clip_layout import FACE_SIZE
from wav2lip_npu.dubbing.blend import load_mask
from wav2lip_npu.dubbing.occlusion import Front, LearnedOcclusion, load_network
from wav2lip_npu.faces.detectors import load_detector
from wav2lip_npu.media.container import probed
from wav2lip_npu.media.video_reader import read_frames
from wav2lip_npu.media.yuv_image import Image

Array = NDArray[Any]
MASK = load_mask("soft", FACE_SIZE)
WEIGHTS = np.pad(MASK.weights, ((MASK.top_row, 0), (0, 0)))
HANDS = {50: (1060, 1280, 330, 605), 75: (1160, 1350, 340, 610), 0: (1060, 1310, 330, 680)}
"""Frames of the clip, and rows and columns of a hand in them."""
Path2 = Callable[[float], tuple[float, float]]
PATHS: dict[str, Path2] = {
    "from the side": lambda t: (1.4 - 0.9 * min(1, 2 * t), 0.85),
    "from below": lambda t: (0.5, 1.5 - 0.75 * np.sin(np.pi * t)),
    "across": lambda t: (-0.3 + 1.6 * t, 0.8),
    "at the chin": lambda t: (0.55, 1.02 + 0.03 * np.sin(9 * t)),
}
"""Centre of the occluder in the box, by time in [0, 1]."""


def cut_hands(path: Path) -> list[Array]:
    """Return hands as float32 [H, W, 4]: BGR and opacity."""
    hands = []
    for number, frame in zip(range(max(HANDS) + 1), read_frames(probed(path)), strict=False):
        if number in HANDS:
            top, bottom, left, right = HANDS[number]
            crop = frame.yuv.to_image()[top:bottom, left:right].astype(np.float32)
            red = cv2.GaussianBlur(crop[..., 2] - crop[..., 0], (0, 0), 1.2)
            hands.append(np.dstack([crop, np.clip((red - 22) / 22, 0, 1)]))
    return hands


def bar(random: np.random.Generator) -> Array:
    """Return a dark or light bar, float32 [40, 400, 4]."""
    shade = random.choice([25, 60, 200]) * (1 - 0.4 * np.linspace(-1, 1, 40) ** 2)
    colour = shade[:, None, None] * (1 + random.normal(0, 0.1, 3))
    image = np.broadcast_to(colour, (40, 400, 3)) + random.normal(0, 4, (40, 400, 3))
    return np.dstack([image, np.ones((40, 400))]).astype(np.float32)


def covered(
    faces: Sequence[Image], occluder: Array, path: Path2, width: float, turn: float, start: int
) -> Iterator[tuple[Image, Array]]:
    """Yield the faces with the occluder in front, from frame `start` on, and its true opacity [96, 96]."""
    height, columns = occluder.shape[:2]
    scale = width * FACE_SIZE / columns
    for number, face in enumerate(faces):
        if number < start:
            yield face, np.zeros(face.shape[:2], np.float32)
            continue
        x, y = path((number - start) / max(1, len(faces) - start))
        warp = cv2.getRotationMatrix2D((columns / 2, height / 2), turn, scale)
        warp[:, 2] += np.array([x, y]) * FACE_SIZE - np.array([columns, height]) / 2
        premultiplied = np.dstack([occluder[..., :3] * occluder[..., 3:], occluder[..., 3]])
        small = (
            cv2.GaussianBlur(premultiplied, (0, 0), max(0.01, 0.4 / scale)) if scale < 1 else premultiplied
        )
        placed = cv2.warpAffine(small, warp, (FACE_SIZE, FACE_SIZE), flags=cv2.INTER_LINEAR)
        alpha = placed[..., 3:]
        yield (face * (1 - alpha) + placed[..., :3]).round().clip(0, 255).astype(np.uint8), alpha[..., 0]


def look(finder: LearnedOcclusion, faces: Iterable[Image]) -> Iterator[Front]:
    """Yield what is in front of each face; a mouth is hidden only if it is in the last frame, too."""
    was_hidden = False
    for face in faces:
        front = finder.look(face)
        yield Front(front.weights, hides_mouth=front.hides_mouth and was_hidden)
        was_hidden = front.hides_mouth


def figures(pairs: Sequence[tuple[Front, Array]]) -> dict[str, float]:
    """Return the figures of one clip with an occluder."""
    both = either = over = total = wrong = free = hidden = 0.0
    for front, truth in pairs:
        if truth[WEIGHTS > 0.5].max() < 0.5:
            continue
        shown = np.zeros_like(truth) if front.weights is None else front.weights
        a, b = shown > 0.5, truth > 0.5
        inside = WEIGHTS > 0.5
        hidden += front.hides_mouth
        both += (a & b & inside).sum()
        either += ((a | b) & inside).sum()
        painted = 0 if front.hides_mouth else ((1 - shown) * WEIGHTS)[b & inside].sum()
        over += painted
        total += (b & inside).sum()
        wrong += (a & ~b & inside).sum()
        free += (~b & inside).sum()
    count = max(1, sum(truth[WEIGHTS > 0.5].max() >= 0.5 for _, truth in pairs))
    return {
        "IoU": both / max(1, either),
        "over": over / max(1, total),
        "wrong": wrong / max(1, free),
        "hidden": hidden / count,
    }


def measure(clip: Clip, hands: Sequence[Array], network: Any, out: Path, number: int) -> dict[str, Any]:
    """Return the figures of a clip, and write its sheet."""
    random = np.random.default_rng(number)
    start = time.process_time()
    fronts = list(look(LearnedOcclusion(network), clip.faces))
    milliseconds = 1000 * (time.process_time() - start) / len(fronts)
    kept = [
        0.0 if front.weights is None else float((front.weights * WEIGHTS).sum() / WEIGHTS.sum())
        for front in fronts
    ]
    result: dict[str, Any] = {
        "kept": float(np.mean(kept)),
        "frames": float(np.mean([front.hides_mouth for front in fronts])),
        "ms": milliseconds,
    }
    shown = range(0, len(clip.faces), max(1, len(clip.faces) // 10))
    rows = [[_marked(clip.faces[i], fronts[i]) for i in shown]]
    for name, path in PATHS.items():
        for kind in ("hand", "bar"):
            occluder = hands[random.integers(len(hands))] if kind == "hand" else bar(random)
            width = random.uniform(0.8, 1.3) if kind == "hand" else random.uniform(1, 2)
            turn = random.uniform(-60, 60) + (90 if name == "from below" else 0)
            scene = list(covered(clip.faces, occluder, path, width, turn, 0 if name == "at the chin" else 15))
            fronts_of_scene = look(LearnedOcclusion(network), (face for face, _ in scene))
            pairs = list(zip(fronts_of_scene, (truth for _, truth in scene), strict=True))
            result[f"{kind} {name}"] = figures(pairs)
            rows.append([_marked(scene[i][0], pairs[i][0]) for i in shown])
    sheet(rows, out / f"occlusion {clip.name}.png", 112)
    return result


def _marked(face: Image, front: Front) -> Image:
    """Return a face with what is in front in green; with a red frame if it stays as filmed."""
    image = face.astype(np.float32)
    if front.weights is not None:
        image[..., 1] += 110 * front.weights * (WEIGHTS > 0)
    if front.hides_mouth:
        image[:3], image[-3:] = (0, 0, 255), (0, 0, 255)
    return np.asarray(image.clip(0, 255), np.uint8)


def main() -> None:
    """Measure all clips of a folder."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("clips", type=Path)
    arguments.add_argument("out", type=Path)
    arguments.add_argument("--frames", type=int, default=160)
    options = arguments.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    hands = cut_hands(options.clips / "man_30fps_1080x1920.mp4")
    network = load_network()
    report: dict[str, Any] = {}
    for number, clip in enumerate(clips(options.clips, load_detector("retinaface", "cpu"), options.frames)):
        report[clip.name] = measure(clip, hands, network, options.out, number)
        (options.out / "occlusion.json").write_text(json.dumps(report, indent=1))
        row = report[clip.name]
        moving = [value for value in row.values() if isinstance(value, dict)]
        means = {key: np.mean([value[key] for value in moving]) for key in moving[0]}
        print(
            f"{clip.name:30} kept {100 * row['kept']:.2f} % frames {100 * row['frames']:.1f} %",
            f"{row['ms']:.1f} ms",
            "  ".join(f"{k} {100 * v:.1f} %" for k, v in means.items()),
            flush=True,
        )


if __name__ == "__main__":
    main()
