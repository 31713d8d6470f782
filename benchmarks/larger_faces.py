"""Train generators of several face sizes until they overfit a video, and measure the detail above 96 px.

    python benchmarks/larger_faces.py woman_512.mp4 --face_size 96 192 --frames 75 --steps 1500 --out OUT

The brightness of faces is compared in the region of the mouth, at the largest size, with those of the video.
The band is all that a face of 96 px cannot hold: more than 48 periods across the face. `energy` is that of
the generated band relative to the filmed one, `alike` the correlation of the two, `explained` the share of
the filmed band that is there: 1 for the same, negative for wrong detail. The row `filmed` is of the video
itself, scaled down to 96 px and up again: what is best at 96 px. The reference is another frame of the video.

With --out, clips and checkpoints are kept, and a second call goes on where the first ended. On a CPU, windows
per second are those of the time that the process ran, and memory is that of the whole process.
"""

from __future__ import annotations

import argparse
import multiprocessing
import tempfile
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from wav2lip_npu import preprocess, train_generator
from wav2lip_npu.data.clip import Clip, mel_columns, read_clip
from wav2lip_npu.data.clip_layout import CLIP_FILE
from wav2lip_npu.data.samples import MEL_SHIFT
from wav2lip_npu.devices import device, device_memory
from wav2lip_npu.models import checkpoint
from wav2lip_npu.models.inputs import face_batch, generator_input, images_of_faces

AWAY = 25
"""Frames from a face to its reference."""
LIMIT = 48
"""Periods across a face of 96 px that it can hold."""
ROWS, COLUMNS = (0.58, 0.95), (0.22, 0.78)
"""The region of the mouth, as shares of the face."""
LUMA = np.array([0.114, 0.587, 0.299], np.float32)
"""Weights of blue, green and red."""
WARM = 5
"""Steps that are not timed."""

Faces = NDArray[np.uint8]


def mouths(faces: Faces, size: int) -> NDArray[np.float32]:
    """Return the regions of the mouths of faces [N, S, S, 3], scaled to a size."""
    if faces.shape[1] != size:
        faces = np.stack([cv2.resize(face, (size, size), interpolation=cv2.INTER_CUBIC) for face in faces])
    (top, bottom), (left, right) = ((round(a * size), round(b * size)) for a, b in (ROWS, COLUMNS))
    return faces[:, top:bottom, left:right].astype(np.float32)


def band(regions: NDArray[np.float32], size: int) -> NDArray[np.complex64]:
    """Return the spectrum of regions [N, H, W] above 48 periods a face, without the jump at their edges."""
    height, width = regions.shape[1:3]
    window = np.hanning(height)[:, None] * np.hanning(width)
    spectrum = np.fft.fft2(regions * window, axes=(1, 2))
    down, across = (np.abs(np.fft.fftfreq(length)) * size for length in (height, width))
    outside = np.maximum(down[:, None], across) > LIMIT
    return np.asarray(spectrum[:, outside], np.complex64)


def figures(made: NDArray[np.float32], filmed: NDArray[np.float32], size: int) -> str:
    """Return the columns of a row, for regions BGR [N, H, W, 3]."""
    made, filmed = made @ LUMA, filmed @ LUMA
    psnr = 10 * np.log10(255**2 / np.square(made - filmed).mean())
    one, other = band(made, size), band(filmed, size)
    energy, whole = np.square(np.abs(one)).sum(), np.square(np.abs(other)).sum()
    common = (one * other.conj()).real.sum()
    explained = 1 - np.square(np.abs(one - other)).sum() / whole
    return f"{psnr:8.2f} {energy / whole:7.3f} {common / (energy * whole) ** 0.5:6.2f} {explained:10.3f}"


@torch.inference_mode()
def generated(path: Path, clip: Clip) -> dict[int, Faces]:
    """Return the generated face of each frame that has audio."""
    network: Any = checkpoint.load(path, "generator").network()
    size, mel, frames, faces = network.face_size, clip.mel(), clip.frames.tolist(), {}
    for place, frame in enumerate(frames[1:-5], 1):
        target, reference = (
            face_batch(torch.from_numpy(clip.face(number, size))[None])
            for number in (frame, frames[(place + AWAY) % len(frames)])
        )
        window = torch.from_numpy(mel_columns(mel, frame + MEL_SHIFT))[None, None]
        faces[frame] = images_of_faces(network(window, generator_input(target, reference)))[0].numpy()
    return faces


def trained(root: Path, size: int, given: argparse.Namespace) -> tuple[float, float]:
    """Train a generator; return windows per second and the largest memory in MB."""
    seconds: list[float] = []
    is_host = device.resolve(given.device).type == device.HOST
    clock = time.process_time if is_host else time.monotonic
    torch.set_num_threads(given.threads)
    train_generator(
        root / "clips", root / f"{size}", filelists=str(root), face_size=size, width=given.width,
        steps=given.steps, batch_size=given.batch_size, eval_interval=10**6, eval_batches=1,
        checkpoint_interval=250, keep=1, save_optimizer_state=True, learning_rate=1e-3,
        cosine_steps=given.steps, mouth_weight=3, gradient_weight=1, reference_distance=10,
        patch_disc_wt=given.patch_disc_wt, lpips_weight=given.lpips_weight,
        device=given.device, amp=given.amp,
        progress=lambda step, losses: seconds.append(clock()),
    )  # fmt: skip
    memory = device_memory.device_peak_memory(device.resolve(given.device)) or device_memory.peak_memory()
    if len(seconds) < WARM + 2:
        return float("nan"), float("nan")
    return given.batch_size * (len(seconds) - WARM - 1) / (seconds[-1] - seconds[WARM]), memory / 1e6


def prepared(root: Path, given: argparse.Namespace) -> Clip:
    """Preprocess the video and return its first frames as a clip."""
    folder = root / "clips" / "clip"
    if not folder.exists():
        (root / "videos").mkdir()
        (root / "videos" / f"clip{given.video.suffix}").symlink_to(given.video.resolve())
        preprocess(
            root / "videos", root / "clips", workers=1, filelists=str(root), face_size=max(given.face_size)
        )
        (root / "train.txt").write_text("clip\n")
        (root / "val.txt").write_text("")
        late = [path for path in folder.glob("*.jpg") if int(path.stem) >= given.frames]
        for path in [*late, folder / CLIP_FILE]:  # without it, the pictures there are the clip
            path.unlink()
    return read_clip("clip", folder)


def main() -> None:
    """Train, measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("video", type=Path)
    parser.add_argument("--face_size", type=int, nargs="+", default=[96, 192])
    parser.add_argument("--frames", type=int, default=10**6, help="first frames of the video that are used")
    parser.add_argument("--width", type=int, default=8)
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--batch_size", type=int, default=4)
    parser.add_argument("--patch_disc_wt", type=float, default=0)
    parser.add_argument("--lpips_weight", type=float, default=0)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--amp", default="off")
    parser.add_argument("--threads", type=int, default=1, help="of a CPU")
    parser.add_argument("--out", type=Path, help="folder of clips and checkpoints; default: a temporary one")
    parser.add_argument("--sheet", type=Path, help="image: a row of frames per network, and one as filmed")
    given = parser.parse_args()
    size = max(given.face_size)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) if given.out is None else given.out
        root.mkdir(parents=True, exist_ok=True)
        clip = prepared(root, given)
        print(f"{len(clip.frames)} faces of {len(clip.crop(int(clip.frames[0])))} px; width {given.width}")
        print("    px  windows/s  memory, MB     PSNR  energy  alike  explained")
        sheet = []
        for number in given.face_size:
            with multiprocessing.get_context("spawn").Pool(1) as pool:  # for the memory of each alone
                pace, memory = pool.apply(trained, (root, number, given))
            made = generated(max((root / f"{number}").glob("checkpoint_step*.pth")), clip)
            filmed = np.stack([clip.face(frame, size) for frame in made])
            faces = np.stack(list(made.values()))
            row = figures(mouths(faces, size), mouths(filmed, size), size)
            print(f"{number:6} {pace:10.2f} {memory:11.0f} {row}", flush=True)
            sheet.append(mouths(faces[::15], size))
        small = np.stack([cv2.resize(face, (96, 96), interpolation=cv2.INTER_AREA) for face in filmed])
        print(f"filmed {' ' * 22} {figures(mouths(small, size), mouths(filmed, size), size)}")
        sheet += [mouths(small[::15], size), mouths(filmed[::15], size)]
    if given.sheet is not None:
        cv2.imwrite(str(given.sheet), np.vstack([np.hstack(list(row)) for row in sheet]).astype(np.uint8))


if __name__ == "__main__":
    main()
