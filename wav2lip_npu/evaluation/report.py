"""The result of an evaluation."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from wav2lip_npu.evaluation.figures import FIGURES
from wav2lip_npu.evaluation.frame_pair import Figure
from wav2lip_npu.evaluation.published_judge import TrackScore
from wav2lip_npu.storage.outputs import OutputPath, check_outputs, write_output
from wav2lip_npu.versions import versions


@dataclass(frozen=True, kw_only=True)
class VideoEvaluation:
    """The figures of one video."""

    video: str
    truth: str | None
    """Original recording."""
    frames: int
    """Frames that were evaluated, 25 per second."""
    faces: int
    """Frames with a face."""
    figures: dict[str, Figure]
    """Figures by name."""
    skipped: dict[str, str]
    """Groups of figures that could not be measured, and why."""
    tracks: dict[str, list[TrackScore]] = field(default_factory=dict)
    """Scores of each track by the published SyncNet, for `generated` and `truth`."""
    curves: dict[str, list[tuple[int, float]]] = field(default_factory=dict, repr=False)
    """Values over time: pairs of a frame and a value."""
    thumbnails: list[tuple[int, bytes]] = field(default_factory=list, repr=False)
    """Frame numbers and JPEG images of the face."""

    @property
    def score(self) -> float:
        """A score for sorting, from the first of LSE-C, expert confidence and SSIM; higher is better."""
        for name in ("lse_c", "expert_confidence", "ssim_mouth"):
            figure = self.figures.get(name)
            if figure is not None and figure.generated is not None:
                return figure.generated
        return math.inf

    def as_dict(self) -> dict[str, Any]:
        """Return the content for JSON, without curves and pictures."""
        return {
            "video": self.video,
            "truth": self.truth,
            "frames": self.frames,
            "faces": self.faces,
            "figures": {name: figure_as_dict(figure) for name, figure in self.figures.items()},
            "skipped": self.skipped,
            "tracks": {
                name: [_track_as_dict(track) for track in tracks] for name, tracks in self.tracks.items()
            },
        }


@dataclass(frozen=True, kw_only=True)
class EvaluationReport:
    """The result of `evaluate`: figures of each video, and their means."""

    videos: list[VideoEvaluation]
    """The evaluated videos, worst first."""
    failed: dict[str, str]
    """Videos that could not be evaluated, and why."""
    missing: list[str]
    """Videos of a list that do not exist."""
    judges: dict[str, str]
    """Networks that judged, with their SHA-256, the crop and the detector."""
    figures: dict[str, Figure]
    """Means over the videos; LSE over all tracks, as in the published scripts; FID over all frames."""
    skipped: dict[str, str]
    """Groups of figures that could not be measured in any video, and why."""
    seconds: float
    """Wall time."""
    versions: dict[str, str] = field(default_factory=versions)

    def as_dict(self) -> dict[str, Any]:
        """Return the content for JSON."""
        return {
            "figures": {name: figure_as_dict(figure) for name, figure in self.figures.items()},
            "judges": self.judges,
            "skipped": self.skipped,
            "failed": self.failed,
            "missing": self.missing,
            "seconds": round(self.seconds, 2),
            "videos": [video.as_dict() for video in self.videos],
            "versions": self.versions,
        }

    def write(self, path: str | os.PathLike[str]) -> None:
        """Write the report as JSON; `path` is replaced atomically. Raises `OutputError`."""
        check_outputs([OutputPath("report", path)])
        write_output(path, json.dumps(self.as_dict(), indent=1, allow_nan=False) + "\n")

    def table(self) -> str:
        """Return the means as text: one line per figure, the original recording beside the generated one."""
        originals = sum(video.truth is not None for video in self.videos)
        all_have_one = originals in (0, len(self.videos))
        original = "original" if all_have_one else f"original ({originals} of {len(self.videos)} videos)"
        rows = [("figure", "generated", original, "better", "meaning")]
        for name, about in FIGURES.items():
            if (figure := self.figures.get(name)) is not None:
                generated, truth = (shown(value, about.digits) for value in (figure.generated, figure.truth))
                rows.append((name, generated, truth, about.better, about.text))
        widths = [max(len(row[column]) for row in rows) for column in range(4)]
        cells = ([*map(str.ljust, row[:4], widths), row[4]] for row in rows)
        return "".join("  ".join(line) + "\n" for line in cells)


def mean_figures(videos: Iterable[VideoEvaluation]) -> dict[str, Figure]:
    """Return the means over videos of each figure; those of LSE are over tracks."""
    videos = list(videos)
    means: dict[str, Figure] = {}
    for name in FIGURES:
        found = [video.figures[name] for video in videos if name in video.figures]
        if found:
            means[name] = Figure(
                _mean(figure.generated for figure in found), _mean(figure.truth for figure in found)
            )
    for name in ("lse_d", "lse_c"):
        by_video = {
            side: [getattr(track, name) for video in videos for track in video.tracks.get(side, ())]
            for side in ("generated", "truth")
        }
        if by_video["generated"]:
            means[name] = Figure(_mean(by_video["generated"]), _mean(by_video["truth"]))
    return means


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None


def shown(value: float | None, digits: int) -> str:
    """Return a value as text; `-` if it is unknown."""
    return "-" if value is None else "inf" if math.isinf(value) else f"{value:.{digits}f}"


def figure_as_dict(figure: Figure) -> Mapping[str, float | str | None]:
    """Return a figure for JSON, in which infinity is the word `inf`, and NaN is null."""

    def plain(value: float | None) -> float | str | None:
        if value is None or math.isnan(value):
            return None
        return "inf" if math.isinf(value) else round(value, 6)

    known = {"generated": plain(figure.generated)}
    return known if figure.truth is None else {**known, "truth": plain(figure.truth)}


def _track_as_dict(track: TrackScore) -> dict[str, float]:
    return {
        "first_frame": track.first,
        "frames": track.frames,
        "windows": track.windows,
        "lse_d": round(track.lse_d, 4),
        "lse_c": round(track.lse_c, 4),
        "offset": track.offset,
    }
