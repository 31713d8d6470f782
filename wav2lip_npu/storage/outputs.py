"""Check all outputs of a run before any work.

The check is called once with all inputs and outputs. It follows links, so that an output cannot replace an
input or another output under a different name. Folders are created later, when the first file is written.
"""

from __future__ import annotations

import errno
import os
import re
import stat
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from wav2lip_npu.errors import OutputError, Wav2LipError
from wav2lip_npu.storage.atomic import part_path, remove_stale_parts, replacing
from wav2lip_npu.storage.regular_files import type_of

_SYSTEM_FOLDERS = ("/dev/", "/proc/", "/sys/")
"""Folders without regular files. Writing to /dev/stdout would replace the link."""
_MEMORY = "/dev/shm/"


class InputPath(NamedTuple):
    """A file or folder that a run reads."""

    name: str
    """Flag, or column and row, for messages."""
    path: str | os.PathLike[str]
    files: re.Pattern[str] | None = None
    """For a folder: pattern of the names of input files in it, at any depth."""


class OutputPath(NamedTuple):
    """A file or folder that a run writes."""

    name: str
    """Flag or column, for messages about this output."""
    path: str | os.PathLike[str]
    is_folder: bool = False
    files: re.Pattern[str] | None = None
    """For a folder: pattern of the names of files that are written directly into it."""
    error: type[Wav2LipError] = OutputError
    """Type of the exception."""
    label: str | None = None
    """Column and row, for messages about other outputs. None: `name`."""


def check_outputs(outputs: Iterable[OutputPath], inputs: Iterable[InputPath] = ()) -> None:
    """Raise the error of the first output that cannot be written, or is also an input or another output."""
    for problem in output_problems(outputs, inputs):
        if problem is not None:
            raise problem


def output_problems(
    outputs: Iterable[OutputPath], inputs: Iterable[InputPath] = ()
) -> list[Wav2LipError | None]:
    """Return for each output the error that `check_outputs` would raise, or None.

    Args:
        outputs: All files and folders that the run writes.
        inputs: All files and folders that it reads. They need not exist.

    """
    gate = _Gate(inputs)
    problems: list[Wav2LipError | None] = []
    for output in outputs:
        if os.fspath(output.path):
            text = gate.collision(output) or gate.obstacle(output)
        else:
            text = f"{output.name} is empty. Pass a path."
        problems.append(output.error(text) if text else None)
    return problems


def write_output(path: str | os.PathLike[str], content: str | bytes) -> None:
    """Write a small file atomically; text is encoded as UTF-8. Raises `OutputError`."""
    try:
        with replacing(path) as part:
            part.write_bytes(content.encode() if isinstance(content, str) else content)
    except OSError as error:
        raise OutputError(f"cannot write {path}: {error.strerror or error}.") from None


class _Gate:
    """The inputs of a run, and the outputs that have been checked."""

    def __init__(self, inputs: Iterable[InputPath]) -> None:
        self._known: dict[str, tuple[str, list[object]]] = {}
        self._real_folders: dict[str, str] = {}
        self._probed: dict[str, str | None] = {}
        self._inputs: dict[object, str] = {}
        self._input_files: list[tuple[str, str]] = []
        self._input_folders: list[tuple[str, str, re.Pattern[str]]] = []
        self._outputs: dict[object, str] = {}
        self._output_folders: dict[str, str] = {}
        """Folders that the outputs need, and the label of the output."""
        for item in inputs:
            real, identities = self._identify(item.path)
            if item.files is not None:
                self._input_folders.append((os.path.join(real, ""), item.name, item.files))
                continue
            self._input_files.append((real, item.name))
            for identity in identities:
                self._inputs.setdefault(identity, item.name)

    def collision(self, output: OutputPath) -> str | None:
        """Return the problem of an output that is also an input or an earlier output; else register it."""
        real, identities = self._identify(output.path)
        subject = f"{output.name} {os.fspath(output.path)}"
        if owner := self._input_at(output, real, identities):
            return f"{subject} is also an input ({owner}) and would be lost. Choose another name."
        if not output.is_folder:
            if owner := next((self._outputs[key] for key in identities if key in self._outputs), None):
                return f"{subject} is also the {owner}. Choose another name."
            if owner := self._output_folders.get(real):
                return f"{subject} is also the folder of the {owner}. Choose another name."
        folders = [real, *_parents(real)] if output.is_folder else list(_parents(real))
        if owner := next((self._outputs[folder] for folder in folders if folder in self._outputs), None):
            return f"{subject} is inside the {owner}, which is a file. Choose another name."
        label = output.label or output.name
        for folder in folders:
            self._output_folders.setdefault(folder, label)
        if not output.is_folder:
            self._outputs.update(dict.fromkeys(identities, label))
        return None

    def obstacle(self, output: OutputPath) -> str | None:
        """Return why an output cannot be written; None if it can."""
        path = os.fspath(output.path)
        try:
            reason = self._obstacle(path, output.is_folder)
            if reason is None and output.files is not None:
                reason = _special_file(path, output.files)
        except OSError as error:
            reason = error.strerror or str(error)
        except ValueError as error:  # a NUL, or characters that cannot be encoded
            reason = str(error)
        wanted = "folder" if output.is_folder else "file name"
        return reason and f"cannot write {path}: {reason}. Pass another {wanted} as {output.name}."

    def _input_at(self, output: OutputPath, real: str, identities: Iterable[object]) -> str | None:
        """Return the name of the input that an output would replace."""
        if output.is_folder:
            for path, name in self._input_files:
                folder, file = os.path.split(path)
                if folder == real and output.files is not None and output.files.fullmatch(file):
                    return f"{name} {file}"
            return None
        for identity in identities:
            if identity in self._inputs:
                return self._inputs[identity]
        for folder, name, files in self._input_folders:
            if real.startswith(folder) and files.fullmatch(os.path.basename(real)) and os.path.lexists(real):
                return f"a file of {name}"
        return None

    def _identify(self, path: str | os.PathLike[str]) -> tuple[str, list[object]]:
        """Return the real path, and identities: all names of a file have at least one in common."""
        text = os.fspath(path)
        if text not in self._known:
            self._known[text] = self._look_up(text)
        return self._known[text]

    def _look_up(self, text: str) -> tuple[str, list[object]]:
        folder, name = os.path.split(text)
        real = text
        try:
            real = os.path.join(self._real_folder(folder), name)
            if name in ("", ".", "..") or os.path.islink(real):
                real = os.path.realpath(text)
            status = os.stat(real)
        except (OSError, ValueError):  # such as a deleted working directory, or a NUL
            return real, [real]
        return real, [real, (status.st_dev, status.st_ino)]

    def _real_folder(self, folder: str) -> str:
        if folder not in self._real_folders:  # the outputs of a batch share few folders
            self._real_folders[folder] = os.path.realpath(folder)
        return self._real_folders[folder]

    def _obstacle(self, path: str, is_folder: bool) -> str | None:
        """Return why a file or folder cannot be written. Raises `OSError` and `ValueError`."""
        real = self._real_folder(path if is_folder else os.path.dirname(path))
        if f"{real}/".startswith(_SYSTEM_FOLDERS) and not f"{real}/".startswith(_MEMORY):
            return f"{real} has no regular files"
        try:
            status = os.stat(path)
        except (FileNotFoundError, NotADirectoryError):
            if is_folder and os.path.islink(path):
                return "it is a link to a folder that does not exist"
            if not is_folder and path.endswith(os.sep):
                return "it is a folder"
            return self._folder_obstacle(real, "" if is_folder else os.path.basename(path))
        kind = type_of(status)
        if kind != ("a folder" if is_folder else None):
            return f"it is {kind or 'a file'}"
        if not is_folder and _is_protected(status, os.stat(real)):
            return "it belongs to another user"
        return self._folder_obstacle(real, "")

    def _folder_obstacle(self, folder: str, name: str) -> str | None:
        """Return why a file `name` cannot be created in a folder, which need not exist."""
        existing, missing = folder, [name]
        while not os.path.lexists(existing):
            existing, part = os.path.split(existing)
            missing.append(part)
        if not os.path.isdir(existing):
            return f"{existing} is not a folder"
        longest = os.pathconf(existing, "PC_NAME_MAX")
        if any(len(os.fsencode(part)) > longest for part in missing):
            return os.strerror(errno.ENAMETOOLONG)
        if existing not in self._probed:
            self._probed[existing] = _probe(existing)
        return self._probed[existing]


def _probe(folder: str) -> str | None:
    """Create and remove a file in a folder. Return the error if that fails."""
    name = os.path.join(folder, "probe")
    remove_stale_parts(name)
    probe = part_path(name)
    try:
        os.close(os.open(probe, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600))
        probe.unlink(missing_ok=True)  # another process may remove it as stale
    except OSError as error:
        return error.strerror
    return None


def _special_file(folder: str, names: re.Pattern[str]) -> str | None:
    """Return which file of a folder could not be replaced, because it is not regular."""
    if not os.path.isdir(folder):
        return None
    with os.scandir(folder) as entries:
        for entry in entries:
            if names.fullmatch(entry.name) and os.path.exists(entry.path):
                kind = type_of(entry.stat())
                if kind is not None:
                    return f"{entry.name} in it is {kind}"
    return None


def _is_protected(file: os.stat_result, folder: os.stat_result) -> bool:
    """Return whether only another user can replace a file, as in a sticky folder such as /tmp."""
    user = os.geteuid()
    return bool(folder.st_mode & stat.S_ISVTX) and user not in (0, file.st_uid, folder.st_uid)


def _parents(real: str) -> Iterator[str]:
    while (parent := os.path.dirname(real)) != real:
        yield parent
        real = parent
