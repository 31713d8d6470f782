"""Train generators of several face sizes on one video until they overfit, and measure the detail above 96 px.

Detail is what an image has and its copy of 96 px, enlarged again, has not, in the mouth region. `energy` is
that of the generated faces relative to the filmed ones; `explained` is 1 for the same detail, 0 for none, and
negative for wrong detail. The reference is a frame one second away.

    python benchmarks/larger_faces.py man_844.mp4 --face_size 96 192 --width 8 --steps 400
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from wav2lip_npu import device, preprocess, train_generator
from wav2lip_npu.data.clip import Clip, mel_columns, read_clip
from wav2lip_npu.data.samples import MEL_SHIFT
from wav2lip_npu.models import checkpoint
from wav2lip_npu.models.inputs import face_batch, generator_input, images_of_faces

AWAY = 25


def enlarged(face: NDArray[np.uint8], size: int) -> NDArray[np.float32]:
    """Return a face without detail above 96 px, at a size."""
    small = cv2.resize(face, (96, 96), interpolation=cv2.INTER_AREA)
    return cv2.resize(small, (size, size), interpolation=cv2.INTER_CUBIC).astype(np.float32)


def detail(face: NDArray[np.uint8], size: int) -> NDArray[np.float32]:
    """Return the detail of a mouth region."""
    whole = cv2.resize(face, (size, size), interpolation=cv2.INTER_CUBIC) if len(face) != size else face
    return (whole.astype(np.float32) - enlarged(face, size))[size // 2 :]


@torch.inference_mode()
def generated(path: Path, clip: Clip) -> list[tuple[int, NDArray[np.uint8]]]:
    """Return frame numbers and generated faces."""
    network = checkpoint.load(path, "generator").network()
    size, mel, faces = network.face_size, clip.mel(), []  # type: ignore[attr-defined]
    for frame in map(int, clip.frames[1 : -AWAY - 5]):
        target, reference = (
            face_batch(torch.from_numpy(clip.face(number, size))[None]) for number in (frame, frame + AWAY)
        )
        window = torch.from_numpy(mel_columns(mel, frame + MEL_SHIFT))[None, None]
        faces.append((frame, images_of_faces(network(window, generator_input(target, reference)))[0].numpy()))
    return faces


def main() -> None:
    """Train, measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("video", type=Path)
    parser.add_argument("--face_size", type=int, nargs="+", default=[96, 192])
    parser.add_argument("--width", type=int, default=8)
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--batch_size", type=int, default=4)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--amp", default="off")
    parser.add_argument("--sheet", type=Path, help="image: a row of frames per network, and one as filmed")
    given = parser.parse_args()
    largest = max(given.face_size)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        (root / "videos").mkdir()
        (root / "videos" / f"clip{given.video.suffix}").symlink_to(given.video.resolve())
        preprocess(root / "videos", root / "clips", workers=1, filelists=str(root), face_size=largest)
        (root / "train.txt").write_text("clip\n")
        (root / "val.txt").write_text("")
        clip, rows = read_clip("clip", root / "clips" / "clip"), []
        print(f"{len(clip.frames)} faces of {len(clip.crop(int(clip.frames[0])))} px; width {given.width}")
        print(f"{'px':>4} {'windows/s':>10} {'memory, MB':>11} {'L1':>7} {'energy':>7} {'explained':>10}")
        for size in given.face_size:
            seconds: list[float] = []
            result = train_generator(
                root / "clips", root / f"{size}", filelists=str(root), face_size=size, width=given.width,
                steps=given.steps, batch_size=given.batch_size, eval_interval=10**6, eval_batches=1,
                learning_rate=1e-3, cosine_steps=given.steps, mouth_weight=3, gradient_weight=1,
                reference_distance=10, device=given.device, amp=given.amp,
                progress=lambda step, losses, seconds=seconds: seconds.append(time.monotonic()),
            )  # fmt: skip
            pace = given.batch_size * (len(seconds) - 11) / (seconds[-1] - seconds[10])
            memory = device.device_peak_memory(device.resolve(given.device)) or device.peak_memory()
            faces = generated(result.checkpoint, clip)
            filmed = np.stack([detail(clip.face(frame, largest), largest) for frame, _ in faces])
            made = np.stack([detail(face, largest) for _, face in faces])
            energy = np.square(made).mean() / np.square(filmed).mean()
            explained = 1 - np.square(made - filmed).mean() / np.square(filmed).mean()
            error = np.mean([np.abs(clip.face(f, size)[size // 2 :] - face[size // 2 :].astype(float)).mean()
                             for f, face in faces])  # fmt: skip
            print(f"{size:4} {pace:10.1f} {memory / 1e6:11.0f} {error:7.2f} {energy:7.2f} {explained:10.2f}")
            rows.append([cv2.resize(face, (largest, largest), interpolation=cv2.INTER_CUBIC)
                         for _, face in faces[::25]])  # fmt: skip
        rows.append([clip.face(frame, largest) for frame, _ in faces[::25]])
    if given.sheet is not None:
        cv2.imwrite(str(given.sheet), np.vstack([np.hstack(row) for row in rows]))


if __name__ == "__main__":
    main()
