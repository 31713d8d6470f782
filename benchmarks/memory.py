"""Measure the peak memory of a dub for audio of different lengths, in one run on this machine.

    python benchmarks/memory.py --face talk.mp4 [--minutes 1 60 180] [--form m4a] [-- FLAGS OF THE DUB]

The audio is repeated to each length. Each dub runs the command in its own process, with FLAGS. Small frames
at a low rate (`--resize_factor 4 --fps 5`) take less time and the same memory for the audio. The default of
--checkpoint_path is the bundled weights.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.dub import our_command  # noqa: E402
from wav2lip_npu.media.audio_reader import read_audio  # noqa: E402

RATE = 44_100
CODECS = {"wav": "pcm_s16le", "flac": "flac", "m4a": "aac", "mp3": "libmp3lame"}


def main() -> None:
    """Dub the lengths one after the other and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--face", required=True)
    parser.add_argument("--audio", help="default: noise, one second on and one second off")
    parser.add_argument("--minutes", type=float, nargs="+", default=[1, 60, 180])
    parser.add_argument("--form", choices=CODECS, default="wav", help="format of the audio")
    parser.add_argument("flags", nargs="*", help="flags of the dub, after --")
    arguments = parser.parse_args()
    print(f"{platform.machine()}, {len(os.sched_getaffinity(0))} cores, audio as {arguments.form}")
    print(f"{'minutes':>8} {'frames':>8} {'seconds':>8} {'peak, MB':>9} {'ratio':>6}")
    first = None
    for minutes in arguments.minutes:
        with tempfile.TemporaryDirectory() as folder:
            figures = dub(arguments, minutes, Path(folder))
        first = first or figures["peak"]
        print(
            f"{minutes:8g} {figures['frames']:8d} {figures['seconds']:8.0f} {figures['peak'] / 1e6:9.0f} "
            f"{figures['peak'] / first:6.2f}",
            flush=True,
        )


def dub(arguments: argparse.Namespace, minutes: float, folder: Path) -> dict[str, Any]:
    """Dub audio of this length; return the number of frames, wall time in s and peak memory in bytes."""
    audio = write_long(folder / f"long.{arguments.form}", arguments.audio, minutes, CODECS[arguments.form])
    record = folder / "report.json"
    words = ["dub", "--face", arguments.face, "--audio", audio, "--outfile", folder / "out.mp4"]
    figures = our_command([str(word) for word in [*words, "--report", record, *arguments.flags]])
    return {**figures, "frames": json.loads(record.read_text())["frames"]}


def write_long(path: Path, audio: str | None, minutes: float, codec: str) -> Path:
    """Write audio of this length second by second, mono at 44.1 kHz."""
    import av

    if audio is None:
        loud = np.random.default_rng(0).normal(0, 0.1, RATE).astype(np.float32)
        wav = np.concatenate([loud, np.zeros(RATE, np.float32)])
    else:
        wav = read_audio(audio, RATE)
    repeated = np.resize(wav, -(-len(wav) // RATE) * RATE + RATE)
    with av.open(os.fspath(path), "w") as container:
        stream: Any = container.add_stream(codec, rate=RATE, layout="mono")
        for second in range(round(60 * minutes)):
            start = second * RATE % len(wav)
            block = (repeated[start : start + RATE] * 32767).astype(np.int16)
            frame = av.AudioFrame.from_ndarray(block[None], "s16", "mono")
            frame.sample_rate, frame.pts = RATE, second * RATE
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


if __name__ == "__main__":
    main()
