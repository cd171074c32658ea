"""Drives chat completions, completions and responses with the official `openai` client.

A plain script, because each major version of the client has an environment of its own with nothing else in it:
`python conformance_generation.py BASE_URL [API_KEY]`. It ends with an AssertionError at the first deviation, and prints
what it did otherwise.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from typing import Any

import openai
from openai import AsyncOpenAI, OpenAI

TEXT = b"""The lighthouse at Skerry Point was built in 1874 by Alan Marsh.

Its lamp burns whale oil, and the keeper trims the wick every four hours.

The harbour master collects a fee of three shillings from every visiting ship.
"""
QUESTION = "Who built the lighthouse at Skerry Point?"
ANSWER = "Alan Marsh"
USER: Any = [{"role": "user", "content": QUESTION}]


class Fixture:
    """A client, the model it asks, and a vector store with one file in it."""

    def __init__(self, base_url: str, api_key: str) -> None:
        self.options: dict[str, Any] = {"base_url": base_url, "api_key": api_key, "max_retries": 0}
        self.client: Any = OpenAI(**self.options)
        self.model = self.client.models.list().data[0].id
        self.file = self.client.files.create(file=("lighthouse.txt", TEXT), purpose="assistants")
        self.store = self.client.vector_stores.create(name="lighthouse")
        added = self.client.vector_stores.files.create_and_poll(self.file.id, vector_store_id=self.store.id)
        assert added.status == "completed", added
        self.search = {"holdfast": {"vector_store_ids": [self.store.id]}}
        self.tools: Any = [{"type": "file_search", "vector_store_ids": [self.store.id]}]

    def close(self) -> None:
        self.client.vector_stores.delete(self.store.id)
        self.client.files.delete(self.file.id)


def check_citation(citation: dict[str, Any], fixture: Fixture, answer: str) -> None:
    """The quote is in the file, and the answer has what it supports."""
    assert citation["file_id"] == fixture.file.id
    assert citation["filename"] == "lighthouse.txt"
    content = fixture.client.vector_stores.files.content(fixture.file.id, vector_store_id=fixture.store.id)
    text = "".join(part.text or "" for part in content.data)
    assert text[citation["start"] : citation["end"]] == citation["quote"]
    assert 0 <= citation["answer_start"] < citation["answer_end"] <= len(answer)


def expect(kind: type[openai.APIStatusError], call: Callable[[], Any], param: str | None) -> None:
    try:
        call()
    except kind as error:
        caught = error
    else:
        raise AssertionError(f"{kind.__name__} was not raised")
    assert caught.param == param, (caught.param, param)
    assert caught.request_id


def check_chat(fixture: Fixture) -> None:
    create = fixture.client.chat.completions.create
    completion = create(model=fixture.model, messages=USER, extra_body=fixture.search, n=2, temperature=0, seed=1)
    answers = [choice.message.content for choice in completion.choices]
    assert len(answers) == 2
    assert all(ANSWER in answer for answer in answers), answers
    assert completion.choices[0].finish_reason == "stop"
    assert completion.usage.total_tokens == completion.usage.prompt_tokens + completion.usage.completion_tokens
    citations = completion.to_dict()["holdfast"]["citations"]
    assert citations
    for citation in citations:
        check_citation(citation, fixture, answers[0])
    raw = fixture.client.chat.completions.with_raw_response.create(model=fixture.model, messages=USER)
    assert raw.headers["x-request-id"]
    assert raw.parse().choices[0].message.content
    short = create(model=fixture.model, messages=USER, extra_body=fixture.search, max_completion_tokens=2)
    assert short.choices[0].finish_reason == "length"
    expect(openai.BadRequestError, lambda: create(model=fixture.model, messages=USER, temperature=3), "temperature")
    unknown = {"holdfast": {**fixture.search["holdfast"], "colour": "red"}}
    expect(
        openai.BadRequestError,
        lambda: create(model=fixture.model, messages=USER, extra_body=unknown),
        "holdfast.colour",
    )
    expect(openai.NotFoundError, lambda: create(model="gpt-0", messages=USER), "model")


def check_chat_streams(fixture: Fixture) -> None:
    whole = fixture.client.chat.completions.create(model=fixture.model, messages=USER, extra_body=fixture.search)
    answer = whole.choices[0].message.content
    chunks = list(
        fixture.client.chat.completions.create(
            model=fixture.model,
            messages=USER,
            extra_body=fixture.search,
            stream=True,
            stream_options={"include_usage": True},
        )
    )
    *texts, usage = chunks
    assert "".join(chunk.choices[0].delta.content or "" for chunk in texts) == answer
    assert texts[-1].choices[0].finish_reason == "stop"
    assert texts[-1].to_dict()["holdfast"] == whole.to_dict()["holdfast"]
    assert usage.usage == whole.usage
    with fixture.client.chat.completions.stream(
        model=fixture.model, messages=USER, extra_body=fixture.search
    ) as stream:
        kinds = {event.type for event in stream}
        final = stream.get_final_completion()
    assert {"chunk", "content.delta", "content.done"} <= kinds, kinds
    assert final.choices[0].message.content == answer


def check_completions(fixture: Fixture) -> None:
    create = fixture.client.completions.create
    whole = create(model=fixture.model, prompt="Once upon a time", max_tokens=64, echo=True)
    assert whole.choices[0].text.startswith("Once upon a time")
    assert whole.usage.total_tokens
    streamed = create(model=fixture.model, prompt="Once upon a time", max_tokens=64, echo=True, stream=True)
    assert "".join(chunk.choices[0].text for chunk in streamed) == whole.choices[0].text
    many = create(model=fixture.model, prompt=["One", "Two"], n=2)
    assert [choice.index for choice in many.choices] == [0, 1, 2, 3]
    expect(openai.BadRequestError, lambda: create(model=fixture.model, prompt=[1, 2]), "prompt")


def check_responses(fixture: Fixture) -> None:
    responses = fixture.client.responses
    response = responses.create(
        model=fixture.model,
        input=QUESTION,
        instructions="Answer briefly.",
        tools=fixture.tools,
        include=["file_search_call.results"],
        metadata={"topic": "light"},
    )
    assert response.status == "completed"
    assert ANSWER in response.output_text
    search, message = response.output
    assert search.type == "file_search_call"
    assert search.queries
    assert search.results[0].file_id == fixture.file.id
    assert 0 <= search.results[0].score <= 1
    annotations = message.content[0].annotations
    citations = response.to_dict()["holdfast"]["citations"]
    assert [annotation.index for annotation in annotations] == [citation["index"] for citation in citations]
    for annotation, citation in zip(annotations, citations, strict=True):
        assert annotation.type == "file_citation"
        assert annotation.file_id == fixture.file.id
        check_citation(citation, fixture, response.output_text)
    assert response.usage.input_tokens_details.cached_tokens == 0
    assert responses.retrieve(response.id).output_text == response.output_text
    assert [item.type for item in responses.input_items.list(response.id)] == ["message"]
    again = responses.create(
        model=fixture.model, input="When was it built?", previous_response_id=response.id, tools=fixture.tools
    )
    assert "1874" in again.output_text, again.output_text
    sent_back = responses.create(
        model=fixture.model,
        input=[*USER, *response.output, {"role": "user", "content": "When was it built?"}],
        tools=fixture.tools,
        store=False,
    )
    assert "1874" in sent_back.output_text
    expect(openai.NotFoundError, lambda: responses.retrieve(sent_back.id), "response_id")
    expect(openai.BadRequestError, lambda: responses.cancel(response.id), "response_id")
    for kept in (again, response):
        responses.delete(kept.id)
    expect(openai.NotFoundError, lambda: responses.retrieve(response.id), "response_id")
    counted = responses.input_tokens.count(model=fixture.model, input=QUESTION)
    assert counted.input_tokens > 0
    web: Any = [{"type": "web_search"}]
    expect(
        openai.BadRequestError,
        lambda: responses.create(model=fixture.model, input="?", tools=web),
        "tools[0].type",
    )


def check_response_streams(fixture: Fixture) -> None:
    responses = fixture.client.responses
    options = {"model": fixture.model, "input": QUESTION, "tools": fixture.tools, "store": False}
    events = list(responses.create(**options, stream=True))
    assert [event.sequence_number for event in events] == list(range(len(events)))
    kinds = [event.type.removeprefix("response.") for event in events]
    once = [kind for row, kind in enumerate(kinds) if row == 0 or kinds[row - 1] != kind]
    assert once == [
        "created",
        "in_progress",
        "output_item.added",
        "file_search_call.in_progress",
        "file_search_call.searching",
        "file_search_call.completed",
        "output_item.done",
        "output_item.added",
        "content_part.added",
        "output_text.delta",
        "output_text.annotation.added",
        "output_text.done",
        "content_part.done",
        "output_item.done",
        "completed",
    ], once
    answer = events[-1].response.output_text
    assert ANSWER in answer
    assert "".join(event.delta for event in events if event.type == "response.output_text.delta") == answer
    with responses.stream(**options) as stream:
        snapshots = [event.snapshot for event in stream if event.type == "response.output_text.delta"]
        final = stream.get_final_response()
    assert snapshots[-1] == final.output_text == answer


async def check_async(fixture: Fixture) -> None:
    """Many streams at once, some of them left early."""
    client = AsyncOpenAI(**fixture.options)

    async def chat(is_left: bool) -> str:
        stream = await client.chat.completions.create(
            model=fixture.model, messages=USER, extra_body=fixture.search, stream=True
        )
        text = ""
        async for chunk in stream:
            text += chunk.choices[0].delta.content or ""
            if is_left:
                await stream.close()
                break
        return text

    async def respond() -> str:
        async with client.responses.stream(
            model=fixture.model, input=QUESTION, tools=fixture.tools, store=False
        ) as stream:
            return (await stream.get_final_response()).output_text

    texts = await asyncio.gather(*[chat(False) for _ in range(3)], *[respond() for _ in range(3)])
    await asyncio.gather(*[chat(True) for _ in range(3)])
    assert len(set(texts)) == 1, texts
    assert ANSWER in texts[0]
    await client.close()


def main(base_url: str, api_key: str = "none") -> None:
    fixture = Fixture(base_url, api_key)
    try:
        for check in (check_chat, check_chat_streams, check_completions, check_responses, check_response_streams):
            check(fixture)
            print(f"openai {openai.__version__}: {check.__name__} passed")
        asyncio.run(check_async(fixture))
        print(f"openai {openai.__version__}: check_async passed")
    finally:
        fixture.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
