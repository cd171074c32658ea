"""`/v1/responses`: answers that are kept, can be followed up, and cite files as annotations."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Response
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field

from holdfast.errors import InvalidInput
from holdfast.serving.api.answering import ask
from holdfast.serving.api.cache_diagnostics import find_comparison
from holdfast.serving.api.context import Context, JsonOnly, RequestContext
from holdfast.serving.api.responses_answer import ResponseAnswer, error_frame, without_results
from holdfast.serving.api.responses_items import to_messages, to_stored_items
from holdfast.serving.api.responses_object import new_response
from holdfast.serving.api.responses_request import RESULTS, Include, InputBody, ResponseBody
from holdfast.serving.api.sampling import check_model, refused, to_reading
from holdfast.serving.api.schemas import Deleted, QueryModel
from holdfast.serving.api.sse import JSON_OR_STREAM, start_stream
from holdfast.serving.database import Cursor
from holdfast.serving.engine.protocol import EngineRequest, Message, Sampling

router = APIRouter(prefix="/v1/responses", tags=["responses"])

PARAMS = {
    "messages": "input",
    "query": "input",
    "max_tokens": "max_output_tokens",
    "logprobs": "include",
    "vector_store_id": "tools[0].vector_store_ids",
    "mode": "holdfast.mode",
}
"""this endpoint's names for what errors name"""


class RetrieveQuery(QueryModel):
    """How to show a stored response."""

    include: list[Include] = Field([])
    include_array: list[Include] = Field([], alias="include[]")
    stream: bool = False
    starting_after: int | None = None
    include_obfuscation: bool = False

    @property
    def has_results(self) -> bool:
        return RESULTS in self.include + self.include_array


class ItemsQuery(QueryModel):
    """Which page of the input items."""

    after: str | None = None
    limit: Annotated[int, Field(ge=1, le=100)] = 20
    order: Literal["asc", "desc"] = "desc"
    include: list[Include] = Field([])
    include_array: list[Include] = Field([], alias="include[]")


class TokenCount(BaseModel):
    """What an input costs."""

    object: Literal["response.input_tokens"] = "response.input_tokens"
    input_tokens: int


@router.post(
    "", summary="Answer, with citations, and keep the answer", dependencies=[JsonOnly], responses=JSON_OR_STREAM
)
async def create_response(body: ResponseBody, context: RequestContext) -> Response:
    body.check()
    service = context.service
    check_model(body.model or service.engine.name, service.engine.name)
    items = to_stored_items(body.input or [])
    messages = await conversation(body, items, context)
    await context.admit_answer()
    reading = to_reading(body.holdfast, body.prompt_cache_options)
    answer = ask(context, messages, body.sampling, search=body.search, params=PARAMS, reading=reading)

    async def save(response: dict[str, Any]) -> None:
        if response["store"]:
            await asyncio.to_thread(service.responses.save, context.tenant, response, items)

    response = new_response(body, service.engine.name, service.settings, answer.created)
    compared_id = body.prompt_cache_options.comparison_response_id if body.prompt_cache_options else None
    made = ResponseAnswer(
        response,
        answer,
        save,
        has_results=body.has_results,
        has_diagnostics=compared_id is not None,
        comparison=await find_comparison(service.responses, context.tenant, compared_id) if compared_id else None,
    )
    if body.stream:
        return await start_stream(made.frames(), error_frame)
    return JSONResponse(await made.complete())


@router.post("/input_tokens", summary="Count the tokens of an input", dependencies=[JsonOnly])
async def count_input_tokens(body: InputBody, context: RequestContext) -> TokenCount:
    """Passages that a search would add are not counted."""
    body.check()
    engine = context.service.engine
    check_model(body.model or engine.name, engine.name)
    messages = await conversation(body, to_stored_items(body.input or []), context)
    await context.admit_search()
    question = next((message.content for message in reversed(messages) if message.role == "user"), "")
    request = EngineRequest(tuple(messages), question, (), Sampling())
    return TokenCount(input_tokens=await asyncio.to_thread(engine.count_prompt_tokens, request))


@router.get("/{response_id}", summary="Retrieve a response")
async def get_response(response_id: str, query: Annotated[RetrieveQuery, Query()], context: RequestContext) -> Response:
    if query.stream:
        raise refused("stream", "true", "only responses made in the background can be streamed again")
    if query.starting_after is not None:
        raise refused("starting_after", str(query.starting_after), "it belongs to stream")
    response = await asyncio.to_thread(context.service.responses.get, context.tenant, response_id)
    return JSONResponse(response if query.has_results else without_results(response))


@router.delete("/{response_id}", summary="Delete a response")
async def delete_response(response_id: str, context: RequestContext) -> Deleted:
    await asyncio.to_thread(context.service.responses.delete, context.tenant, response_id)
    return Deleted(id=response_id, object="response")


@router.post("/{response_id}/cancel", summary="Refused: responses are not made in the background")
async def cancel_response(response_id: str, context: RequestContext) -> Response:
    await asyncio.to_thread(context.service.responses.get, context.tenant, response_id)
    raise InvalidInput("Cannot cancel a synchronous response.", param="response_id")


@router.get("/{response_id}/input_items", summary="List what a request added to the conversation")
async def list_input_items(
    response_id: str, query: Annotated[ItemsQuery, Query()], context: RequestContext
) -> Response:
    cursor = Cursor(after=query.after, limit=query.limit, order=query.order)
    page = await asyncio.to_thread(context.service.responses.input_items, context.tenant, response_id, cursor)
    ids = [item["id"] for item in page.items]
    listing = {
        "object": "list",
        "data": page.items,
        "first_id": ids[0] if ids else None,
        "last_id": ids[-1] if ids else None,
        "has_more": page.has_more,
    }
    return JSONResponse(listing)


async def conversation(body: InputBody, items: list[dict[str, Any]], context: Context) -> list[Message]:
    """Return the instructions, the responses that this one follows, and its own input, as turns."""
    earlier: list[dict[str, Any]] = []
    if body.previous_response_id is not None:
        earlier = await asyncio.to_thread(
            context.service.responses.conversation, context.tenant, body.previous_response_id
        )
    instructions = [Message("system", body.instructions)] if body.instructions else []
    return instructions + to_messages(earlier + items)
