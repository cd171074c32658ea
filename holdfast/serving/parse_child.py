"""The child of `parse_process.py`: limits itself, reads one document, writes one frame, and ends.

It can write no file, dump no core, start no process and open no connection, and it dies with the thread that waits for
it. Run as `python -m holdfast.serving.parse_child PATH NAME MEMORY_BYTES CPU_S MAX_CHARS PARENT_PID`.
"""

from __future__ import annotations

import ctypes
import json
import os
import resource
import signal
import sys
from pathlib import Path
from typing import Any

from holdfast.errors import DocumentError
from holdfast.retrieval.documents import read_document
from holdfast.serving.parse_process import FRAME, FRAME_MAGIC, STDIN, read_peak_rss_bytes

_PR_SET_PDEATHSIG = 1
_FORBIDDEN_EVENTS = (
    *("socket.", "subprocess.", "os.exec", "os.fork", "os.posix_spawn", "os.system", "os.kill"),
    *("os.remove", "os.rename", "os.rmdir", "os.mkdir", "os.link", "os.symlink", "os.truncate", "shutil."),
)
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC


def main(arguments: list[str]) -> None:
    """Read the document that `arguments` name and write the frame to standard output."""
    path, filename = arguments[:2]
    memory_bytes, cpu_s, max_chars, parent_pid = map(int, arguments[2:])
    output = os.dup(1)
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)  # what a library prints must not mix with the frame
    _die_with(parent_pid)
    _set_limits(memory_bytes, cpu_s)
    sys.addaudithook(_refuse)
    header: dict[str, Any]
    body = b""
    try:
        data = sys.stdin.buffer.read() if path == STDIN else Path(path).read_bytes()
        document = read_document(data, filename, max_chars=max_chars)
        rows = [(s.start, s.end, s.page, s.heading) for s in document.sections]
        header = {"format": document.format, "sections": rows}
        body = document.text.encode("utf-8")
    except DocumentError as error:
        header = {"code": error.code, "message": error.message}
    except MemoryError:
        header = {"code": "out_of_memory", "message": "reading the file needed more memory than the limit"}
    header["peak_rss_bytes"] = read_peak_rss_bytes(os.getpid())
    encoded = json.dumps(header).encode("utf-8")
    _write(output, FRAME.pack(FRAME_MAGIC, len(encoded), len(body)))
    _write(output, encoded)
    _write(output, body)
    os._exit(0)  # tearing down a large document would only cost time


def _die_with(parent_pid: int) -> None:
    """Ask for SIGKILL when the waiting thread ends; elsewhere than on Linux the processor limit ends an orphan."""
    if sys.platform.startswith("linux"):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != parent_pid:
            os._exit(1)


def _set_limits(memory_bytes: int, cpu_s: int) -> None:
    limits = {"RLIMIT_CPU": cpu_s, "RLIMIT_FSIZE": 0, "RLIMIT_CORE": 0, "RLIMIT_NOFILE": 64}
    if sys.platform.startswith("linux"):
        limits |= {"RLIMIT_AS": memory_bytes, "RLIMIT_DATA": memory_bytes}
    for name, value in limits.items():
        kind = getattr(resource, name)
        _, hard = resource.getrlimit(kind)
        value = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(kind, (value, value))


def _refuse(event: str, arguments: tuple[Any, ...]) -> None:
    is_writing = event == "open" and isinstance(arguments[2], int) and bool(arguments[2] & _WRITING)
    if is_writing or event.startswith(_FORBIDDEN_EVENTS):
        raise PermissionError(f"a document reader may not do this: {event}")


def _write(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


if __name__ == "__main__":
    main(sys.argv[1:])
