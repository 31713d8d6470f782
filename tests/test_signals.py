"""Stop signals are handled between frames, never inside a library. Files are complete or absent."""

from __future__ import annotations

import io
import os
import random
import signal
import subprocess
import sys
import threading
import time
from fractions import Fraction
from pathlib import Path

import pytest

from support.batch_jobs import job_folder, workers_here  # noqa: F401 fixtures
from support.faces import face_frames
from wav2lip_npu import signals
from wav2lip_npu.cli import main, streams
from wav2lip_npu.media.video_writer import EncodeOptions, write_video
from wav2lip_npu.parallel.threads import fan_out, map_in_threads, prefetch

ROOT = Path(__file__).resolve().parents[1]
FAST = EncodeOptions(preset="ultrafast")


class TerminatedError(Exception):
    """Raised by a handler of a program that uses the library."""


@pytest.fixture
def handlers():
    """Handlers of a Python program: Ctrl-C raises KeyboardInterrupt, SIGTERM raises TerminatedError."""

    def terminate(number, frame):
        raise TerminatedError

    before = [(number, signal.getsignal(number)) for number in (signal.SIGINT, signal.SIGTERM)]
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, terminate)
    yield terminate
    for number, handler in before:
        signal.signal(number, handler)


def send(number: int, seconds: float) -> threading.Thread:
    """Send a signal to this process after some time."""

    def later() -> None:
        time.sleep(seconds)
        os.kill(os.getpid(), number)

    sender = threading.Thread(target=later)
    sender.start()
    return sender


@pytest.mark.alone
@pytest.mark.parametrize(
    ("number", "error"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, TerminatedError)]
)
def test_signal_at_any_moment_of_a_video(tmp_path, handlers, speech, number, error):
    """A2: a signal stops `write_video` with the exception of its handler, and leaves no file."""
    draw = random.Random(0)
    images = list(face_frames(20))
    out = tmp_path / "out.mp4"
    senders = []

    def endless():
        """Yield images until the signal arrives, at any moment from now on."""
        senders.append(send(number, draw.uniform(0, 0.1)))
        while True:
            yield from images

    for _ in range(20):
        with pytest.raises(error):
            write_video(endless(), out, fps=Fraction(25), audio=speech, options=FAST)
        senders.pop().join()
        assert not list(tmp_path.iterdir())
        assert signal.getsignal(number) is not signal.SIG_DFL


@pytest.mark.alone
def test_handler_that_returns(handlers):
    """A2: after a handler that only sets a flag, the work continues."""
    calls = []
    signal.signal(signal.SIGTERM, lambda *arguments: calls.append(arguments))
    with signals.deferred():
        os.kill(os.getpid(), signal.SIGTERM)
        assert not calls
        signals.check()
        assert len(calls) == 1
        signals.check()
        assert len(calls) == 1
    assert len(calls) == 1


@pytest.mark.alone
def test_signal_after_the_last_check_is_delivered(handlers):
    with pytest.raises(TerminatedError), signals.deferred():
        os.kill(os.getpid(), signal.SIGTERM)


@pytest.mark.alone
def test_second_signal_is_handled_at_once(handlers):
    with pytest.raises(KeyboardInterrupt), signals.deferred():
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)  # part of the same Ctrl-C, as from `timeout` and torchrun
        time.sleep(0.35)
        os.kill(os.getpid(), signal.SIGINT)
        pytest.fail("the second signal was ignored")


@pytest.mark.alone
def test_ignored_signals_stay_ignored(handlers):
    """A7: `nohup` starts a command with SIGHUP ignored."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with signals.command():
            os.kill(os.getpid(), signal.SIGHUP)
            signals.check()
            assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.alone
def test_held_signal_is_left_to_the_block(handlers):
    with signals.deferred(), signals.held("stopping") as hold:
        assert hold.number is None
        os.kill(os.getpid(), signal.SIGTERM)
        signals.check()
        assert hold.number == signal.SIGTERM
        reached = []
        with hold.released():
            signals.check()
            reached.append("end")
        assert not reached
        assert hold.number == signal.SIGTERM


def slow_items():
    yield 1
    time.sleep(1)
    yield 2


def slowly(item):
    if item:
        time.sleep(1)
    return item


@pytest.mark.alone
@pytest.mark.parametrize(
    "wait",
    [
        lambda: list(prefetch(slow_items(), 1)),
        lambda: list(map_in_threads(slowly, range(3), 2)),
        lambda: fan_out(prefetch(slow_items(), 1), [list, list], 1),
    ],
    ids=["prefetch", "map_in_threads", "fan_out"],
)
def test_waiting_for_a_thread_is_interrupted(handlers, wait):
    """A2: a signal inside `queue.get` is not lost and does not leave a lock held."""
    threads = threading.active_count()
    sender = send(signal.SIGTERM, 0.2)
    with pytest.raises(TerminatedError), signals.deferred():
        wait()
    sender.join()
    assert threading.active_count() == threads


@pytest.mark.alone
def test_stages_end_while_they_wait_or_work(handlers):
    """A2: closing the last stage of a chain does not wait for an item of the first stage."""
    stopped = []

    def working():
        yield 0
        try:
            while True:
                time.sleep(0.05)
                signals.check()
        finally:
            stopped.append("working")

    chain = prefetch((item for item in prefetch((item for item in prefetch(working(), 1)), 1)), 1)
    assert next(chain) == 0
    chain.close()
    assert stopped == ["working"]


def python(code: str, **options: object) -> subprocess.Popen[str]:
    """Start Python code that does not import torch."""
    return subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: [signal.signal(number, signal.SIG_DFL) for number in (1, 2, 15)],
        **options,
    )


IN_C = """
import ctypes, os, sys
from wav2lip_npu import signals, watchdog
watchdog._GRACE_S = {grace}
with signals.command(), watchdog.cleanup(lambda: open("cleaned", "w").close()):
    reader, writer = os.pipe()
    print("ready", flush=True)
    ctypes.CDLL(None).read(reader, ctypes.create_string_buffer(1), 1)
"""


@pytest.mark.alone
@pytest.mark.parametrize(
    ("number", "grace"), [(signal.SIGINT, 0.5), (signal.SIGTERM, 60), (signal.SIGHUP, 0.5)]
)
def test_long_call_of_a_library_is_ended(tmp_path, number, grace):
    """A2: half a second after a signal, or at the second one, the process ends and cleans up."""
    child = python(
        f"import os, sys; sys.path.insert(0, {str(ROOT)!r}); os.chdir({str(tmp_path)!r})\n{IN_C.format(grace=grace)}"
    )
    assert child.stdout.readline() == "ready\n"
    child.send_signal(number)
    if grace > 1:
        time.sleep(0.6)
        assert child.poll() is None
        child.send_signal(number)
    _, text = child.communicate(timeout=30)
    assert child.returncode == 128 + number, text
    assert os.listdir(tmp_path) == ["cleaned"]
    assert len(text.splitlines()) == 1


@pytest.mark.alone
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_signal_with_a_default_action_ends_a_python_program_after_its_cleanup(tmp_path, number):
    """A7: SIGTERM and SIGHUP leave no temporary file in a Python program without handlers."""
    code = f"""
import sys
from fractions import Fraction
import numpy as np
from wav2lip_npu.media.video_writer import write_video
from wav2lip_npu.media.yuv_image import Colour, YuvImage
grey = YuvImage.from_image(np.zeros((64, 64, 3), np.uint8), Colour())
def images():
    for count in iter(int, 1):
        yield grey
        print("frame", flush=True)
write_video(images(), {str(tmp_path / "out.mp4")!r}, fps=Fraction(25))
"""
    child = python(code)
    assert child.stdout.readline() == "frame\n"
    assert len(os.listdir(tmp_path)) == 1
    child.send_signal(number)
    child.communicate(timeout=30)
    assert child.returncode == -number
    assert os.listdir(tmp_path) == []


# Standard streams


def shell(line: str) -> tuple[int, str]:
    """Run a command line with bash, and return its exit code and standard error."""
    done = subprocess.run(
        ["bash", "-c", line.replace("wav2lip-npu", f"{sys.executable} -m wav2lip_npu")],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    return done.returncode, done.stderr


@pytest.mark.parametrize(
    ("line", "code", "errors"),
    [
        ("wav2lip-npu --help >&-", 0, 0),
        ("wav2lip-npu nonsense >&- 2>&- <&-", 2, 0),
        ("wav2lip-npu dub --face a --audio b 2>&-", 2, 0),
        ("wav2lip-npu --help >/dev/full", 1, 1),
        ("wav2lip-npu --version | true; exit ${PIPESTATUS[0]}", 0, 0),
        ("set -o pipefail; wav2lip-npu dub --help | head -1", 0, 0),
        ("wav2lip-npu nonsense 2> >(true)", 2, 0),
    ],
)
def test_closed_and_broken_standard_streams(line, code, errors):
    """A12: exit codes are right, and there is no traceback."""
    result, text = shell(line)
    assert (result, len(text.splitlines())) == (code, errors), text
    assert "Traceback" not in text


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_lines_are_written_at_once(unbuffered):
    code = "from wav2lip_npu.cli import streams; streams.protect(); import os, sys; print('x', file=sys.stderr); os._exit(3)"
    assert shell(f'PYTHONUNBUFFERED={unbuffered} {sys.executable} -c "{code}"') == (3, "x\n")


def test_descriptor_of_a_closed_stream_is_not_reused(tmp_path):
    """A12: otherwise the next file would get descriptor 1, and the output of libraries."""
    code = f"from wav2lip_npu.cli import streams; streams.protect(); f = open({str(tmp_path / 'x')!r}, 'w'); import os; os.write(1, b'text'); f.flush()"
    assert shell(f'{sys.executable} -c "{code}" >&-') == (0, "")
    assert (tmp_path / "x").read_text() == ""


def broken_pipe() -> io.TextIOWrapper:
    """Return a text stream on a pipe without a reader."""
    reader, writer = os.pipe()
    os.close(reader)
    return io.TextIOWrapper(io.BufferedWriter(streams.Stream(writer)), line_buffering=True)


def test_broken_pipe_does_not_stop_a_batch(job_folder, workers_here, monkeypatch, tiny_checkpoint):  # noqa: F811
    """A12: `batch --json | head -1` writes all videos."""
    monkeypatch.setattr(sys, "stdout", broken_pipe())
    words = ["jobs.csv", "--checkpoint_path", str(tiny_checkpoint), "--devices", "cpu", "--json"]
    assert main.main(["batch", *words]) == 0
    assert sorted(os.listdir("out")) == ["0.mp4", "1.mp4", "2.mp4"]
