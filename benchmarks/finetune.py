"""Measure fine-tuning on one face: the bundled weights before and after, on the held-out end of a clip.

    python benchmarks/finetune.py --clip CLIPS/clips/vox_00104 --out build/finetune [--steps 400]

The first three quarters of a preprocessed clip of a person in no training list are trained on, the last
quarter is measured: the mouth region with the clip's own audio against the truth, with a reference half the
quarter away. Prints PSNR and SSIM of the bundled weights, of the fine-tuned weights and of copying the
reference.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import time
import wave
from pathlib import Path

import cv2
import numpy as np
from starter import Sentence, generate_faces, half_away, likeness

from wav2lip_npu.cli import main as cli
from wav2lip_npu.data.clip import read_clip
from wav2lip_npu.data.face_reader import FaceReader
from wav2lip_npu.dubbing.inference import load_models

RATE, FPS = 16_000, 25
TRAINED = 0.75
TRAINING = """--batch_size 8 --learning_rate 2e-4 --warmup_steps 20 --clip_grad_norm 1 --average 0.98
    --flip 0.5 --stretch 0.04 --shift 0.02 --turn 3 --colour 0.1 --gamma 0.1 --blur 0.3
    --reference_distance 10 --eval_interval 100 --eval_batches 5 --checkpoint_interval 100 --keep 1"""
"""Flags recommended in docs/training.md."""


def cut(source: Path, out: Path, first: int, last: int) -> None:
    """Write frames `first` to `last` of a clip and their audio as a new clip."""
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    clip = read_clip(source.name, source)
    for number in range(first, last):
        shutil.copyfile(source / f"{number}.jpg", out / f"{number - first}.jpg")
    wav = clip.audio()[first * RATE // FPS : last * RATE // FPS]
    with wave.open(str(out / "audio.wav"), "wb") as file:
        file.setparams((1, 2, RATE, 0, "NONE", ""))
        file.writeframes(np.clip(np.rint(wav * 32767), -32768, 32767).astype(np.int16).tobytes())


def measure(weights: str, test: Sentence) -> tuple[float, float, np.ndarray]:
    """Return PSNR in dB, SSIM and the generated faces."""
    reference = test.faces[half_away(len(test.faces))]
    models = load_models(weights, device="cpu", precision="fp32")
    faces = generate_faces(models, reference, test.faces, test.mel)
    return *likeness(faces, test.faces), faces


def main() -> int:
    """Train, measure, print the table, write an image of the faces."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--clip", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--amp", default="off")
    arguments = parser.parse_args()
    out: Path = arguments.out
    frames = len(read_clip("clip", arguments.clip).frames)
    border = round(TRAINED * frames)
    cut(arguments.clip, out / "clips" / "trained", 0, border)
    cut(arguments.clip, out / "clips" / "measured", border, frames)
    (out / "lists").mkdir(exist_ok=True)
    (out / "lists" / "train.txt").write_text("trained\n")
    paths = {"data_root": out / "clips", "filelists": out / "lists", "checkpoint_dir": out / "me"}
    flags = {**paths, "checkpoint_path": "starter", "steps": arguments.steps, "amp": arguments.amp}
    begun = time.monotonic()
    words = [str(word) for name, value in flags.items() for word in (f"--{name}", value)]
    if code := cli.main(["train", *words, *TRAINING.split()]):
        return code
    seconds = time.monotonic() - begun
    clip = read_clip("measured", out / "clips" / "measured")
    test = Sentence("measured", FaceReader(cache=False)(clip, 0, len(clip.frames)), clip.mel())
    tuned = sorted((out / "me").glob("checkpoint_step*.pth"))[-1]
    rows = {"starter": measure("starter", test), "fine-tuned": measure(str(tuned), test)}
    copied = test.faces[half_away(len(test.faces))]
    rows["copied reference"] = (*likeness(copied, test.faces), copied)
    sys.stdout.write(f"{border / FPS:.1f} s trained on, {arguments.steps} steps in {seconds:.0f} s\n")
    sys.stdout.write("| | PSNR, dB | SSIM |\n|---|---|---|\n")
    sys.stdout.writelines(f"| {name} | {psnr:.2f} | {ssim:.3f} |\n" for name, (psnr, ssim, _) in rows.items())
    at = np.linspace(0, len(test.faces) - 1, 8).astype(int)
    rows_of_faces = [test.faces, *(faces for _, _, faces in rows.values())]
    cv2.imwrite(str(out / "faces.png"), np.vstack([np.hstack(faces[at]) for faces in rows_of_faces]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
