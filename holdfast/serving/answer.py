"""Retrieve, put in canonical order, generate, cite.

A question with vector stores becomes: a standalone question, its nearest passages, those above the relevance
threshold, cut to what the model's context holds (lowest ranked dropped first, and said), sorted by content hash, and
an answer whose citations are verbatim spans of the files.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from holdfast.serving.engine.protocol import Delta, Engine, FinishReason, Message, Sampling, Source, TokenLogprob


class Retriever(Protocol):
    """Finds passages; implemented by `serving/service.py` over the tenant's collections."""

    async def retrieve(
        self,
        tenant: str,
        vector_store_ids: Sequence[str],
        queries: Sequence[str],
        *,
        max_num_results: int,
        filters: dict[str, Any] | None = None,
        score_threshold: float = 0.0,
    ) -> list[Source]:
        """Return the best passages over all stores and queries, score descending, then passage id ascending."""
        ...


@dataclass(frozen=True, slots=True)
class FileSearch:
    """What to search before answering."""

    vector_store_ids: tuple[str, ...]
    filters: dict[str, Any] | None = None
    max_num_results: int | None = None
    score_threshold: float | None = None
    """None: the server's relevance threshold"""


@dataclass(frozen=True, slots=True)
class Citation:
    """A verbatim quote: `file_text[start:end] == quote`, supporting `answer[answer_start:answer_end]`."""

    file_id: str
    filename: str
    page: int | None
    heading: str | None
    start: int
    end: int
    quote: str
    answer_start: int
    answer_end: int


@dataclass(frozen=True, slots=True)
class Searched:
    """Streamed first when there was a search, even if nothing was found."""

    queries: tuple[str, ...]
    sources: tuple[Source, ...]
    """all that were found, score descending"""
    num_dropped: int
    """found and relevant, but cut because the context is full"""


@dataclass(frozen=True, slots=True)
class Finished:
    """Streamed last for each choice."""

    choice: int
    text: str
    finish_reason: FinishReason
    citations: tuple[Citation, ...]
    num_tokens: int
    logprobs: tuple[TokenLogprob, ...] = ()


@dataclass(frozen=True, slots=True)
class Done:
    """Streamed at the very end."""

    prompt_tokens: int
    completion_tokens: int
    extra: dict[str, Any] = field(default_factory=dict)
    """goes into the response's `holdfast` object"""


AnswerEvent = Searched | Delta | Finished | Done


class Answerer:
    """Answers questions with one engine over one retriever."""

    def __init__(self, engine: Engine, retriever: Retriever, *, num_passages: int, relevance_threshold: float) -> None:
        raise NotImplementedError

    def stream(
        self,
        tenant: str,
        messages: Sequence[Message],
        *,
        search: FileSearch | None,
        sampling: Sampling,
        prompt: str | None = None,
    ) -> AsyncIterator[AnswerEvent]:
        """Yield Searched (if `search`), then deltas with a Finished per choice, then Done.

        All checks of the request happen before the first event. Closing the iterator cancels the work.

        Raises:
            InvalidInput, ContextTooLong, NotFound: before the first event.
            EngineError: at any time.
        """
        raise NotImplementedError
