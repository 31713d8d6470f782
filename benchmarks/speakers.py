"""Time a dub of two speakers beside that of one, in one process.

    python benchmarks/speakers.py --face two_people.mp4 --audio speech.wav

Speaker `left` and speaker `right` take turns of `--turn` seconds in the audio, then speak at the same time.
Each dub runs `--rounds` times, in turn, and the one with the fewest CPU seconds counts.
"""

from __future__ import annotations

import argparse
import json
import resource
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any


def main() -> None:
    """Print the seconds of each dub, and their ratios, as JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--face", required=True)
    parser.add_argument("--audio", required=True)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--turn", type=float, default=2.0)
    parser.add_argument("--rounds", type=int, default=2)
    given = parser.parse_args()

    from wav2lip_npu import Turn, device, dub, dub_speakers, load_models
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

        dubs: dict[str, Callable[[], Any]] = {
            "one": lambda: dub(given.face, given.audio, out, models=models, face_select="left"),
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
        for name in ("alternating", "at_once")
    }
    report = {"device": device.describe(models.device), "cores": device.cpu_count(), **best, **ratios}
    print(json.dumps(report, indent=2))


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


if __name__ == "__main__":
    main()
