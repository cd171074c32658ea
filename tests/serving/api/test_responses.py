"""`/v1/responses` over a scripted engine."""

from __future__ import annotations

import json
from typing import Any, get_args

import httpx
import openai
import pytest
from openai.types.responses import Response, ResponseStreamEvent
from openai.types.responses.response_item_list import ResponseItemList

from tests.serving.scripted import Scripted
from tests.serving.spec import Specification

PATH = "/v1/responses"
QUESTION = "What is the keel made of?"
TEXT = "The keel is oak."
TOOL = {"type": "file_search", "vector_store_ids": ["vs_1"]}
DEEP = json.loads('{"a":' * 300 + "1" + "}" * 300)
KEYS = [
    "id",
    "object",
    "created_at",
    "completed_at",
    "status",
    "incomplete_details",
    "model",
    "previous_response_id",
    "instructions",
    "output",
    "error",
    "tools",
    "tool_choice",
    "truncation",
    "parallel_tool_calls",
    "text",
    "top_p",
    "presence_penalty",
    "frequency_penalty",
    "top_logprobs",
    "temperature",
    "reasoning",
    "usage",
    "max_output_tokens",
    "max_tool_calls",
    "store",
    "background",
    "service_tier",
    "metadata",
    "safety_identifier",
    "prompt_cache_key",
]
NEVER_NULL = {
    "temperature",
    "top_p",
    "presence_penalty",
    "frequency_penalty",
    "top_logprobs",
    "tool_choice",
    "truncation",
    "background",
    "service_tier",
    "tools",
    "metadata",
    "text",
}

EVENT_TYPES: dict[str, Any] = {
    get_args(member.model_fields["type"].annotation)[0]: member for member in get_args(get_args(ResponseStreamEvent)[0])
}


def check_response(body: dict[str, Any], specification: Specification) -> Response:
    """Hold a response against the client's types, the specification and the keys that clients rely on."""
    assert len(KEYS) == 31
    assert set(KEYS) <= set(body)
    assert all(body[key] is not None for key in NEVER_NULL)
    specification.check("Response", body if body["usage"] else {key: body[key] for key in body if key != "usage"})
    return Response.model_validate(body, strict=True)


def kinds(events: list[dict[str, Any]]) -> list[str]:
    return [event["type"].removeprefix("response.") for event in events]


def ask(scripted: Scripted, content: Any = QUESTION, **fields: Any) -> Any:
    response = scripted.post(PATH, input=content, **fields)
    assert response.status_code == 200, response.text
    return response.json()


def test_an_answer_is_a_response(scripted: Scripted, specification: Specification) -> None:
    body = ask(scripted, metadata={"a": "b"}, user="ann", temperature=0.5, max_output_tokens=99)
    response = check_response(body, specification)
    assert response.output_text == TEXT
    assert [item.type for item in response.output] == ["message"]
    assert (response.status, response.temperature, response.max_output_tokens) == ("completed", 0.5, 99)
    assert (response.metadata, response.user, response.store) == ({"a": "b"}, "ann", True)  # type: ignore[attr-defined]
    assert response.usage is not None
    assert response.usage.input_tokens_details.cached_tokens == 0
    assert response.usage.input_tokens_details.cache_write_tokens == 0
    assert response.usage.total_tokens == response.usage.input_tokens + 4
    assert scripted.engine.requests[-1].sampling.max_tokens == 99


def test_a_search_cites_files_and_proves_it(scripted: Scripted, specification: Specification) -> None:
    body = ask(scripted, tools=[TOOL])
    response = check_response(body, specification)
    call, message = response.output
    assert call.type == "file_search_call"
    assert (call.queries, call.status, call.results) == ([QUESTION], "completed", None)
    assert message.type == "message"
    part = message.content[0]
    assert part.type == "output_text"
    (annotation,) = part.annotations
    assert annotation.type == "file_citation"
    assert (annotation.file_id, annotation.filename, annotation.index) == ("file-ships", "ships.txt", len(TEXT))
    (citation,) = body["holdfast"]["citations"]
    assert (citation["quote"], citation["page"], citation["start"]) == (TEXT, 3, 123)
    tool = body["tools"][0]
    assert (tool["max_num_results"], tool["ranking_options"]["score_threshold"]) == (8, 0.3)


def test_results_are_shown_to_who_asks_for_them(scripted: Scripted, specification: Specification) -> None:
    asked = ["file_search_call.results"]
    body = ask(scripted, tools=[TOOL | {"max_num_results": 1}], include=asked)
    call = check_response(body, specification).output[0]
    assert call.type == "file_search_call"
    assert call.results is not None
    (result,) = call.results
    assert (result.file_id, result.score, result.attributes) == ("file-ships", 0.9, {"year": 1850.0})
    assert body["output"][0]["results"][0]["holdfast"] == {"page": 3, "heading": "Hulls", "start": 100, "end": 157}
    url = f"{PATH}/{body['id']}"
    assert scripted.client.get(url).json()["output"][0]["results"] is None
    for name in ("include", "include[]"):
        assert scripted.client.get(url, params={name: asked}).json() == body


def test_events_come_in_openais_order(scripted: Scripted, specification: Specification) -> None:
    events = scripted.events(PATH, input=QUESTION, tools=[TOOL])
    assert kinds(events) == [
        "created",
        "in_progress",
        "output_item.added",
        "file_search_call.in_progress",
        "file_search_call.searching",
        "file_search_call.completed",
        "output_item.done",
        "output_item.added",
        "content_part.added",
        *["output_text.delta"] * 4,
        "output_text.annotation.added",
        "output_text.done",
        "content_part.done",
        "output_item.done",
        "completed",
    ]
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    for event in events:
        EVENT_TYPES[event["type"]].model_validate(event, strict=True)
        if "response" in event:
            check_response(event["response"], specification)
        else:
            specification.check("ResponseStreamEvent", event)
    assert "".join(event.get("delta", "") for event in events) == TEXT
    final = events[-1]["response"]
    assert final["output"][1] == events[-2]["item"]
    assert final["output"][1]["content"][0] == events[-3]["part"]
    assert [event["output_index"] for event in events if "output_index" in event] == [0] * 5 + [1] * 10
    assert events[0]["response"]["output"] == []
    assert events[0]["response"]["status"] == "in_progress"


def test_a_streamed_response_is_the_whole_one(scripted: Scripted) -> None:
    fields = {"tools": [TOOL], "include": ["message.output_text.logprobs"], "top_logprobs": 1}
    whole = ask(scripted, **fields)
    streamed = scripted.events(PATH, input=QUESTION, **fields)[-1]["response"]
    for body in (whole, streamed):
        for item in body["output"]:
            item.pop("id")
        for key in ("id", "created_at", "completed_at"):
            body.pop(key)
    assert whole == streamed
    logprobs = whole["output"][1]["content"][0]["logprobs"]
    assert [token["token"] for token in logprobs] == ["The", " keel", " is", " oak."]


def test_an_answer_cut_short_is_incomplete(scripted: Scripted, specification: Specification) -> None:
    response = check_response(ask(scripted, "a long story", max_output_tokens=16), specification)
    assert response.status == "incomplete"
    assert response.completed_at is None
    assert response.incomplete_details is not None
    assert response.incomplete_details.reason == "max_output_tokens"
    assert response.output[0].status == "incomplete"  # type: ignore[union-attr]
    events = scripted.events(PATH, input="a long story", max_output_tokens=16)
    assert kinds(events)[-1] == "incomplete"
    EVENT_TYPES[events[-1]["type"]].model_validate(events[-1], strict=True)


def test_follow_ups_bring_the_conversation_but_not_its_instructions(scripted: Scripted) -> None:
    first = ask(scripted, instructions="Be brief.")
    second = ask(scripted, "And the mast?", previous_response_id=first["id"])
    third = ask(scripted, "And the sail?", previous_response_id=second["id"], instructions="Rhyme.")
    turns = [(turn.role, turn.content) for turn in scripted.engine.requests[-1].messages]
    assert turns == [
        ("system", "Rhyme."),
        ("user", QUESTION),
        ("assistant", TEXT),
        ("user", "And the mast?"),
        ("assistant", TEXT),
        ("user", "And the sail?"),
    ]
    assert third["previous_response_id"] == second["id"]
    scripted.client.delete(f"{PATH}/{first['id']}")
    broken = scripted.post(PATH, input="?", previous_response_id=third["id"])
    assert broken.status_code == 400
    assert broken.json()["error"]["code"] == "previous_response_not_found"


def test_output_may_be_sent_back_as_input(scripted: Scripted) -> None:
    first = ask(scripted, tools=[TOOL], include=["file_search_call.results"])
    content = [{"role": "user", "content": QUESTION}, *first["output"], {"role": "user", "content": "And the mast?"}]
    ask(scripted, content, store=False)
    turns = [(turn.role, turn.content) for turn in scripted.engine.requests[-1].messages]
    assert turns == [("user", QUESTION), ("assistant", TEXT), ("user", "And the mast?")]


def test_every_form_of_a_text_message_is_read(scripted: Scripted) -> None:
    content = [
        {"role": "developer", "content": "Be brief."},
        {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "One."}], "status": "completed"},
        {"role": "assistant", "content": [{"type": "output_text", "text": "Two.", "annotations": []}]},
        {"role": "assistant", "content": [{"type": "refusal", "refusal": "No."}], "phase": "final_answer"},
        {"role": "user", "content": [{"type": "input_text", "text": "Three"}, {"type": "input_text", "text": "Four"}]},
    ]
    ask(scripted, content)
    turns = [(turn.role, turn.content) for turn in scripted.engine.requests[-1].messages]
    assert [role for role, _ in turns] == ["developer", "user", "assistant", "assistant", "user"]
    assert [text for _, text in turns] == ["Be brief.", "One.", "Two.", "No.", "Three\nFour"]


def test_input_items_are_listed_by_page(scripted: Scripted, specification: Specification) -> None:
    content = [{"role": "user", "content": "One."}, {"role": "assistant", "content": "Two."}]
    body = ask(scripted, [*content, {"role": "user", "content": "Three."}])
    url = f"{PATH}/{body['id']}/input_items"
    whole = scripted.client.get(url, params={"order": "asc"}).json()
    specification.check("ResponseItemList", whole)
    ResponseItemList.model_validate(whole)
    assert [item["content"][0]["text"] for item in whole["data"]] == ["One.", "Two.", "Three."]
    assert whole["data"][0]["content"][0]["type"] == "input_text"
    assert whole["data"][1]["content"][0]["type"] == "output_text"
    newest = scripted.client.get(url, params={"limit": 2}).json()
    assert newest["has_more"] is True
    rest = scripted.client.get(url, params={"limit": 2, "after": newest["last_id"]}).json()
    assert [item["id"] for item in newest["data"] + rest["data"]] == [item["id"] for item in whole["data"][::-1]]
    assert rest["has_more"] is False
    assert scripted.client.get(url, params={"limit": 0}).status_code == 400


def test_a_stored_response_can_be_read_and_deleted(scripted: Scripted) -> None:
    body = ask(scripted)
    url = f"{PATH}/{body['id']}"
    assert scripted.client.get(url).json() == body
    deleted = scripted.client.delete(url).json()
    assert deleted == {"id": body["id"], "object": "response", "deleted": True}
    for response in (scripted.client.get(url), scripted.client.delete(url), scripted.client.get(url + "/input_items")):
        assert response.status_code == 404
        assert body["id"] in response.json()["error"]["message"]


def test_a_streamed_response_is_stored_when_its_end_is_announced(scripted: Scripted) -> None:
    final = scripted.events(PATH, input=QUESTION)[-1]["response"]
    assert scripted.client.get(f"{PATH}/{final['id']}").json() == final


def test_store_false_keeps_nothing(scripted: Scripted) -> None:
    body = ask(scripted, store=False)
    assert body["store"] is False
    assert scripted.client.get(f"{PATH}/{body['id']}").status_code == 404


def test_only_background_responses_could_be_cancelled_or_streamed_again(scripted: Scripted) -> None:
    url = f"{PATH}/{ask(scripted)['id']}"
    cancelled = scripted.client.post(url + "/cancel")
    assert cancelled.status_code == 400
    assert "synchronous" in cancelled.json()["error"]["message"]
    assert scripted.client.post(f"{PATH}/resp_0/cancel").status_code == 404
    assert scripted.client.get(url, params={"stream": "true"}).status_code == 400


def test_tool_choice_none_answers_without_a_search(scripted: Scripted) -> None:
    body = ask(scripted, tools=[TOOL], tool_choice="none")
    assert [item["type"] for item in body["output"]] == ["message"]
    assert (len(body["tools"]), body["tool_choice"]) == (1, "none")
    for choice in ("auto", "required", {"type": "file_search"}):
        body = ask(scripted, tools=[TOOL], tool_choice=choice)
        assert body["output"][0]["type"] == "file_search_call"
        assert body["tool_choice"] == choice


def test_tokens_of_an_input_are_counted(scripted: Scripted) -> None:
    counted = scripted.post(f"{PATH}/input_tokens", input="One two", instructions="Three").json()
    assert counted == {"object": "response.input_tokens", "input_tokens": 3}


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"input": None}, "input"),
        ({"input": [{"type": "function_call_output", "call_id": "c", "output": "4"}]}, "input[0].type"),
        ({"input": [{"type": "item_reference", "id": "msg_1"}]}, "input[0].type"),
        (
            {"input": [{"role": "user", "content": [{"type": "input_image", "image_url": "data:,"}]}]},
            "input[0].content[0].type",
        ),
        ({"input": [{"role": "user", "content": [{"type": "input_text"}]}]}, "input[0].content[0].text"),
        ({"input": [{"role": "tool", "content": "4"}]}, "input[0].role"),
        ({"tools": [{"type": "web_search"}]}, "tools[0].type"),
        ({"tools": [{"type": "file_search"}]}, "tools[0].vector_store_ids"),
        ({"tools": [TOOL | {"max_num_results": 51}]}, "tools[0].max_num_results"),
        ({"tools": [TOOL | {"ranking_options": {"score_threshold": 2}}]}, "tools[0].ranking_options.score_threshold"),
        (
            {"tools": [TOOL | {"ranking_options": {"hybrid_search": {"embedding_weight": 1, "text_weight": -1}}}]},
            "tools[0].ranking_options.hybrid_search.text_weight",
        ),
        ({"tools": [TOOL, TOOL]}, "tools"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"tools": [TOOL], "tool_choice": {"type": "function", "name": "f"}}, "tool_choice.type"),
        ({"text": {"format": {"type": "json_object"}}}, "text.format.type"),
        ({"reasoning": {"effort": "high"}}, "reasoning"),
        ({"truncation": "auto"}, "truncation"),
        ({"background": True}, "background"),
        ({"conversation": "conv_1"}, "conversation"),
        ({"prompt": {"id": "p"}}, "prompt"),
        ({"include": ["everything"]}, "include[0]"),
        ({"top_logprobs": 2}, "top_logprobs"),
        ({"max_output_tokens": 15}, "max_output_tokens"),
        ({"temperature": -1}, "temperature"),
        ({"n": 2}, "n"),
        ({"previous_response_id": "resp_0"}, "previous_response_id"),
        ({"stream_options": {}}, "stream_options"),
        ({"input": [{"role": "assistant", "content": "x"}]}, "input"),
        ({"input": "a \ud800 b"}, None),
        ({"input": [{"role": "user", "content": "x"}] * 10_001}, "input"),
        ({"tools": [TOOL | {"filters": DEEP}], "tool_choice": "none"}, "tools[0].filters.type"),
        ({"tools": [TOOL | {"filters": {"type": "eq", "key": "a"}}]}, "tools[0].filters.value"),
        ({"tools": [TOOL | {"vector_store_ids": ["vs_a"] * 21}]}, "tools[0].vector_store_ids"),
        ({"tools": [TOOL | {"filters": {"type": "eq", "key": "\udfff", "value": 1}}]}, None),
    ],
)
def test_what_cannot_be_obeyed_is_refused_by_name(
    scripted: Scripted, fields: dict[str, Any], param: str | None
) -> None:
    response = scripted.post(PATH, **({"input": QUESTION} | fields))
    assert response.status_code == 400, response.text
    assert response.json()["error"]["param"] == param


def test_failures_give_a_status_first_and_a_failed_response_later(
    scripted: Scripted, specification: Specification
) -> None:
    for stream in (False, True):
        assert scripted.post(PATH, input="fail at once", stream=stream).status_code == 502
    missing = scripted.post(PATH, input=QUESTION, tools=[TOOL | {"vector_store_ids": ["vs_missing"]}], stream=True)
    assert (missing.status_code, missing.json()["error"]["param"]) == (404, "tools[0].vector_store_ids")
    events = scripted.events(PATH, input="fail late")
    assert kinds(events)[-2:] == ["output_text.delta", "failed"]
    failed = events[-1]["response"]
    check_response(failed, specification)
    assert failed["error"] == {"code": "server_error", "message": "the model caught fire"}
    assert scripted.client.get(f"{PATH}/{failed['id']}").json()["status"] == "failed"


def test_a_client_that_leaves_a_stream_stores_nothing(scripted: Scripted) -> None:
    body = {"model": "scripted", "input": "pause", "stream": True}
    with httpx.stream("POST", scripted.base_url + PATH, json=body) as response:
        first = next(line for line in response.iter_lines() if line.startswith("data: "))
    response_id = httpx.Response(200, text=first.removeprefix("data: ")).json()["response"]["id"]
    assert scripted.client.get(f"{PATH}/{response_id}").status_code == 404


def test_a_real_answer_quotes_its_file(client: openai.OpenAI, facts: str, specification: Specification) -> None:
    tools: Any = [{"type": "file_search", "vector_store_ids": [facts]}]
    question = "How much can an adult blue whale weigh?"
    raw = client.responses.with_raw_response.create(model="extract", input=question, tools=tools)
    body = raw.http_response.json()
    check_response(body, specification)
    message = body["output"][1]["content"][0]
    assert "150 tonnes" in message["text"]
    for annotation, citation in zip(message["annotations"], body["holdfast"]["citations"], strict=True):
        assert annotation["index"] == citation["index"]
        page = client.vector_stores.files.content(citation["file_id"], vector_store_id=facts)
        text = "".join(part.text or "" for part in page)
        assert text[citation["start"] : citation["end"]] == citation["quote"]
        assert citation["quote"] in message["text"]
    assert {annotation["filename"] for annotation in message["annotations"]} == {"whales.txt"}


def test_a_question_that_the_files_do_not_answer_is_declined(client: openai.OpenAI, facts: str) -> None:
    tools: Any = [{"type": "file_search", "vector_store_ids": [facts]}]
    response = client.responses.create(model="extract", input="Who painted the ceiling of the chapel?", tools=tools)
    assert response.output_text == "The files do not say."
    assert response.to_dict()["holdfast"]["is_answered"] is False  # type: ignore[index]
    message: Any = response.output[1]
    assert message.content[0].annotations == []
