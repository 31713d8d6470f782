"""Evidence that a face speaks, frame by frame, and the rule that decides with it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from wav2lip_npu.faces.shot_faces import ShotFrame

Values = NDArray[np.float32]


@dataclass(frozen=True)
class Evidence:
    """How well a face fits the audio, in consecutive frames at 25 per second; NaN where it is unknown."""

    first: int
    """Number of the first frame."""
    values: Values
    """float32 [N]."""

    def of(self, first: int, end: int) -> Values:
        """Return float32 [end - first]: the values of frames, NaN beyond the ends."""
        values = np.full(end - first, np.nan, np.float32)
        low, high = max(first, self.first), min(end, self.first + len(self.values))
        if low < high:
            values[low - first : high - first] = self.values[low - self.first : high - self.first]
        return values


@dataclass(frozen=True)
class Threshold:
    """The mean evidence from which a face speaks: less is needed of a longer time."""

    least: float
    per_second: float
    """What is added for one second of speech; half of it for two."""

    def of(self, seconds: float) -> float:
        """Return the threshold for the mean over a time."""
        return self.least + self.per_second / max(seconds, 1e-3)


class Judge(Protocol):
    """Finds evidence for all faces of a film, frame by frame."""

    name: str
    threshold: Threshold

    def add(self, shown: ShotFrame) -> None:
        """Add the next frame at 25 per second."""
        ...

    def finish(self) -> dict[int, Evidence]:
        """Return the evidence by the numbers of the tracks."""
        ...

    def close(self) -> None:
        """Close the audio."""
        ...
