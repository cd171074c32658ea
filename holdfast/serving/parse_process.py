"""Read a document in a child process, under limits of memory, time and output.

A hostile file can then cost one child, never the server. Each parse starts a fresh interpreter, which costs about a
tenth of a second: it shares no memory, locks or descriptors with a threaded server, and what one file breaks, the next
does not meet. The child (`parse_child.py`) sets its own limits before it reads the first byte; the parent keeps the
time, bounds what it reads back, and checks it, since the sender has handled hostile bytes: a fixed header, a JSON list
of sections and UTF-8 text, nothing that could run. Where the system does not enforce memory limits (macOS),
`is_memory_limited` is false and only time and output are bounded.
"""

from __future__ import annotations

import json
import math
import os
import re
import selectors
import signal
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from holdfast.errors import DOCUMENT_CODES, DocumentError
from holdfast.retrieval.documents import MAX_HEADING_CHARS, MAX_SECTIONS, MAX_TEXT_CHARS, Document, Section

FRAME = struct.Struct("!4sIQ")
"""magic, bytes of JSON, bytes of text"""
FRAME_MAGIC = b"HFD1"
STDIN = "-"
"""instead of a path: the bytes come through standard input, since they may not lie on the disk in clear"""
MAX_HEADER_BYTES = 64 * 2**20
_FORMATS = frozenset(["pdf", "docx", "pptx", "xlsx", "html", "markdown", "rst", "text", "csv", "json", "epub", "eml"])
_MEMORY_SIGNALS = (signal.SIGKILL, signal.SIGABRT, signal.SIGSEGV, signal.SIGTRAP, signal.SIGILL, signal.SIGBUS)
_READ_BYTES = 1 << 20
_LOOK_S = 0.05


@dataclass(frozen=True, slots=True)
class ParseLimits:
    """What one parse may use."""

    memory_bytes: int = 1_400 * 2**20
    timeout_s: float = 30.0
    max_text_chars: int = MAX_TEXT_CHARS


@dataclass(frozen=True, slots=True)
class ParseUsage:
    """How one parse ended and what it used."""

    outcome: Document | DocumentError
    wall_s: float
    peak_rss_bytes: int
    """as the child reports it; of a child that died, as last seen by looking every 50 ms"""


def is_memory_limited() -> bool:
    """Whether this system enforces `ParseLimits.memory_bytes` (Linux does, macOS does not)."""
    return sys.platform.startswith("linux")


def read_document_in_child(
    source: Path | Iterable[bytes], filename: str, limits: ParseLimits = ParseLimits()
) -> Document:
    """Return what `read_document` returns for the bytes of `source`, or raise DocumentError; blocks the calling thread.

    Raises:
        DocumentError: as `read_document`, or `timeout`, `out_of_memory`, `too_large`, `crashed`.
    """
    outcome = measure_parse(source, filename, limits).outcome
    if isinstance(outcome, DocumentError):
        raise outcome
    return outcome


def measure_parse(
    source: Path | Iterable[bytes], filename: str, limits: ParseLimits = ParseLimits()
) -> ParseUsage:
    """As `read_document_in_child`, but return the error, and what the child used."""
    started = time.monotonic()
    path = os.fspath(source.absolute()) if isinstance(source, Path) else STDIN
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", "holdfast.serving.parse_child", *_child_arguments(path, filename, limits)],
        stdin=subprocess.PIPE if path == STDIN else subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env={"PYTHONPATH": os.pathsep.join(sys.path), "PYTHONUTF8": "1", "OPENBLAS_NUM_THREADS": "1"},
        start_new_session=True,  # Ctrl-C stops the server in its own time, not its children under it
    )
    assert process.stdout is not None
    feeder = None if isinstance(source, Path) else _Feeder(process, source)
    max_bytes = FRAME.size + MAX_HEADER_BYTES + 4 * limits.max_text_chars
    watch = _Watch(process.pid, started + limits.timeout_s, max_bytes)
    try:
        answer = watch.read(process.stdout.fileno())
    finally:
        process.stdout.close()
        os.kill(process.pid, signal.SIGKILL)  # no effect on one that has ended: its id is ours until the next line
        _, status = os.waitpid(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if feeder is not None:
            feeder.finish()
    wall_s = time.monotonic() - started
    outcome: Document | DocumentError
    if isinstance(answer, DocumentError):
        outcome = answer
    elif answer:
        outcome, watch.peak_rss_bytes = _decode_answer(answer, limits)
    else:
        outcome = _death(process.returncode, watch.peak_rss_bytes, limits)
    return ParseUsage(outcome, wall_s, watch.peak_rss_bytes)


class _Feeder:
    """Writes a source to a child's standard input in a thread, and gives up when the child does."""

    def __init__(self, process: subprocess.Popen[bytes], source: Iterable[bytes]) -> None:
        assert process.stdin is not None
        self._pipe = process.stdin
        self._source = source
        self._error: Exception | None = None
        self._thread = threading.Thread(target=self._feed, name="parse-feeder", daemon=True)
        self._thread.start()

    def finish(self) -> None:
        """Wait for the thread, once the child is dead, and raise what went wrong in reading the source."""
        self._thread.join()
        if self._error is not None:
            raise self._error

    def _feed(self) -> None:
        try:
            with self._pipe:
                for data in self._source:
                    self._pipe.write(data)
        except BrokenPipeError:
            pass  # the child ended before it had read all, and its answer says why
        except Exception as error:
            self._error = error


def _child_arguments(path: str, filename: str, limits: ParseLimits) -> list[str]:
    cpu_s = math.ceil(limits.timeout_s) + 1
    safe_name = filename.replace("\x00", "")
    numbers = (limits.memory_bytes, cpu_s, limits.max_text_chars, os.getpid())
    return [path, safe_name, *map(str, numbers)]


class _Watch:
    """Reads what a child writes, within a time and a size, and looks at its memory meanwhile."""

    def __init__(self, pid: int, deadline: float, max_bytes: int) -> None:
        self._pid = pid
        self._deadline = deadline
        self._max_bytes = max_bytes
        self.peak_rss_bytes = 0

    def read(self, descriptor: int) -> bytes | DocumentError:
        """Return all bytes up to end of file, or the error where time or size runs out first."""
        pieces: list[bytes] = []
        num_bytes = 0
        with selectors.DefaultSelector() as selector:
            selector.register(descriptor, selectors.EVENT_READ)
            while (left := self._deadline - time.monotonic()) > 0:
                if not selector.select(min(left, _LOOK_S)):
                    self.peak_rss_bytes = max(self.peak_rss_bytes, read_peak_rss_bytes(self._pid))
                    continue
                piece = os.read(descriptor, _READ_BYTES)
                if not piece:
                    return b"".join(pieces)
                pieces.append(piece)
                num_bytes += len(piece)
                if num_bytes > self._max_bytes:
                    return DocumentError("the file gives more text than the limit", code="too_large")
        return DocumentError("reading the file took longer than the limit", code="timeout")


def read_peak_rss_bytes(pid: int) -> int:
    """Return the most memory that process `pid` has held; 0 where the system does not say.

    The `ru_maxrss` of a child will not do: it starts from what its parent held.
    """
    try:
        status = Path(f"/proc/{pid}/status").read_text(encoding="ascii", errors="replace")
    except OSError:
        return 0
    found = re.search(r"^VmHWM:\s+(\d+) kB", status, re.MULTILINE)
    return int(found[1]) * 1024 if found else 0


def _death(exit_code: int, peak_rss_bytes: int, limits: ParseLimits) -> DocumentError:
    """Return the error for a child that ended without an answer."""
    if exit_code == -signal.SIGXCPU:
        return DocumentError("reading the file took longer than the limit", code="timeout")
    if -exit_code in _MEMORY_SIGNALS and peak_rss_bytes > limits.memory_bytes // 2:
        return DocumentError("reading the file needed more memory than the limit", code="out_of_memory")
    return DocumentError(f"the reader died on the file (exit {exit_code})", code="crashed")


def _decode_answer(answer: bytes, limits: ParseLimits) -> tuple[Document | DocumentError, int]:
    """Return what the child says, after checking every part of it, and the memory it says it held."""
    try:
        magic, num_header_bytes, num_text_bytes = FRAME.unpack_from(answer)
        if magic != FRAME_MAGIC or len(answer) != FRAME.size + num_header_bytes + num_text_bytes:
            raise ValueError("frame")
        text_start = FRAME.size + num_header_bytes
        header = json.loads(answer[FRAME.size : text_start])
        peak_rss_bytes = int(header["peak_rss_bytes"])
        if "code" in header:
            code, message = header["code"], header["message"]
            if code not in DOCUMENT_CODES or not isinstance(message, str):
                raise ValueError("error")
            return DocumentError(message[:500], code=code), peak_rss_bytes
        text = answer[text_start:].decode("utf-8")
        if header["format"] not in _FORMATS or len(text) > limits.max_text_chars:
            raise ValueError("text")
        return Document(text, _checked_sections(header["sections"], len(text)), header["format"]), peak_rss_bytes
    except (ValueError, KeyError, TypeError, struct.error, RecursionError):
        return DocumentError("the reader gave an answer that makes no sense", code="crashed"), 0


def _checked_sections(rows: Any, text_len: int) -> tuple[Section, ...]:
    if not isinstance(rows, list) or len(rows) > MAX_SECTIONS:
        raise ValueError("sections")
    sections = []
    previous_end = 0
    for start, end, page, heading in rows:
        if not (type(start) is type(end) is int and previous_end <= start < end <= text_len):
            raise ValueError("offsets")
        if not (page is None or (type(page) is int and page >= 1)):
            raise ValueError("page")
        if not (heading is None or (isinstance(heading, str) and len(heading) <= MAX_HEADING_CHARS)):
            raise ValueError("heading")
        sections.append(Section(start, end, page, heading))
        previous_end = end
    return tuple(sections)
