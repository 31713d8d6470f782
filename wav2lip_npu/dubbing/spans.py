"""Convert times to frames: the part of a dub that is written, and the spans that stay as filmed."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from typing import Any

from wav2lip_npu.errors import UsageError

_SPAN = re.compile(r"(\d+(?:\.\d*)?|\.\d+)?-(\d+(?:\.\d*)?|\.\d+)?")
_Span = tuple[Decimal, Decimal | None]


def canonical_spans(spans: Any) -> str:
    """Return spans as text such as `3.2-5,7-`: sorted, merged, in seconds.

    Args:
        spans: Text with spans separated by commas or blanks, where `7-` is a span to the end; or a list of
            such texts and of pairs of numbers, in which None or infinity as the second is the end.

    Raises:
        UsageError: A span is malformed or empty.

    """
    try:
        pairs = [_parse(part) for part in spans.replace(",", " ").split()] if isinstance(spans, str) else None
        pairs = [_pair(pair) for pair in spans] if pairs is None else pairs
        if any(
            start < 0 or not start.is_finite() or (end is not None and not start < end)
            for start, end in pairs
        ):
            raise ValueError
    except (ValueError, TypeError, ArithmeticError):
        shown = " ".join(f"{spans}".split())
        raise UsageError(
            f"--skip {shown:.80} is invalid. Pass spans in seconds: 3.2-5.0,7-8, or 7- (to the end)."
        ) from None
    merged: list[_Span] = []
    for start, end in sorted(pairs, key=lambda pair: pair[0]):
        if merged and (merged[-1][1] is None or start <= merged[-1][1]):
            start, before = merged.pop()
            end = None if before is None or end is None else max(before, end)
        merged.append((start, end))
    return ",".join(f"{_text(start)}-{'' if end is None else _text(end)}" for start, end in merged)


def shifted_spans(spans: str, seconds: Fraction) -> str:
    """Return the spans of `canonical_spans` in a video whose first seconds were cut off."""
    by = Decimal(seconds.numerator) / Decimal(seconds.denominator)
    pairs = [_parse(span) for span in filter(None, spans.split(","))]
    kept = [(start, end) for start, end in pairs if end is None or end > by]
    return canonical_spans(
        [(max(start - by, Decimal(0)), None if end is None else end - by) for start, end in kept]
    )


def _parse(text: str) -> _Span:
    match = _SPAN.fullmatch(text)
    if match is None or text == "-":
        raise ValueError
    return Decimal(match[1] or 0), Decimal(match[2]) if match[2] else None


def _pair(pair: Sequence[Any]) -> _Span:
    if isinstance(pair, str):
        return _parse(pair)
    start, end = pair
    return Decimal(str(start)), None if end in (None, math.inf) else Decimal(str(end))


def _text(seconds: Decimal) -> str:
    text = f"{seconds:f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def section(start: float, duration: float | None, fps: Fraction) -> tuple[int, int | None]:
    """Return the index of the first frame of a part and the index after its last; None without a duration.

    They are the frames nearest to the times. A part has at least one frame.
    """
    first = round(_exact(start) * fps)
    if duration is None:
        return first, None
    return first, max(round((_exact(start) + _exact(duration)) * fps), first + 1)


@dataclass(frozen=True)
class SkippedFrames:
    """The frames of `--skip`, by their indices in the output."""

    spans: tuple[tuple[int, int | None], ...]
    """Index of the first frame of each span and the index after its last; None is the end of the output."""

    @classmethod
    def of(cls, spans: str, fps: Fraction, first: int = 0) -> SkippedFrames:
        """Return the frames whose times lie in spans from `canonical_spans`, end excluded.

        The time of index i is (first + i) / fps.
        """

        def index(seconds: Decimal) -> int:
            return math.ceil(Fraction(seconds) * fps) - first

        indices = [
            (index(start), None if end is None else index(end))
            for start, end in map(_parse, filter(None, spans.split(",")))
        ]
        return cls(tuple(span for span in indices if span[0] != span[1]))

    def __contains__(self, index: object) -> bool:
        assert isinstance(index, int)
        return any(start <= index and (end is None or index < end) for start, end in self.spans)


def _exact(seconds: float) -> Fraction:
    """Return decimal seconds as written: 0.1 is 1/10."""
    return Fraction(seconds).limit_denominator(1_000_000)
