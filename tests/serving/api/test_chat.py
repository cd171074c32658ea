"""`/v1/chat/completions` over a scripted engine."""

from __future__ import annotations

import time
from typing import Any

import httpx
import pytest
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from tests.serving.scripted import Scripted
from tests.serving.spec import Specification

PATH = "/v1/chat/completions"
QUESTION = [{"role": "user", "content": "What is the keel made of?"}]
SEARCH = {"vector_store_ids": ["vs_1"]}
TEXT = "The keel is oak."


def test_an_answer_is_a_chat_completion(scripted: Scripted, specification: Specification) -> None:
    body = scripted.post(PATH, messages=QUESTION, n=2).json()
    specification.check("CreateChatCompletionResponse", body)
    completion = ChatCompletion.model_validate(body, strict=True)
    assert [choice.message.content for choice in completion.choices] == [TEXT, TEXT]
    assert [choice.index for choice in completion.choices] == [0, 1]
    assert completion.usage is not None
    assert completion.usage.completion_tokens == 8
    assert completion.usage.total_tokens == completion.usage.prompt_tokens + 8
    empty: dict[str, Any] = {"citations": [], "sources": [], "search_queries": []}
    assert body["holdfast"] == empty | {"num_dropped": 0, "num_repeated": 0}


def test_chunks_add_up_to_the_answer(scripted: Scripted, specification: Specification) -> None:
    options = {"include_usage": True}
    *chunks, end = scripted.events(PATH, messages=QUESTION, n=2, stream_options=options, holdfast=SEARCH)
    assert end == "[DONE]"
    for chunk in chunks:
        specification.check("CreateChatCompletionStreamResponse", chunk)
        ChatCompletionChunk.model_validate(chunk, strict=True)
    *choices, usage = chunks
    for index in (0, 1):
        own = [chunk["choices"][0] for chunk in choices if chunk["choices"][0]["index"] == index]
        assert own[0]["delta"]["role"] == "assistant"
        assert "".join(choice["delta"].get("content", "") for choice in own) == TEXT
        assert [choice["finish_reason"] for choice in own] == [None] * (len(own) - 1) + ["stop"]
    assert usage["choices"] == []
    assert usage["usage"]["completion_tokens"] == 8
    assert all(chunk["usage"] is None for chunk in choices)
    assert ["holdfast" in chunk for chunk in chunks] == [False] * (len(chunks) - 2) + [True, False]
    assert len({chunk["id"] for chunk in chunks}) == 1


def test_without_include_usage_no_chunk_has_usage_or_lacks_a_choice(scripted: Scripted) -> None:
    *chunks, _ = scripted.events(PATH, messages=QUESTION)
    assert all(len(chunk["choices"]) == 1 and "usage" not in chunk for chunk in chunks)


def test_evidence_is_the_same_streamed_or_whole(scripted: Scripted) -> None:
    whole = scripted.post(PATH, messages=QUESTION, holdfast=SEARCH).json()["holdfast"]
    streamed = scripted.events(PATH, messages=QUESTION, holdfast=SEARCH)[-2]["holdfast"]
    assert whole == streamed
    assert whole["search_queries"] == ["What is the keel made of?"]
    assert [source["file_id"] for source in whole["sources"]] == ["file-ships", "file-sea"]
    (citation,) = whole["citations"]
    source = whole["sources"][0]
    quote = source["text"][citation["start"] - source["start"] : citation["end"] - source["start"]]
    assert citation["quote"] == quote == TEXT
    assert (citation["page"], citation["heading"], citation["filename"]) == (3, "Hulls", "ships.txt")
    assert (citation["choice"], citation["answer_start"], citation["index"]) == (0, 0, len(TEXT))


def test_search_options_reach_the_search(scripted: Scripted) -> None:
    body = scripted.post(PATH, messages=QUESTION, holdfast=SEARCH | {"max_num_results": 1}).json()
    assert len(body["holdfast"]["sources"]) == 1
    declined = scripted.post(PATH, messages=QUESTION, holdfast=SEARCH | {"score_threshold": 0.95}).json()
    assert declined["choices"][0]["message"]["content"] == "The files do not say."
    assert declined["holdfast"]["is_answered"] is False


def test_logprobs_have_openais_shape(scripted: Scripted, specification: Specification) -> None:
    asked = {"messages": QUESTION, "logprobs": True, "top_logprobs": 2}
    body = scripted.post(PATH, **asked).json()
    specification.check("CreateChatCompletionResponse", body)
    tokens = body["choices"][0]["logprobs"]["content"]
    assert "".join(token["token"] for token in tokens) == TEXT
    assert tokens[0]["bytes"] == list(b"The")
    assert [top["token"] for top in tokens[0]["top_logprobs"]] == ["The", " x"]
    chunks = scripted.events(PATH, **asked)[:-1]
    streamed = [token for chunk in chunks for token in (chunk["choices"][0]["logprobs"] or {}).get("content", [])]
    assert streamed == tokens


def test_sampling_reaches_the_engine(scripted: Scripted) -> None:
    asked = {
        "temperature": 0.5,
        "top_p": 0.25,
        "seed": 7,
        "stop": ["a", "b"],
        "max_completion_tokens": 3,
        "presence_penalty": 1.5,
        "frequency_penalty": -1,
        "logit_bias": {"12": -100, "7": 5},
    }
    body = scripted.post(PATH, messages=QUESTION, **asked).json()
    sampling = scripted.engine.requests[-1].sampling
    assert (sampling.temperature, sampling.top_p, sampling.seed, sampling.max_tokens) == (0.5, 0.25, 7, 3)
    assert (sampling.stop, sampling.logit_bias) == (("a", "b"), ((7, 5.0), (12, -100.0)))
    assert (sampling.presence_penalty, sampling.frequency_penalty) == (1.5, -1.0)
    assert body["choices"][0]["finish_reason"] == "length"
    scripted.post(PATH, messages=QUESTION, temperature=None, stop="x", max_tokens=2)
    sampling = scripted.engine.requests[-1].sampling
    assert (sampling.temperature, sampling.top_p, sampling.stop, sampling.max_tokens) == (1.0, 1.0, ("x",), 2)


def test_turns_and_their_parts_reach_the_engine_as_text(scripted: Scripted) -> None:
    messages = [
        {"role": "developer", "content": "Be brief."},
        {
            "role": "user",
            "content": [{"type": "text", "text": "One."}, {"type": "text", "text": "Two."}],
            "name": "Ann",
        },
        {"role": "assistant", "content": None, "refusal": "No."},
        {"role": "user", "content": "Three."},
    ]
    assert scripted.post(PATH, messages=messages).status_code == 200
    turns = [(turn.role, turn.content) for turn in scripted.engine.requests[-1].messages]
    assert turns == [("developer", "Be brief."), ("user", "One.\nTwo."), ("assistant", "No."), ("user", "Three.")]


def test_fields_without_effect_are_accepted(scripted: Scripted) -> None:
    harmless = {
        "metadata": {"a": "b"},
        "store": True,
        "user": "ann",
        "service_tier": "auto",
        "safety_identifier": "x",
        "prompt_cache_key": "k",
        "parallel_tool_calls": True,
        "modalities": ["text"],
        "response_format": {"type": "text"},
        "tools": [{"type": "function", "function": {"name": "f"}}],
        "tool_choice": "none",
        "stream_options": None,
        "stop": None,
    }
    response = scripted.post(PATH, messages=QUESTION, **harmless)
    assert response.status_code == 200, response.text


IMAGE = [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:,"}}]}]
TOOL_TURNS = [*QUESTION, {"role": "tool", "content": "4", "tool_call_id": "c"}]


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"messages": IMAGE}, "messages[0].content[0].type"),
        ({"messages": TOOL_TURNS}, "messages[1]"),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "user"}]}, "messages[0].content"),
        ({"messages": [{"role": "wizard", "content": "x"}]}, "messages[0].role"),
        ({"unknown": 1}, "unknown"),
        ({"holdfast": SEARCH | {"vector_store": "x"}}, "holdfast.vector_store"),
        ({"holdfast": {"vector_store_ids": []}}, "holdfast.vector_store_ids"),
        ({"holdfast": SEARCH | {"max_num_results": 51}}, "holdfast.max_num_results"),
        ({"temperature": 2.1}, "temperature"),
        ({"temperature": "1"}, "temperature"),
        ({"top_p": -0.1}, "top_p"),
        ({"n": 0}, "n"),
        ({"n": 129}, "n"),
        ({"stop": ["a", "b", "c", "d", "e"]}, "stop"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": 2, "max_completion_tokens": 2}, "max_tokens"),
        ({"seed": 2**63}, "seed"),
        ({"seed": 13}, "seed"),
        ({"logit_bias": {"x": 1}}, "logit_bias"),
        ({"logit_bias": {"9" * 5000: 1}}, "logit_bias"),
        ({"logit_bias": {str(token): 1 for token in range(301)}}, "logit_bias"),
        ({"messages": QUESTION * 2049}, "messages"),
        ({"holdfast": {"vector_store_ids": ["vs_a"] * 21}}, "holdfast.vector_store_ids"),
        ({"top_logprobs": 3}, "top_logprobs"),
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
        ({"response_format": {"type": "json_object"}}, "response_format.type"),
        ({"response_format": {"type": "json_schema", "json_schema": {"name": "a"}}}, "response_format.type"),
        ({"tools": [{"type": "function", "function": {"name": "f"}}]}, "tools"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"functions": [{"name": "f"}]}, "functions"),
        ({"modalities": ["text", "audio"]}, "modalities"),
        ({"audio": {"voice": "a", "format": "wav"}}, "audio"),
        ({"web_search_options": {}}, "web_search_options"),
        ({"reasoning_effort": "high"}, "reasoning_effort"),
        ({"stream_options": {"include_usage": True}}, "stream_options"),
        ({"stream": True, "stream_options": {"include_obfuscation": True}}, "stream_options.include_obfuscation"),
        ({"messages": [{"role": "user", "content": "a \ud800 b"}]}, None),
        ({"metadata": {str(number): "" for number in range(17)}}, "metadata"),
    ],
)
def test_what_cannot_be_obeyed_is_refused_by_name(
    scripted: Scripted, fields: dict[str, Any], param: str | None
) -> None:
    response = scripted.post(PATH, **({"messages": QUESTION} | fields))
    assert response.status_code == 400, response.text
    error = response.json()["error"]
    assert error["type"] == "invalid_request_error"
    assert error["param"] == param
    assert error["message"]


def test_an_unknown_model_or_vector_store_is_not_found(scripted: Scripted) -> None:
    response = scripted.post(PATH, model="gpt-0", messages=QUESTION)
    assert (response.status_code, response.json()["error"]["code"]) == (404, "model_not_found")
    missing = {"vector_store_ids": ["vs_missing"]}
    whole = scripted.post(PATH, messages=QUESTION, holdfast=missing)
    assert (whole.status_code, whole.json()["error"]["param"]) == (404, "holdfast.vector_store_ids")
    assert scripted.post(PATH, messages=QUESTION, holdfast=missing, stream=True).status_code == 404


def test_an_engine_that_fails_before_the_first_byte_gives_a_status(scripted: Scripted) -> None:
    asked = [{"role": "user", "content": "fail at once"}]
    for stream in (False, True):
        response = scripted.post(PATH, messages=asked, stream=stream)
        assert response.status_code == 502
        assert response.json()["error"]["message"] == "the model caught fire"


def test_an_engine_that_fails_later_gives_an_error_event(scripted: Scripted) -> None:
    events = scripted.events(PATH, messages=[{"role": "user", "content": "fail late"}])
    assert events[1]["choices"][0]["delta"]["content"] == "The"
    assert events[-1]["error"]["message"] == "the model caught fire"
    assert scripted.post(PATH, messages=[{"role": "user", "content": "fail late"}]).status_code == 502


def test_an_unforeseen_failure_shows_nothing_of_its_inside(scripted: Scripted) -> None:
    events = scripted.events(PATH, messages=[{"role": "user", "content": "crash late"}])
    assert events[-1]["error"]["type"] == "server_error"
    assert "secret" not in str(events[-1])


@pytest.mark.parametrize(("script", "stream"), [("wait", False), ("wait", True), ("pause", False), ("pause", True)])
def test_a_client_that_leaves_stops_the_work(scripted: Scripted, script: str, stream: bool) -> None:
    body = {"model": "scripted", "messages": [{"role": "user", "content": script}], "stream": stream}
    num_before = len(scripted.engine.requests)
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(scripted.base_url + PATH, json=body, timeout=0.5)
    assert len(scripted.engine.requests) == num_before + 1
    deadline = time.monotonic() + 5
    while scripted.engine.num_running and time.monotonic() < deadline:
        time.sleep(0.02)
    assert scripted.engine.num_running == 0
