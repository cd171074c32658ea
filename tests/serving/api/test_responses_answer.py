"""Whatever an answer is made of, its events build up exactly the response that ends them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from holdfast.errors import EngineError
from holdfast.serving.answer import AnswerEvent, Citation, Done, Finished, Searched
from holdfast.serving.api.answering import Answer
from holdfast.serving.api.responses_answer import ResponseAnswer
from holdfast.serving.engine.protocol import Delta, Source

SOURCE = Source(1, "file-1", "a.txt", "Oak.", 5, 9, None, None, 0.5, {})
CITATION = Citation("file-1", "a.txt", None, None, 5, 9, "Oak.", 0, 1)

texts = st.lists(st.text(max_size=5), max_size=5)
searches = st.none() | st.integers(0, 2).map(lambda number: Searched(("q",), (SOURCE,) * number, 0))
endings = st.sampled_from(["stop", "length", "broken"])


async def play(pieces: list[str], searched: Searched | None, num_citations: int, ending: str) -> AsyncGenerator[Any]:
    if searched is not None:
        yield searched
    for text in pieces:
        yield Delta(0, text, 1)
    if ending == "broken":
        raise EngineError("broken")
    yield Delta(0, finish_reason="length" if ending == "length" else "stop")
    reason: Any = ending
    yield Finished(0, "".join(pieces), reason, (CITATION,) * num_citations, len(pieces))
    yield Done(3, len(pieces))


def build_up(events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Follow the events as a client does and return the output they describe."""
    output: list[dict[str, Any]] = []
    for event in events:
        kind = event["type"].removeprefix("response.")
        if kind == "output_item.added":
            assert event["output_index"] == len(output)
            output.append(event["item"] | {"content": []} if event["item"]["type"] == "message" else event["item"])
        elif kind == "content_part.added":
            output[event["output_index"]]["content"].append({**event["part"], "annotations": []})
        elif "item_id" in event:
            item = output[event["output_index"]]
            assert item["id"] == event["item_id"]
            if kind == "output_text.delta":
                item["content"][event["content_index"]]["text"] += event["delta"]
            elif kind == "output_text.annotation.added":
                annotations = item["content"][0]["annotations"]
                assert event["annotation_index"] == len(annotations)
                annotations.append(event["annotation"])
            elif kind == "output_text.done":
                assert item["content"][0]["text"] == event["text"]
        elif kind == "output_item.done":
            item = output[event["output_index"]]
            assert item == event["item"] | {"status": item["status"]}
            output[event["output_index"]] = event["item"]
    return output


@given(texts, searches, st.integers(0, 3), endings)
def test_events_build_up_the_response(
    pieces: list[str], searched: Searched | None, num_citations: int, ending: str
) -> None:
    saved: list[dict[str, Any]] = []

    async def save(response: dict[str, Any]) -> None:
        saved.append(response)

    async def run() -> list[dict[str, Any]]:
        events: AsyncGenerator[AnswerEvent] = play(pieces, searched, num_citations, ending)
        response = {"id": "resp_1", "status": "in_progress", "output": []}
        made = ResponseAnswer(response, Answer(events), save, has_results=False)
        sent = []
        try:
            async for event in made.events():
                sent.append(event)  # noqa: PERF401 - what came before a failure counts
        except EngineError:
            assert ending == "broken"
        return sent

    sent = asyncio.run(run())
    assert [event["sequence_number"] for event in sent] == list(range(len(sent)))
    if ending == "broken":
        assert not saved
        assert bool(sent) == bool(pieces or searched)
        return
    output = build_up(sent)
    final = sent[-1]["response"]
    assert output == final["output"]
    assert sent[-1]["type"] == {"stop": "response.completed", "length": "response.incomplete"}[ending]
    assert [item["type"] for item in output] == ["file_search_call"] * (searched is not None) + ["message"]
    assert len(output[-1]["content"][0]["annotations"]) == num_citations == len(final["holdfast"]["citations"])
    assert [event["type"] for event in sent[:2]] == ["response.created", "response.in_progress"]
    assert len(saved) == 1
