"""Server-sent events: when a stream starts, how it stays alive, and that its work ends with it.

A stream starts only when its first frame is there, so that a refused request gets an HTTP status; if that takes longer
than `PING_S` it starts anyway, and a failure arrives as an event. Idle streams carry comment lines, which every
event-stream reader skips. However a stream ends, the generators behind it are closed at once, and with them the work.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from typing import Any, TypeVar

from fastapi.responses import StreamingResponse
from fastapi.sse import KEEPALIVE_COMMENT, format_sse_event
from starlette.types import Receive, Scope, Send

from holdfast.errors import HoldfastError, RequestTimeout
from holdfast.serving.api.errors import error_body

T = TypeVar("T")
Frames = AsyncGenerator[bytes, None]
ErrorToFrame = Callable[[Exception], bytes]

PING_S = 10.0
logger = logging.getLogger("holdfast.streams")

DONE = format_sse_event(data_str="[DONE]")
JSON_OR_STREAM: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "The answer: one object, or with `stream` its events.",
        "content": {
            "application/json": {"schema": {"type": "object"}},
            "text/event-stream": {"schema": {"type": "string"}},
        },
    }
}
"""what a route that can stream says of its responses"""


class EventStream(StreamingResponse):
    """A `text/event-stream` of `frames`, the first of them already asked for, that closes them before it returns."""

    def __init__(self, pending: asyncio.Future[bytes], frames: Frames, to_error_frame: ErrorToFrame) -> None:
        self.pending = pending
        self.frames = frames
        self.to_error_frame = to_error_frame
        headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        super().__init__(self.with_pings(), media_type="text/event-stream", headers=headers)

    async def with_pings(self) -> AsyncGenerator[bytes, None]:
        """Yield the frames, a comment after every `PING_S` seconds of silence, and what goes wrong as a last frame."""
        while True:
            await asyncio.wait({self.pending}, timeout=PING_S)
            if not self.pending.done():
                yield KEEPALIVE_COMMENT
                continue
            try:
                frame = self.pending.result()
            except StopAsyncIteration:
                return
            except Exception as error:
                log_unexpected(error)
                yield self.to_error_frame(error)
                return
            yield frame
            self.pending = asyncio.ensure_future(anext(self.frames))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            await abandon(self.pending, self.frames)


async def start_stream(frames: Frames, to_error_frame: ErrorToFrame) -> EventStream:
    """Return a response that streams `frames`.

    What they raise before the first one is raised here; what they raise later is streamed, as `to_error_frame` puts it.
    """
    first: asyncio.Future[bytes] = asyncio.ensure_future(anext(frames))
    try:
        await asyncio.wait({first}, timeout=PING_S)
        if first.done():
            first.result()
    except BaseException:
        await abandon(first, frames)
        raise
    return EventStream(first, frames, to_error_frame)


async def until(deadline: float, events: AsyncIterator[T]) -> AsyncGenerator[T, None]:
    """Yield `events`; raise RequestTimeout when they are not all there by `deadline`, in the event loop's time."""
    loop = asyncio.get_running_loop()
    try:
        while True:
            try:
                event = await asyncio.wait_for(anext(events), deadline - loop.time())
            except StopAsyncIteration:
                return
            except TimeoutError:
                raise RequestTimeout("The answer was not finished in the time that one request may take.") from None
            yield event
    finally:
        if isinstance(events, AsyncGenerator):
            await events.aclose()


async def abandon(pending: asyncio.Future[bytes], frames: Frames) -> None:
    """Stop waiting for the next frame and close the generator."""
    pending.cancel()
    await asyncio.wait({pending})
    if not pending.cancelled():
        pending.exception()
    await frames.aclose()


def to_frame(value: dict[str, Any], *, event: str | None = None) -> bytes:
    """Return one event whose data is `value` as JSON."""
    data = json.dumps(value, separators=(",", ":"), allow_nan=False)
    return format_sse_event(data_str=data, event=event)


def error_frame(error: Exception) -> bytes:
    """Return `error` as OpenAI's clients recognise it inside a stream of chunks."""
    return to_frame(error_body(error))


def log_unexpected(error: Exception) -> None:
    """Log what is not one of our own errors: the client is told nothing of its inside."""
    if not isinstance(error, HoldfastError):
        logger.error("a stream failed", exc_info=error)
