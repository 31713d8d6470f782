"""Exceptions for errors that the user can fix.

Each message is one line: what is wrong, where, and how to fix it.
"""


class Wav2LipError(ValueError):
    """An error that the user can fix. The command line prints it and exits with code 2."""


class MediaError(Wav2LipError):
    """A video, image or audio file cannot be read, or a video cannot be written."""


class NoAudioError(MediaError):
    """A file has no audio track, or an empty one."""


class OutputError(Wav2LipError):
    """A report, checkpoint or other output cannot be written, or would replace another file of the run."""


class FaceError(Wav2LipError):
    """No usable face was detected, or the detector is unknown or has no weights."""


class CheckpointError(Wav2LipError):
    """A weights file is missing, damaged, or belongs to another network."""


class CheckpointMismatchError(CheckpointError):
    """A weights file is intact but belongs to another network or to other mel settings."""


class DataError(Wav2LipError):
    """A data set, file list or clip cannot be used."""


class TrainingError(Wav2LipError):
    """A training cannot continue, for example because its loss is NaN."""


class DeviceError(Wav2LipError):
    """A device is unknown or not available."""


class UsageError(Wav2LipError):
    """An option is out of range, unknown, or conflicts with another one."""


class BusyError(Wav2LipError):
    """A device holds as many live streams as it can, or a stream has no room for more audio now."""


class ExportError(Wav2LipError):
    """A network cannot be exported, or its export cannot be compiled for a chip."""
