"""Read a document in a child process, under limits of memory, time and output.

A hostile file can then cost one child, never the server.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from holdfast.retrieval.documents import Document


@dataclass(frozen=True, slots=True)
class ParseLimits:
    """What one parse may use."""

    memory_bytes: int = 1_400 * 2**20
    timeout_s: float = 30.0
    max_text_chars: int = 20_000_000


def read_document_in_child(path: Path, filename: str, limits: ParseLimits = ParseLimits()) -> Document:
    """Return what `read_document` returns for the bytes at `path`, or raise DocumentError; blocks the calling thread.

    Raises:
        DocumentError: as `read_document`, or `timeout`, `out_of_memory`, `too_large`, `crashed`.
    """
    raise NotImplementedError
