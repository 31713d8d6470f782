"""The `faces` command."""

from __future__ import annotations

import itertools
import logging
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from wav2lip_npu import __version__
from wav2lip_npu.cli.json_output import STDOUT, json_outputs, write_json
from wav2lip_npu.cli.progress_bar import progress_bar
from wav2lip_npu.dubbing.selection import FaceLimits
from wav2lip_npu.errors import FaceError, UsageError
from wav2lip_npu.faces.detectors import DetectorName, detector_inputs
from wav2lip_npu.options import group
from wav2lip_npu.storage.outputs import InputPath, OutputPath, check_outputs, write_output

if TYPE_CHECKING:
    from fractions import Fraction

    from wav2lip_npu.faces.people import Person
    from wav2lip_npu.media.container import VideoInfo

log = logging.getLogger(__name__)

_PICTURES = (".png", ".jpg", ".jpeg", ".webp")
_SHEET_PEOPLE, _SHEET_VIEWS = 40, 6
"""Rows and columns of the contact sheet."""


@dataclass(frozen=True, kw_only=True)
class FacesCommand:
    """List the people in a video: when they appear, how large, seen from which side, and how to select them.

    wav2lip-npu faces talk.mp4

    wav2lip-npu faces talk.mp4 --sheet people.png --json people.json
    """

    video: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="VIDEO")]
    """Video or image."""
    sheet: str = "results/faces.png"
    """Contact sheet to write, one row per person: .png, .jpg or .webp."""
    json: str | None = None
    """Write the list to this JSON file; without a file name, or with -, to standard output."""
    detector: DetectorName = "auto"
    """Face detector. auto: retinaface. hog: dlib's, for frontal faces. s3fd: the original's, needs a file."""
    limits: Annotated[FaceLimits, group("faces that stay as filmed")] = field(default_factory=FaceLimits)
    """Limits beyond which a dub leaves the face as filmed."""
    device: str = "auto"
    """Device of the detector: cpu, cuda, cuda:1, npu, npu:1, or auto: the first available of npu, cuda,
    cpu."""

    def __post_init__(self) -> None:
        """Raise `UsageError` if the contact sheet has an unknown format."""
        if not self.sheet.lower().endswith(_PICTURES):
            raise UsageError(
                f"--sheet {self.sheet} is not a picture. Pass a file name ending in .png or .jpg."
            )

    def run(self) -> None:
        """Find the people and write the list."""
        log.info("wav2lip-npu %s", __version__)
        outputs = [OutputPath("--sheet", self.sheet), *json_outputs(self.json)]
        check_outputs(outputs, [InputPath("VIDEO", self.video), *detector_inputs()])
        from wav2lip_npu.devices import device
        from wav2lip_npu.faces.detectors import load_detector
        from wav2lip_npu.faces.people import find_people
        from wav2lip_npu.media.container import probed
        from wav2lip_npu.media.video_reader import read_frames

        info = probed(self.video)
        target = device.resolve(self.device)
        device.activate(target)
        detector = load_detector(self.detector, str(target))
        self.limits.warn_if_unused(detector.name)
        frames = itertools.islice(read_frames(info), 1 if info.is_image else None)
        count = 0
        with progress_bar("frame") as show:

            def report(done: int) -> None:
                nonlocal count
                count = done
                show(done, max(done, info.frames or 0))

            people = find_people(frames, detector, info.fps, report)
        if not people:
            raise FaceError(f"no face in {self.video}. Pass another --detector, or a video with a face.")
        suffix = os.path.splitext(self.sheet)[1]
        write_output(self.sheet, contact_sheet(people, info.fps, suffix))
        entries = [self._entry(number, person, info) for number, person in enumerate(people, start=1)]
        if self.json is not None:
            about = {"version": __version__, "video": self.video, "detector": detector.name}
            shape = {"width": info.width, "height": info.height, "fps": str(info.fps), "frames": count}
            write_json({**about, **shape, "people": entries}, self.json)
        if self.json != STDOUT:
            sys.stdout.write("".join(map(_line, entries)))
        noun = "person" if len(people) == 1 else "people"
        log.info("%d %s in %d frames, pictures: %s", len(people), noun, count, self.sheet)

    def _entry(self, number: int, person: Person, info: VideoInfo) -> dict[str, Any]:
        """Return the description of a person for JSON."""
        import numpy as np

        widths = [float(sighting.box[2] - sighting.box[0]) for sighting in person.sightings]
        poses = [sighting.pose for sighting in person.sightings if sighting.pose is not None]
        within = sum(
            sighting.pose is None
            or (width >= self.limits.min_face and self.limits.excess(sighting.pose) <= 0)
            for sighting, width in zip(person.sightings, widths, strict=True)
        )

        def spread(values: Sequence[float]) -> list[float] | None:
            return (
                [round(float(value), 1) for value in np.percentile(values, [0, 50, 100])] if values else None
            )

        angles = {name: spread([getattr(pose, name) for pose in poses]) for name in ("yaw", "pitch", "roll")}
        return {
            "person": number,
            "spans": person.spans,
            "seconds": [[round(float(frame / info.fps), 2) for frame in span] for span in person.spans],
            "sightings": len(person.sightings),
            "width": spread(widths),
            **angles,
            "dubbed_share": round(within / len(person.sightings), 3),
            "face_select": "{},{}".format(*person.point),
        }


def _line(entry: dict[str, Any]) -> str:
    spans = ", ".join(f"{first:.1f}-{last:.1f}" for first, last in entry["seconds"])
    low, _, high = entry["width"]
    yaw = "" if entry["yaw"] is None else "yaw {:.0f} to {:.0f}, ".format(entry["yaw"][0], entry["yaw"][2])
    return (
        f"person {entry['person']}: {spans} s, {low:.0f} to {high:.0f} px wide, {yaw}"
        f"{entry['dubbed_share']:.0%} can be dubbed, --face_select {entry['face_select']}\n"
    )


def contact_sheet(people: Sequence[Person], fps: Fraction, suffix: str) -> bytes:
    """Return a picture with a row of views per person, each with its time in seconds."""
    import cv2
    import numpy as np

    from wav2lip_npu.faces.people import VIEW_SIDE

    def write(image: Any, text: str, place: tuple[int, int], size: float, width: int) -> None:
        for colour, extra in ((0, 2), (255, 0)):  # white with a black rim
            cv2.putText(
                image,
                text,
                place,
                cv2.FONT_HERSHEY_SIMPLEX,
                size,
                (colour, colour, colour),
                width + extra,
                cv2.LINE_AA,
            )

    rows = []
    for number, person in enumerate(people[:_SHEET_PEOPLE], start=1):
        chosen = (
            np.linspace(0, len(person.views) - 1, min(_SHEET_VIEWS, len(person.views))).round().astype(int)
        )
        row = np.full((VIEW_SIDE, VIEW_SIDE * _SHEET_VIEWS, 3), 32, np.uint8)
        for column, index in enumerate(chosen):
            view = person.views[index]
            tile = row[:, column * VIEW_SIDE : (column + 1) * VIEW_SIDE]
            tile[:] = view.image
            write(tile, f"{float(view.frame / fps):.1f} s", (4, VIEW_SIDE - 6), 0.45, 1)
        label = np.full((VIEW_SIDE, VIEW_SIDE // 2, 3), 32, np.uint8)
        write(label, str(number), (12, 74), 1, 2)
        rows.append(np.hstack([label, row]))
    return bytes(cv2.imencode(suffix, np.vstack(rows))[1])
