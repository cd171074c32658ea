"""Multipart uploads, streamed to disk as they arrive: the file is never whole in memory or in a temporary folder."""

from __future__ import annotations

import asyncio
import errno
from dataclasses import dataclass, field
from pathlib import PurePosixPath, PureWindowsPath
from typing import Protocol

from fastapi import HTTPException, Request
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from holdfast.errors import InvalidInput, StorageError

FILE_FIELD = "file"
MAX_FIELDS_BYTES = 64 * 1024
MAX_PARTS = 16
MAX_FILENAME_LEN = 255
WRITE_BYTES = 1024 * 1024
DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@dataclass(slots=True)
class Upload:
    """What a multipart request held beside the bytes of its file."""

    filename: str = ""
    num_bytes: int = 0
    fields: dict[str, str] = field(default_factory=dict)


class Writer(Protocol):
    """Where the bytes of a file go."""

    def write(self, data: bytes, /) -> object: ...


async def receive_upload(request: Request, file: Writer, max_file_bytes: int) -> Upload:
    """Write the part named `file` to `file` and return the rest.

    Raises:
        HTTPException: 413, the file is too large; 415, the body is not multipart.
        InvalidInput: the body is malformed or holds no file.
        StorageError: the disk is full.
    """
    content_type, options = parse_options_header(request.headers.get("content-type"))
    if content_type != b"multipart/form-data":
        raise HTTPException(415, "Unsupported content type: send the file as 'multipart/form-data'.")
    if not options.get(b"boundary"):
        raise InvalidInput("The content type of a multipart body must name its boundary.")
    try:
        reader = UploadReader(options[b"boundary"], max_file_bytes)
        async for chunk in request.stream():
            reader.feed(chunk)
            if len(reader.unwritten) >= WRITE_BYTES:
                await asyncio.to_thread(file.write, reader.take())
        await asyncio.to_thread(file.write, reader.take())
    except FormParserError as error:
        raise InvalidInput("The multipart body is malformed.") from error
    except OSError as error:
        if error.errno in DISK_FULL:
            raise StorageError("The disk is full: the file was not stored.") from error
        raise
    return reader.finish()


class UploadReader:
    """Takes a multipart body piece by piece; bytes of the file wait in `unwritten` until they are taken."""

    def __init__(self, boundary: bytes, max_file_bytes: int) -> None:
        self.unwritten = bytearray()
        self._max_file_bytes = max_file_bytes
        self._upload = Upload()
        self._num_parts = 0
        self._has_file = False
        self._is_over = False
        self._header_name = b""
        self._header_value = b""
        self._disposition: dict[bytes, bytes] = {}
        self._value: bytearray | None = None
        self._fields_bytes = 0
        self._parser = MultipartParser(
            boundary,
            {
                "on_part_begin": self._begin_part,
                "on_header_field": self._add_header_name,
                "on_header_value": self._add_header_value,
                "on_header_end": self._end_header,
                "on_headers_finished": self._start_content,
                "on_part_data": self._add_content,
                "on_part_end": self._end_part,
                "on_end": self._end,
            },
        )

    def feed(self, chunk: bytes) -> None:
        if chunk:
            self._parser.write(chunk)

    def take(self) -> bytes:
        """Return the bytes of the file that have arrived since the last call."""
        taken = bytes(self.unwritten)
        self.unwritten.clear()
        return taken

    def finish(self) -> Upload:
        """Return what was uploaded, once everything has been fed."""
        if not self._is_over:
            raise InvalidInput("The multipart body ends before its last boundary.")
        if not self._has_file:
            raise InvalidInput("Missing required parameter: 'file'.", code="missing_required_parameter", param="file")
        return self._upload

    def _begin_part(self) -> None:
        self._num_parts += 1
        if self._num_parts > MAX_PARTS:
            raise HTTPException(413, f"The multipart body has more than {MAX_PARTS} parts.")
        self._disposition = {}

    def _add_header_name(self, data: bytes, start: int, end: int) -> None:
        self._header_name += data[start:end]

    def _add_header_value(self, data: bytes, start: int, end: int) -> None:
        self._header_value += data[start:end]

    def _end_header(self) -> None:
        if self._header_name.lower() == b"content-disposition":
            self._disposition = parse_options_header(self._header_value)[1]
        self._header_name = self._header_value = b""

    def _start_content(self) -> None:
        if self._field_name() != FILE_FIELD:
            self._value = bytearray()
            return
        if self._has_file:
            raise InvalidInput("One request uploads one file.", param=FILE_FIELD)
        if b"filename" not in self._disposition:
            raise InvalidInput("'file' must be a file with a filename, not a text field.", param=FILE_FIELD)
        self._has_file = True
        self._value = None
        self._upload.filename = clean_filename(self._disposition[b"filename"].decode("utf-8", "replace"))

    def _add_content(self, data: bytes, start: int, end: int) -> None:
        if self._value is None:
            self.unwritten += data[start:end]
            self._upload.num_bytes += end - start
            if self._upload.num_bytes > self._max_file_bytes:
                raise HTTPException(413, f"The file is larger than the limit of {self._max_file_bytes} bytes.")
            return
        self._value += data[start:end]
        self._fields_bytes += end - start
        if self._fields_bytes > MAX_FIELDS_BYTES:
            raise HTTPException(413, f"The fields beside the file are larger than {MAX_FIELDS_BYTES} bytes.")

    def _end_part(self) -> None:
        if self._value is not None:
            name = self._field_name()
            if name in self._upload.fields:
                raise InvalidInput(f"The field '{name}' is given twice.", param=name)
            self._upload.fields[name] = self._value.decode("utf-8", "replace")

    def _end(self) -> None:
        self._is_over = True

    def _field_name(self) -> str:
        return self._disposition.get(b"name", b"").decode("utf-8", "replace")


def clean_filename(name: str) -> str:
    """Return the last part of `name`, without control characters, as a name that can be shown and searched."""
    last = PureWindowsPath(PurePosixPath(name.replace("\0", "")).name).name
    shown = "".join(character for character in last if character.isprintable()).strip()
    if shown in ("", ".", ".."):
        raise InvalidInput("The uploaded file needs a filename.", param=FILE_FIELD)
    if len(shown) > MAX_FILENAME_LEN:
        raise InvalidInput(f"The filename is longer than {MAX_FILENAME_LEN} characters.", param=FILE_FIELD)
    return shown
