"""One server process: bind, check that it is safe to, serve, and finish what runs on shutdown."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import uvicorn

from holdfast.errors import InvalidInput
from holdfast.serving.app import create_app
from holdfast.serving.config import Settings
from holdfast.serving.exposure import check_exposure
from holdfast.serving.service import Service


def serve(settings: Settings, *, service: Service | None = None, on_bound: Callable[[str], None] | None = None) -> None:
    """Serve until interrupted (SIGINT or SIGTERM); blocking.

    Args:
        settings: where and how to listen.
        service: what to serve; opened from `settings` where not given. Closed in the end.
        on_bound: called with the base URL (its real port included) once the address is bound, before requests
            are answered.

    Raises:
        InvalidInput: the address cannot be bound, or is open to others while no API key exists.
    """
    check_exposure(settings)
    listener = bind(settings.host, settings.port)
    try:
        app = create_app(settings, service or Service(settings))
        if on_bound is not None:
            host, port = listener.getsockname()[:2]
            on_bound(f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}")
        config = uvicorn.Config(
            app,
            log_config=None,
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=max(1, round(settings.shutdown_timeout_s)),
        )
        with signals_end_quietly():
            uvicorn.Server(config).run(sockets=[listener])
    finally:
        listener.close()


@contextmanager
def signals_end_quietly() -> Iterator[None]:
    """uvicorn raises the signal that stopped it again when it has stopped; a stop that was asked for is no failure."""
    previous = signal.signal(signal.SIGTERM, lambda number, frame: None)
    try:
        with suppress(KeyboardInterrupt):
            yield
    finally:
        signal.signal(signal.SIGTERM, previous)


def bind(host: str, port: int) -> socket.socket:
    """Return a listening socket; port 0 takes a free one."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=2048)
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else str(error)
        raise InvalidInput(
            f"cannot listen on {host} port {port}: {reason}; --port chooses another", param="port"
        ) from error
