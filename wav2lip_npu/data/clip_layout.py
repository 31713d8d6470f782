"""The format of a clip folder, which preprocessing writes and training reads: file names and sizes."""

CLIP_FORMAT = 1
CLIP_FILE = "clip.json"
AUDIO_FILE = "audio.wav"
MEL_FILE = "mel.npy"
FACES_FILE = "faces96.npy"
FACE_SIZE = 96
WINDOW = 5
"""Consecutive faces that SyncNet sees at once, 200 ms."""
MIN_FRAMES = 16
"""A clip of fewer frames is not used, as in the original."""
PARTIAL_SUFFIX = ".partial"
"""Suffix of the folder of an unfinished clip. The name of a finished clip never ends with it."""
