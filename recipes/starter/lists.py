"""Write the file lists of the bundled networks: training clips, validation clips, test clips.

python recipes/starter/lists.py CLIPS LISTS

A tenth of the GRID sentences (`test.txt`) and four people (`people.txt`) are in no training list. SyncNet and
judge each leave out a different further tenth. Clips of people with only a few seconds are listed several
times; otherwise nearly all samples would show the speaker with 45 minutes.
"""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path

from wav2lip_npu.data.file_lists import TRAIN, VAL, Entry, write_list

HELD_OUT_PEOPLE = ("clips/man_844", "clips/woman_elderly_524", "clips/vox_00104", "grid/others/lbbc2a")
WITHOUT_OWN_SPEECH = (
    "clips/man_30fps_1080x1920",
    "clips/woman_seated_1080x1920",
    "clips/woman_30s_silent_480",
)
TOO_SMALL = ("clips/lecturer_tiny_face_720",)
SENTENCES = "grid/s1"
FOLDS = 10
TRAININGS = {
    "syncnet": (1, 20),
    "syncnet_late": (1, 1),
    "judge": (2, 20),
    "generator": (1, 20),
    "generator_late": (1, 6),
    "generator_last": (1, 12),
}
"""The fold held out in addition to the test fold, and the number of times that clips of people with few clips
are listed: high at first, to learn faces, and lower later, to learn sentences."""


def main(clips: Path, lists: Path) -> int:
    """Write train.txt and val.txt of each training, test.txt and people.txt."""
    names = sorted(str(path.parent.relative_to(clips)) for path in clips.rglob("clip.json"))
    sentences = [name for name in names if name.startswith(SENTENCES + "/")]
    unfit = {*HELD_OUT_PEOPLE, *WITHOUT_OWN_SPEECH, *TOO_SMALL, *sentences}
    people = [name for name in names if name not in unfit]
    folds: list[list[str]] = [[] for _ in range(FOLDS)]
    for name in sentences:
        folds[int(hashlib.sha256(name.encode()).hexdigest(), 16) % FOLDS].append(name)
    for training, (held_out, repeats) in TRAININGS.items():
        train = [name for number, fold in enumerate(folds) if number not in (0, held_out) for name in fold]
        (lists / training).mkdir(parents=True, exist_ok=True)
        write(lists / training / TRAIN, sorted(train + people) if repeats == 1 else train + people * repeats)
        write(lists / training / VAL, folds[held_out])
    write(lists / "test.txt", folds[0])
    write(lists / "people.txt", [name for name in HELD_OUT_PEOPLE if name in names])
    return 0


def write(path: Path, names: list[str]) -> None:
    """Write a list and print its length."""
    write_list(path, [Entry(name) for name in names])
    sys.stdout.write(f"{path}: {len(names)} lines\n")


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), Path(sys.argv[2])))
