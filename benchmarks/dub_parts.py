"""The stages of a dub, each alone and with the cores that it may use, for `dub.py`."""

from __future__ import annotations

import argparse
import itertools
import os
import tempfile
import time
from collections.abc import Callable
from fractions import Fraction
from typing import Any

FACE_PART = 0.3
"""Side of the face of the `blend` part, relative to the smaller side of the frame."""


def timed(work: Callable[[], int]) -> dict[str, float]:
    """Return CPU and wall seconds of `work`, which returns its number of frames, and frames per second."""
    wall, cpu = time.perf_counter(), time.process_time()
    frames = work()
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    return {"cpu": cpu, "wall": wall, "fps": frames / wall}


def count_frames(given: argparse.Namespace) -> tuple[int, Any]:
    """Return the number of frames of the dub, and the face video."""
    from wav2lip_npu.media import audio_reader, container

    info = container.probe(given.face)
    return round(audio_reader.measure_audio(given.audio).duration * info.fps), info


def read_all(given: argparse.Namespace) -> tuple[list[Any], Any]:
    """Return all frames of the dub, decoded, and the face video."""
    from wav2lip_npu.media import video_reader

    count, info = count_frames(given)
    return list(itertools.islice(video_reader.read_frames(info, loop="loop"), count)), info


def decode(given: argparse.Namespace) -> dict[str, float]:
    """Decode the frames of the dub."""
    from wav2lip_npu.media import video_reader

    count, info = count_frames(given)
    return timed(lambda: sum(1 for _ in itertools.islice(video_reader.read_frames(info, loop="loop"), count)))


def decode_auto(given: argparse.Namespace) -> dict[str, float]:
    """Decode the frames of the dub with `--hwaccel auto`."""
    from wav2lip_npu.media import hardware_decoding, video_reader

    count, info = count_frames(given)
    info = hardware_decoding.on_hardware(info, "auto")
    frames = itertools.islice(video_reader.read_frames(info, loop="loop"), count)
    return {**timed(lambda: sum(1 for _ in frames)), "on hardware": float(info.hwaccel is not None)}


def faces(given: argparse.Namespace) -> dict[str, float]:
    """Track the face in decoded frames, and look for what is in front of it."""
    from wav2lip_npu.devices import device
    from wav2lip_npu.dubbing.options import DubOptions
    from wav2lip_npu.dubbing.selection import select_frames
    from wav2lip_npu.faces.detectors import load_detector
    from wav2lip_npu.faces.find_faces import find_faces
    from wav2lip_npu.parallel.thread_counts import one_core_each

    frames, info = read_all(given)
    options, target = DubOptions(), device.resolve(given.device)
    detector = load_detector("auto", str(target))
    detector([frames[0].yuv.scaled(320, 320)])

    def run() -> int:
        tracked = find_faces(iter(frames), detector, options.faces)
        selected = select_frames(tracked, options.limits, (), info.fps, 96, options.load_occlusion())
        return sum(1 for _ in selected)

    with one_core_each(target) as prepare:
        prepare()
        return timed(run)


def generate(given: argparse.Namespace) -> dict[str, float]:
    """Run the generator as a dub does."""
    from wav2lip_npu.dubbing.blend import load_mask
    from wav2lip_npu.dubbing.inference import GeneratorRunner, load_models

    count, _ = count_frames(given)
    models = load_models(given.checkpoint_path, device=given.device, precision=given.precision)
    size = models.face_size
    runner = GeneratorRunner(models, None, load_mask("soft", size))
    generating(runner, min(count, 4 * runner.batch), size)()
    return timed(generating(runner, count, size))


def generating(runner: Any, count: int, size: int) -> Callable[[], int]:
    """Return a function that generates mouths for `count` noise inputs as a dub does."""
    import numpy as np

    from wav2lip_npu.parallel.thread_counts import one_core_each
    from wav2lip_npu.parallel.threads import map_in_threads

    random = np.random.default_rng(0)
    images = list(random.integers(0, 255, (count, size, size, 3), np.uint8))
    mels = list(random.uniform(-4, 4, (count, 80, 16)).astype(np.float32))
    batches = [slice(first, first + runner.batch) for first in range(0, count, runner.batch)]

    def run() -> int:
        with one_core_each(runner.device) as prepare:
            mouths = map_in_threads(
                lambda part: runner(images[part], mels[part]), batches, runner.lanes, prepare
            )
            return sum(len(part) for part in mouths)

    return run


def blend(given: argparse.Namespace) -> dict[str, float]:
    """Paste a mouth of noise into decoded frames."""
    import cv2
    import numpy as np

    from wav2lip_npu.dubbing.blend import load_mask, paste
    from wav2lip_npu.dubbing.output_frames import blend_lanes
    from wav2lip_npu.parallel.threads import map_in_threads

    cv2.setNumThreads(1)
    frames, info = read_all(given)
    mask = load_mask("soft", 96)
    mouth = np.random.default_rng(0).integers(0, 255, (*mask.weights.shape, 4), np.uint8)
    side = FACE_PART * min(info.width, info.height)
    box = np.float32([0.35, 0.3, 0.35, 0.3]) * np.float32([info.width, info.height] * 2)
    box[2:] += side
    shown = map_in_threads(lambda frame: paste(frame.yuv, mouth, box, mask), iter(frames), blend_lanes())
    return timed(lambda: sum(1 for _ in shown))


def encode(given: argparse.Namespace) -> dict[str, float]:
    """Encode the already decoded frames of the dub; with their size and quality."""
    import numpy as np

    from wav2lip_npu.media import video_reader
    from wav2lip_npu.media.video_writer import EncodeOptions, write_video

    frames, info = read_all(given)
    images, options = [frame.yuv for frame in frames], EncodeOptions(encoder=given.encoder)
    with tempfile.TemporaryDirectory() as folder:
        out = os.path.join(folder, "out.mp4")
        fps = Fraction(info.fps)
        figures = timed(lambda: write_video(images, out, fps=fps, audio=given.audio, options=options))
        written = zip(video_reader.read_frames(out), images, strict=False)
        error = np.mean([np.square(a.yuv.y.astype(np.float32) - b.y).mean() for a, b in written])
        return {**figures, "mb": os.path.getsize(out) / 1e6, "psnr": float(10 * np.log10(255**2 / error))}


def eager(given: argparse.Namespace) -> dict[str, float]:
    """Run the unmodified network in PyTorch, with the best of two batch sizes."""
    import torch

    from wav2lip_npu.devices import device, transfers
    from wav2lip_npu.models import checkpoint

    target = device.resolve(given.device)
    network = checkpoint.load(given.checkpoint_path, "generator").network().to(target)
    best: dict[str, float] = {"fps": 0, "cpu": 0}
    for batch in (4, 16):
        shapes = (1, 80, 16), (6, network.face_size, network.face_size)
        mels, images = (torch.rand(batch, *shape, device=target) for shape in shapes)

        def run(mels: Any = mels, images: Any = images) -> int:
            with torch.inference_mode():
                done = sum(len(network(mels, images)) for _ in range(64 // len(images)))
            transfers.synchronize(target)
            return done

        run()
        best = max(best, timed(run), key=lambda figures: figures["fps"])
    return best


STAGES = {"decode": decode, "faces": faces, "generate": generate, "blend": blend, "encode": encode}
PARTS = {**STAGES, "eager": eager}
ON_ACCELERATORS = {"decode_auto": decode_auto}


def write_clip(path: str, size: str, seconds: float) -> None:
    """Write a clip of scikit-image's astronaut with a slow camera, WIDTHxHEIGHT, and a sentence, repeated."""
    import cv2
    import numpy as np
    import skimage.data

    from recipes import demo
    from wav2lip_npu.media.audio_reader import measure_audio
    from wav2lip_npu.media.video_writer import EncodeOptions, write_video
    from wav2lip_npu.media.yuv_image import SCREEN, YuvImage

    photo = np.ascontiguousarray(skimage.data.astronaut()[:, :, ::-1])
    width, height = map(int, size.split("x"))
    side, count = min(width, height), round(seconds * demo.FPS)

    def images() -> Any:
        for shot in demo.camera(photo, count):
            square = cv2.resize(shot, (side, side), interpolation=cv2.INTER_CUBIC)
            rest = (height - side, width - side)
            yield YuvImage.from_image(
                cv2.copyMakeBorder(square, 0, rest[0], 0, rest[1], cv2.BORDER_REFLECT), SCREEN
            )

    source = measure_audio(demo.SENTENCE)
    write_video(images(), path, fps=demo.FPS, audio=source, options=EncodeOptions(crf=14))
