"""`POST /v1/stability`: does the answer to a question depend on the order of the passages found for it?"""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Response
from fastapi.responses import JSONResponse
from pydantic import Field

from holdfast.serving.api.context import JsonOnly, RequestContext
from holdfast.serving.api.sampling import SearchOptions, check_model, to_reading
from holdfast.serving.api.schemas import RequestModel
from holdfast.serving.engine.protocol import EngineRequest, Message, Sampling
from holdfast.serving.stability import audit

router = APIRouter(tags=["stability"], dependencies=[JsonOnly])

MAX_ORDERS = 50
DEFAULT_MAX_TOKENS = 32


class StabilityBody(RequestModel):
    """The request: a question, what to search, and how many orders to try."""

    input: Annotated[str, Field(min_length=1)]
    holdfast: SearchOptions
    model: str | None = None
    num_orders: int = Field(10, ge=2, le=MAX_ORDERS)
    max_output_tokens: int = Field(DEFAULT_MAX_TOKENS, ge=1, le=512)
    seed: int = Field(0, ge=0, lt=2**63)


@router.post("/v1/stability", summary="Audit a question under several orders of its passages")
async def audit_stability(body: StabilityBody, context: RequestContext) -> Response:
    service = context.service
    check_model(body.model or service.engine.name, service.engine.name)
    sampling = Sampling(max_tokens=body.max_output_tokens, temperature=0.0)
    reading = to_reading(body.holdfast, None)
    messages = (Message("user", body.input),)
    request = EngineRequest(messages, body.input, (), sampling, reading=reading, tenant=context.tenant)
    await context.admit_answer()
    request, _ = await service.answerer.gather(request, body.holdfast.to_search())
    found: dict[str, Any] = {"object": "stability", "model": service.engine.name, "input": body.input}
    if not request.sources:
        return JSONResponse(found | {"num_passages": 0})
    return JSONResponse(found | (await audit(service.engine, request, body.num_orders, body.seed)).to_json())
