"""Measure the evaluation: whether its judge ranks real clips, and its speed beside the published scripts.

    python benchmarks/evaluate.py rank CLIP... [--out build/evaluate] [--syncnet syncnet_v2.model]
    python benchmarks/evaluate.py speed CLIP

`rank` evaluates each clip as it is, with its audio 2, 5 and 10 frames late, with the audio of the next clip,
and dubbed by the bundled weights (or --checkpoint_path) to its own audio and to that of the next clip.

`speed` scores one clip with SyncNet v2, with random weights of full size, and repeats the steps of
`run_pipeline.py` and `SyncNetInstance.py` beside it: S3FD on every frame at a quarter of its size, crops
written as JPEG and read again, five images per window, 3-D convolutions, batches of 20. Weights do not change
the time.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import torch
from scipy.signal import medfilt

from wav2lip_npu import dub, evaluate, load_models
from wav2lip_npu.devices import device as devices
from wav2lip_npu.devices import number_formats
from wav2lip_npu.evaluation.inputs import Pair
from wav2lip_npu.evaluation.judges import Judges
from wav2lip_npu.evaluation.mfcc import int16, mfcc
from wav2lip_npu.evaluation.options import EvaluateOptions
from wav2lip_npu.evaluation.video import evaluate_video
from wav2lip_npu.faces.detectors import load_detector
from wav2lip_npu.media.audio_reader import read_audio
from wav2lip_npu.media.container import probed
from wav2lip_npu.media.video_reader import read_frames
from wav2lip_npu.models.syncnet_v2 import SyncNetRunner, SyncNetV2

RATE = 16_000
LATE = (2, 5, 10)
"""Frames of 1/25 s."""


def with_audio(source: Path, wav: np.ndarray, out: Path) -> Path:
    """Copy a video, its frames unchanged, with other audio."""
    with av.open(str(source)) as original, av.open(str(out), "w") as copy:
        video = original.streams.video[0]
        stream = copy.add_stream_from_template(video)
        track: Any = copy.add_stream("pcm_s16le", rate=RATE, layout="mono")
        begin = video.start_time or 0
        for packet in original.demux(video):
            if packet.dts is None:
                continue
            packet.pts = None if packet.pts is None else packet.pts - begin
            packet.dts -= begin
            packet.stream = stream
            copy.mux(packet)
        frame = av.AudioFrame.from_ndarray(int16(wav)[None], "s16", "mono")
        frame.sample_rate, frame.pts = RATE, 0
        copy.mux(track.encode(frame))
        copy.mux(track.encode(None))
    return out


def variants(clips: list[Path], out: Path, checkpoint: str) -> Iterator[tuple[str, int | None, list[str]]]:
    """Yield a name, the frames by which the audio is late, and the videos of each variant."""
    audios = [read_audio(clip, RATE) for clip in clips]
    following = [np.resize(audios[(n + 1) % len(clips)], len(wav)) for n, wav in enumerate(audios)]

    def videos(name: str, wavs: list[np.ndarray]) -> list[str]:
        (out / name).mkdir(parents=True, exist_ok=True)
        pairs = zip(clips, wavs, strict=True)
        return [str(with_audio(clip, wav, out / name / f"{clip.stem}.mkv")) for clip, wav in pairs]

    yield "original", 0, videos("original", audios)
    for late in LATE:
        shifted = [
            np.concatenate([np.zeros(late * RATE // 25, np.float32), wav])[: len(wav)] for wav in audios
        ]
        yield f"audio {late} frames late", late, videos(f"late{late}", shifted)
    swapped = videos("swapped", following)
    yield "audio of another clip", None, swapped
    models = load_models(checkpoint)
    for name, sources in (("dubbed, own audio", clips), ("dubbed, audio of another clip", swapped)):
        results = []
        for clip, audio in zip(clips, sources, strict=True):
            target = out / name.replace(", ", "_").replace(" ", "_") / f"{clip.stem}.mp4"
            target.parent.mkdir(exist_ok=True)
            if not target.exists():
                dub(clip, audio, target, models=models)
            results.append(str(target))
        yield name, 0, results


def rank(arguments: argparse.Namespace) -> None:
    """Print a table of all variants."""
    groups = ("expert",) if arguments.syncnet is None else ("expert", "sync")
    options = EvaluateOptions(
        metrics=groups, syncnet=arguments.syncnet, min_track=arguments.min_track, device=arguments.device
    )
    rows: dict[str, Any] = {}
    own: dict[str, float] = {}
    for name, late, videos in variants(arguments.clips, arguments.out, arguments.checkpoint_path):
        report = evaluate(videos, options=options)
        row = {key: figure.generated for key, figure in report.figures.items()}
        found = {
            Path(video.video).stem: video.figures["expert_offset"].generated
            for video in report.videos
            if "expert_offset" in video.figures
        }
        own = own or found
        if late is not None:
            expected = {clip: (0 if name.startswith("dubbed") else own[clip]) - late for clip in found}
            row["offset_found"] = float(np.mean([abs(found[clip] - expected[clip]) <= 1 for clip in found]))
        rows[name] = {"videos": len(found), **row, "offsets": found}
        print(name, json.dumps(row), flush=True)
        (arguments.out / "rank.json").write_text(json.dumps(rows, indent=1))
    keys = ["expert_cosine", "expert_confidence", "offset_found", "lse_d", "lse_c"]
    keys = [key for key in keys if any(key in row for row in rows.values())]
    print("| |", " | ".join(keys), "|\n|" + "---|" * (len(keys) + 1))
    for name, row in rows.items():
        print(f"| {name} |", " | ".join(f"{row[key]:.3f}" if key in row else "" for key in keys), "|")


def published_way(
    clip: Path, network: SyncNetV2, detector: torch.nn.Module, folder: Path
) -> dict[str, float]:
    """Repeat the steps of the published scripts; return the seconds of each."""
    times: dict[str, float] = {}

    def timed(name: str, step: Callable[[], Any]) -> Any:
        begun = time.perf_counter()
        result = step()
        times[name] = time.perf_counter() - begun
        return result

    def extract() -> list[Path]:
        paths = []
        for frame in read_frames(clip, fps=Fraction(25)):
            paths.append(folder / f"{frame.index:06d}.jpg")
            cv2.imwrite(str(paths[-1]), frame.image)
        return paths

    def detect() -> None:
        for path in paths:
            image = cv2.resize(cv2.imread(str(path)), None, fx=0.25, fy=0.25).astype(np.float32)
            with torch.inference_mode():
                detector(torch.from_numpy(image).permute(2, 0, 1)[None])

    def crop() -> list[Path]:
        crops = []
        half = medfilt([60.0] * len(paths), 13)
        for path, side in zip(paths, half, strict=True):
            image = cv2.imread(str(path))
            pad = int(side * 1.8)
            padded = np.pad(image, ((pad, pad), (pad, pad), (0, 0)), "constant", constant_values=110)
            y, x = image.shape[0] // 2 + pad, image.shape[1] // 2 + pad
            face = padded[int(y - side) : int(y + 1.8 * side), int(x - 1.4 * side) : int(x + 1.4 * side)]
            crops.append(path.with_suffix(".crop.jpg"))
            cv2.imwrite(str(crops[-1]), cv2.resize(face, (224, 224)))
        return crops

    def score() -> None:
        images = np.stack([cv2.imread(str(path)) for path in crops], axis=3)[None]
        film = torch.from_numpy(images.transpose(0, 3, 4, 1, 2).astype(float)).float()
        sound = torch.from_numpy(mfcc(int16(read_audio(clip, RATE))).T[None, None]).float()
        lips, voice = [], []
        with torch.inference_mode():
            for first in range(0, len(crops) - 5, 20):
                starts = range(first, min(len(crops) - 5, first + 20))
                windows = torch.cat([film[:, :, start : start + 5] for start in starts])
                lips.append(network.netfclip(network.netcnnlip(windows).flatten(1)))
                windows = torch.cat([sound[..., 4 * start : 4 * start + 20] for start in starts])
                voice.append(network.netfcaud(network.netcnnaud(windows).flatten(1)))
        padded = torch.nn.functional.pad(torch.cat(voice), (0, 0, 15, 15))
        for number, feature in enumerate(torch.cat(lips)):
            torch.nn.functional.pairwise_distance(feature[None].repeat(31, 1), padded[number : number + 31])

    paths: list[Path] = timed("extract", extract)
    timed("detect", detect)
    crops: list[Path] = timed("crop", crop)
    timed("score", score)
    return times


def speed(arguments: argparse.Namespace) -> None:
    """Print the seconds of both ways, alternately, in one run; CPU time hardly depends on other programs."""
    from face_alignment.detection.sfd.net_s3fd import s3fd

    (clip,) = arguments.clips
    device = devices.resolve(arguments.device)
    torch.manual_seed(0)
    network, s3fd_network = SyncNetV2().eval(), s3fd().eval()
    runner = SyncNetRunner(network, device, number_formats.dtype_of(arguments.precision))
    judges = Judges(device, load_detector("auto", str(device)), runner, None, {}, {})
    options = EvaluateOptions(metrics=("sync",), min_track=0)
    frames = sum(1 for _ in read_frames(probed(clip), fps=Fraction(25)))
    print(f"{clip.name}, {frames} frames, {torch.get_num_threads()} threads, {devices.describe(device)}")
    for _ in range(arguments.repeats):
        begun, cpu = time.perf_counter(), time.process_time()
        evaluate_video(Pair(generated=str(clip)), judges, options)
        ours, cpu = time.perf_counter() - begun, time.process_time() - cpu
        their_cpu = time.process_time()
        with tempfile.TemporaryDirectory() as folder:
            theirs = published_way(clip, network, s3fd_network, Path(folder))
        total, their_cpu = sum(theirs.values()), time.process_time() - their_cpu
        parts = ", ".join(f"{name} {seconds:.1f}" for name, seconds in theirs.items())
        print(f"published way {total:.1f} s ({parts})")
        print(f"evaluate {ours:.1f} s: {total / ours:.1f} times as fast")
        print(f"CPU time {their_cpu:.1f} s and {cpu:.1f} s: {their_cpu / cpu:.1f} times", flush=True)


def main() -> None:
    """Run one part."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("part", choices=["rank", "speed"])
    parser.add_argument("clips", type=Path, nargs="+")
    parser.add_argument("--out", type=Path, default=Path("build/evaluate"))
    parser.add_argument("--checkpoint_path", default="starter")
    parser.add_argument("--syncnet")
    parser.add_argument("--min_track", type=int)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--precision", default="fp32", choices=["fp32", "bf16"])
    parser.add_argument("--repeats", type=int, default=2)
    arguments = parser.parse_args()
    {"rank": rank, "speed": speed}[arguments.part](arguments)


if __name__ == "__main__":
    main()
