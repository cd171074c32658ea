"""Text to passages with offsets.

Passages end at the best boundary that fits (paragraph, then sentence, then word) and never cross a page. Lengths are
counted in the embedder's own word-pieces.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from holdfast.retrieval.documents import Document


@dataclass(frozen=True, slots=True)
class Chunking:
    """How long passages are, in the embedder's word-pieces."""

    max_tokens: int = 200
    overlap_tokens: int = 0


@dataclass(frozen=True, slots=True)
class Passage:
    """A stretch of a document's text: `text[start:end]`, without blanks at either end."""

    start: int
    end: int
    page: int | None
    heading: str | None


def split_document(
    document: Document, token_offsets: Callable[[str], list[tuple[int, int]]], chunking: Chunking = Chunking()
) -> list[Passage]:
    """Return the passages of `document` in order.

    Every non-blank character is in at least one passage; none has more than `chunking.max_tokens` word-pieces.
    Same document, same chunking: same passages.
    """
    raise NotImplementedError


def split_sentences(text: str) -> list[tuple[int, int]]:
    """Return the (start, end) spans of the sentences of `text`, without blanks at either end, in order."""
    raise NotImplementedError
