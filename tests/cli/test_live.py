"""The `live` command: raw audio in, MPEG-TS or raw images out, through files and pipes."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np
import pytest

from wav2lip_npu.cli.main import main

FLAGS = "--box 40 200 60 220 --max_sessions 4 --avatar_seconds 0.4 --max_delay None --device cpu".split()


def live(checkpoint: Path, face: Path, *flags: str) -> int:
    words = ["live", "--face", str(face), "--checkpoint_path", str(checkpoint), "--cache", "off"]
    return main([*words, *FLAGS, *flags])


@pytest.fixture
def pcm() -> np.ndarray:
    time = np.arange(24_000) / 24_000
    return (8000 * np.sign(np.sin(2 * np.pi * 120 * time))).astype(np.int16)


@contextlib.contextmanager
def standard_streams(content: bytes) -> Iterator[list[bytes]]:
    """Replace standard input by a pipe with this content, and output by one that is read to its end."""
    kept = os.dup(0), os.dup(1)
    (read_in, write_in), (read_out, write_out) = os.pipe(), os.pipe()
    os.dup2(read_in, 0), os.dup2(write_out, 1)
    for number in (read_in, write_out):
        os.close(number)
    received: list[bytes] = []

    def feed() -> None:
        with contextlib.suppress(BrokenPipeError), open(write_in, "wb") as file:
            file.write(content)

    def collect() -> None:
        with open(read_out, "rb") as file:
            received.append(file.read())

    threads = [threading.Thread(target=work) for work in (feed, collect)]
    for thread in threads:
        thread.start()
    try:
        yield received
    finally:
        os.dup2(kept[0], 0), os.dup2(kept[1], 1)
        for number in kept:
            os.close(number)
        for thread in threads:
            thread.join()


def test_transport_stream_of_a_pipe(tiny_checkpoint, face_video, pcm, tmp_path):
    """An odd number of bytes at the end of the audio is dropped, not the audio before it."""
    with standard_streams(pcm.tobytes() + b"x") as received:
        assert live(tiny_checkpoint, face_video, "--rate", "24000") == 0
    path = tmp_path / "out.ts"
    path.write_bytes(received[0])
    with av.open(str(path)) as container:
        video, audio = container.streams.video[0], container.streams.audio[0]
        assert (video.width, video.height, audio.rate) == (320, 240, 24_000)
        frames, sounds = [], []
        for frame in container.decode(video, audio):
            (frames if isinstance(frame, av.VideoFrame) else sounds).append(frame)
        assert len(frames) == 25
        assert abs(frames[0].time - sounds[0].time) < 0.05
        assert frames[-1].time - frames[0].time == pytest.approx(0.96)
        assert sum(sound.samples for sound in sounds) >= 24_000


def test_raw_images_to_a_file(tiny_checkpoint, face_video, pcm, tmp_path):
    audio, out = tmp_path / "audio.raw", tmp_path / "out.bgr"
    audio.write_bytes(np.stack([pcm, pcm], axis=1).tobytes())
    flags = [
        "--audio",
        str(audio),
        "--outfile",
        str(out),
        "--to",
        "raw",
        "--rate",
        "24000",
        "--channels",
        "2",
    ]
    assert live(tiny_checkpoint, face_video, *flags) == 0
    images = np.frombuffer(out.read_bytes(), np.uint8).reshape(-1, 240, 320, 3)
    assert len(images) == 25 and np.ptp(images) > 100


def test_reader_that_leaves_ends_the_command(tiny_checkpoint, face_video, pcm, tmp_path):
    fifo = tmp_path / "out.ts"
    os.mkfifo(fifo)

    def leave() -> None:
        with open(fifo, "rb") as file:
            file.read(4096)

    leaving = threading.Thread(target=leave)
    leaving.start()
    audio = tmp_path / "audio.raw"
    audio.write_bytes(np.tile(pcm, 20).tobytes())
    flags = ["--audio", str(audio), "--outfile", str(fifo), "--rate", "24000"]
    assert live(tiny_checkpoint, face_video, *flags) == 0
    leaving.join()


@pytest.mark.parametrize("flag", ["--rate 7", "--channels 0", "--crf 60", "--fps 0"])
def test_values_are_checked(tiny_checkpoint, face_video, flag, capsys):
    assert live(tiny_checkpoint, face_video, *flag.split()) == 2
    assert flag in capsys.readouterr().err


def test_files_are_checked(tiny_checkpoint, face_video, tmp_path, capsys):
    assert live(tiny_checkpoint, face_video, "--audio", str(tmp_path / "none")) == 2
    assert "none" in capsys.readouterr().err
    assert live(tiny_checkpoint, face_video, "--outfile", str(face_video), "--audio", os.devnull) == 2
    assert "--outfile" in capsys.readouterr().err
