"""A retriever over given passages, and whole answers collected."""

from __future__ import annotations

import random
from collections.abc import Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

from holdfast.serving.answer import Answerer, AnswerEvent, Done, FileSearch, Finished, Searched
from holdfast.serving.engine.protocol import Engine, Message, Sampling, Source

SEARCH = FileSearch(vector_store_ids=("vs_1",))


@dataclass
class ListRetriever:
    """Returns its sources, in an order drawn from `seed` where one is given."""

    sources: Sequence[Source]
    seed: int | None = None
    calls: list[tuple[str, tuple[str, ...], tuple[str, ...], dict[str, Any]]] = field(default_factory=list)

    async def retrieve(
        self, tenant: str, vector_store_ids: Sequence[str], queries: Sequence[str], **options: Any
    ) -> list[Source]:
        self.calls.append((tenant, tuple(vector_store_ids), tuple(queries), options))
        found = [source for source in self.sources if source.score >= options["score_threshold"]]
        if self.seed is not None:
            random.Random(self.seed).shuffle(found)
        return found[: options["max_num_results"]]


@dataclass(frozen=True)
class Answered:
    """All events of one answer."""

    events: list[AnswerEvent]

    @property
    def searched(self) -> Searched:
        assert isinstance(self.events[0], Searched)
        return self.events[0]

    @property
    def finished(self) -> list[Finished]:
        return [event for event in self.events if isinstance(event, Finished)]

    @property
    def done(self) -> Done:
        assert isinstance(self.events[-1], Done)
        return self.events[-1]

    @property
    def text(self) -> str:
        return self.finished[0].text


async def answer(
    engine: Engine,
    retriever: ListRetriever,
    question: str | Sequence[Message],
    *,
    search: FileSearch | None = SEARCH,
    prompt: str | None = None,
    threshold: float = 0.3,
    **sampling: Any,
) -> Answered:
    messages = [Message("user", question)] if isinstance(question, str) else question
    answerer = Answerer(engine, retriever, num_passages=8, relevance_threshold=threshold)
    events = answerer.stream("t1", messages, search=search, sampling=Sampling(**sampling), prompt=prompt)
    async with aclosing(events):
        return Answered([event async for event in events])
