"""However the choices of an answer are interleaved, their chunks add up to the whole answer."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.errors import EngineError
from holdfast.serving.answer import Done, Finished
from holdfast.serving.api.answering import Answer
from holdfast.serving.api.chat_answer import ChatAnswer
from holdfast.serving.engine.protocol import Delta

NUM_CHOICES = 3
deltas = st.lists(st.tuples(st.integers(0, NUM_CHOICES - 1), st.text(max_size=4)), max_size=12)


async def play(pieces: list[tuple[int, str]], order: list[int], *, is_whole: bool = True) -> AsyncGenerator[Any]:
    for choice, text in pieces:
        yield Delta(choice, text, 1)
    for choice in order:
        yield Delta(choice, finish_reason="stop")
        yield Finished(choice, "".join(text for row, text in pieces if row == choice), "stop", (), 1)
    if is_whole:
        yield Done(1, len(pieces))


def make(pieces: list[tuple[int, str]], order: list[int], **options: Any) -> ChatAnswer:
    return ChatAnswer(Answer(play(pieces, order, **options)), "m", has_logprobs=False, has_usage=True)


@given(deltas, st.permutations(range(NUM_CHOICES)))
def test_chunks_add_up_to_the_choices(pieces: list[tuple[int, str]], order: list[int]) -> None:
    async def run() -> tuple[dict[str, Any], list[dict[str, Any]]]:
        return await make(pieces, order).complete(), [chunk async for chunk in make(pieces, order).chunks()]

    whole, (*chunks, usage) = asyncio.run(run())
    for choice in whole["choices"]:
        own = [chunk["choices"][0] for chunk in chunks if chunk["choices"][0]["index"] == choice["index"]]
        assert "".join(part["delta"].get("content", "") for part in own) == choice["message"]["content"]
        assert [part["finish_reason"] for part in own] == [None] * (len(own) - 1) + ["stop"]
        assert [part["delta"].get("role") for part in own] == ["assistant"] + [None] * (len(own) - 1)
    assert [choice["index"] for choice in whole["choices"]] == list(range(NUM_CHOICES))
    assert usage["usage"] == whole["usage"]
    assert chunks[-1]["holdfast"] == whole["holdfast"]


async def test_an_answer_that_breaks_off_is_an_error() -> None:
    with pytest.raises(EngineError, match="broke off"):
        await make([(0, "x")], [0], is_whole=False).complete()
