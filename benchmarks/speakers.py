"""Time dubs of two speakers, or measure how well the speaker of a film is found by its own sound.

    python benchmarks/speakers.py time --face two_people.mp4 --audio speech.wav
    python benchmarks/speakers.py choice talk_1.mp4 talk_2.mp4 talk_3.mp4 ... [--asd FILE]

`time` dubs a film in one process: one face, then speakers `left` and `right` in turns of `--turn` seconds,
then both at the same time. Each dub runs `--rounds` times, in turn, and the one with the fewest CPU seconds
counts.

`choice` puts each clip beside the next one. The sound is that of the left one, the right one, or of a third
clip that is not seen, in turns of about `--turn` seconds, so that the speaker is known. With `--listeners
talk`, both mouths move all the time, in their own speech; with `closed`, who is not heard shows the longest
pause of the clip, played back and forth. Only frames in which speech is heard count, 0.2 s after the last
change and before the next. `--side` is the width of each half in pixels; a face is about half as wide.
`by_yaw` has the frames in which a seen speaker's head is turned by so many degrees.
"""

from __future__ import annotations

import argparse
import itertools
import json
import resource
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import cv2
import numpy as np

FPS, RATE, COLLAR = 25, 16_000, 5
YAWS = (0, 15, 30, 50, 90)
"""Degrees by which a head is turned: the edges of the parts for which figures are given, too."""
NOBODY = 2
"""The place of a speaker who is not seen; 0 is left, and 1 right."""


def main() -> None:
    """Print the figures as JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    timed_dubs = commands.add_parser("time")
    timed_dubs.add_argument("--face", required=True)
    timed_dubs.add_argument("--audio", required=True)
    timed_dubs.add_argument("--rounds", type=int, default=2)
    choice = commands.add_parser("choice")
    choice.add_argument("clips", nargs="+")
    choice.add_argument("--asd", action="append", default=[])
    choice.add_argument("--side", type=int, default=360)
    choice.add_argument("--listeners", choices=("talk", "closed"), default="talk")
    for command in (timed_dubs, choice):
        command.add_argument("--device", default="auto")
        command.add_argument("--turn", type=float, default=2.0)
    given = parser.parse_args()
    print(json.dumps(time_dubs(given) if given.command == "time" else measure_choices(given), indent=2))


def time_dubs(given: argparse.Namespace) -> dict[str, Any]:
    """Return the seconds of each dub, and their ratios."""
    from wav2lip_npu import Turn, dub, dub_speakers, load_models
    from wav2lip_npu.devices import device
    from wav2lip_npu.media.audio_reader import measure_audio

    models = load_models(device=given.device)
    seconds = float(measure_audio(given.audio).duration)
    starts = [given.turn * number for number in range(int(seconds / given.turn))]
    alternating = [
        Turn(("a", "b")[number % 2], start, start + given.turn) for number, start in enumerate(starts)
    ]
    at_once = [Turn(name, 0, seconds) for name in ("a", "b")]
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "out.mp4"

        def two(turns: list[Turn]) -> Any:
            return dub_speakers(
                given.face, ["a@left", "b@right"], out, audio=given.audio, turns=turns, models=models
            )

        def one(choice: str) -> Any:
            return dub(given.face, given.audio, out, models=models, face_select=choice)

        dubs: dict[str, Callable[[], Any]] = {
            "one": lambda: one("left"),
            "speaking": lambda: one("speaking"),
            "alternating": lambda: two(alternating),
            "at_once": lambda: two(at_once),
        }
        dub(given.face, given.audio, out, models=models, duration=0.2)  # imports and first calls
        best: dict[str, dict[str, Any]] = {}
        for _ in range(given.rounds):
            for name, run in dubs.items():
                measured = timed(run)
                if name not in best or measured["cpu"] < best[name]["cpu"]:
                    best[name] = measured
    ratios = {
        f"{name}_to_one": {
            clock: round(best[name][clock] / best["one"][clock], 3) for clock in ("cpu", "wall")
        }
        for name in dubs
        if name != "one"
    }
    return {"device": device.describe(models.device), "cores": device.cpu_count(), **best, **ratios}


def timed(run: Callable[[], Any]) -> dict[str, Any]:
    """Return the seconds of a dub, and those of its stages."""
    wall, cpu = time.perf_counter(), _cpu_seconds()
    report = run()
    return {
        "wall": round(time.perf_counter() - wall, 3),
        "cpu": round(_cpu_seconds() - cpu, 3),
        "frames": report.frames,
        "stages": report.seconds_per_stage,
        "dubbed": [one.dubbed_frames for one in report.speakers or []] or [report.dubbed_frames],
    }


def _cpu_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


@dataclass
class Clip:
    """A talking face, with its own sound."""

    images: list[np.ndarray]
    """BGR uint8 [side, side, 3]."""
    yaws: np.ndarray
    """Degrees by which the head is turned in each image, float [N]."""
    sound: np.ndarray
    pause: tuple[int, int]
    """First frame of the longest pause, and the one after its last."""

    @classmethod
    def read(cls, path: str, side: int, detector: Any) -> Clip:
        """Read at most 10 s of a clip, scaled to a square."""
        from wav2lip_npu.evaluation.audio_track import read_track
        from wav2lip_npu.media.audio_reader import read_audio
        from wav2lip_npu.media.video_reader import read_frames

        frames = itertools.islice(read_frames(path, fps=Fraction(FPS)), 10 * FPS)
        whole = [frame.image for frame in frames]
        images = [_square(image, side) for image in whole]
        track = read_track(path)
        assert track is not None, path
        quiet = np.concatenate([[False], track.pauses[: len(images)], [False]])
        edges = np.flatnonzero(np.diff(quiet)).tolist()
        spans = list(zip(edges[::2], edges[1::2], strict=True)) or [(0, 1)]
        yaws = _yaws(whole, detector)
        return cls(images, yaws, read_audio(path), max(spans, key=lambda span: span[1] - span[0]))

    def image(self, frame: int, *, listens: bool) -> np.ndarray:
        """Return a frame, or that of a listener at this time."""
        if not listens:
            return self.images[frame]
        first, end = self.pause
        there_and_back = [*range(first, end), *range(end - 2, first, -1)]
        return self.images[there_and_back[frame % len(there_and_back)]]


def _yaws(images: Sequence[np.ndarray], detector: Any) -> np.ndarray:
    """Return how far the head is turned in each image, in degrees; it is measured in every fifth one."""
    from wav2lip_npu.faces.head_pose import head_pose

    measured = []
    for found in (detector([image])[0] for image in images[::5]):
        largest = max(found, key=lambda face: float(np.prod(face.box[2:] - face.box[:2])), default=None)
        measured.append(np.nan if largest is None else abs(head_pose(largest.landmarks).yaw))
    return np.repeat(measured, 5)[: len(images)]


def _square(image: np.ndarray, to: int) -> np.ndarray:
    height, width = image.shape[:2]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    return cv2.resize(image[top : top + side, left : left + side], (to, to), interpolation=cv2.INTER_AREA)


def measure_choices(given: argparse.Namespace) -> dict[str, Any]:
    """Return the shares of right, wrong and refused choices by each judge, with turns and without."""
    from wav2lip_npu.devices import device
    from wav2lip_npu.faces.detectors import load_detector
    from wav2lip_npu.media.container import probe
    from wav2lip_npu.media.geometry import Geometry
    from wav2lip_npu.speaking.watching import watch_film

    where, detector = device.resolve(given.device), load_detector("auto", given.device)
    clips = [Clip.read(path, given.side, detector) for path in given.clips]
    counts: dict[str, dict[str, Counter[str]]] = {}
    total = 0
    random = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        for number, (left, right, unseen) in enumerate(
            zip(clips, _turned(clips, 1), _turned(clips, 2), strict=True)
        ):
            turns = list(_turns(min(len(left.images), len(right.images)), given.turn, random))
            path = Path(folder) / f"{number}.mp4"
            _write_film(path, (left, right, unseen), turns, closed=given.listeners == "closed")
            total += turns[-1][1]
            for asd in [None, *given.asd]:
                film = watch_film(
                    probe(path), Geometry(), detector, where, asd, (Fraction(0), Fraction(turns[-1][1], FPS))
                )
                spans = [(Fraction(first, FPS), Fraction(end, FPS)) for first, end, _ in turns]
                by_mode = counts.setdefault(film.judge, {})
                for mode, choices in (("turns", film.choices_of(spans)), ("none", film.choices())):
                    by_mode.setdefault(mode, Counter()).update(_counts(film, choices, turns, (left, right)))
    figures = {
        judge: {mode: _shares(count) for mode, count in by_mode.items()} for judge, by_mode in counts.items()
    }
    return {
        "films": len(clips),
        "seconds": total / FPS,
        "side": given.side,
        "listeners": given.listeners,
        "judges": figures,
    }


def _turned(clips: Sequence[Clip], by: int) -> list[Clip]:
    return [*clips[by:], *clips[:by]]


def _turns(frames: int, seconds: float, random: np.random.Generator) -> Iterator[tuple[int, int, int]]:
    """Yield first frame, end and place of the speaker of each turn."""
    first, place = 0, int(random.integers(3))
    while first < frames:
        end = first + round(seconds * FPS * random.uniform(0.7, 1.3))
        end = frames if frames - end < FPS // 2 else end
        yield first, end, place
        first, place = end, (place + (1 if random.random() < 0.7 else 2)) % 3


def _write_film(
    path: Path, clips: Sequence[Clip], turns: Sequence[tuple[int, int, int]], *, closed: bool
) -> None:
    import soundfile

    from wav2lip_npu.media.audio_reader import measure_audio
    from wav2lip_npu.media.audio_track import Soundtrack
    from wav2lip_npu.media.video_writer import EncodeOptions, write_video
    from wav2lip_npu.media.yuv_image import Colour, YuvImage

    sound, at = np.zeros(turns[-1][1] * RATE // FPS, np.float32), RATE // FPS
    for first, end, place in turns:
        own = np.resize(clips[place].sound, len(sound)) if place == NOBODY else clips[place].sound
        part = own[first * at : end * at]
        sound[first * at : first * at + len(part)] = part
    soundfile.write(path.with_suffix(".wav"), sound, RATE)

    def images() -> Iterator[YuvImage]:
        for first, end, place in turns:
            for frame in range(first, end):
                halves = [
                    clip.image(frame, listens=closed and place != side) for side, clip in enumerate(clips[:2])
                ]
                yield YuvImage.from_image(np.hstack(halves), Colour())

    write_video(
        images(),
        path,
        fps=Fraction(FPS),
        audio=Soundtrack(source=measure_audio(path.with_suffix(".wav"))),
        options=EncodeOptions(crf=12, preset="ultrafast"),
    )


def _counts(
    film: Any, choices: Sequence[Any], turns: Sequence[tuple[int, int, int]], clips: Sequence[Clip]
) -> Counter[str]:
    side = clips[0].images[0].shape[0]
    chosen = np.full(turns[-1][1], -1)
    for choice in choices:
        if choice.track is not None:
            centre = float(film.boxes[choice.track][1][:, ::2].mean())
            chosen[choice.first : choice.end] = int(centre > side)
    count: Counter[str] = Counter()
    for first, end, place in turns:
        span = slice(first + COLLAR, max(first + COLLAR, end - COLLAR))
        of_turn = chosen[span][film.speech[span]]
        names = ("unseen_chosen", "unseen") if place == NOBODY else ("chosen", "seen")
        count[names[0]] += int((of_turn >= 0).sum())
        count[names[1]] += len(of_turn)
        count["right"] += int((of_turn == place).sum())
        if place == NOBODY:
            continue
        yaws = clips[place].yaws[span][film.speech[span]]
        for low, high in itertools.pairwise(YAWS):
            part = of_turn[(yaws >= low) & (yaws < high)]
            count[f"{low} seen"] += len(part)
            count[f"{low} chosen"] += int((part >= 0).sum())
            count[f"{low} right"] += int((part == place).sum())
    return count


def _shares(count: Counter[str]) -> dict[str, Any]:
    by_yaw = {
        f"{low}-{high}": {
            "seconds": count[f"{low} seen"] / FPS,
            "precision": round(count[f"{low} right"] / max(1, count[f"{low} chosen"]), 3),
            "refused": round(1 - count[f"{low} chosen"] / max(1, count[f"{low} seen"]), 3),
        }
        for low, high in itertools.pairwise(YAWS)
    }
    shares = {
        "precision": count["right"] / max(1, count["chosen"]),
        "recall": count["right"] / max(1, count["seen"]),
        "refused": 1 - count["chosen"] / max(1, count["seen"]),
        "unseen_speaker_gets_a_face": count["unseen_chosen"] / max(1, count["unseen"]),
    }
    return {name: round(share, 3) for name, share in shares.items()} | {"by_yaw": by_yaw}


if __name__ == "__main__":
    main()
