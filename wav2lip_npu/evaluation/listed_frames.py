"""Compare the frames that a dub report lists as left as filmed with those that look so."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from wav2lip_npu.errors import DataError
from wav2lip_npu.evaluation.frame_pair import Figure, FramePair
from wav2lip_npu.evaluation.picture import LIPS
from wav2lip_npu.mel import TRAINING_FPS
from wav2lip_npu.storage.regular_files import read_limited

_CHANGED = 3.0
"""Mean change of the lips, in levels, above which a mouth was generated. Compression changes them by up to
2."""
_MARGIN = 4
"""Frames on either side of the end of a span that are not compared: the mouth is cross-faded there."""
_MAX_BYTES = 256 << 20

Spans = list[tuple[float, float]]
"""First and last second of each span."""


def read_kept_spans(path: str | os.PathLike[str], generated: str, fps: Fraction) -> Spans | None:
    """Return the spans that a report lists as left as filmed; None if it does not describe this video.

    The report is that of `dub --report`, or the `report.jsonl` of a batch, whose frames count at `fps`.

    Raises:
        DataError: The file cannot be read.

    """
    try:
        text = read_limited(path, _MAX_BYTES).decode()
        rows = (
            [json.loads(text)]
            if not str(path).endswith(".jsonl")
            else list(map(json.loads, text.splitlines()))
        )
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}. Check --reports.") from None
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path} is not a report of dub or batch ({error}). Check --reports.") from None
    wanted = os.path.realpath(generated)
    for row in reversed(rows):
        name = row.get("outfile", row.get("job")) if isinstance(row, dict) else None
        if isinstance(name, str) and (len(rows) == 1 or os.path.realpath(name) == wanted):
            try:
                return _spans(row, fps)
            except (ValueError, TypeError, IndexError, ArithmeticError):
                raise DataError(f"{path} has invalid spans or a bad frame rate. Check --reports.") from None
    return None


def _spans(row: dict[str, Any], fps: Fraction) -> Spans | None:
    spans = row.get("unchanged_spans")
    if not isinstance(spans, list):
        return None
    rate = float(Fraction(str(row.get("fps", fps))))
    return [(int(span[0]) / rate, (int(span[1]) + 1) / rate) for span in spans]


def find_report(reports: str | None, generated: str) -> Path | None:
    """Return the report of a video: the file `reports`, or in that folder NAME.json or report.jsonl."""
    if reports is None:
        return None
    path = Path(reports)
    if not path.is_dir():
        return path
    candidates = (path / f"{Path(generated).stem}.json", path / "report.jsonl")
    return next((candidate for candidate in candidates if candidate.exists()), None)


class ListedFrames:
    """Counts the frames whose mouth was generated although they are listed as filmed, and the reverse."""

    def __init__(self, spans: Spans) -> None:
        self._spans = [(first * TRAINING_FPS, last * TRAINING_FPS) for first, last in spans]
        self._wrong = {True: 0, False: 0}
        self._count = 0

    def add(self, pair: FramePair) -> None:
        """Add the next pair."""
        if pair.faces is None or self._is_near_end(pair.index):
            return
        generated, truth = (face[LIPS].astype(np.float32) for face in pair.faces)
        is_changed = float(np.abs(generated - truth).mean()) > _CHANGED
        is_listed = any(first <= pair.index < last for first, last in self._spans)
        if is_changed == is_listed:
            self._wrong[is_listed] += 1
        self._count += 1

    def _is_near_end(self, index: int) -> bool:
        ends: Iterable[float] = (end for span in self._spans for end in span)
        return any(abs(index - end) <= _MARGIN for end in ends)

    def figures(self) -> dict[str, Figure]:
        """Return the shares of frames that differ from the report."""
        if not self._count:
            return {}
        return {
            "listed_but_changed": Figure(self._wrong[True] / self._count),
            "unlisted_but_filmed": Figure(self._wrong[False] / self._count),
        }
