"""What happens to every HTTP request: an id, a tenant, limits of size and time, cancellation, and a count.

Plain ASGI, since streamed responses must pass through untouched. The application runs in a task of its own, so that it
can be cancelled as soon as the client leaves or the time is up.
"""

from __future__ import annotations

import asyncio
import logging
import re
import secrets
import time
from collections.abc import Callable
from urllib.parse import quote

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from holdfast.errors import HoldfastError, RequestTimeout
from holdfast.serving.metrics import Metrics

UPLOAD_ROUTE = "/v1/files"
UPLOAD_FIELDS_BYTES = 64 * 1024
PUBLIC_PATHS = re.compile(r"/(health(/live|/ready)?|version|metrics|openapi\.json)")
CLIENT_REQUEST_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")
CLIENT_CLOSED_REQUEST = 499
NO_TENANT = ""
SHUTDOWN = "The server is shutting down."

logger = logging.getLogger("holdfast.requests")


class RequestMiddleware:
    """Wraps the application.

    Args:
        app: the rest of the application.
        authenticate: headers to tenant; raises Unauthenticated.
        render: exception and request id to the response that says so.
        metrics: where requests are counted.
        max_body_bytes: largest body; uploads have `max_file_bytes` for the file itself.
        timeout_s: seconds until the response must have started; a stream's own end is its route's business.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        authenticate: Callable[[Headers], str],
        render: Callable[[Exception, str], Response],
        metrics: Metrics,
        max_body_bytes: int,
        max_file_bytes: int,
        timeout_s: float,
    ) -> None:
        self.app = app
        self.authenticate = authenticate
        self.render = render
        self.metrics = metrics
        self.max_body_bytes = max_body_bytes
        self.max_file_bytes = max_file_bytes
        self.timeout_s = timeout_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        given = Headers(scope=scope).get("x-request-id", "")
        request_id = given if CLIENT_REQUEST_ID.fullmatch(given) else f"req_{secrets.token_hex(16)}"
        exchange = Exchange(scope, send, request_id)
        with self.metrics.running.track_inprogress():
            try:
                await self._serve(exchange, receive)
            finally:
                self._count(exchange)

    async def _serve(self, exchange: Exchange, receive: Receive) -> None:
        """Run the application; answer for it where it fails before its response has started."""
        try:
            body = Body(receive, self._body_limit(exchange.scope))
            deadline = asyncio.get_running_loop().time() + self.timeout_s
            exchange.scope["state"] = {
                "request_id": exchange.request_id,
                "tenant": self._tenant(exchange.scope),
                "deadline": deadline,
            }
            body.check_announced(Headers(scope=exchange.scope))
            await self._run(exchange, body, deadline)
        except ClientDisconnect:
            exchange.is_gone = True
        except asyncio.CancelledError:  # the server stops, and the time that running requests have is up
            logger.warning("%s was cut short by the server's shutdown", exchange.request_id)
            if exchange.status == 0:
                response = self.render(HTTPException(503, SHUTDOWN), exchange.request_id)
                await response(exchange.scope, receive, exchange.send)
        except Exception as error:
            if not isinstance(error, (HoldfastError, HTTPException)):
                logger.exception("%s failed", exchange.request_id)
            if exchange.status == 0:
                await self.render(error, exchange.request_id)(exchange.scope, receive, exchange.send)
            elif not exchange.is_over:
                raise  # the server then closes the connection, which tells the client that the stream is cut short

    async def _run(self, exchange: Exchange, body: Body, deadline: float) -> None:
        loop = asyncio.get_running_loop()
        work = asyncio.ensure_future(self.app(exchange.scope, body.receive, exchange.send))
        leaving = asyncio.ensure_future(body.wait_until_gone())
        try:
            timeout_s: float | None = deadline - loop.time()
            while not work.done():
                await asyncio.wait({work, leaving}, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
                if leaving.done() and not work.done():
                    exchange.is_gone = not exchange.is_over
                    return
                if not work.done() and timeout_s is not None:
                    if exchange.status == 0:
                        raise RequestTimeout(f"the request took longer than {self.timeout_s:g} s")
                    timeout_s = None
            await work
        finally:
            for task in (work, leaving):
                task.cancel()
            await asyncio.gather(work, leaving, return_exceptions=True)

    def _tenant(self, scope: Scope) -> str:
        if PUBLIC_PATHS.fullmatch(scope["path"]):
            return NO_TENANT
        return self.authenticate(Headers(scope=scope))

    def _body_limit(self, scope: Scope) -> int:
        is_upload = scope["method"] == "POST" and scope["path"] == UPLOAD_ROUTE
        return self.max_file_bytes + UPLOAD_FIELDS_BYTES if is_upload else self.max_body_bytes

    def _count(self, exchange: Exchange) -> None:
        scope = exchange.scope
        route = getattr(scope.get("route"), "path", "unmatched")
        method = scope["method"] if route != "unmatched" else "any"
        status = CLIENT_CLOSED_REQUEST if exchange.is_gone else exchange.status
        elapsed_s = time.perf_counter() - exchange.started
        self.metrics.requests.labels(method, route, str(status)).inc()
        self.metrics.request_seconds.labels(method, route).observe(elapsed_s)
        self.metrics.first_byte_seconds.labels(method, route).observe(exchange.first_byte_s or elapsed_s)
        if exchange.is_gone:
            self.metrics.disconnected.inc()
        reason = {401: "unauthenticated", 413: "too_large", 429: "busy"}.get(status)
        if reason is not None:
            self.metrics.rejected.labels(reason).inc()
        logger.info(
            "%s %s %s %d %.0f ms", exchange.request_id, scope["method"], quote(scope["path"]), status, 1000 * elapsed_s
        )


class Exchange:
    """One request and its response so far."""

    def __init__(self, scope: Scope, send: Send, request_id: str) -> None:
        self.scope = scope
        self.request_id = request_id
        self.started = time.perf_counter()
        self.first_byte_s = 0.0
        self.status = 0
        self.is_over = False
        self.is_gone = False
        self._send = send

    async def send(self, message: Message) -> None:
        """Pass `message` on, adding the headers that every response has."""
        if message["type"] == "http.response.start":
            self.status = message["status"]
            self.first_byte_s = time.perf_counter() - self.started
            headers = MutableHeaders(scope=message)
            headers["x-request-id"] = self.request_id
            headers["openai-processing-ms"] = str(round(1000 * self.first_byte_s))
        elif message["type"] == "http.response.body":
            self.is_over = not message.get("more_body", False)
        await self._send(message)


class Body:
    """The request's body, counted as it is read; then the news that the client has gone."""

    def __init__(self, receive: Receive, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.num_bytes = 0
        self._receive = receive
        self._is_complete = asyncio.Event()
        self._is_gone = asyncio.Event()

    def check_announced(self, headers: Headers) -> None:
        """Refuse a body whose stated length is too long, before any of it is read."""
        length = headers.get("content-length", "")
        if length.isdecimal():
            self._check(int(length))

    async def receive(self) -> Message:
        """The application's `receive`."""
        if self._is_complete.is_set():
            await self._is_gone.wait()
            return {"type": "http.disconnect"}
        message = await self._receive()
        if message["type"] == "http.disconnect":
            self._is_complete.set()
            self._is_gone.set()
            return message
        self.num_bytes += len(message.get("body", b""))
        self._check(self.num_bytes)
        if not message.get("more_body", False):
            self._is_complete.set()
        return message

    async def wait_until_gone(self) -> None:
        """Return once the client has closed the connection; nothing is known until the body has been read."""
        await self._is_complete.wait()
        while not self._is_gone.is_set():
            if (await self._receive())["type"] == "http.disconnect":
                self._is_gone.set()

    def _check(self, num_bytes: int) -> None:
        if num_bytes > self.max_bytes:
            raise HTTPException(413, f"The body is larger than the limit of {self.max_bytes} bytes.")
