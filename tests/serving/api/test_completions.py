"""`/v1/completions` over a scripted engine."""

from __future__ import annotations

from typing import Any

import pytest
from openai.types import Completion

from tests.serving.scripted import Scripted
from tests.serving.spec import Specification

PATH = "/v1/completions"
TEXT = "The keel is oak."


def test_each_prompt_has_n_choices_in_order(scripted: Scripted, specification: Specification) -> None:
    body = scripted.post(PATH, prompt=["One", "Two"], n=2, best_of=2).json()
    specification.check("CreateCompletionResponse", body)
    completion = Completion.model_validate(body, strict=True)
    assert [(choice.index, choice.text) for choice in completion.choices] == [(row, TEXT) for row in range(4)]
    assert [request.prompt for request in scripted.engine.requests[-2:]] == ["One", "Two"]
    assert completion.usage is not None
    assert (completion.usage.prompt_tokens, completion.usage.completion_tokens) == (2, 16)


def test_the_default_length_is_openais(scripted: Scripted) -> None:
    scripted.post(PATH, prompt="One")
    assert scripted.engine.requests[-1].sampling.max_tokens == 16
    body = scripted.post(PATH, prompt="One", max_tokens=2).json()
    assert (body["choices"][0]["text"], body["choices"][0]["finish_reason"]) == ("The keel", "length")


def test_echo_begins_with_the_prompt(scripted: Scripted) -> None:
    assert scripted.post(PATH, prompt="One: ", echo=True).json()["choices"][0]["text"] == "One: " + TEXT
    *chunks, _ = scripted.events(PATH, prompt="One: ", echo=True, n=2)
    for index in (0, 1):
        texts = [chunk["choices"][0]["text"] for chunk in chunks if chunk["choices"][0]["index"] == index]
        assert "".join(texts) == "One: " + TEXT


def test_chunks_add_up_to_the_completions(scripted: Scripted, specification: Specification) -> None:
    options = {"include_usage": True}
    *chunks, usage, end = scripted.events(PATH, prompt=["One", "Two"], stream_options=options)
    assert end == "[DONE]"
    for index in (0, 1):
        own = [chunk["choices"][0] for chunk in chunks if chunk["choices"][0]["index"] == index]
        assert "".join(choice["text"] for choice in own) == TEXT
        assert [choice["finish_reason"] for choice in own] == [None] * (len(own) - 1) + ["stop"]
    assert (usage["choices"], usage["usage"]["total_tokens"]) == ([], 10)
    specification.check("CreateCompletionResponse", usage)
    for chunk in chunks:  # the type says what the last chunk of a choice says; earlier ones have no reason yet
        chunk["choices"][0]["finish_reason"] = "stop"
        Completion.model_validate(chunk, strict=True)


def test_logprobs_are_columns_with_offsets_into_the_text(scripted: Scripted) -> None:
    logprobs = scripted.post(PATH, prompt="One", logprobs=2).json()["choices"][0]["logprobs"]
    assert logprobs["tokens"] == ["The", " keel", " is", " oak."]
    assert logprobs["token_logprobs"] == [-0.5] * 4
    assert logprobs["top_logprobs"][0] == {"The": -0.5, " x": -1.5}
    offsets = logprobs["text_offset"]
    assert [TEXT[offset:].startswith(token) for offset, token in zip(offsets, logprobs["tokens"], strict=True)] == [
        True
    ] * 4
    chunks = scripted.events(PATH, prompt="One", logprobs=2)[:-1]
    columns = [chunk["choices"][0]["logprobs"] for chunk in chunks if chunk["choices"][0]["logprobs"]]
    assert [offset for column in columns for offset in column["text_offset"]] == offsets


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"prompt": [1, 2, 3]}, "prompt"),
        ({"prompt": [[1, 2], [3]]}, "prompt"),
        ({"prompt": []}, "prompt"),
        ({"best_of": 3}, "best_of"),
        ({"suffix": "x"}, "suffix"),
        ({"echo": True, "logprobs": 1}, "echo"),
        ({"logprobs": 6}, "logprobs"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"messages": []}, "messages"),
    ],
)
def test_what_cannot_be_obeyed_is_refused_by_name(scripted: Scripted, fields: dict[str, Any], param: str) -> None:
    response = scripted.post(PATH, **({"prompt": "One"} | fields))
    assert response.status_code == 400, response.text
    assert response.json()["error"]["param"] == param


def test_failures_give_a_status_first_and_an_event_later(scripted: Scripted) -> None:
    assert scripted.post(PATH, prompt="fail at once", stream=True).status_code == 502
    events = scripted.events(PATH, prompt="fail late")
    assert events[-1]["error"]["message"] == "the model caught fire"
