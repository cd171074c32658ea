"""A request as set mode reads it: a prefix that all requests share, documents in canonical order, and the rest.

Nothing in it tells how documents ranked or how many there are: each stands alone between its own fence, and the same
document twice is one. The canonical order is by SHA-256 of token ids, so that the physical order, and with it every
rounding, follows from the set.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from functools import lru_cache

from holdfast.serving.engine.document_cache import token_digest
from holdfast.serving.engine.prompt_formats import PromptFormat
from holdfast.serving.engine.protocol import EngineRequest, Source

MAX_ENCODED = 1024
"""documents whose tokens are remembered"""


@dataclass(frozen=True, slots=True)
class Document:
    """One document of a set."""

    file_id: str
    token_ids: tuple[int, ...]
    digest: str
    """SHA-256 of the token ids"""
    is_sealed: bool = False
    """its KV, from which its text could be recovered, stays in memory"""


@dataclass(frozen=True, slots=True)
class SetPrompt:
    """All that is read for one request in set mode."""

    prefix_ids: tuple[int, ...]
    documents: tuple[Document, ...]
    """by digest, each once"""
    question_ids: tuple[int, ...]

    @property
    def num_tokens(self) -> int:
        read = sum(len(document.token_ids) for document in self.documents)
        return len(self.prefix_ids) + read + len(self.question_ids)

    @property
    def digest(self) -> str:
        """The set's name: equal for equal sets of documents, whatever the question."""
        return hashlib.sha256("".join(document.digest for document in self.documents).encode()).hexdigest()


class SetEncoder:
    """Makes `SetPrompt`s; documents longer than `max_document_len` tokens become several."""

    def __init__(self, prompt_format: PromptFormat, max_document_len: int) -> None:
        self._format = prompt_format
        self._max_document_len = max_document_len
        self._encode = lru_cache(MAX_ENCODED)(self._encode_document)

    def encode(self, request: EngineRequest) -> SetPrompt:
        prefix_ids, question_ids = self.encode_frame(request)
        documents: dict[str, Document] = {}
        for source in sorted(request.sources, key=lambda source: (source.file_id, source.start)):
            for ids, digest in self._parts(source):
                documents.setdefault(digest, Document(source.file_id, ids, digest, source.is_sealed))
        ordered = tuple(documents[digest] for digest in sorted(documents))
        return SetPrompt(tuple(prefix_ids), ordered, tuple(question_ids))

    def encode_frame(self, request: EngineRequest) -> tuple[list[int], list[int]]:
        """Return the tokens before and behind the documents."""
        return self._format.encode_frame(request)

    def _parts(self, source: Source) -> list[tuple[tuple[int, ...], str]]:
        """Return token ids and digest of a passage, or of its parts, cut at blanks, where it is too long."""
        encoded = self._encode(self._format.document_text(source))
        if len(encoded[0]) <= self._max_document_len or len(source.text) < 2:
            return [encoded]
        middle = _middle(source.text)
        halves = source.text[:middle], source.text[middle:]
        return [part for text in halves for part in self._parts(replace(source, text=text))]

    def _encode_document(self, text: str) -> tuple[tuple[int, ...], str]:
        ids = tuple(self._format.encode_document(text))
        return ids, token_digest(ids)


def _middle(text: str) -> int:
    """Return a place near the middle of a text, behind a blank if there is one in the middle half."""
    first, last = len(text) // 4, 3 * len(text) // 4
    blanks = [place + 1 for place in range(first, last) if text[place].isspace()]
    return min(blanks, key=lambda place: abs(2 * place - len(text)), default=len(text) // 2)
