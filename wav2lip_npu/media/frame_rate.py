"""Convert frame rates to exact fractions, and videos to a constant rate."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from fractions import Fraction

from av.video.frame import VideoFrame

from wav2lip_npu.media.container import LONGEST_GAP_S

_MAX_DENOMINATOR = 1001
"""Denominator of the broadcast rates, such as 30000/1001."""
_NTSC_RATES = [Fraction(1000 * whole, 1001) for whole in (24, 30, 48, 60, 120)]
_NTSC_TOLERANCE = 0.01
"""Both 23.97 and 23.98 stand for 24000/1001."""
_SAME_RATE = Fraction(1, 50)
"""Relative difference of rates up to which nearly all frames are shown once. The average rate of 60 frames
with uneven time stamps can be off by 1.5 %."""
_JITTER = 0.75
"""Deviation of a time stamp, in frames, above which frames are repeated or dropped at nearly equal rates."""
_STEP_BACK_S = 0.5
"""Seconds. A larger backward step between time stamps is a clock jump."""
_HALF = Fraction(1, 2)


def exact_fps(fps: float) -> Fraction:
    """Return a frame rate as a fraction; 29.97 and other NTSC rates are exact, such as 30000/1001."""
    for rate in _NTSC_RATES:
        if abs(fps - float(rate)) < _NTSC_TOLERANCE:
            return rate
    return Fraction(fps).limit_denominator(_MAX_DENOMINATOR)


def at_constant_rate(
    frames: Iterable[VideoFrame], fps: Fraction, source_fps: Fraction
) -> Iterator[VideoFrame]:
    """Yield the decoded frame to show at each multiple of 1 / fps; a held frame is repeated.

    After a clock jump, such as between joined recordings, the frame directly follows the previous one.
    """
    if abs(fps / source_fps - 1) < _SAME_RATE:
        return _each_frame(frames, fps)
    return _nearest_frame(frames, fps, source_fps)


def _each_frame(frames: Iterable[VideoFrame], fps: Fraction) -> Iterator[VideoFrame]:
    """Yield frames at nearly their original rate.

    A frame directly follows the previous one if its time is within `_JITTER` frames of that position, so that
    uneven time stamps neither repeat nor drop it; otherwise it goes to the nearest multiple of 1 / fps.
    """
    frame = held = previous = None
    start = position = Fraction(0)
    shown = -1
    for frame in frames:
        time = _time(frame)
        if time is None:
            position = Fraction(shown + 1)
        else:
            if _is_jump(previous, time):
                start = time - (shown + 1) / fps
            previous = time
            position = (time - start) * fps
        target = shown + 1 if abs(position - (shown + 1)) <= _JITTER else int(position + _HALF)
        if target <= shown:
            continue
        if held is not None:
            yield from itertools.repeat(held, target - shown - 1)
        held, shown = frame, target
        yield held
    if held is not None and held is frame and held.duration and held.time_base is not None:
        length = min(held.duration * held.time_base, Fraction(LONGEST_GAP_S))
        if (rest := position + length * fps - (shown + 1)) > _JITTER:
            yield from itertools.repeat(held, round(rest))


def _nearest_frame(frames: Iterable[VideoFrame], fps: Fraction, source_fps: Fraction) -> Iterator[VideoFrame]:
    """Yield frames at another rate: at n / fps, the last frame whose time rounds to at most n.

    No frame is shown more than half an output frame early. FFmpeg's `fps` filter does the same.
    """
    gap = step = fps / source_fps
    latest: VideoFrame | None = None
    previous: Fraction | None = None
    start = position = Fraction(0)
    count = 0
    """Frames yielded so far."""
    for frame in frames:
        time = _time(frame)
        if time is None or _is_jump(previous, time):
            if latest is not None:
                end = max(_nearest(position + step), count)
                yield from itertools.repeat(latest, end - count)
                count = end
            position = Fraction(count)
            start = start if time is None else time - count / fps
        elif (time - start) * fps < position:
            continue
        else:
            gap, position = (time - start) * fps - position, (time - start) * fps
            assert latest is not None
            end = max(_nearest(position), count)
            yield from itertools.repeat(latest, end - count)
            count = end
        previous = previous if time is None else time
        latest = frame
    if latest is not None:
        length = (latest.duration or 0) * (latest.time_base or 0)
        last = position + (min(length, Fraction(LONGEST_GAP_S)) * fps if length else min(gap, step))
        yield from itertools.repeat(latest, max(_nearest(last), 1) - count)


def _time(frame: VideoFrame) -> Fraction | None:
    """Return the time stamp of a frame in seconds."""
    stamp = frame.dts if frame.pts is None else frame.pts
    return None if stamp is None or frame.time_base is None else stamp * frame.time_base


def _is_jump(previous: Fraction | None, time: Fraction) -> bool:
    """Return whether a clock jump precedes this time stamp."""
    return previous is None or not -_STEP_BACK_S < time - previous < LONGEST_GAP_S


def _nearest(position: Fraction) -> int:
    return int(position + _HALF)
