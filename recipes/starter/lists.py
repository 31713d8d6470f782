"""Write file lists with different speakers for training and for evaluation.

    python recipes/starter/lists.py CLIPS LISTS

A speaker is the folder above a clip. A tenth of the speakers, and the people that docs/starter.md shows, are
in val.txt, all others in train.txt.
"""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path, PurePath

from wav2lip_npu.data.file_lists import TRAIN, VAL, Entry, write_list

SHOWN_PEOPLE = ("man_844", "woman_elderly_524", "vox_00104", "lbbc2a")
WITHOUT_OWN_SPEECH = {"man_30fps_1080x1920", "woman_seated_1080x1920", "woman_30s_silent_480"}
SHARE = 10


def split(names: list[str]) -> tuple[list[str], list[str]]:
    """Return the names of training clips and of held-out clips."""
    names = [name for name in names if not WITHOUT_OWN_SPEECH & set(PurePath(name).parts)]
    speakers = {name: str(PurePath(name).parent) for name in names}
    if len(set(speakers.values())) == 1:
        speakers = {name: name for name in names}
    order = sorted(set(speakers.values()), key=lambda name: hashlib.sha256(name.encode()).digest())
    held_out = set(order[: max(1, len(order) // SHARE)])
    val = [
        name for name in names if speakers[name] in held_out or set(SHOWN_PEOPLE) & set(PurePath(name).parts)
    ]
    return [name for name in names if name not in set(val)], val


def main(clips: Path, lists: Path) -> int:
    """Write train.txt and val.txt."""
    names = sorted(str(path.parent.relative_to(clips)) for path in clips.rglob("audio.wav"))
    lists.mkdir(parents=True, exist_ok=True)
    for name, chosen in zip((TRAIN, VAL), split(names), strict=True):
        write_list(lists / name, [Entry(clip) for clip in chosen])
        sys.stdout.write(f"{lists / name}: {len(chosen)} clips\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), Path(sys.argv[2])))
