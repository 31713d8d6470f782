"""What a run did and how long each stage took."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from fractions import Fraction
from time import perf_counter
from typing import Any, TypeVar

from wav2lip_npu.dubbing.mouths import DubbedFrame
from wav2lip_npu.errors import FaceError
from wav2lip_npu.storage.atomic import replacing
from wav2lip_npu.versions import versions

Item = TypeVar("Item")


@dataclass(frozen=True, kw_only=True)
class DubReport:
    """One dubbed video, as `--report` writes it."""

    outfile: str
    face: str
    audio: str
    checkpoint: str
    checkpoint_sha256: str
    detector: str
    device: str
    engine: str
    """What ran the generator: torch, onnx, or om and where."""
    precision: str
    width: int
    height: int
    fps: str
    """As a fraction."""
    frames: int
    dubbed_frames: int
    faceless_spans: list[tuple[int, int]]
    """First and last frame of each run of frames that passed unchanged."""
    cuts: list[int]
    """Frames that start a new shot, or a new round of a looped video."""
    takes: int
    """Sounds that the face video was dubbed with in the same pass, this one included."""
    seconds: float
    seconds_per_stage: dict[str, float]
    """Each stage's own time; the stages run at the same time."""
    frames_per_second: float
    peak_memory_bytes: int
    device_peak_memory_bytes: int | None
    versions: dict[str, str] = field(default_factory=versions)

    def write(self, path: str | os.PathLike[str]) -> None:
        """As JSON, replacing `path` at once."""
        text = json.dumps(asdict(self), indent=2, ensure_ascii=True) + "\n"
        with replacing(path) as part:
            part.write_text(text, encoding="utf-8")


class Stopwatch:
    """Seconds that each stage of a chain of generators worked itself, without waiting for the one before."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    def work(self, stage: str, items: Iterable[Item]) -> Iterator[Item]:
        """The items; the time until each comes is counted for the stage."""
        return self._count(stage, items, 1)

    def wait(self, stage: str, items: Iterable[Item]) -> Iterator[Item]:
        """The items; the time until each comes is not the stage's own and is taken off."""
        return self._count(stage, items, -1)

    def _count(self, stage: str, items: Iterable[Item], sign: int) -> Iterator[Item]:
        self.seconds.setdefault(stage, 0.0)
        source = iter(items)
        try:
            while True:
                start = perf_counter()
                try:
                    item = next(source)
                except StopIteration:
                    return
                finally:
                    self.seconds[stage] += sign * (perf_counter() - start)
                yield item
                del item
        finally:
            close: Any = getattr(source, "close", None)
            if close is not None:
                close()


class FaceRecorder:
    """Writes down what passes by for the report, and stops the run when the faces are not as asked."""

    def __init__(self, face: str, fps: Fraction, must_have_face: bool) -> None:
        self.dubbed = self.width = self.height = 0
        self.faceless: list[tuple[int, int]] = []
        self.cuts: list[int] = []
        self._face = face
        self._fps = fps
        self._must_have_face = must_have_face

    def take(self, spoken: Iterable[DubbedFrame]) -> Iterator[DubbedFrame]:
        """The same items. Raises `FaceError`."""
        index, source = -1, -1
        for each in spoken:
            item = each.faced
            index = item.frame.index
            self.width, self.height = item.frame.yuv.width, item.frame.yuv.height
            if item.cut and index:
                self.cuts.append(index)
            if not self.dubbed and item.frame.source <= source:
                break  # the whole video was seen
            source = item.frame.source
            if item.box is None:
                goes_on = self.faceless and self.faceless[-1][1] == index - 1
                first = self.faceless.pop()[0] if goes_on else index
                self.faceless.append((first, index))
            else:
                self.dubbed += 1
                self._check_gap(index)
            yield each
            del each, item
        if not self.dubbed:
            raise FaceError(
                f"no face in {self._face}, {source + 1} frames looked at. "
                "Pass --box TOP BOTTOM LEFT RIGHT, another --detector, or a video with a face."
            )
        self._check_gap(index + 1)

    def _check_gap(self, index: int) -> None:
        if self._must_have_face and self.faceless and self.faceless[-1][1] == index - 1:
            first, last = self.faceless[-1]
            raise FaceError(
                f"no face in {self._face}, frames {first}-{last} "
                f"({float(first / self._fps):.1f}-{float((last + 1) / self._fps):.1f} s). "
                "Pass --no_face keep to leave those frames unchanged."
            )
