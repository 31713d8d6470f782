"""The faces of all speakers of an output in each frame: found, or those of an earlier dub."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from fractions import Fraction
from typing import TYPE_CHECKING, Any

from wav2lip_npu.dubbing.extent import Extent
from wav2lip_npu.dubbing.options import DubOptions
from wav2lip_npu.dubbing.selection import num_fade_frames
from wav2lip_npu.dubbing.turns import FrameSpans
from wav2lip_npu.faces.appearance import load_appearance
from wav2lip_npu.faces.cast import Cast
from wav2lip_npu.faces.face_plan import FacePlan
from wav2lip_npu.faces.face_rules import FaceRule, known_faces
from wav2lip_npu.faces.find_speakers import Tracked, find_speakers
from wav2lip_npu.faces.speaker_tracks import Recorder, TrackStore, recalled
from wav2lip_npu.media.container import VideoInfo
from wav2lip_npu.media.video_reader import Frame
from wav2lip_npu.storage import hashing

if TYPE_CHECKING:
    from wav2lip_npu.dubbing.inference import Models


class SpeakerFaces:
    """The faces of the speakers who are seen.

    Args:
        rules: Whose faces.
        info: The face video.
        options: Options of the dub.
        fps: Frames per second of the output.
        extent: Extent of the output.
        store: Faces of earlier dubs; None: none.

    """

    def __init__(
        self,
        rules: Sequence[FaceRule],
        info: VideoInfo,
        options: DubOptions,
        fps: Fraction,
        extent: Extent,
        store: TrackStore | None,
    ) -> None:
        self._rules, self._info, self._options = rules, info, options
        self._fps, self._extent, self._store = fps, extent, store
        self._recorder = Recorder(len(rules))
        self._details: dict[str, Any] | None = None
        """What the recorded faces depend on; None if they are not kept."""

    def tracked(
        self,
        frames: Iterator[Frame],
        models: Models,
        wanted: Sequence[FrameSpans],
        plans: Sequence[FacePlan | None],
    ) -> Iterator[Tracked]:
        """Yield each frame with the faces of all speakers, see `find_speakers`."""
        is_kept = self._store is not None and self._extent.limit is not None and not any(plans)
        details = self._depends_on(wanted) if is_kept else None
        if self._store is not None and details is not None:
            rows = self._store.read(details)
            if rows is not None and len(rows) >= self._needed:
                return recalled(frames, rows)
        appearance, start = load_appearance(), float(self._extent.first / self._fps)
        geometry, section = self._options.geometry, (start, self._fps)
        known = known_faces(self._rules, self._info, geometry, models.detector, appearance, section)
        cast = Cast(known, models.detector, appearance)
        tracked = find_speakers(frames, cast, models.detector, self._options.faces, wanted, plans)
        self._details = details
        return tracked if details is None else self._recorder.record(tracked)

    def keep(self) -> None:
        """Keep the faces for further dubs, after the output was written."""
        rows = self._recorder.rows
        if self._store is not None and self._details is not None and len(rows) >= self._needed:
            self._store.write(self._details, rows)

    @property
    def _needed(self) -> int:
        """Frames whose faces the output depends on."""
        return (self._extent.limit or 0) + num_fade_frames(self._fps)

    def _depends_on(self, wanted: Sequence[FrameSpans]) -> dict[str, Any]:
        """Return what the faces depend on beside the video and the options of faces, as JSON."""
        return {
            "rules": [
                rule.text if rule.photo is None else hashing.sha256_of(rule.photo) for rule in self._rules
            ],
            "wanted": [spans.spans for spans in wanted],
            "first": self._extent.first,
            "extend": self._options.extend,
            "told_apart_by": load_appearance().name,
        }
