"""Measure the bundled weights on held-out speakers.

    python benchmarks/starter.py --clips CLIPS --list val.txt --judge JUDGE.pth [--out FIGURES.json]

CLIPS, list and JUDGE come from recipes/starter/run.sh. JUDGE is a SyncNet of another seed and width that was
never a loss. Faces are generated and blended into their crops as in a dub, and judged there. Clips of less
than two seconds only measure the SyncNets. Prints a table of figure, aim and measurement.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from wav2lip_npu.data.clip import Clip, first_column, mel_columns, read_clip
from wav2lip_npu.data.clip_index import clip_folder
from wav2lip_npu.data.clip_layout import FACE_SIZE, WINDOW
from wav2lip_npu.data.face_reader import FaceReader
from wav2lip_npu.data.file_lists import read_list
from wav2lip_npu.dubbing.blend import load_mask
from wav2lip_npu.dubbing.inference import GeneratorRunner, Models, load_models
from wav2lip_npu.dubbing.options import DubOptions
from wav2lip_npu.dubbing.pauses import find_pauses, loudness, rest_weights, with_silence
from wav2lip_npu.dubbing.temporal_smoothing import SilenceDamper
from wav2lip_npu.evaluation.picture import psnr, squared_error, ssim
from wav2lip_npu.mel import Mel, log_mel, mel_window
from wav2lip_npu.models import checkpoint
from wav2lip_npu.models.inputs import face_batch, generator_input, images_of_faces
from wav2lip_npu.models.networks import SyncNet
from wav2lip_npu.parallel.thread_counts import one_core_each
from wav2lip_npu.parallel.threads import map_in_threads
from wav2lip_npu.storage.outputs import OutputPath, check_outputs, write_output
from wav2lip_npu.training.losses import cosines
from wav2lip_npu.training.sync_offset import MAX_OFFSET, Similarities, embed, similarities
from wav2lip_npu.training.syncnet_figures import held_out_figures

FPS = Fraction(25)
MOUTH = FACE_SIZE // 2
BELOW = np.s_[MOUTH:, :]
LIPS = np.s_[MOUTH + 10 : MOUTH + 42, 28:68]
"""Lips and chin in the lower half of a face, whose other parts move with the head."""
CPU = torch.device("cpu")
PARTNER = 7
"""A sentence is dubbed with the audio of the sentence this many lines below."""
QUIET = 1e-3
"""Amplitude of the noise of a silent room, -60 dB."""
SHORTEST = 50
"""Frames of a clip in which offsets of 15 frames can be measured."""
REJECTED = 0.5
"""Mean cosine below which audio and mouth do not match: the decision boundary of the loss."""


class Judgement(NamedTuple):
    """The judgement of faces with audio."""

    offset: int
    confidence: float
    in_sync: float
    """Mean cosine at offset 0."""

    @property
    def follows(self) -> bool:
        """Whether the mouth moves with this audio."""
        return abs(self.offset) <= 1


class Sentence(NamedTuple):
    """A clip in memory."""

    name: str
    faces: np.ndarray
    """uint8 [N, S, S, 3]"""
    mel: Mel


def sentences(clips: list[Clip]) -> list[Sentence]:
    """Return the clips of at least two seconds that have all frames from first to last."""
    reader, result = FaceReader(cache=False), []
    for clip in clips:
        start = max(0, -int(clip.frames[0]))  # frames before the start of the audio
        count = len(clip.frames) - start
        if count >= SHORTEST and np.ptp(clip.frames) == len(clip.frames) - 1:
            mel = clip.mel()[:, first_column(int(clip.frames[start])) :]
            result.append(Sentence(clip.name, reader(clip, start, count), mel))
    return result


def dub_faces(models: Models, faces: np.ndarray, mel: Mel) -> np.ndarray:
    """Return faces [N, S, S, 3] for a mel, generated and blended as in a dub."""
    mask = load_mask("soft", FACE_SIZE)
    pauses = find_pauses(loudness(mel), DubOptions().rest_threshold)
    rest = SilenceDamper(pauses, FPS, models.mel_shift)
    mel = with_silence(mel, rest_weights(pauses))
    mels = [mel_window(mel, number, FPS, models.mel_shift) for number in range(len(faces))]
    generated = GeneratorRunner(models, None, mask)(list(faces), mels)
    mouths = np.stack([rest(number, mouth) for number, mouth in enumerate(generated)]).astype(np.float32)
    dubbed_faces = faces.copy()
    below = dubbed_faces[:, mask.top_row :]
    weights = mask.weights[:, :, None] * mouths[..., 3:] / 255
    below[:] = np.rint(below + weights * (mouths[..., :3] - below))
    return dubbed_faces


def judge_faces(syncnet: SyncNet, faces: np.ndarray, mel: Mel) -> Judgement:
    """Judge faces [N, S, S, 3] with audio by a SyncNet."""
    last = min(len(faces) - WINDOW, int((mel.shape[1] - 16) * 25 / 80) - 1)
    starts = np.arange(last + 1)
    sounds = np.stack([mel_columns(mel, int(start)) for start in starts])
    windows = np.stack([faces[start : start + WINDOW, MOUTH:] for start in starts])
    table = Similarities(starts, cosines(*embed(syncnet, sounds, windows, CPU)))
    return Judgement(*table.offset(), float(table.by_offset()[:, MAX_OFFSET].mean()))


def rejected(judgement: Judgement) -> bool:
    """Return whether audio and mouth are judged not to match."""
    return not judgement.follows or judgement.in_sync < REJECTED


def half_away(count: int) -> np.ndarray:
    """Return for each of `count` frames the frame half a clip away, as a reference with another mouth."""
    return (np.arange(count) + count // 2) % count


def likeness(generated: np.ndarray, truth: np.ndarray) -> tuple[float, float]:
    """Return PSNR in dB and SSIM of the mouth regions of faces."""
    a, b = generated[:, MOUTH:], truth[:, MOUTH:]
    similarity = np.mean([ssim(x, y) for x, y in zip(a[::3], b[::3], strict=True)])
    return psnr(squared_error(a, b)), float(similarity)


def motion(faces: np.ndarray, part: tuple[slice, slice] = LIPS) -> float:
    """Return the mean squared change of a part of the face between frames."""
    return float(np.square(np.diff(faces[(slice(None), *part)].astype(np.float32), axis=0)).mean())


def of_syncnet(syncnet: SyncNet, clips: list[Clip]) -> dict[str, float]:
    """Return BCE and retrieval of a SyncNet."""
    reader = FaceReader()
    return held_out_figures((similarities(syncnet, clip, reader, CPU) for clip in clips), CPU)


def of_generator(models: Models, syncnet: SyncNet, tests: list[Sentence]) -> Iterator[dict[str, float]]:
    """Yield figures of each sentence: own audio with another reference, another's audio, silence."""
    random = np.random.default_rng(0)
    wav = random.normal(0, QUIET, 16_000 * 4).astype(np.float32)
    silence = log_mel(wav)
    for number, test in enumerate(tests):
        count = len(test.faces)
        other = tests[(number + PARTNER) % len(tests)]
        away = half_away(count)
        own = generate_faces(models, test.faces[away], test.faces, test.mel)
        dubbed = dub_faces(models, test.faces, other.mel)
        quiet = dub_faces(models, test.faces, silence)
        still = np.repeat(test.faces[:1], count, axis=0)
        real, generated = judge_faces(syncnet, test.faces, test.mel), judge_faces(syncnet, own, test.mel)
        new, old = judge_faces(syncnet, dubbed, other.mel), judge_faces(syncnet, dubbed, test.mel)
        mismatched = judge_faces(syncnet, test.faces, other.mel)
        (psnr, ssim), (copied_psnr, copied_ssim) = (
            likeness(faces, test.faces) for faces in (own, test.faces[away])
        )
        yield {
            "real_follows": real.follows,
            "real_confidence": real.confidence,
            "own_follows": generated.follows,
            "own_confidence": generated.confidence,
            "new_follows": new.follows,
            "new_in_sync": new.in_sync,
            "new_confidence": new.confidence,
            "old_follows": old.follows,
            "old_in_sync": old.in_sync,
            "old_rejected": rejected(old),
            "new_before_old": new.in_sync > old.in_sync,
            "real_rejected": rejected(mismatched),
            "psnr": psnr,
            "ssim": ssim,
            "copied_psnr": copied_psnr,
            "copied_ssim": copied_ssim,
            "better": psnr > copied_psnr and ssim > copied_ssim,
            "motion_speech": motion(dubbed),
            "motion_silence": motion(quiet),
            "motion_real": motion(test.faces),
            "below_speech": motion(dubbed, BELOW),
            "below_silence": motion(quiet, BELOW),
            "still_speech": motion(dub_faces(models, still, other.mel)),
            "still_silence": motion(dub_faces(models, still, silence)),
        }


def generate_faces(models: Models, references: np.ndarray, truth: np.ndarray, mel: Mel) -> np.ndarray:
    """Return faces for a mel with separate reference and target frames, as in training."""
    mels = np.stack([mel_window(mel, number, FPS, models.mel_shift) for number in range(len(truth))])
    pair = generator_input(*(face_batch(torch.from_numpy(faces)) for faces in (truth, references)))
    with torch.inference_mode():
        faces = models.generator(torch.from_numpy(mels)[:, None], pair)
    result: np.ndarray = images_of_faces(faces).numpy()
    return result


def speed(models: Models, test: Sentence, seconds: float = 10.0) -> float:
    """Return frames per second of the generator alone, as a dub runs it."""
    runner = GeneratorRunner(models, None, load_mask("soft", FACE_SIZE))
    faces = [face.copy() for face in test.faces[: runner.batch]]
    mels = [mel_window(test.mel, number, FPS) for number in range(len(faces))]
    work = [(faces, mels)] * (2 * runner.lanes)
    done, started = 0, time.perf_counter()
    with one_core_each(CPU) as prepare:
        while time.perf_counter() - started < seconds:
            for generated in map_in_threads(lambda batch: runner(*batch), work, runner.lanes, prepare):
                done += len(generated)
    return done / (time.perf_counter() - started)


def share(rows: list[dict[str, float]], key: str) -> float:
    """Return the mean of a figure over the sentences."""
    return float(np.mean([row[key] for row in rows]))


def ratio(means: dict[str, float], part: str, whole: str) -> float:
    """Return a ratio of figures, 0 for those of an untrained network that are 0."""
    return means[part] / means[whole] if means[whole] else 0.0


def main() -> int:
    """Measure, print the table, write the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--clips", type=Path, required=True)
    parser.add_argument("--list", type=Path, required=True, help="held-out clips")
    parser.add_argument("--judge", type=Path, required=True)
    parser.add_argument("--generator", default="starter")
    parser.add_argument("--syncnet", default="starter")
    parser.add_argument("--sentences", type=int, default=None, help="maximum number of clips")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    if arguments.out is not None:
        check_outputs([OutputPath("--out", arguments.out)])
    entries = read_list(arguments.list)
    clips = [read_clip(e.name, clip_folder(arguments.clips, e.name), e.audio_offset) for e in entries]
    step = max(1, len(clips) // arguments.sentences) if arguments.sentences else 1
    models = load_models(arguments.generator, device="cpu", precision="fp32")
    networks = {
        name: checkpoint.load(path, "syncnet").network()
        for name, path in {"syncnet": arguments.syncnet, "judge": arguments.judge}.items()
    }
    figures = {
        name: of_syncnet(network, clips[::step][: arguments.sentences]) for name, network in networks.items()
    }
    tests = sentences(clips)
    step = max(1, len(tests) // arguments.sentences) if arguments.sentences else 1
    tests = tests[::step][: arguments.sentences]
    if not tests:
        sys.stderr.write(f"{arguments.list}: no clip has {SHORTEST} frames\n")
        return 1
    rows = list(of_generator(models, networks["judge"], tests))
    means = {key: share(rows, key) for key in rows[0]}
    means["frames_per_second"] = speed(models, tests[0])
    table = [
        ("SyncNet: BCE", "< 0.25", f"{figures['syncnet']['bce']:.3f}"),
        ("... AUC", "stated", f"{figures['syncnet']['auc']:.3f}"),
        ("... offset retrieval of clips", ">= 95 %", f"{figures['syncnet'].get('clip_retrieval', 0):.1%}"),
        ("judge: BCE", "", f"{figures['judge']['bce']:.3f}"),
        ("... AUC", "", f"{figures['judge']['auc']:.3f}"),
        ("own audio: judged offset 0 +- 1", ">= 90 %", f"{means['own_follows']:.1%}"),
        (
            "... confidence against the real video's",
            ">= 70 %",
            f"{ratio(means, 'own_confidence', 'real_confidence'):.1%}",
        ),
        ("another's audio: judged offset follows it", ">= 85 %", f"{means['new_follows']:.1%}"),
        ("... and the old audio is rejected", "rejected", f"{means['old_rejected']:.1%}"),
        ("... fits better than the old one", "stated", f"{means['new_before_old']:.1%}"),
        ("real video with another's audio is rejected", "stated", f"{means['real_rejected']:.1%}"),
        (
            "... mean cosine with new and old audio",
            "",
            f"{means['new_in_sync']:.2f}, {means['old_in_sync']:.2f}",
        ),
        (
            "mouth region, own audio: PSNR, copied reference",
            "better",
            f"{means['psnr']:.2f} dB, {means['copied_psnr']:.2f} dB",
        ),
        ("... SSIM, copied reference", "better", f"{means['ssim']:.3f}, {means['copied_ssim']:.3f}"),
        ("... clips in which both are better", ">= 90 %", f"{means['better']:.1%}"),
        (
            "silence against speech: mouth motion, still image",
            "<= 20 %",
            f"{ratio(means, 'still_silence', 'still_speech'):.1%}",
        ),
        (
            "... video of a runner, lips and chin",
            "<= 20 %",
            f"{ratio(means, 'motion_silence', 'motion_speech'):.1%}",
        ),
        (
            "... the same, lower half of the face, including head motion",
            "stated",
            f"{ratio(means, 'below_silence', 'below_speech'):.1%}",
        ),
        (
            "generator alone, 25 fps on 2 cores",
            ">= 2x real time",
            f"{means['frames_per_second'] / 25:.1f}x",
        ),
    ]
    sys.stdout.write("| figure | aim | measured |\n|---|---|---|\n")
    sys.stdout.writelines(f"| {name} | {aim} | {value} |\n" for name, aim, value in table)
    if arguments.out is not None:
        write_output(arguments.out, json.dumps({**figures, "generator": means}, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
