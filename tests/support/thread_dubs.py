"""Program: many dubs with the same models in eight threads, each compared with a single dub.

    python thread_dubs.py DETECTOR ENGINE DUBS

It runs in its own process, because a library that is not thread-safe may crash it.
"""

from __future__ import annotations

import itertools
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
import torch

from support import fake_cann
from support.exports import export_generator
from support.faces import SquareDetector, face_frames, write_audio
from support.networks import golden_weights
from wav2lip_npu import DubOptions, EncodeOptions, FaceOptions, Models, dub, load_models
from wav2lip_npu.export import om_export
from wav2lip_npu.faces.detectors import DetectorName
from wav2lip_npu.faces.s3fd import S3fdDetector
from wav2lip_npu.media.geometry import Geometry
from wav2lip_npu.media.video_reader import read_frames
from wav2lip_npu.media.video_writer import write_video
from wav2lip_npu.models import checkpoint
from wav2lip_npu.models.networks import Wav2Lip

THREADS = 8
FAST = EncodeOptions(preset="ultrafast")


def random_s3fd() -> S3fdDetector:
    """Return S3FD with seeded random weights that detects something in any image."""
    from face_alignment.detection.sfd.net_s3fd import s3fd

    torch.manual_seed(0)
    network = s3fd().eval()
    with torch.no_grad():
        for name, layer in network.named_children():
            if name.endswith("_mbox_conf"):
                layer.bias[-1] += 2 if name.startswith("conv5_3") else -9
        network.conv5_3_norm_mbox_loc.bias[2:] += 2
    return S3fdDetector(network, "cpu")


def models_of(detector: str, engine: str, folder: Path) -> Models:
    """Return models with this detector and engine, with a tiny generator."""
    weights = folder / "tiny.pth"
    checkpoint.save(weights, golden_weights(Wav2Lip(width=2)))
    if engine != "torch":
        exported = export_generator(folder / "tiny.onnx", weights, batch=3 if engine != "onnx" else None)
        weights = exported.path
        if engine != "onnx":
            om_export.write_manifest(exported)
            weights = weights.rename(folder / "tiny.om")
            install_runtime(engine)
    name: DetectorName = "retinaface" if detector == "retinaface" else "hog"
    models = load_models(weights, detector=name, device="auto" if engine != "torch" else "cpu")
    if detector in ("s3fd", "square"):
        models = replace(models, detector={"s3fd": random_s3fd, "square": SquareDetector}[detector]())
    return models


def install_runtime(engine: str) -> None:
    """Install a fake runtime of .om files."""
    patch = pytest.MonkeyPatch()
    if engine == "bench":
        fake_cann.install_bench(patch, [])
    else:
        fake_cann.remove(patch)
        patch.setitem(sys.modules, "acl", fake_cann.FakeAcl())


def main(detector: str, engine: str, dubs: int) -> None:
    """Dub two clips with two audio files in turn; fail if an output differs from that of a single dub."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        models = models_of(detector, engine, folder)
        clips = write_clips(folder)
        audio = [write_audio(folder / f"{number}.wav", seconds) for number, seconds in enumerate((0.16, 0.3))]
        pairs: list[Any] = list(itertools.product(clips, audio))
        is_random = detector == "s3fd"  # boxes of random weights cannot be tracked, and hardly show a mouth
        faces = FaceOptions(nosmooth=is_random)
        options = DubOptions(encode=FAST, faces=faces, occlusion="off" if is_random else "auto")

        def output(number: int, out: str) -> bytes:
            face, sound = pairs[number % len(pairs)]
            report = dub(face, sound, folder / out, models=models, options=options)
            assert is_random or report.dubbed_frames == report.frames
            return (folder / out).read_bytes()

        expected = [output(number, f"alone {number}.mp4") for number in range(len(pairs))]
        assert len(set(expected)) == len(pairs)
        with ThreadPoolExecutor(THREADS) as pool:
            results = list(pool.map(output, range(dubs), (f"{number}.mp4" for number in range(dubs))))
    assert results == [expected[number % len(pairs)] for number in range(dubs)]
    print(f"{dubs} of {dubs} equal")


def write_clips(folder: Path) -> list[Path]:
    """Write two small videos of a moving face."""
    large = folder / "large.mp4"
    write_video(face_frames(36), large, fps=Fraction(25), options=FAST)
    shrunk = list(itertools.islice(read_frames(large, geometry=Geometry(resize_factor=2)), 36))
    paths = [folder / "a.mp4", folder / "b.mp4"]
    for path, frames in zip(paths, (shrunk[:18], shrunk[18:]), strict=True):
        write_video((frame.yuv for frame in frames), path, fps=Fraction(25), options=FAST)
    return paths


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
