"""What every route is given: the service, whose request it is, and admission to the server's limited resources."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, HTTPException, Request

from holdfast.errors import InvalidInput
from holdfast.serving.api.errors import invalid_json
from holdfast.serving.limits import Gate
from holdfast.serving.metrics import Metrics
from holdfast.serving.service import Service


@dataclass(frozen=True, slots=True)
class Context:
    """One request's surroundings. Slots taken here are given back when the response, streamed or not, has ended."""

    service: Service
    tenant: str
    request_id: str
    metrics: Metrics
    deadline: float
    """event loop time at which the request should be over; the server itself enforces it until the response starts"""
    answers: Gate
    searches: Gate
    stack: AsyncExitStack

    async def admit_answer(self) -> None:
        """Wait for the right to generate, kept until the response has ended. Raises Overloaded if the line is full."""
        await self.stack.enter_async_context(self.answers.slot())

    async def admit_search(self) -> None:
        """As `admit_answer`, for embedding and searching alone."""
        await self.stack.enter_async_context(self.searches.slot())


async def make_context(request: Request) -> AsyncIterator[Context]:
    """Yield the context of `request`; it is closed after the response has been sent or given up."""
    shared, own = request.app.state, request.state
    async with AsyncExitStack() as stack:
        yield Context(
            service=shared.service,
            tenant=own.tenant,
            request_id=own.request_id,
            metrics=shared.metrics,
            deadline=own.deadline,
            answers=shared.answers,
            searches=shared.searches,
            stack=stack,
        )


async def require_json(request: Request) -> None:
    """Refuse a body that is not JSON with 415, and with 400 what Python's reader takes but no JSON text can say.

    That is NaN, an infinity, and half of a surrogate pair. Use as a dependency of routers whose bodies are JSON.
    """
    content_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    has_body = request.headers.get("content-length", "0") != "0" or "transfer-encoding" in request.headers
    if has_body and content_type != "application/json":
        raise HTTPException(415, f"Unsupported content type {content_type!r}: send 'application/json'.")
    if not has_body:
        return
    try:
        json.dumps(await request.json(), ensure_ascii=False, allow_nan=False).encode()
    except UnicodeEncodeError:
        raise InvalidInput("The JSON body holds half of a surrogate pair, which is no character.") from None
    except json.JSONDecodeError:
        raise invalid_json() from None
    except (ValueError, RecursionError):
        raise InvalidInput("The JSON body holds a number out of range, or nests too deeply.") from None


RequestContext = Annotated[Context, Depends(make_context)]
JsonOnly = Depends(require_json)
