"""What can go wrong by the user's doing. Each message is one line: what, where, way out."""


class Wav2LipError(ValueError):
    """Something that the user can mend; the command line prints it and exits 2."""


class MediaError(Wav2LipError):
    """A video, image or sound file that cannot be read or written."""


class NoAudioError(MediaError):
    """A file without a sound track, or with an empty one."""


class FaceError(Wav2LipError):
    """No usable face, or a detector that is unknown or lacks its weights."""


class CheckpointError(Wav2LipError):
    """A weights file that is missing, damaged or of another network."""


class CheckpointMismatchError(CheckpointError):
    """A weights file that is whole, but of another network or of other sound settings."""


class DataError(Wav2LipError):
    """A data set, file list or clip that cannot be used."""


class TrainingError(Wav2LipError):
    """A training that cannot go on, such as one whose loss is not a number."""


class DeviceError(Wav2LipError):
    """A device that is unknown or not there."""


class UsageError(Wav2LipError):
    """Options that cannot be combined or are out of range."""


class ExportError(Wav2LipError):
    """A network that cannot be exported, or not compiled for a chip."""
