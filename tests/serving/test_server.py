"""What a server refuses before it listens."""

from __future__ import annotations

import socket

import pytest

from holdfast.errors import InvalidInput
from holdfast.serving.server import bind


def test_a_port_in_use_is_named() -> None:
    with bind("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        assert port > 0
        with pytest.raises(InvalidInput, match=f"port {port}: Address already in use"):
            bind("127.0.0.1", port)


def test_a_port_is_free_again_after_use() -> None:
    with bind("127.0.0.1", 0) as listener:
        port = listener.getsockname()[1]
    with bind("127.0.0.1", port) as again:
        assert again.family == socket.AF_INET
