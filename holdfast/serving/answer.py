"""Retrieve, put in canonical order, generate, cite.

A question with vector stores becomes: a standalone question, its best passages without those that repeat a better one
(and that is said), those above the relevance threshold, cut to what the model's context holds (lowest ranked dropped
first, and said), sorted by content hash, and an answer whose citations are verbatim spans of the files.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from holdfast.errors import ContextTooLong, EngineError, InvalidInput
from holdfast.retrieval.duplicates import distinct_rows
from holdfast.retrieval.order import canonical_order
from holdfast.serving.citations import Citation, attribute, cite
from holdfast.serving.collection_search import Ranking
from holdfast.serving.engine.protocol import (
    DEFAULT_MAX_TOKENS,
    Delta,
    DocumentEngine,
    Engine,
    EngineRequest,
    FinishReason,
    Message,
    Quote,
    Reading,
    ReadReport,
    RetrievalEngine,
    Sampling,
    Source,
    TokenLogprob,
)
from holdfast.serving.followup import is_follow_up, standalone_question, user_question
from holdfast.serving.prompts import NOT_IN_FILES, rewrite_request
from holdfast.serving.relevance import relevant_sources

__all__ = [
    "AnswerEvent",
    "Answerer",
    "Citation",
    "Delta",
    "Done",
    "FileSearch",
    "Finished",
    "Retriever",
    "Searched",
]


SPARE_FACTOR = 2
"""passages fetched for each that is wanted, to take the places of repetitions"""


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
        ranking: Ranking | None = None,
    ) -> list[Source]:
        """Return the best passages over all stores and queries, in a total order; no `ranking`: by fused scores."""
        ...


@dataclass(frozen=True, slots=True)
class FileSearch:
    """What to search before answering."""

    vector_store_ids: tuple[str, ...]
    filters: dict[str, Any] | None = None
    max_num_results: int | None = None
    score_threshold: float | None = None
    """None: the server's relevance threshold"""
    ranking: Ranking | None = None
    """None: nearness and words by their scores"""


@dataclass(frozen=True, slots=True)
class Searched:
    """Streamed first when there was a search, even if nothing was found."""

    queries: tuple[str, ...]
    sources: tuple[Source, ...]
    """all that were found, best first"""
    num_dropped: int
    """found and relevant, but cut because the context is full"""
    num_repeated: int = 0
    """left out because they repeat a better one"""


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
    report: ReadReport | None = None
    """how the passages were read, by engines that know several ways"""


AnswerEvent = Searched | Delta | Finished | Done


@dataclass(slots=True)
class _Choice:
    """What was streamed of one choice so far."""

    text: str = ""
    quotes: list[Quote] = field(default_factory=list)
    logprobs: list[TokenLogprob] = field(default_factory=list)
    num_tokens: int = 0


class Answerer:
    """Answers questions with one engine over one retriever.

    Tokens are counted in worker threads: long prompts take time, and a model may be busy embedding a file.
    """

    def __init__(self, engine: Engine, retriever: Retriever, *, num_passages: int, relevance_threshold: float) -> None:
        self._engine = engine
        self._retriever = retriever
        self._num_passages = num_passages
        self._relevance_threshold = relevance_threshold

    async def stream(
        self,
        tenant: str,
        messages: Sequence[Message],
        *,
        search: FileSearch | None,
        sampling: Sampling,
        prompt: str | None = None,
        reading: Reading | None = None,
    ) -> AsyncGenerator[AnswerEvent]:
        """Yield Searched (if `search`), then deltas with a Finished per choice, then Done.

        All checks of the request happen before the first event. Closing the iterator cancels the work. A `prompt` with
        a `search` is a question about the files; without one it is text to continue.

        Raises:
            InvalidInput, ContextTooLong, NotFound: before the first event.
            EngineError: at any time.
        """
        if prompt is not None and search is not None:
            messages, prompt = (Message("user", prompt),), None
        question = user_question(messages)
        if prompt is None and not question.strip():
            raise InvalidInput("there is no question: no user turn has text", param="messages")
        reading = reading or Reading()
        if (reading.kv or reading.kv_budget) and not isinstance(self._engine, RetrievalEngine):
            raise InvalidInput(
                "only the hf engine has a KV cache to choose for; leave kv and kv_budget out", param="kv"
            )
        if reading != Reading() and reading.mode != "sequence" and not isinstance(self._engine, DocumentEngine):
            raise InvalidInput("sets and prewarming need the hf engine; leave mode and prewarm out", param="mode")
        if reading.is_prewarm and search is None:
            raise InvalidInput("there is nothing to read beforehand: no vector store is searched", param="prewarm")
        request = EngineRequest(tuple(messages), question, (), sampling, prompt, reading, tenant)
        await asyncio.to_thread(self._engine.check, request)
        if search is None:
            async for event in self._generate(request, {}):
                yield event
            return
        request, searched = await self.gather(request, search)
        yield searched
        extra = {
            "is_answered": bool(request.sources),
            "num_dropped": searched.num_dropped,
            "num_repeated": searched.num_repeated,
        }
        events = self._generate(request, extra) if request.sources else self._decline(request, extra)
        async with aclosing(events):
            async for event in events:
                yield event

    async def gather(self, request: EngineRequest, search: FileSearch) -> tuple[EngineRequest, Searched]:
        """Return `request` with the passages it is answered from, in canonical order, and what the search found.

        Raises:
            InvalidInput, ContextTooLong, NotFound: it cannot be answered.
        """
        request = replace(request, question=await self._standalone(request.messages))
        found, num_repeated = await self._find(request.tenant, request.question, search)
        relevant = self._relevant(found, search, user_question(request.messages))
        kept = await asyncio.to_thread(self._fitting, request, relevant)
        request = replace(request, sources=tuple(kept[row] for row in canonical_order([s.text for s in kept])))
        await asyncio.to_thread(self._engine.check, request)
        return request, Searched((request.question,), tuple(found), len(relevant) - len(kept), num_repeated)

    async def _standalone(self, messages: Sequence[Message]) -> str:
        """Return the last question with what it leans on: in the model's words where it has them, else by the rules."""
        by_rules = standalone_question(messages)
        question = user_question(messages)
        num_user_turns = sum(turn.role == "user" for turn in messages)
        if not self._engine.can_follow_instructions or num_user_turns < 2 or not is_follow_up(question):
            return by_rules
        request = rewrite_request(messages)
        try:
            await asyncio.to_thread(self._engine.check, request)
            deltas = self._engine.generate(request)
            async with aclosing(deltas):
                rewritten = "".join([delta.text async for delta in deltas])
        except (EngineError, InvalidInput):
            return by_rules
        lines = [line.strip() for line in rewritten.splitlines() if line.strip()]
        return lines[0] if len(lines) == 1 and any(character.isalpha() for character in lines[0]) else by_rules

    async def _find(self, tenant: str, question: str, search: FileSearch) -> tuple[list[Source], int]:
        """Return the best distinct passages, and how many repeated one of them; the next best take their places."""
        num_wanted = search.max_num_results or self._num_passages
        found = await self._retriever.retrieve(
            tenant,
            search.vector_store_ids,
            [question],
            max_num_results=SPARE_FACTOR * num_wanted,
            filters=search.filters,
            score_threshold=search.score_threshold or 0.0,
            ranking=search.ranking,
        )
        found = sorted(found, key=_place)
        rows = distinct_rows([source.text for source in found])
        num_seen = rows[num_wanted - 1] + 1 if len(rows) >= num_wanted else len(found)
        return [found[row] for row in rows[:num_wanted]], num_seen - min(len(rows), num_wanted)

    def _relevant(self, found: Sequence[Source], search: FileSearch, question: str) -> list[Source]:
        """Return the passages that may answer, best first; the request's own threshold goes alone."""
        if search.score_threshold is None:
            return relevant_sources(found, question, self._relevance_threshold)
        return [source for source in found if source.score >= search.score_threshold]

    def _fitting(self, request: EngineRequest, ranked: list[Source]) -> list[Source]:
        """Return the longest beginning of `ranked` that leaves the answer its room in the context."""
        context_len = self._engine.context_len
        if context_len is None:
            return ranked
        engine = self._engine
        count = engine.count_context_tokens if isinstance(engine, DocumentEngine) else engine.count_prompt_tokens
        max_tokens = request.sampling.max_tokens
        room = context_len - (min(DEFAULT_MAX_TOKENS, context_len // 4) if max_tokens is None else max_tokens)
        fits, too_many = 0, len(ranked) + 1
        while too_many - fits > 1:
            middle = (fits + too_many) // 2
            if count(replace(request, sources=tuple(ranked[:middle]))) <= room:
                fits = middle
            else:
                too_many = middle
        if ranked and not fits:
            raise ContextTooLong(
                f"not even the best passage fits: the model's context holds {context_len} tokens, and the answer may "
                f"have {context_len - room}",
                param="messages",
            )
        return ranked[:fits]

    async def _generate(self, request: EngineRequest, extra: dict[str, Any]) -> AsyncGenerator[AnswerEvent]:
        choices = [_Choice() for _ in range(request.sampling.n)]
        prompt_tokens: int | None = None
        report: ReadReport | None = None
        deltas = self._engine.generate(request)
        async with aclosing(deltas):
            async for delta in deltas:
                if delta.report is not None:
                    report = delta.report
                    continue
                choice = choices[delta.choice]
                choice.text += delta.text
                choice.quotes += delta.quotes
                choice.logprobs += delta.logprobs
                choice.num_tokens += delta.num_tokens
                prompt_tokens = delta.prompt_tokens if delta.prompt_tokens is not None else prompt_tokens
                yield delta
                if delta.finish_reason is not None:
                    quotes = choice.quotes or attribute(choice.text, request.sources)
                    yield Finished(
                        choice=delta.choice,
                        text=choice.text,
                        finish_reason=delta.finish_reason,
                        citations=cite(quotes, request.sources),
                        num_tokens=choice.num_tokens,
                        logprobs=tuple(choice.logprobs),
                    )
        if prompt_tokens is None:
            prompt_tokens = await asyncio.to_thread(self._engine.count_prompt_tokens, request)
        if "is_answered" in extra:
            extra["is_answered"] = any(choice.text.strip() != NOT_IN_FILES for choice in choices)
        yield Done(prompt_tokens, sum(choice.num_tokens for choice in choices), extra, report)

    async def _decline(self, request: EngineRequest, extra: dict[str, Any]) -> AsyncGenerator[AnswerEvent]:
        """Say that the files do not hold the answer; no engine is asked."""
        text = "" if request.reading.is_prewarm else NOT_IN_FILES
        num_tokens = await asyncio.to_thread(self._engine.count_tokens, text)
        prompt_tokens = await asyncio.to_thread(self._engine.count_prompt_tokens, request)
        for choice in range(request.sampling.n):
            yield Delta(choice, text, num_tokens, finish_reason="stop")
            yield Finished(choice, text, "stop", (), num_tokens)
        yield Done(prompt_tokens, num_tokens * request.sampling.n, extra)


def _place(source: Source) -> tuple[int, float, int, str, int]:
    """Best first; ties do not depend on the order in which passages were found."""
    return (source.rank, -source.score, source.passage_id, source.file_id, source.start)
