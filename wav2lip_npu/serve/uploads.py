"""Receive multipart forms: files go to disk as they arrive, counted and hashed, and text fields to memory."""

from __future__ import annotations

import contextlib
import hashlib
import shutil
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from anyio import to_thread
from fastapi import Request
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.requests import ClientDisconnect

from wav2lip_npu.parallel.log_lines import one_line
from wav2lip_npu.serve.problems import Problem

_FLUSH_BYTES = 1 << 18
"""Bytes that are held in memory before they are hashed and written."""
_MAX_FIELDS, _MAX_FILES, _MAX_TEXT, _MAX_HEADERS = 200, 32, 1 << 16, 1 << 13
_MAX_NAME = 200


@dataclass(frozen=True, kw_only=True)
class UploadLimits:
    """Limits of a request with files."""

    new_path: Callable[[], Path]
    """Returns a new path for a file that is being received."""
    max_bytes: int
    """Largest request."""
    floor_bytes: int
    """Free disk space that must remain."""

    def check_disk(self) -> None:
        """Raise `Problem` if the disk is almost full."""
        if shutil.disk_usage(self.new_path().parent).free < self.floor_bytes:
            raise Problem(507, "the disk of the service is almost full. Try again later.")


@dataclass(frozen=True)
class Upload:
    """A file that has been received."""

    path: Path
    """Temporary file, deleted when the form is closed unless it was moved."""
    sha256: str
    bytes: int
    name: str
    """Name that the client gave, for display only."""


@dataclass
class Form:
    """Text fields and files of a request."""

    fields: dict[str, str] = field(default_factory=dict)
    files: dict[str, Upload] = field(default_factory=dict)


@contextlib.asynccontextmanager
async def received_form(request: Request, limits: UploadLimits) -> AsyncIterator[Form]:
    """Receive a multipart form; its files exist until the block ends.

    Raises `Problem`: the request is too large, damaged, or not a form, or the disk is full.
    """
    kind, options = parse_options_header(request.headers.get("content-type", ""))
    if kind != b"multipart/form-data" or not options.get(b"boundary"):
        raise Problem(415, "the body is not a form. Send multipart/form-data.")
    declared = request.headers.get("content-length", "")
    if declared.isdecimal() and int(declared) > limits.max_bytes:
        raise _too_large(limits)
    receiver = _Receiver(limits)
    try:
        parser = MultipartParser(options[b"boundary"], receiver.callbacks())
        received = 0
        async for chunk in request.stream():
            received += len(chunk)
            if received > limits.max_bytes:
                raise _too_large(limits)
            parser.write(chunk)
            if receiver.pending >= _FLUSH_BYTES:
                await to_thread.run_sync(receiver.flush)
        parser.finalize()
        if not receiver.is_complete:
            raise Problem(400, "the form ends early. Send it again.")
        yield await to_thread.run_sync(receiver.form)
    except FormParserError as error:
        raise Problem(400, f"the form is damaged: {error}. Send it as multipart/form-data.") from None
    except ClientDisconnect:
        raise Problem(400, "the client closed the connection before the form ended.") from None
    except OSError as error:
        raise Problem(507, f"cannot store the upload: {error.strerror}.") from None
    finally:
        await to_thread.run_sync(receiver.close)


def shown_name(name: str) -> str:
    """Return a client's file name as short printable text. It is never used as a path.

    Browsers write a quote as %22 and the ends of lines as %0D and %0A, and nothing else in this way.
    """
    for code, character in (("%22", '"'), ("%0D", "\r"), ("%0A", "\n")):
        name = name.replace(code, character)
    base = name.replace("\\", "/").rpartition("/")[2]
    return one_line(base)[:_MAX_NAME] or "file"


class _Part:
    """A part of the form: a text field, or a file on disk."""

    def __init__(self, name: str, file_name: str | None, path: Path) -> None:
        self.name, self.file_name = name, file_name
        self.data = bytearray()
        self.size = 0
        self.hash = hashlib.sha256()
        self.path = path
        self.file: BinaryIO | None = None

    @property
    def is_file(self) -> bool:
        return self.file_name is not None

    def flush(self) -> None:
        if self.file is None:
            self.file = open(self.path, "xb")  # noqa: SIM115 closed by `end` or `remove`
        self.hash.update(self.data)
        self.file.write(self.data)
        self.data.clear()

    def end(self) -> None:
        self.flush()
        assert self.file is not None
        self.file.close()

    def remove(self) -> None:
        if self.file is not None:
            self.file.close()
            self.path.unlink(missing_ok=True)


class _Receiver:
    """Callbacks of the parser. They only change memory; `flush` and `form` write to the disk."""

    def __init__(self, limits: UploadLimits) -> None:
        self._limits = limits
        self._parts: list[_Part] = []
        self._header = (bytearray(), bytearray())
        self._headers: dict[bytes, bytes] = {}
        self._header_bytes = 0
        self.is_complete = False

    @property
    def pending(self) -> int:
        """Bytes of files in memory."""
        return sum(len(part.data) for part in self._parts[-2:] if part.is_file)

    def callbacks(self) -> Any:
        return {
            "on_part_begin": self._on_part_begin,
            "on_header_field": lambda data, start, end: self._on_header(0, data[start:end]),
            "on_header_value": lambda data, start, end: self._on_header(1, data[start:end]),
            "on_header_end": self._on_header_end,
            "on_headers_finished": self._on_headers_finished,
            "on_part_data": self._on_part_data,
            "on_end": self._on_end,
        }

    def flush(self) -> None:
        """Write what is in memory. Raises `OSError`, and `Problem` if the disk is almost full."""
        self._limits.check_disk()
        for part in self._files():
            if part.data:
                part.flush()

    def form(self) -> Form:
        """Return the fields and files. Raises `OSError` and `Problem`."""
        self.flush()
        form = Form()
        for part in self._parts:
            if part.name in form.fields or part.name in form.files:
                raise Problem(422, f"the field {part.name:.80} occurs twice. Send it once.")
            if part.is_file:
                part.end()
                name = shown_name(part.file_name or "")
                form.files[part.name] = Upload(part.path, part.hash.hexdigest(), part.size, name)
            else:
                try:
                    form.fields[part.name] = part.data.decode()
                except UnicodeDecodeError:
                    raise Problem(422, f"the field {part.name:.80} is not UTF-8 text.") from None
        return form

    def close(self) -> None:
        """Delete the files that were not moved."""
        for part in self._files():
            part.remove()

    def _files(self) -> Iterator[_Part]:
        return (part for part in self._parts if part.is_file)

    def _on_part_begin(self) -> None:
        self._headers.clear()
        self._header_bytes = 0
        self._clear_header()
        if len(self._parts) >= _MAX_FIELDS:
            raise Problem(413, f"the form has more than {_MAX_FIELDS} fields. Send fewer.")

    def _on_header(self, which: int, data: bytes) -> None:
        self._header[which].extend(data)
        self._header_bytes += len(data)
        if self._header_bytes > _MAX_HEADERS:
            raise Problem(413, "a part of the form has headers of more than 8 KiB.")

    def _on_header_end(self) -> None:
        name, value = map(bytes, self._header)
        self._headers[name.lower()] = value
        self._clear_header()

    def _clear_header(self) -> None:
        for text in self._header:
            text.clear()

    def _on_headers_finished(self) -> None:
        _, options = parse_options_header(self._headers.get(b"content-disposition", b""))
        if b"name" not in options:
            raise Problem(400, "a part of the form has no name.")
        file_name = options.get(b"filename")
        if file_name is not None and len(list(self._files())) >= _MAX_FILES:
            raise Problem(413, f"the form has more than {_MAX_FILES} files. Send fewer.")
        self._parts.append(
            _Part(
                options[b"name"].decode("utf-8", "replace"),
                None if file_name is None else file_name.decode("utf-8", "replace"),
                self._limits.new_path(),
            )
        )

    def _on_part_data(self, data: bytes, start: int, end: int) -> None:
        part = self._parts[-1]
        part.data += data[start:end]
        part.size += end - start
        if not part.is_file and part.size > _MAX_TEXT:
            raise Problem(413, f"the field {part.name:.80} has more than 64 KiB. Send a file as a file.")

    def _on_end(self) -> None:
        self.is_complete = True


def _too_large(limits: UploadLimits) -> Problem:
    return Problem(
        413, f"the upload is larger than {limits.max_bytes:,} bytes. Send a smaller or shorter file."
    )
