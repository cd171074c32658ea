"""Requests as `answer.py` makes them, and what an engine streams for them."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

from holdfast.serving.engine.protocol import Delta, Engine, EngineRequest, Message, Sampling, Source


def make_source(
    text: str, *, score: float = 0.6, start: int = 0, name: str = "a.txt", heading: str | None = None
) -> Source:
    number = sum(text.encode())
    return Source(number, f"file-{name}", name, text, start, start + len(text), None, heading, score, {})


def make_request(
    question: str = "Who built the bridge?", sources: Sequence[Source] = (), prompt: str | None = None, **sampling: Any
) -> EngineRequest:
    return EngineRequest((Message("user", question),), question, tuple(sources), Sampling(**sampling), prompt)


@dataclass(frozen=True, slots=True)
class Streamed:
    """All deltas of one request."""

    deltas: list[Delta]

    def text(self, choice: int = 0) -> str:
        return "".join(delta.text for delta in self.deltas if delta.choice == choice)

    def finish_reasons(self) -> list[str | None]:
        return [delta.finish_reason for delta in self.deltas if delta.finish_reason]

    def num_tokens(self) -> int:
        return sum(delta.num_tokens for delta in self.deltas)


async def collect(engine: Engine, request: EngineRequest) -> Streamed:
    async with aclosing(engine.generate(request)) as deltas:
        return Streamed([delta async for delta in deltas])
