"""Measure the composite and the reference on real clips: python benchmarks/composite.py CLIPS OUT

Composite: the mouth of each frame is that of the same person some frames later, warped into place: sharp,
but foreign. Its composite is compared with a plain paste under the same mask. Reference, with --speech: the
bundled generator (or --checkpoint_path) dubs each clip with several choices of the frame that shows it the
identity.

Writes OUT/composite.json and contact sheets.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from references import REFERENCES
from tracked_clips import Clip, clips, in_crop, sheet

from wav2lip_npu.data.clip_layout import FACE_SIZE
from wav2lip_npu.dubbing.blend import load_mask, paste
from wav2lip_npu.dubbing.finish import MouthFinish
from wav2lip_npu.dubbing.inference import load_models
from wav2lip_npu.evaluation.mouth_motion import mouth_of, sharpness_of
from wav2lip_npu.evaluation.picture import LIPS, colour_error, region
from wav2lip_npu.evaluation.skin import JAW, RIM, Flicker, luma_face
from wav2lip_npu.faces.detectors import load_detector
from wav2lip_npu.media.audio_reader import measure_audio, read_audio
from wav2lip_npu.media.yuv_image import Image, YuvImage
from wav2lip_npu.mel import log_mel, mel_window
from wav2lip_npu.models.inputs import face_batch, generator_input, images_of_faces

LATER = 12
"""Frames between a frame and its foreign mouth."""
CPU = torch.device("cpu")
MASK = load_mask("soft", FACE_SIZE)
Plane = NDArray[np.float32]


REGIONS = {"under the lip": region(0.4, 0.6, 0.84, 0.92), "jaw": JAW, "rim": RIM}
"""Parts of a face; the rim is that of the mask."""


def foreign_mouths(clip: Clip) -> list[Image]:
    """Return faces uint8 [96, 96, 3] for all frames but the last `LATER`: those `LATER` frames later.

    They are aligned by eyes and nose. The points are smoothed over two seconds, so that the alignment itself
    does not flicker; the boxes of the two frames already follow the motion of the head.
    """
    points = np.array([in_crop(row[:3], box) for row, box in zip(clip.landmarks, clip.boxes, strict=True)])
    flat = points.reshape(len(points), -1)
    points = cv2.blur(flat, (1, 51), borderType=cv2.BORDER_REFLECT).reshape(points.shape)
    result = []
    for face, there, here in zip(clip.faces[LATER:], points[LATER:], points[:-LATER], strict=True):
        warp, _ = cv2.estimateAffinePartial2D(there, here)
        result.append(
            np.asarray(
                cv2.warpAffine(
                    face,
                    warp,
                    (FACE_SIZE, FACE_SIZE),
                    flags=cv2.INTER_CUBIC,
                    borderMode=cv2.BORDER_REPLICATE,
                )
            )
        )
    return result


def visible(faces: Sequence[Image], mouths: Sequence[Image]) -> list[Image]:
    """Return the rows of mouths that are pasted, with their opacity."""
    finish = MouthFinish(MASK, CPU)
    tensors = [
        face_batch(torch.from_numpy(np.stack(images)))[:, :, MASK.top_row :] for images in (mouths, faces)
    ]
    return list(images_of_faces(finish(*tensors)).numpy())


def measure_composite(clip: Clip, out: Path) -> dict[str, Any]:
    """Return the figures of the composite of a clip, and write its sheet."""
    foreign = foreign_mouths(clip)
    clip = clip.first(len(foreign))
    mouths = visible(clip.faces, foreign)
    pasted = [paste(f, m, b, MASK) for f, m, b in zip(clip.frames, mouths, clip.boxes, strict=True)]
    plain = [paste(f, m[..., :3], b, MASK) for f, m, b in zip(clip.frames, mouths, clip.boxes, strict=True)]
    crops = {
        name: [f.crop(b, FACE_SIZE) for f, b in zip(frames, clip.boxes, strict=True)]
        for name, frames in (("now", pasted), ("plain", plain))
    }
    figures: dict[str, Any] = {}
    for name, where in REGIONS.items():
        errors = {kind: mean_colour_error(images, clip.faces, where) for kind, images in crops.items()}
        figures[f"dE {name}"] = [
            round(errors["now"], 2),
            round(errors["plain"], 2),
            round(errors["now"] / max(errors["plain"], 1e-6), 2),
        ]
    figures["rim sharpness"] = [
        round(sharpness(frames, clip, REGIONS["rim"]), 2) for frames in (pasted, plain)
    ]
    figures["flicker"] = [
        round(flicker(frames, clip) / flicker(clip.frames, clip), 2) for frames in (pasted, plain)
    ]
    figures["flicker of the mouth"] = round(
        flicker_of([face[..., 1].astype(np.float32) for face in foreign]) / flicker(clip.frames, clip), 2
    )
    figures["tint of grey"] = max(tint_of_grey(clip, mouths, number) for number in range(0, len(mouths), 10))
    shown = range(0, len(pasted), max(1, len(pasted) // 8))
    sheet(
        [[large(frames[i], clip, i) for i in shown] for frames in (clip.frames, pasted, plain)],
        out / f"{clip.name}.png",
    )
    return figures


def mean_colour_error(images: Sequence[Image], filmed: Sequence[Image], where: NDArray[np.bool_]) -> float:
    """Return the mean colour error of every fourth face."""
    pairs = list(zip(images, filmed, strict=True))[::4]
    return float(np.mean([colour_error(image, other, where) for image, other in pairs]))


def planes_of(frames: Sequence[YuvImage], clip: Clip, size: int) -> NDArray[np.float32]:
    """Return the luma of the faces at about the resolution of the frame, float32 [N, size, size]."""
    return np.array(
        [frame.crop(box, size)[..., 1] for frame, box in zip(frames, clip.boxes, strict=True)], np.float32
    )


def sharpness(frames: Sequence[YuvImage], clip: Clip, where: NDArray[np.bool_]) -> float:
    """Return the detail of a region relative to the filmed face."""
    size = max(FACE_SIZE, round(float(np.mean([box[3] - box[1] for box in clip.boxes]))))
    large = cv2.resize(where.astype(np.uint8), (size, size), interpolation=cv2.INTER_NEAREST) > 0
    energy = []
    for images in (frames[::8], clip.frames[::8]):
        parts = replace(clip, boxes=clip.boxes[::8])
        details = [plane - cv2.GaussianBlur(plane, (0, 0), 1.5) for plane in planes_of(images, parts, size)]
        energy.append(np.mean([detail[large].std() for detail in details]))
    return float(energy[0] / energy[1])


def flicker(frames: Sequence[YuvImage], clip: Clip) -> float:
    """Return the flicker of still skin, RMS in levels."""
    return flicker_of([luma_face(frame, box) for frame, box in zip(frames, clip.boxes, strict=True)])


def flicker_of(faces: Sequence[Plane]) -> float:
    """Return the flicker of the luma of faces [96, 96]."""
    measure = Flicker()
    for face in faces:
        measure.add(face)
    assert measure.value is not None
    return measure.value


def tint_of_grey(clip: Clip, mouths: Sequence[Image], number: int) -> int:
    """Return the largest deviation of chroma from grey in a grey frame."""
    frame = clip.frames[number]
    grey = replace(frame, u=np.full_like(frame.u, 128), v=np.full_like(frame.v, 128))
    pasted = paste(grey, mouths[number], clip.boxes[number], MASK)
    return int(max(np.abs(plane.astype(int) - 128).max() for plane in (pasted.u, pasted.v)))


def large(frame: YuvImage, clip: Clip, number: int) -> Image:
    """Return the face of a frame for a sheet."""
    return frame.crop(clip.boxes[number], 160)


def measure_references(clip: Clip, models: Any, speech: Any, out: Path) -> dict[str, Any]:
    """Return the figures of each reference, and write a sheet of their dubs."""
    fps = Fraction(25)
    mels = {
        "speech": [mel_window(speech, i, fps, models.mel_shift) for i in range(len(clip.faces))],
        "silent": [np.full((80, 16), -4, np.float32)] * len(clip.faces),
    }
    filmed = mouths_of(clip.frames, clip)
    figures, rows = {}, [[large(clip.frames[i], clip, i) for i in range(0, len(clip.faces), 8)]]
    for name, choose in REFERENCES.items():
        references = choose(clip)
        dubs = {kind: dub(clip, references, windows, models) for kind, windows in mels.items()}
        mouths = {kind: mouths_of(frames, clip) for kind, frames in dubs.items()}
        deviation = {kind: float(values.std(0).mean()) for kind, values in mouths.items()}
        added = float((mouths["speech"] - mouths["silent"]).std(0).mean())
        figures[name] = {
            "leak": round(deviation["silent"] / deviation["speech"], 3),
            "own": round(added / float(filmed.std(0).mean()), 3),
            "sharpness": round(mean_sharpness(mouths["speech"]) / mean_sharpness(filmed), 3),
            "flicker": round(flicker(dubs["speech"], clip) / flicker(clip.frames, clip), 3),
            "identity": round(likeness(mouths["speech"], filmed), 3),
            "dE lips": round(
                mean_colour_error(
                    [f.crop(b, FACE_SIZE) for f, b in zip(dubs["speech"], clip.boxes, strict=True)],
                    clip.faces,
                    LIPS,
                ),
                2,
            ),
        }
        rows.append([large(dubs["speech"][i], clip, i) for i in range(0, len(clip.faces), 8)])
        rows.append([references[i][..., :] for i in range(0, len(clip.faces), 8)])
    sheet(rows, out / f"references {clip.name}.png", 112)
    return figures


@torch.inference_mode()
def dub(clip: Clip, references: Sequence[Image], mels: Sequence[Any], models: Any) -> list[YuvImage]:
    """Return the frames with mouths generated from these references."""
    frames: list[YuvImage] = []
    finish = MouthFinish(MASK, CPU)
    for first in range(0, len(mels), 16):
        part = slice(first, first + 16)
        faces, shown = (
            face_batch(torch.from_numpy(np.stack(images[part]))) for images in (clip.faces, references)
        )
        features = models.generator.encode_faces(generator_input(faces, shown))
        audio = torch.from_numpy(np.stack(mels[part])[:, None])
        mouths = models.generator.decode(audio, features, top_row=MASK.top_row)
        images = images_of_faces(finish(mouths, faces[:, :, MASK.top_row :])).numpy()
        frames += [
            paste(f, m, b, MASK) for f, m, b in zip(clip.frames[part], images, clip.boxes[part], strict=True)
        ]
    return frames


def mouths_of(frames: Sequence[YuvImage], clip: Clip) -> NDArray[np.float32]:
    """Return the luma of the aligned mouth region, slightly blurred, float32 [N, 44, 56]."""
    return np.array([mouth_of(frame, points) for frame, points in zip(frames, clip.landmarks, strict=True)])


def mean_sharpness(mouths: NDArray[np.float32]) -> float:
    """Return the mean sharpness of mouths."""
    return float(np.mean([sharpness_of(mouth) for mouth in mouths]))


def likeness(mouths: NDArray[np.float32], filmed: NDArray[np.float32]) -> float:
    """Return the correlation of the gradients of the mean mouths: shape of lips, beard and chin."""
    gradients = [np.stack(np.gradient(images.mean(0))).ravel() for images in (mouths, filmed)]
    return float(np.corrcoef(*gradients)[0, 1])


def main() -> None:
    """Measure all clips of a folder."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("clips", type=Path)
    arguments.add_argument("out", type=Path)
    arguments.add_argument("--frames", type=int, default=100)
    arguments.add_argument("--checkpoint_path", default="starter")
    arguments.add_argument(
        "--speech", type=Path, help="audio for the references; without it they are not measured"
    )
    options = arguments.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    detector = load_detector("retinaface", "cpu")
    models = speech = None
    if options.speech is not None:
        models = load_models(options.checkpoint_path, detector="retinaface", device="cpu", precision="fp32")
        speech = log_mel(read_audio(measure_audio(options.speech)))
    report: dict[str, Any] = {}
    for clip in clips(options.clips, detector, options.frames):
        report[clip.name] = {"composite": measure_composite(clip, options.out)}
        if models is not None:
            report[clip.name]["references"] = measure_references(clip, models, speech, options.out)
        print(clip.name, json.dumps(report[clip.name]), flush=True)
        (options.out / "composite.json").write_text(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
