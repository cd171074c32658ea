"""The HTTP application: its routes, its shared state, and the one table from errors to HTTP statuses."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response

import holdfast
from holdfast.errors import (
    Conflict,
    DocumentError,
    EngineError,
    HoldfastError,
    InvalidInput,
    KeyUnavailable,
    NotFound,
    Overloaded,
    RequestTimeout,
    StorageError,
    StoreUnavailable,
    Unauthenticated,
)
from holdfast.kernels.scan import warm_up
from holdfast.serving.api import (
    chat,
    completions,
    embeddings,
    files,
    health,
    models,
    rerank,
    responses,
    stability,
    vector_store_files,
    vector_stores,
)
from holdfast.serving.api.errors import ErrorResponse, error_body, make_error, to_invalid_input
from holdfast.serving.api_keys import ApiKeys
from holdfast.serving.config import Settings
from holdfast.serving.engine.protocol import DocumentEngine, RetrievalEngine
from holdfast.serving.exposure import check_host
from holdfast.serving.limits import Gate
from holdfast.serving.metrics import Metrics
from holdfast.serving.middleware import RequestMiddleware
from holdfast.serving.service import Service

STATUS_OF_ERROR: dict[type[HoldfastError], int] = {
    InvalidInput: 400,
    DocumentError: 400,
    Unauthenticated: 401,
    NotFound: 404,
    Conflict: 409,
    Overloaded: 429,
    EngineError: 502,
    RequestTimeout: 504,
    StorageError: 507,
    StoreUnavailable: 503,
    KeyUnavailable: 503,
}
"""Subclasses share the status of their base; what is not named here is 500."""

NOT_WORTH_RETRYING = {409, 507}
"""OpenAI's client retries these by default, but waiting a second does not help; it obeys `x-should-retry`."""

HTTP_ERROR_CODES = {413: "request_too_large", 415: "unsupported_media_type"}

ROUTERS = (
    models.router,
    embeddings.router,
    files.router,
    vector_stores.router,
    vector_store_files.router,
    chat.router,
    completions.router,
    responses.router,
    rerank.router,
    stability.router,
    health.router,
)


def create_app(settings: Settings, service: Service | None = None) -> FastAPI:
    """Return the application.

    Args:
        settings: how to serve.
        service: what to serve, already open, or None to open it on start-up. Closed on shutdown either way.
    """
    metrics = Metrics()
    keys = ApiKeys(settings.data_dir)
    app = FastAPI(
        title="Holdfast",
        version=holdfast.__version__,
        summary="OpenAI-compatible retrieval-augmented generation.",
        lifespan=_run_service,
        docs_url=None,  # its page would load scripts from the internet
        redoc_url=None,
        redirect_slashes=False,
        responses={"4XX": {"model": ErrorResponse}, "5XX": {"model": ErrorResponse}},
    )

    def authenticate(headers: Headers) -> str:
        if not settings.allow_open and keys.is_open():
            check_host(headers.get("host"))
        return keys.tenant_of(headers.get("authorization"))

    limits = (settings.max_concurrent_requests, settings.max_queued_requests)
    app.state.settings = settings
    app.state.service = service
    app.state.started_at = int(time.time())
    app.state.api_keys = keys
    app.state.metrics = metrics
    app.state.answers = Gate("answers", *limits)
    app.state.searches = Gate("searches", *limits)
    metrics.watch(app.state.answers)
    metrics.watch(app.state.searches)
    app.add_middleware(
        RequestMiddleware,
        authenticate=authenticate,
        render=render_error,
        metrics=metrics,
        max_body_bytes=settings.max_body_bytes,
        max_file_bytes=settings.max_file_bytes,
        timeout_s=settings.request_timeout_s,
    )
    for kind in (HoldfastError, HTTPException, RequestValidationError):
        app.add_exception_handler(kind, _handle_error)
    for router in ROUTERS:
        app.include_router(router)
    return app


@asynccontextmanager
async def _run_service(app: FastAPI) -> AsyncIterator[None]:
    """Open the service where it is not open yet, ingest in the background, and close all in the end."""
    state = app.state
    if state.service is None:
        state.service = await asyncio.to_thread(Service, state.settings)
    state.service.observe_search = state.metrics.search_seconds.observe
    if isinstance(state.service.engine, DocumentEngine):
        state.metrics.watch_documents(state.service.engine.document_cache)
    if isinstance(state.service.engine, RetrievalEngine):
        state.metrics.watch_retrieval(state.service.engine)
    state.service.ingestion.start()
    warming = asyncio.create_task(asyncio.to_thread(warm_up))  # else the first search would wait for the compiler
    try:
        yield
    finally:
        await warming
        await state.service.close()
        state.api_keys.close()


async def _handle_error(request: Request, error: Exception) -> Response:
    if isinstance(error, RequestValidationError):
        error = to_invalid_input(error)
    return render_error(error, request.state.request_id, f"{request.method} {request.url.path}")


def render_error(error: Exception, request_id: str, call: str = "") -> Response:
    """Return the response for `error`, raised by `call` (method and path)."""
    if isinstance(error, HTTPException):
        return _render_http_exception(error, call)
    status = next((status for kind, status in STATUS_OF_ERROR.items() if isinstance(error, kind)), 500)
    headers = {}
    if isinstance(error, Overloaded):
        headers["retry-after"] = str(math.ceil(error.retry_after_s))
        headers["retry-after-ms"] = str(round(1000 * error.retry_after_s))
    if isinstance(error, Unauthenticated):
        headers["www-authenticate"] = "Bearer"
    if status in NOT_WORTH_RETRYING:
        headers["x-should-retry"] = "false"
    body = error_body(error)
    if status == 500:
        body["error"]["message"] += f" Its id is {request_id}; the server's log says more."
    return JSONResponse(body, status, headers)


def _render_http_exception(error: HTTPException, call: str) -> Response:
    message = str(error.detail)
    if error.status_code == 404:
        message = f"Invalid URL ({call})"
    if error.status_code == 405:
        message = f"Not allowed: {call}"
    error_type = "invalid_request_error" if error.status_code < 500 else "server_error"
    body = make_error(message, error_type, code=HTTP_ERROR_CODES.get(error.status_code))
    return JSONResponse(body, error.status_code, error.headers)
