"""`POST /v1/chat/completions`: a conversation, and with a `holdfast` object in the request, an answer from files.

The response's own `holdfast` object (in a stream: on the last chunk that carries a choice) proves the answer; OpenAI's
chat annotations know web pages only.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Response
from fastapi.responses import JSONResponse
from pydantic import Field

from holdfast.errors import InvalidInput
from holdfast.serving.api.answering import ask
from holdfast.serving.api.chat_answer import ChatAnswer
from holdfast.serving.api.context import JsonOnly, RequestContext
from holdfast.serving.api.sampling import (
    CacheOptions,
    SamplingBody,
    SearchOptions,
    ServiceTier,
    check_model,
    check_stream_options,
    refuse_given,
    refused,
    to_reading,
)
from holdfast.serving.api.schemas import Metadata, RequestModel
from holdfast.serving.api.sse import JSON_OR_STREAM, error_frame, start_stream
from holdfast.serving.engine.protocol import Message, Role, Sampling

router = APIRouter(tags=["chat"], dependencies=[JsonOnly])

MAX_MESSAGES = 2048
"""OpenAI's"""
PARAMS = {
    "vector_store_id": "holdfast.vector_store_ids",
    "filters": "holdfast.filters",
    "query": "messages",
    "mode": "holdfast.mode",
}
"""this endpoint's names for what errors name"""


class TextPart(RequestModel):
    """A piece of a message's text."""

    type: Literal["text"]
    text: str
    prompt_cache_breakpoint: dict[str, Any] | None = None


class RefusalPart(RequestModel):
    """What an assistant said instead of an answer."""

    type: Literal["refusal"]
    refusal: str


class MediaPart(RequestModel, extra="allow"):
    """Anything but text; known, so that the refusal can say so."""

    type: Literal["image_url", "input_audio", "file"]


Part = Annotated[TextPart | RefusalPart | MediaPart, Field(discriminator="type")]
Content = str | Annotated[list[Part], Field(min_length=1)]


class ChatMessage(RequestModel):
    """One turn."""

    role: Role | Literal["function"]
    content: Content | None = None
    name: str | None = None
    refusal: str | None = None
    annotations: list[dict[str, Any]] | None = None
    audio: dict[str, Any] | None = None
    tool_calls: list[dict[str, Any]] | None = None
    function_call: dict[str, Any] | None = None
    tool_call_id: str | None = None

    def to_message(self, param: str) -> Message:
        """Return the turn as text; `param` is where it stands in the request."""
        if self.role == "function" or self.role == "tool" or self.tool_calls or self.function_call or self.tool_call_id:
            raise InvalidInput(
                f"{param} belongs to a function call; this server does not call functions.",
                code="unsupported_value",
                param=param,
            )
        if self.audio is not None:
            raise InvalidInput(f"{param} refers to audio; send its text.", code="unsupported_value", param=param)
        content = self.refusal if self.content is None else self.content
        if content is None:
            raise InvalidInput(f"{param}.content must be text.", code="invalid_type", param=f"{param}.content")
        if isinstance(content, str):
            return Message(self.role, content)
        texts = [part_text(part, f"{param}.content[{row}]") for row, part in enumerate(content)]
        return Message(self.role, "\n".join(texts))


class ResponseFormat(RequestModel):
    """The form of the answer; only text is produced."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: dict[str, Any] | None = None


class ChatBody(SamplingBody):
    """The request."""

    messages: list[ChatMessage] = Field(min_length=1, max_length=MAX_MESSAGES)
    max_tokens: int | None = Field(None, ge=1)
    max_completion_tokens: int | None = Field(None, ge=1)
    logprobs: bool | None = None
    top_logprobs: int | None = Field(None, ge=0, le=20)
    response_format: ResponseFormat | None = None
    holdfast: SearchOptions | None = None
    prompt_cache_options: CacheOptions | None = None
    # without effect here
    metadata: Metadata | None = None
    store: bool | None = None
    service_tier: ServiceTier | None = None
    parallel_tool_calls: bool | None = None
    prediction: dict[str, Any] | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    prompt_cache_retention: Literal["in_memory", "in-memory", "24h"] | None = None
    # obeyed in the one form that changes nothing
    modalities: list[Literal["text", "audio"]] | None = None
    verbosity: Literal["low", "medium", "high"] | None = None
    reasoning_effort: str | None = None
    tools: list[dict[str, Any]] | None = None
    tool_choice: str | dict[str, Any] | None = None
    # refused
    audio: dict[str, Any] | None = None
    function_call: str | dict[str, Any] | None = None
    functions: list[dict[str, Any]] | None = None
    moderation: dict[str, Any] | None = None
    web_search_options: dict[str, Any] | None = None

    def check(self) -> None:
        """Refuse what is known but cannot be obeyed."""
        refuse_given(self, "audio", "function_call", "functions", "moderation", "web_search_options")
        check_stream_options(self.stream_options, is_stream=bool(self.stream))
        if self.response_format is not None and self.response_format.type != "text":
            raise refused("response_format.type", self.response_format.type, 'answers are "text"')
        if self.modalities is not None and self.modalities != ["text"]:
            raise refused("modalities", str(self.modalities), 'answers are ["text"]')
        if self.verbosity not in (None, "medium"):
            raise refused("verbosity", self.verbosity, "leave it out")
        if self.reasoning_effort not in (None, "none"):
            raise refused("reasoning_effort", self.reasoning_effort, "leave it out")
        if self.tools and self.tool_choice != "none":
            instead = 'leave it out; to search files, name vector stores in the "holdfast" object'
            raise refused("tools", "[...]", instead)
        if self.tool_choice not in (None, "none", "auto"):
            raise refused("tool_choice", str(self.tool_choice), 'it may be "none" or "auto"')
        if self.top_logprobs and not self.logprobs:
            raise InvalidInput("top_logprobs needs logprobs to be true.", param="top_logprobs")
        if self.max_tokens is not None and self.max_completion_tokens is not None:
            raise InvalidInput("Set max_completion_tokens or max_tokens, not both.", param="max_tokens")

    @property
    def sampling(self) -> Sampling:
        limit = self.max_tokens if self.max_completion_tokens is None else self.max_completion_tokens
        return self.to_sampling(max_tokens=limit, logprobs=bool(self.logprobs), top_logprobs=self.top_logprobs or 0)


def part_text(part: TextPart | RefusalPart | MediaPart, param: str) -> str:
    if isinstance(part, TextPart):
        return part.text
    if isinstance(part, RefusalPart):
        return part.refusal
    raise InvalidInput(
        f"{param} is of type {part.type!r}; this server reads text only. Upload files to a vector store instead.",
        code="unsupported_value",
        param=f"{param}.type",
    )


@router.post("/v1/chat/completions", summary="Answer a conversation", responses=JSON_OR_STREAM)
async def create_chat_completion(body: ChatBody, context: RequestContext) -> Response:
    body.check()
    check_model(body.model, context.service.engine.name)
    messages = [message.to_message(f"messages[{row}]") for row, message in enumerate(body.messages)]
    search = body.holdfast.to_search() if body.holdfast else None
    await context.admit_answer()
    reading = to_reading(body.holdfast, body.prompt_cache_options)
    answer = ask(context, messages, body.sampling, search=search, params=PARAMS, reading=reading)
    chat = ChatAnswer(answer, body.model, has_logprobs=bool(body.logprobs), has_usage=body.includes_usage)
    if body.stream:
        return await start_stream(chat.frames(), error_frame)
    return JSONResponse(await chat.complete())
