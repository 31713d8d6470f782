"""Format of a clip folder, written by preprocessing and read by training: file names and sizes."""

import re

CLIP_FORMAT = 1
CLIP_FILE = "clip.json"
AUDIO_FILE = "audio.wav"
MEL_FILE = "mel.npy"
FACES_FILES = r"faces\d+\.npy"
"""Pattern of the names of face caches, see `faces_file`."""
CLIP_FILES = re.compile(
    rf"\d+\.jpg|{FACES_FILES}|{'|'.join(map(re.escape, (CLIP_FILE, AUDIO_FILE, MEL_FILE)))}", re.ASCII
)
FACE_SIZE = 96
"""Face size of SyncNet and of the paper's generator."""
WINDOW = 5
"""Consecutive faces per SyncNet input, 200 ms."""
MIN_FRAMES = 16
"""Minimum number of frames in a clip, as in the original."""
PARTIAL_SUFFIX = ".partial"
"""Suffix of the folder of an unfinished clip. The name of a finished clip never ends with it."""


def faces_file(size: int) -> str:
    """Return the name of the cache of faces of a size, such as `faces96.npy`."""
    return f"faces{size}.npy"


FACES_FILE = faces_file(FACE_SIZE)
