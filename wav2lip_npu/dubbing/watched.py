"""Who speaks in the film of a pass: found once, when it is first needed, for all its outputs and speakers."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from fractions import Fraction
from typing import TYPE_CHECKING

from wav2lip_npu.dubbing.extent import Extent
from wav2lip_npu.dubbing.options import DubOptions
from wav2lip_npu.dubbing.selection import SelectedFrame
from wav2lip_npu.errors import UsageError
from wav2lip_npu.faces.face_plan import FacePlan
from wav2lip_npu.media.container import VideoInfo
from wav2lip_npu.speaking.choice import FPS

if TYPE_CHECKING:
    from wav2lip_npu.dubbing.inference import Models
    from wav2lip_npu.speaking.choice import Choice
    from wav2lip_npu.speaking.film import Film, Span, SpokenSpan


_AROUND_S = 4
"""Seconds of the film that are watched before and after an output. They tell who speaks in a short one."""


class WatchedFilm:
    """The film of a pass."""

    def __init__(self, info: VideoInfo, models: Models, options: DubOptions) -> None:
        self._info, self._models, self._options = info, models, options
        self._lock = threading.Lock()
        self._film: Film | None = None
        self._fps = options.output_fps(info)
        self._start, self._end = options.section(info)[0] / self._fps, Fraction(0)

    def expect(self, extent: Extent) -> None:
        """Note the length of an output. The film is watched to the end of the longest one.

        Raises `UsageError` if the film cannot tell who speaks.
        """
        if self._options.static or not self._info.has_audio:
            why = "is a single frame with --static" if self._options.static else "has no sound"
            raise UsageError(
                f"{self._info.path} {why}, so it does not tell who speaks. Name the face instead, such as "
                "--face_select left or --speaker NAME=AUDIO@left."
            )
        frames = extent.audio_frames if extent.limit is None else min(extent.audio_frames, extent.limit)
        self._end = max(self._end, frames / self._fps)

    @property
    def film(self) -> Film:
        """The film, which is watched by the first call. Raises what `watch_film` raises."""
        from wav2lip_npu.speaking.watching import watch_film

        with self._lock:
            if self._film is None:
                options, models = self._options, self._models
                begin = max(Fraction(0), self._start - _AROUND_S)
                self._film = watch_film(
                    self._info,
                    options.geometry,
                    models.detector,
                    models.device,
                    options.asd,
                    (begin, self._start + self._end + _AROUND_S - begin),
                )
            return self._film

    def plan(self) -> FacePlan:
        """Return the face of whoever speaks, all along the film."""
        return self.film.plan(self.film.choices(), self._fps)

    def plan_of(self, turns: Sequence[Span]) -> FacePlan:
        """Return the face of whoever speaks in each turn."""
        return self.film.plan(self.film.choices_of(turns), self._fps)

    def spans(self) -> list[SpokenSpan]:
        """Return who speaks when, for the report."""
        return self.film.spans(self._within(self.film.choices()))

    def spans_of(self, name: str, turns: Sequence[Span]) -> list[SpokenSpan]:
        """Return who speaks in each turn of a speaker, for the report."""
        return self.film.spans(self._within(self.film.choices_of(turns)), name)

    def _within(self, choices: Iterable[Choice]) -> list[Choice]:
        """Return the parts of choices that are in the longest output."""
        first = round(self._start * FPS) - self.film.first
        last = round((self._start + self._end) * FPS) - self.film.first
        cut = (replace(one, first=max(one.first, first), end=min(one.end, last)) for one in choices)
        return [one for one in cut if one.first < one.end]


def marked_unsure(frames: Iterable[SelectedFrame], plan: FacePlan) -> Iterator[SelectedFrame]:
    """Yield frames; those in which no face is wanted get the reason `unsure` instead of `no_face`."""
    for item in frames:
        if item.reason == "no_face" and plan.number(item.tracked.frame.source) is None:
            item = replace(item, reason="unsure")
        yield item
        del item
